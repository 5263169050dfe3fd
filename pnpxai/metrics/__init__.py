"""The metrics; importing this module registers each of them in `METRICS`."""

from pnpxai.metrics._base import METRICS, Metric

__all__ = ["METRICS", "Metric"]
