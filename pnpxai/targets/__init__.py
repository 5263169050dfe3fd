"""Named targets: what is explained of a model's outputs, one score a sample."""

from pnpxai.targets._base import TARGETS, Target, is_open, take_targets
from pnpxai.targets.classes import BinaryScore, ClassScore, LabelScore, OutputScore
from pnpxai.targets.detection import DetectionScore
from pnpxai.targets.segmentation import SegmentationScore
from pnpxai.targets.similarity import (
    Similarity,
    SimilarityToCluster,
    SimilarityToItem,
    SimilarityToItself,
)

__all__ = [
    "BinaryScore",
    "ClassScore",
    "DetectionScore",
    "LabelScore",
    "OutputScore",
    "SegmentationScore",
    "Similarity",
    "SimilarityToCluster",
    "SimilarityToItem",
    "SimilarityToItself",
    "TARGETS",
    "Target",
    "is_open",
    "take_targets",
]
