"""The metrics; importing this module registers each of them in `METRICS`."""

from pnpxai.metrics._answers import Answers
from pnpxai.metrics._base import METRICS, Metric, metric_class, metric_for
from pnpxai.metrics._curves import Curves
from pnpxai.metrics._measurement import Measurement, MeasuringMetric
from pnpxai.metrics._together import answers_together, evaluate_together
from pnpxai.metrics.complexity import Complexity, Sparseness
from pnpxai.metrics.comprehensiveness import Comprehensiveness, Sufficiency
from pnpxai.metrics.faithfulness_correlation import FaithfulnessCorrelation
from pnpxai.metrics.infidelity import Infidelity
from pnpxai.metrics.localisation import PointingGame, RelevanceMass, RelevanceRank
from pnpxai.metrics.mu_fidelity import MuFidelity
from pnpxai.metrics.perturbation_curves import AOPC, AbPC, Deletion, Insertion, LeRF, MoRF
from pnpxai.metrics.sensitivity import Sensitivity

__all__ = [
    "AOPC",
    "METRICS",
    "AbPC",
    "Answers",
    "Complexity",
    "Comprehensiveness",
    "Curves",
    "Deletion",
    "FaithfulnessCorrelation",
    "Infidelity",
    "Insertion",
    "LeRF",
    "Measurement",
    "MeasuringMetric",
    "Metric",
    "MoRF",
    "MuFidelity",
    "PointingGame",
    "RelevanceMass",
    "RelevanceRank",
    "Sensitivity",
    "Sparseness",
    "Sufficiency",
    "answers_together",
    "evaluate_together",
    "metric_class",
    "metric_for",
]
