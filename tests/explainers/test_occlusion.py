from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor, nn

from pnpxai.errors import InputError, ModelError, ParameterError
from pnpxai.explainers import Occlusion
from pnpxai.explainers.occlusion import mean_over_windows, window_starts
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded


class VolumeNet(nn.Module):
    """``(n, 2, 4, 6, 5)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(480, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def slow_occlusion(
    net: nn.Module, x: Tensor, target: int, baseline: Tensor, window: list[int], stride: list[int], probability: bool
) -> Tensor:
    """One sample ``(c, …)``, window by window, each put into its place by hand."""

    def score(one: Tensor) -> float:
        outputs = net(one[None])
        return (outputs.softmax(1) if probability else outputs)[0, target].item()

    total, times, whole = torch.zeros(x.shape[1:]).double(), torch.zeros(x.shape[1:]).double(), score(x)
    begins = []
    for length, side, step in zip(x.shape[1:], window, stride, strict=True):
        own, at = [], 0
        while at + side < length:
            own.append(at)
            at += step
        begins.append([*own, length - side])
    for corner in itertools.product(*begins):
        inside = tuple(slice(a, a + side) for a, side in zip(corner, window, strict=True))
        changed = x.clone()
        changed[(slice(None), *inside)] = baseline[(slice(None), *inside)]
        total[inside] += whole - score(changed)
        times[inside] += 1
    assert (times > 0).all()
    return total / times


@pytest.mark.parametrize(
    ("build", "shape", "window", "stride", "sides", "steps"),
    [
        (VGGLike, (3, 16, 16), 5, 2, [5, 5], [2, 2]),
        (VGGLike, (3, 16, 16), (3, 7), (3, 4), [3, 7], [3, 4]),
        (VGGLike, (3, 16, 16), 0.25, 0.5, [4, 4], [2, 2]),
        (VGGLike, (3, 16, 16), (0.5, 3), (0.3, 1.0), [8, 3], [2, 3]),
        (TimeCNN, (2, 24), 5, 3, [5], [3]),
        (TimeCNN, (2, 24), 1 / 7, 0.5, [3], [2]),
        (VolumeNet, (2, 4, 6, 5), (2, 3, 2), (1, 2, 2), [2, 3, 2], [1, 2, 2]),
        (VolumeNet, (2, 4, 6, 5), 0.5, 0.5, [2, 3, 2], [1, 2, 1]),
    ],
)
@pytest.mark.parametrize("score", ["probability", "logit"])
def test_against_a_loop_over_the_windows(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    window: Any,
    stride: Any,
    sides: list[int],
    steps: list[int],
    score: Any,
) -> None:
    net, x = seeded(build()).double(), batch(2, *shape, dtype=torch.float64)
    baseline = x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x)
    maps = Occlusion(net, window=window, stride=stride, baseline_fn="mean", score=score).attribute(x, [2, 0])
    assert maps.shape == (2, 1, *shape[1:])
    for sample, target in enumerate([2, 0]):
        expected = slow_occlusion(net, x[sample], target, baseline[sample], sides, steps, score == "probability")
        torch.testing.assert_close(maps[sample, 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "shape", "window", "stride"),
    [
        (VGGLike, (3, 16, 16), (4, 6), (2, 5)),
        (VGGLike, (3, 16, 16), (1, 16), (1, 1)),
        (TimeCNN, (2, 24), (6,), (3,)),
        (VolumeNet, (2, 4, 6, 5), (2, 2, 3), (2, 1, 2)),
    ],
)
def test_against_captum_where_its_windows_end_at_the_border(
    build: Callable[[], nn.Module], shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    net, x, targets = seeded(build()).double(), batch(3, *shape, dtype=torch.float64), torch.tensor([1, 0, 2])
    theirs = CaptumOcclusion(net).attribute(
        x, (shape[0], *window), (1, *stride), baselines=0.3, target=targets, perturbations_per_eval=4
    )
    ours = Occlusion(net, window=window, stride=stride, baseline_fn=0.3, score="logit").attribute(x, targets)
    torch.testing.assert_close(ours.expand_as(theirs), theirs.double(), rtol=1e-6, atol=1e-6)


def test_against_captum_on_features() -> None:
    net, x = seeded(MLP()).double(), batch(4, 6, dtype=torch.float64)
    for window, stride in ((1, 1), (3, 1), (2, 2)):
        theirs = CaptumOcclusion(net).attribute(x, (window,), (stride,), target=1)
        ours = Occlusion(net, window=window, stride=stride, score="logit").attribute(x, 1)
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=1e-6)  # captum's are float32


def test_a_linear_model_in_closed_form() -> None:
    """The loss under a window is the sum of ``weight·(input − baseline)`` in it, so the map is its windows' mean."""
    net, x = seeded(nn.Linear(9, 3).double()), batch(2, 9, dtype=torch.float64)
    parts = (net.weight[2] * (x - 0.5)).detach()
    found = Occlusion(net, baseline_fn=0.5, score="logit").attribute(x, 2)
    torch.testing.assert_close(found, parts)
    sums = torch.stack([parts[:, a : a + 4].sum(1) for a in (0, 3, 5)], 1)  # the last one moved to the border
    covers = [[0], [0], [0], [0, 1], [1], [1, 2], [1, 2], [2], [2]]
    expected = torch.stack([sums[:, each].mean(1) for each in covers], 1)
    found = Occlusion(net, window=4, stride=3, baseline_fn=0.5, score="logit").attribute(x, 2)
    torch.testing.assert_close(found, expected)


