"""Which explanation of this PyTorch model can I trust, and with which settings?

Start with `recommend`, then `tune`; `Experiment` runs both over a data set. Explainers are in `pnpxai.explainers`,
metrics in `pnpxai.metrics`, what may be explained of a model's outputs in `pnpxai.targets`.
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
from pnpxai.targets import (
    BinaryScore,
    ClassScore,
    DetectionScore,
    LabelScore,
    OutputScore,
    SegmentationScore,
    SimilarityToCluster,
    SimilarityToItem,
    SimilarityToItself,
)
from pnpxai.tuning import TuneResult, tune

__version__ = "0.1.0"

__all__ = [
    "AutoExplanation",
    "AutoExplanationForImageClassification",
    "AutoExplanationForTSClassification",
    "AutoExplanationForTabularClassification",
    "AutoExplanationForTextClassification",
    "AutoExplanationForVisualQuestionAnswering",
    "BinaryScore",
    "ClassScore",
    "DetectionScore",
    "Experiment",
    "LabelScore",
    "OutputScore",
    "Recommendation",
    "SegmentationScore",
    "SimilarityToCluster",
    "SimilarityToItem",
    "SimilarityToItself",
    "TuneResult",
    "detect_model_architecture",
    "recommend",
    "tune",
]
