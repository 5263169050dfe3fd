"""Every metric of the registry, built for some inputs: what the contract tests run over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pnpxai.explainers import Explainer
from pnpxai.forward import Request
from pnpxai.metrics import METRICS, Metric
from pnpxai.postprocess import PostProcessor, channel_axis
from pnpxai.tunable import constructor_parameters

NAMES = sorted(METRICS)
BASE = set(constructor_parameters(Metric))
OTHER_VALUES: dict[str, Any] = {
    "baseline_fn": "mean",
    "correlation": "spearman",
    "fractions": (0.25, 0.6),
    "grid_size": 3,
    "n_perturbations": 5,
    "n_steps": 3,
    "normalize": True,
    "postprocessor": PostProcessor("l2"),
    "radius": 0.3,
    "score": "logit",
    "seed": 7,
    "subset_share": 0.6,
    "subset_size": 3,
}
"""For each argument a metric may have beyond the base's, a value that is no default."""

JUDGED_BY_CONCENTRATION = {"Complexity", "Sparseness"}
JUDGED_BY_STEADINESS = {"Sensitivity"}
JUDGED_BY_REGIONS = {"PointingGame", "RelevanceMass", "RelevanceRank"}
SUBSETS = {"FaithfulnessCorrelation", "Infidelity", "MuFidelity"}
CURVES = {"AOPC", "AbPC", "Comprehensiveness", "Deletion", "Insertion", "LeRF", "MoRF", "Sufficiency"}
ASKS_NOTHING = JUDGED_BY_CONCENTRATION | JUDGED_BY_REGIONS


class Gradient(Explainer):
    """The plain gradient of the target's score."""

    def explain_request(self, request: Request) -> Tensor:
        x = request.input.requires_grad_()
        return torch.autograd.grad(request.scores((x,)).sum(), x)[0]


class Wild(Explainer):
    """The gradient multiplied by a fast wave of the input."""

    OUTPUTS_ONLY = True

    def explain_request(self, request: Request) -> Tensor:
        return (1e3 * request.input).sin()


def regions_for(x: Tensor, channel_dim: int | None = 1) -> Tensor:
    """The first third of each sample's positions."""
    axis = channel_axis(channel_dim, x.ndim)
    regions = torch.zeros([size for each, size in enumerate(x.shape) if each != axis], dtype=torch.bool)
    f = regions[0].numel()
    regions.flatten(1)[:, : f // 3 + 1] = True
    return regions


def build(name: str, model: nn.Module, x: Tensor, explainer: Explainer | None = None, **arguments: Any) -> Metric:
    """A metric with the gradient as its explainer, and with regions where it needs them."""
    if name in JUDGED_BY_REGIONS and "regions" not in arguments:
        arguments["regions"] = regions_for(x, arguments.get("channel_dim", 1))
    return METRICS[name](model, explainer or Gradient(model), **arguments)
