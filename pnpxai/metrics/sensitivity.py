"""How much a map changes when its input hardly does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._noise import ranges
from pnpxai.forward import Request
from pnpxai.limits import WholeWithin, Within
from pnpxai.metrics._answers import NO_ANSWERS, TARGETS, Answers
from pnpxai.metrics._base import Metric
from pnpxai.outputs import predicted
from pnpxai.postprocess import Maps, PostProcessor, norms

TOGETHER = 32
"""Changed copies of a single input that are explained at once; a batch keeps its size, for an explainer may know
something of each of its samples, such as a baseline."""


class Sensitivity(Metric):
    """Largest relative change of the map in a small ball around the input (after Yeh et al., 2019).

    ``max over δ of ‖Φ(x + δ) - Φ(x)‖₂ / ‖Φ(x)‖₂``, theirs divided by the map's norm, with δ uniform in
    ``‖δ‖∞ ≤ radius · (max x - min x)``, drawn once for all samples. Less is steadier, which is not yet faithful: a
    constant map has 0. The explainer explains the changed inputs for the targets of the unchanged one. Where Φ(x) is
    all zero, the change itself counts, undivided. Several inputs are changed by their own ranges each, and their maps
    count as one.

    Like is compared with like: maps with channels, the explainer's own and those given, are pooled by
    ``postprocessor``, or by the signed sum. Maps given without channels must have been pooled that way already.

    Args:
        model: the model that was explained.
        explainer: explains again; it has to be the one that made the attributions.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the inputs' channels; None for none.
        n_perturbations: changed inputs, each a whole explanation; more come closer to the true maximum, from below.
        radius: of the ball, as a share of each input's range; larger changes more. An input without a range is
            not changed.
        postprocessor: what made the attributions of the explainer's maps; None for none.
        seed: of the perturbations.

    Example:
        >>> from pnpxai.explainers._base import Explainer
        >>> class Square(Explainer):
        ...     def explain_request(self, request):
        ...         return request.input**2
        >>> model = torch.nn.Linear(2, 1)
        >>> found = Sensitivity(model, Square(model), radius=0.1).evaluate(torch.tensor([[1.0, 0.0]]), 0)
        >>> 0 < found.item() < 0.22  # at most 1.1² - 1² in one feature, 0.1² in the other
        True
    """

    HIGHER_IS_BETTER = False
    OUTPUTS_ONLY = True
    EXPLAINS_AGAIN = True
    LIMITS = {"n_perturbations": WholeWithin(1), "radius": Within(0.0, low_open=True), "seed": WholeWithin(0)}

    def __init__(
        self,
        model: Model,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = 1,
        n_perturbations: int = 10,
        radius: float = 0.02,
        postprocessor: PostProcessor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, explainer, forward_arg_extractor, additional_forward_arg_extractor, channel_dim)
        self.n_perturbations = n_perturbations
        self.radius = radius
        self.postprocessor = postprocessor
        self.seed = seed

    def judging(self, explainer: Explainer, postprocessor: PostProcessor) -> Sensitivity:
        """This metric, set to judge maps that ``explainer`` made and ``postprocessor`` pooled."""
        return self.set_kwargs(explainer=explainer, postprocessor=postprocessor)

    def feature_values(self, attributions: Any, inputs: Maps) -> Tensor:
        """One number a feature, ``(n, f)``; maps with channels go through the postprocessor."""
        raw = isinstance(attributions, tuple)
        if isinstance(attributions, Tensor) and isinstance(inputs, Tensor):
            raw = attributions.ndim == inputs.ndim
        if self.postprocessor and raw:
            attributions = self.postprocessor(attributions)
        return super().feature_values(attributions, inputs)

    def ask(self, request: Request, known: Answers = NO_ANSWERS) -> Answers:
        """The predicted classes, where no targets are given."""
        return {TARGETS: predicted(request.outputs)} if request.requested is None else {}

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """The largest relative change over the perturbations."""
        inputs, n = request.inputs, len(request)
        reach = [self.radius * ranges(each) for each in inputs]
        generator = torch.Generator().manual_seed(self.seed)
        largest = torch.zeros_like(values[:, 0])
        at_once = TOGETHER if n == 1 else 1
        for start in range(0, self.n_perturbations, at_once):
            count = min(at_once, self.n_perturbations - start)
            drawn = [[_within(each, generator) for each in inputs] for _ in range(count)]
            several = zip(inputs, reach, zip(*drawn, strict=True), strict=True)
            changed = tuple(torch.cat([each + far * own for own in noises]) for each, far, noises in several)
            index = torch.arange(n, device=inputs[0].device).repeat(count)
            given: Maps = changed if len(changed) > 1 else changed[0]
            maps = _on_tensors(self.need_explainer(), request, index).attribute(given, request.targets_for(index))
            if len(changed) == 1:
                maps = request.of_explained(maps[0] if isinstance(maps, tuple) else maps, index)
            change = norms(self.feature_values(maps, given) - values[index], 1)
            largest = torch.maximum(largest, change.reshape(-1, n).amax(0))
        norm = norms(values, 1)
        return largest / torch.where(norm > 0, norm, 1.0)


def _within(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Noise for one sample, between -1 and 1."""
    return 2 * torch.rand(inputs.shape[1:], generator=generator).to(inputs) - 1


def _on_tensors(explainer: Explainer, request: Request, index: Tensor) -> Explainer:
    """The explainer that is given tensors to be explained, and further arguments by ``index``."""
    if explainer.forward_arg_extractor is None and not request.extra and not request.lookups:
        return explainer
    return explainer.set_kwargs(
        forward_arg_extractor=lambda inputs: request.explained_for(
            inputs if isinstance(inputs, tuple) else (inputs,), index
        ),
        additional_forward_arg_extractor=lambda inputs: request.extra_for(index),
    )
