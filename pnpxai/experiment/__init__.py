"""An experiment: a model and a data set, explained, scored and tuned by ids, names, classes or instances."""

from pnpxai.experiment._auto import (
    AutoExplanation,
    AutoExplanationForImageClassification,
    AutoExplanationForTabularClassification,
    AutoExplanationForTextClassification,
    AutoExplanationForTSClassification,
    AutoExplanationForVisualQuestionAnswering,
)
from pnpxai.experiment._experiment import Experiment

__all__ = [
    "AutoExplanation",
    "AutoExplanationForImageClassification",
    "AutoExplanationForTSClassification",
    "AutoExplanationForTabularClassification",
    "AutoExplanationForTextClassification",
    "AutoExplanationForVisualQuestionAnswering",
    "Experiment",
]
