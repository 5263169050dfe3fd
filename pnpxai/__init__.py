"""Which explanation of this PyTorch model can I trust, and with which settings?

Start with `recommend`, then `tune`; `Experiment` runs both over a data set. Explainers are in `pnpxai.explainers`,
metrics in `pnpxai.metrics`.
"""

from pnpxai.experiment import (
    AutoExplanation,
    AutoExplanationForImageClassification,
    AutoExplanationForTabularClassification,
    AutoExplanationForTextClassification,
    AutoExplanationForTSClassification,
    AutoExplanationForVisualQuestionAnswering,
    Experiment,
)
from pnpxai.modules import detect_model_architecture
from pnpxai.recommender import Recommendation, recommend
from pnpxai.tuning import TuneResult, tune

__version__ = "0.1.0"

__all__ = [
    "AutoExplanation",
    "AutoExplanationForImageClassification",
    "AutoExplanationForTSClassification",
    "AutoExplanationForTabularClassification",
    "AutoExplanationForTextClassification",
    "AutoExplanationForVisualQuestionAnswering",
    "Experiment",
    "Recommendation",
    "TuneResult",
    "detect_model_architecture",
    "recommend",
    "tune",
]
