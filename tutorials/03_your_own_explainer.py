"""An explainer of your own: declare it, and it is recommended, tuned and reported like any other.

Run with: python tutorials/03_your_own_explainer.py
"""

from __future__ import annotations

import torch
from optuna.distributions import IntDistribution
from torch import Tensor, nn

import pnpxai
from pnpxai.baselines import BaselineFunction, baseline_for
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.forward import Request
from pnpxai.limits import WholeWithin
from pnpxai.modules import Convolution, Linear
from pnpxai.outputs import select


class SlidingPatch(Explainer):
    """The fall of the target's probability when a square patch is removed, shared by the pixels it covers.

    Args:
        model: the module to be explained.
        forward_arg_extractor: as for every explainer.
        additional_forward_arg_extractor: as for every explainer.
        size: side of the patch in pixels; larger is coarser and steadier.
        baseline_fn: what stands in for the removed patch.
    """

    SUPPORTED_MODULES = (Convolution, Linear)  # it fits models that have at least one of these
    TUNABLES = {"size": IntDistribution(1, 4), "baseline_fn": BaselineFunction}  # what the search may change
    LIMITS = {"size": WholeWithin(1)}  # what the argument may be at all
    INPUT_NDIMS = (4,)

    def __init__(
        self,
        model,
        forward_arg_extractor=None,
        additional_forward_arg_extractor=None,
        size: int = 3,
        baseline_fn="zeros",
    ):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.size = size
        self.baseline_fn = baseline_fn

    def explain_request(self, request: Request) -> Tensor:
        """The method itself. The inputs are checked, the model is in eval mode and will be left as it was."""
        inputs = request.input
        n, _, h, w = inputs.shape
        baseline = baseline_for(self.baseline_fn, inputs)
        corners = [(top, left) for top in range(h - self.size + 1) for left in range(w - self.size + 1)]
        masks = torch.zeros(len(corners), h, w, dtype=torch.bool, device=inputs.device)
        for mask, (top, left) in zip(masks, corners, strict=True):
            mask[top : top + self.size, left : left + self.size] = True

        # Row i stands for sample i // m with mask i % m; the request asks the model in chunks that fit in memory.
        m = len(masks)
        scores = torch.empty(n * m, device=inputs.device)

        def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
            rows = torch.arange(start, stop, device=inputs.device)
            hidden = masks[rows % m][:, None]
            return [torch.where(hidden, baseline[rows // m], inputs[rows // m])], rows // m

        def consume(start: int, stop: int, outputs: Tensor) -> None:
            index = torch.arange(start, stop, device=inputs.device) // m
            scores[start:stop] = select(outputs, request.targets_for(index), "probability")  # whatever the targets are

        request.stream(n * m, build, consume)
        clean = select(request.outputs, request.targets, "probability")
        falls = clean[:, None] - scores.reshape(n, m)
        covered = masks.flatten(1).to(falls)
        return ((falls @ covered) / covered.sum(0)).reshape(n, 1, h, w)


def brightest_quadrant(n: int = 64) -> tuple[Tensor, nn.Module]:
    """Noise with one bright quadrant, and a linear network that names the quadrant."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(n, 1, 8, 8, generator=generator)
    quadrants = torch.zeros(4, 1, 8, 8)
    for each in range(4):
        top, left = 4 * (each // 2), 4 * (each % 2)
        quadrants[each, 0, top : top + 4, left : left + 4] = 1
    inputs += quadrants[torch.arange(n) % 4]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        model[1].weight.copy_(quadrants.flatten(1) / 4)
        model[1].bias.zero_()
    return inputs, model


def main() -> pnpxai.TuneResult:
    inputs, model = brightest_quadrant()
    print(SlidingPatch(model).get_tunables(), "\n")

    # Declaring SUPPORTED_MODULES has registered the class, so it is found by the recommender …
    recommendation = pnpxai.recommend(model, inputs)
    assert "SlidingPatch" in {type(each).__name__ for each in recommendation.explainers}

    # … and by the tuner, here against one other explainer.
    result = pnpxai.tune(model, inputs, explainers=["SlidingPatch", "Gradient"], n_trials=12, progress=False)
    print(result)
    return result


if __name__ == "__main__":
    try:
        main()
    finally:
        del EXPLAINERS["SlidingPatch"]  # only so that running the tutorial leaves nothing behind
