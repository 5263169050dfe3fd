"""Occlusion: a position matters if the score falls where a sliding window covers it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor

from pnpxai.baselines import Baseline, BaselineFunction, baseline_for
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import ParameterError
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._by_feature import explained_by_feature, searched_without
from pnpxai.explainers._mask_sums import as_maps
from pnpxai.explainers._masked_scores import exact_device, finite
from pnpxai.feature_masks import FeatureMask, FeatureMaskFunction
from pnpxai.forward import Request
from pnpxai.limits import OneOf, OrNone, WholeWithin, Within
from pnpxai.outputs import Score, select
from pnpxai.replacing import blocks, replaced
from pnpxai.scratch import Scratch
from pnpxai.tunable import Space, choices


class Occlusion(Explainer):
    """A window slides over the input; what the score loses under it is its relevance (Zeiler and Fergus, 2014).

    ``S(p) = mean over the windows w that cover p of f(x) − f(x with w replaced by the baseline)`` (arXiv 1311.2901,
    section 4.2; the paper shows ``f`` at each place of the window). Windows begin every ``stride`` positions, the last
    one at the border, so that every position is covered. Exact: nothing is drawn at random. Signed, in units of the
    score. It costs ``1 + Π (⌈(length − window) / stride⌉ + 1)`` forwards a sample, over the axes: 170 by default.

    Positions are pixels of ``(n, c, h, w)``, steps of ``(n, c, t)``, voxels of ``(n, c, d, h, w)`` (channels are
    covered together) or features of ``(n, d)``, which have no neighbours and are covered one by one unless a whole
    number says otherwise. Maps: ``(n, 1, h, w)``, ``(n, 1, t)``, ``(n, 1, d, h, w)`` or ``(n, d)``. Of several inputs,
    one is covered at a time.

    Args:
        model: see `Explainer`.
        forward_arg_extractor: see `Explainer`.
        additional_forward_arg_extractor: see `Explainer`.
        window: how much is covered at once, or one number an axis: a share of the axis where it is a float (at least
            one position), positions where it is whole. Larger is coarser and cheaper, and hides more than one thing.
        stride: from one window to the next, likewise: a float is a share of the window, a whole number positions.
            Smaller is smoother and dearer. No more than the window, or positions would be left out.
        baseline_fn: what stands for absence: a name, number, tensor or function.
        score: ``"probability"``, as in the paper, which knows of the other classes; or ``"logit"``, which still falls
            where a network is too sure for its probability to change. Functions as targets see the output itself.
        batch_size: occluded samples that go through the model at once; None for as many as fit.
        feature_mask_fn: in the place of a window, what makes features of positions, each of which is covered as a
            whole: a name, an object, or a function from inputs to feature numbers ``(n, *positions)``, such as `Words`.

    Presets: windows of 15 of 224 pixels, as in captum's tutorial for ImageNet.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 0.0, -4.0]]))
        >>> maps = Occlusion(model).attribute(torch.ones(1, 3))
        >>> [round(each, 4) for each in maps[0].tolist()]  # weight·input
        [2.0, 0.0, -4.0]
    """

    SUPPORTED_MODULES = ANY_MODULE
    OUTPUTS_ONLY = True
    INPUT_NDIMS = (2, 3, 4, 5)
    TUNABLES = {
        "window": FloatDistribution(0.05, 0.5, log=True),
        "baseline_fn": BaselineFunction,
        "score": choices("probability", "logit"),
        "feature_mask_fn": FeatureMaskFunction,
    }
    PRESETS = ({"window": 15 / 224},)
    LIMITS = {
        "window": Within(0.0, low_open=True),
        "stride": Within(0.0, low_open=True),
        "score": OneOf(("probability", "logit")),
        "batch_size": OrNone(WholeWithin(1)),
    }

    def __init__(
        self,
        model: Model,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        window: float | Sequence[float] = 1 / 7,
        stride: float | Sequence[float] = 0.5,
        baseline_fn: Baseline = "zeros",
        score: Score = "probability",
        batch_size: int | None = None,
        feature_mask_fn: FeatureMask = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.window = window
        self.stride = stride
        self.baseline_fn = baseline_fn
        self.score = score
        self.batch_size = batch_size
        self.feature_mask_fn = feature_mask_fn

    @property
    def searched(self) -> Mapping[str, Space]:
        """The size of a window where there is one."""
        return searched_without(self, "window")

    def chunk_size(self) -> int | None:
        """``batch_size``."""
        return self.batch_size

    def explain_request(self, request: Request) -> tuple[Tensor, ...]:
        """One map for each of the inputs."""
        if self.feature_mask_fn is not None:
            return (explained_by_feature(self, request, window=1, stride=1),)
        laid = [_sliding(each, self.window, self.stride) for each in request.inputs]
        everyone = torch.arange(len(request), device=request.inputs[0].device)
        whole = select(request.outputs, request.targets_for(everyone), self.score)
        maps = []
        for which, ((window, starts), covered) in enumerate(zip(laid, request.inputs, strict=True)):
            baseline = baseline_for(self.baseline_fn, covered, lookup=request.lookup(which))
            scores = _scores_under_windows(request, which, baseline, window, starts, self.score)
            lost = whole[:, None].to(scores) - scores
            maps.append(as_maps(mean_over_windows(lost, covered_axes(covered), window, starts), covered))
        return tuple(maps)


def covered_axes(inputs: Tensor) -> tuple[int, ...]:
    """The lengths of the axes that a window slides along: those after the channels, or the features of ``(n, d)``."""
    return tuple(inputs.shape[min(2, inputs.ndim - 1) :])


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every ``stride`` positions, and the last one so that it ends at the border.

    Example:
        >>> window_starts(10, 4, 3), window_starts(11, 4, 3)
        ([0, 3, 6], [0, 3, 6, 7])
    """
    last = length - window
    return [*range(0, last, stride), last]


