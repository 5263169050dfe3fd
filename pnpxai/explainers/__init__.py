"""The explainers; importing this module registers each of them in `EXPLAINERS`."""

from pnpxai.explainers._base import EXPLAINERS, Explainer

__all__ = ["EXPLAINERS", "Explainer"]
