"""How much of a map lies where the truth is known to be. None of these asks the model anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import InputError, ParameterError
from pnpxai.explainers._base import Explainer
from pnpxai.forward import Request
from pnpxai.metrics._answers import Answers
from pnpxai.metrics._base import Metric
from pnpxai.postprocess import channel_axis

R = TypeVar("R", bound="RegionMetric")


def top_share(values: Tensor, inside: Tensor, counts: Tensor) -> Tensor:
    """The share inside of the ``counts`` greatest values; equal values count as if drawn among at random.

    Args:
        values: ``(n, f)``.
        inside: ``(n, f)``, true inside.
        counts: ``(n,)``, from 1.

    Example:
        >>> inside = torch.tensor([[True, False, False]])
        >>> top_share(torch.tensor([[2.0, 2.0, 1.0]]), inside, torch.tensor([1])).tolist()
        [0.5]
    """
    least = values.sort(1, descending=True).values.gather(1, counts[:, None] - 1)
    above, tied = values > least, values == least
    left = counts - above.sum(1)
    drawn = (tied & inside).sum(1).double() / tied.sum(1)
    return (((above & inside).sum(1) + left * drawn) / counts).to(values)


def positive_share(values: Tensor, inside: Tensor) -> Tensor:
    """The share inside of each sample's positive values, ``(n,)``; 0 where there are none.

    Example:
        >>> positive_share(torch.tensor([[3.0, 1.0, -9.0]]), torch.tensor([[True, False, True]])).tolist()
        [0.75]
    """
    positive = values.double().clamp(min=0)
    total = positive.sum(1)
    return ((positive * inside).sum(1) / torch.where(total > 0, total, 1.0)).to(values)


def check_regions(regions: Tensor, inputs: Tensor, channel_dim: int | None) -> None:
    """Refuse regions that do not fit inputs ``(n, …)``, or an empty one.

    Raises:
        InputError: says which.
    """
    axis = channel_axis(channel_dim, inputs.ndim)
    expected = tuple(size for each, size in enumerate(inputs.shape) if each != axis)
    if not isinstance(regions, Tensor) or regions.dtype != torch.bool or tuple(regions.shape) != expected:
        fits = isinstance(regions, Tensor)
        raise InputError(
            f"regions as a bool tensor of shape {expected}, one for each input, true inside",
            f"{regions.dtype} of shape {tuple(regions.shape)}" if fits else type(regions).__name__,
            "Draw boxes as masks; take the rows of these inputs with metric.for_samples(index).",
        )
    empty = ~regions.flatten(1).any(1)
    if empty.any():
        raise InputError(
            "regions of at least one position",
            f"none in that of sample {int(empty.nonzero()[0])}",
            "Leave out samples without a region.",
        )


class RegionMetric(Metric):
    """Compares maps with regions of known truth.

    Args:
        model: the model that was explained.
        explainer: makes the attributions where `evaluate` is given none.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the inputs' channels, over which maps are summed; None for none.
        regions: bool ``(n, h, w)``, ``(n, t)`` or ``(n, d)``, true where the truth is: one of each sample that is
            evaluated, in their order (`for_samples` takes the rows of some).
    """

    OUTPUTS_ONLY = True

    def __init__(
        self,
        model: Model,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = 1,
        regions: Tensor | None = None,
    ) -> None:
        super().__init__(model, explainer, forward_arg_extractor, additional_forward_arg_extractor, channel_dim)
        self.regions = regions

    def __hash__(self) -> int:
        return hash((type(self), None if self.regions is None else tuple(self.regions.shape)))

    def for_samples(self: R, index: Sequence[int]) -> R:
        """This metric with the regions of some samples, in their order."""
        if self.regions is None:
            return self
        return self.set_kwargs(regions=self.regions[torch.as_tensor(list(index), device=self.regions.device)])

    def inside(self, request: Request) -> Tensor:
        """The regions as ``(n, f)``.

        Raises:
            ParameterError: there are none.
            InputError: regions that do not fit the inputs, or an empty one.
        """
        if self.regions is None:
            raise ParameterError(
                f"regions for {type(self).__name__}", "None", "Pass regions=, bool, one for each sample."
            )
        check_regions(self.regions, request.input, self.channel_dim)
        return self.regions.to(request.input.device).flatten(1)


class PointingGame(RegionMetric):
    """Whether the greatest value of the map lies in the region (Zhang et al., 2018): 1 for a hit, 0 for a miss.

    Equally great values count as if one were drawn at random, so that a constant map scores the region's share of the
    positions. No tolerance around the region: widen it beforehand for that.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> x, regions = torch.ones(1, 3), torch.tensor([[True, False, False]])
        >>> PointingGame(model, regions=regions).evaluate(x, 0, torch.tensor([[3.0, 1.0, 2.0]])).tolist()
        [1.0]
    """

    HIGHER_IS_BETTER = True
    ORDER_ONLY = True

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """Hit or miss."""
        inside = self.inside(request)
        return top_share(values, inside, torch.ones_like(inside[:, 0], dtype=torch.long))


class RelevanceMass(RegionMetric):
    """Share of the positive relevance that lies in the region (Arras et al., 2022, relevance mass accuracy).

    ``Σ_{i in region} max(a_i, 0) / Σ_i max(a_i, 0)``, from 0 to 1. Theirs is for maps that are positive already; what
    speaks against the target counts nowhere. A map without positive values scores 0.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> x, regions = torch.ones(1, 3), torch.tensor([[True, False, False]])
        >>> RelevanceMass(model, regions=regions).evaluate(x, 0, torch.tensor([[3.0, 1.0, -5.0]])).tolist()
        [0.75]
    """

    HIGHER_IS_BETTER = True

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """The share of the mass."""
        return positive_share(values, self.inside(request))


class RelevanceRank(RegionMetric):
    """Share of the K most relevant features that lie in the region of K (Arras et al., 2022, relevance rank accuracy).

    ``|top_K(a) ∩ region| / K`` with K the region's size, from 0 to 1. Equal values at the edge of the top K count as
    if drawn among at random.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> x, regions = torch.ones(1, 3), torch.tensor([[True, True, False]])
        >>> RelevanceRank(model, regions=regions).evaluate(x, 0, torch.tensor([[3.0, 1.0, 2.0]])).tolist()
        [0.5]
    """

    HIGHER_IS_BETTER = True
    ORDER_ONLY = True

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """The share of the most relevant."""
        inside = self.inside(request)
        return top_share(values, inside, inside.sum(1))