def mean_over_windows(
    values: Tensor, axes: Sequence[int], window: Sequence[int], starts: Sequence[list[int]]
) -> Tensor:
    """At each position, the mean of the values of the windows that cover it.

    Args:
        values: of each window, in raster order of the windows' starts, ``(n, m)``.
        axes: lengths of the axes.
        window: the windows' sides.
        starts: where they begin along each axis.

    Returns:
        ``(n, p)``, the positions in raster order.
    """
    means = values.reshape(-1, *map(len, starts))
    for axis, (length, side, begins) in enumerate(zip(axes, window, starts, strict=True), start=1):
        covers = _covered(length, side, torch.tensor(begins, device=values.device)).T.to(values)
        means = torch.tensordot(means, covers / covers.sum(1, keepdim=True), ([axis], [1])).movedim(-1, axis)
    return means.flatten(1)


def _covered(length: int, side: int, begins: Tensor) -> Tensor:
    """Which positions of an axis each window covers, ``(m, length)``."""
    at = torch.arange(length, device=begins.device)
    return (at >= begins[:, None]) & (at < begins[:, None] + side)


def _scores_under_windows(
    request: Request, which: int, baseline: Tensor, window: Sequence[int], starts: Sequence[list[int]], score: Score
) -> Tensor:
    """The score of each sample with each window of one of its inputs replaced, ``(n, m)``, float64."""
    x = request.inputs[which]
    axes, places = covered_axes(x), tuple(map(len, starts))
    begins = [torch.tensor(each, device=x.device) for each in starts]
    m = math.prod(places)
    scores = torch.empty(len(x) * m, dtype=torch.float64, device=exact_device(x))
    rooms = [Scratch() for _ in request.inputs]

    def covered(windows: slice) -> Tensor:
        numbers = torch.arange(windows.start, windows.stop, device=x.device)
        found = x.new_ones(len(numbers), *[1] * len(axes), dtype=torch.bool)
        for axis, (length, side, place) in enumerate(
            zip(axes, window, torch.unravel_index(numbers, places), strict=True)
        ):
            along = [length if each == axis else 1 for each in range(len(axes))]
            found = found & _covered(length, side, begins[axis][place]).reshape(-1, *along)
        return found if x.ndim == 2 else found[:, None]

    def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        made = [room.rows(each, stop - start) for room, each in zip(rooms, request.inputs, strict=True)]
        for own, windows, block in blocks(made, start, stop, m):
            for number, (each, out) in enumerate(zip(request.inputs, block, strict=True)):
                if number == which:
                    replaced(each[own, None], baseline[own, None], covered(windows), out)
                else:
                    out.copy_(each[own, None])
        return made, torch.arange(start, stop, device=x.device) // m

    def read(start: int, stop: int, outputs: Tensor) -> None:
        index = torch.arange(start, stop, device=outputs.device) // m
        scores[start:stop] = select(outputs, request.targets_for(index), score).to(scores)

    request.stream(len(scores), build, read, fresh=True)
    return finite(scores, "occluded").reshape(len(x), m)


def _sliding(
    inputs: Tensor, window: float | Sequence[float], stride: float | Sequence[float]
) -> tuple[list[int], list[list[int]]]:
    """The sides of the window in positions, and where windows begin along each axis.

    Raises:
        ParameterError: a window or stride that these inputs cannot have.
    """
    axes = covered_axes(inputs)
    sides = [
        1 if inputs.ndim == 2 and not isinstance(each, numbers.Integral) else _positions("window", each, length)
        for each, length in zip(_one_an_axis("window", window, axes), axes, strict=True)
    ]
    steps = [
        _positions("stride", each, side) for each, side in zip(_one_an_axis("stride", stride, axes), sides, strict=True)
    ]
    return sides, [window_starts(*each) for each in zip(axes, sides, steps, strict=True)]


def _one_an_axis(name: str, value: float | Sequence[float], axes: Sequence[int]) -> list[float]:
    each = list(value) if isinstance(value, Sequence) else [value] * len(axes)
    if len(each) != len(axes):
        raise ParameterError(
            f"{name} of Occlusion to be one number, or {len(axes)} for axes of lengths {tuple(axes)}",
            f"{value!r}",
            "Give one number for each axis after the channels.",
        )
    return each


def _positions(name: str, value: float, most: int) -> int:
    """A number of positions out of ``most``, given as such or as a share of them."""
    whole = isinstance(value, numbers.Integral)
    if value > (most if whole else 1):
        of = "the axis" if name == "window" else "the window"
        raise ParameterError(
            f"{name} of Occlusion to be a whole number up to the {most} positions of {of}, or a share of them to 1.0",
            f"{value!r}",
            "Give a smaller number; a float is a share, and positions are whole.",
        )
    return int(value) if whole else max(1, round(value * most))
