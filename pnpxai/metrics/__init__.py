"""The metrics; importing this module registers each of them in `METRICS`."""

from pnpxai.metrics._base import METRICS, Metric, metric_class, metric_for
from pnpxai.metrics._curves import Curves
from pnpxai.metrics.complexity import Complexity, Sparseness
from pnpxai.metrics.mu_fidelity import MuFidelity
from pnpxai.metrics.perturbation_curves import AbPC, Deletion, Insertion, LeRF, MoRF
from pnpxai.metrics.sensitivity import Sensitivity

__all__ = [
    "METRICS",
    "AbPC",
    "Complexity",
    "Curves",
    "Deletion",
    "Insertion",
    "LeRF",
    "Metric",
    "MoRF",
    "MuFidelity",
    "Sensitivity",
    "Sparseness",
    "metric_class",
    "metric_for",
]