def test_features_are_covered_one_by_one_whatever_the_share() -> None:
    net, x = seeded(nn.Linear(40, 3).double()), batch(2, 40, dtype=torch.float64)
    for window in (1 / 7, 0.5, 1):
        found = Occlusion(net, window=window, score="logit").attribute(x, 1)
        torch.testing.assert_close(found, (net.weight[1] * x).detach())


def test_what_plays_no_part_has_no_relevance_and_a_patch_has_the_highest() -> None:
    class Patch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 6:9, 2:5].sum((1, 2, 3))[:, None]

    maps = Occlusion(Patch(), window=3, stride=1, score="logit").attribute(torch.ones(1, 2, 12, 12))[0, 0]
    assert maps.argmax() == 7 * 12 + 3
    touched = torch.zeros(12, 12, dtype=torch.bool)
    touched[4:11, 0:7] = True
    assert (maps[~touched] == 0).all()
    assert (maps[6:9, 2:5] > 0).all()


def test_several_inputs_are_covered_one_at_a_time() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a * b.sum((1, 2))[:, None]).sum(1, keepdim=True)

    a, b = batch(3, 4), batch(3, 2, 7, seed=2)
    first, second = Occlusion(Product(), stride=1, score="logit").attribute((a, b))
    torch.testing.assert_close(first, a * b.sum((1, 2))[:, None])
    torch.testing.assert_close(second, a.sum(1)[:, None, None] * b.sum(1, keepdim=True))


@pytest.mark.parametrize("length", range(1, 12))
def test_windows_reach_every_position_and_stay_inside(length: int) -> None:
    for window in range(1, length + 1):
        for stride in range(1, window + 1):
            starts = window_starts(length, window, stride)
            assert starts == sorted(set(starts))
            assert {p for a in starts for p in range(a, a + window)} == set(range(length))
            assert all(b - a == stride for a, b in itertools.pairwise(starts[:-1]))
            assert len(starts) == -(-(length - window) // stride) + 1


def test_the_mean_over_windows_by_hand() -> None:
    values = torch.tensor([[1.0, 5.0, 2.0, 7.0]])  # windows of 2 × 1 at rows 0, 1 and columns 0, 1 of 3 × 2
    found = mean_over_windows(values, (3, 2), [2, 1], [[0, 1], [0, 1]])
    assert found.tolist() == [[1.0, 5.0, 1.5, 6.0, 2.0, 7.0]]


@pytest.mark.parametrize(
    ("shape", "arguments", "windows"),
    [((1, 28, 28), {}, 13**2), ((2, 24), {"window": 5, "stride": 3}, 8), ((6,), {}, 6)],
)
def test_the_price(shape: tuple[int, ...], arguments: dict[str, Any], windows: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 2))
    with count_forwards() as counter:
        Occlusion(net, **arguments).attribute(batch(2, *shape), 1)
    assert counter.n_samples == 2 * (1 + windows)


def test_no_chunk_is_larger_than_asked_and_the_map_is_the_same() -> None:
    class Largest(nn.Module):
        seen = 0

        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(VGGLike())

        def forward(self, x: Tensor) -> Tensor:
            type(self).seen = max(self.seen, len(x))
            return self.net(x)

    net, x = Largest(), batch(2, 3, 16, 16)
    expected = Occlusion(net.net, window=5).attribute(x)
    with untouched(net, x):
        found = Occlusion(net, window=5, batch_size=7).attribute(x)
    assert net.seen == 7
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


class NaNWithZeros(VGGLike):
    """NaN once enough is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / ((x == 0).float().mean((1, 2, 3)) < 0.05)[:, None] * 1.0


def test_bad_windows_inputs_and_models_say_so() -> None:
    net, x = seeded(VGGLike()), batch(1, 3, 16, 16)
    for window in (17, 1.5, (17, 3), 3.0):
        with pytest.raises(ParameterError, match="window of Occlusion to be a whole number up to the 16 positions"):
            Occlusion(net, window=window).attribute(x)
    for stride in (5, 2.0):
        with pytest.raises(ParameterError, match="stride of Occlusion to be .* the 4 positions of the window"):
            Occlusion(net, window=4, stride=stride).attribute(x)
    with pytest.raises(ParameterError, match="window of Occlusion to be one number, or 2 for axes"):
        Occlusion(net, window=(3, 3, 3)).attribute(x)
    for value in (0, -2, "all", (), (3, 0)):
        with pytest.raises(ParameterError, match="window of Occlusion"):
            Occlusion(net, window=value)
    with pytest.raises(ParameterError, match="score of Occlusion"):
        Occlusion(net, score="log")
    with pytest.raises(ModelError, match="finite outputs on occluded inputs"):
        Occlusion(NaNWithZeros(), window=8).attribute(x, 0)
    with pytest.raises(InputError, match="inputs with 2 or 3 or 4 or 5 dimensions for Occlusion"):
        Occlusion(net).attribute(torch.ones(1, 3, 4, 4, 4, 4))
