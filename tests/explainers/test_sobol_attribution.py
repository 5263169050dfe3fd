from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import qmc, sobol_indices
from torch import Tensor, nn

from pnpxai.errors import ModelError, ParameterError
from pnpxai.explainers import SobolAttribution
from pnpxai.explainers.sobol_attribution import Designs, JansenSums
from pnpxai.feature_masks import grid_cells
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded


class OfFeatures(nn.Module):
    """A function of features ``(n, d)``, as one output."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)[:, None]


class OfCells(OfFeatures):
    """A function of the means of 3 × 3 cells of an image's first channel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.adaptive_avg_pool2d(x[:, 0], 3).flatten(1))


A = torch.tensor([0.0, 0.5, 1.0, 3.0, 9.0, 99.0], dtype=torch.float64)


def g_function(x: Tensor) -> Tensor:
    """Sobol's: the product of ``(|4x − 2| + a) / (1 + a)``."""
    a = torch.cat([A, A.new_full((x.shape[1] - len(A),), 1e9)])
    return (((4 * x - 2).abs() + a) / (1 + a)).prod(1)


def g_indices() -> Tensor:
    """With ``V_i = 1 / (3 (1 + a_i)²)`` the variance is ``Π (1 + V_i) − 1``, part ``V_i Π_{j≠i} (1 + V_j)``."""
    own = 1 / (3 * (1 + A) ** 2)
    every = (1 + own).prod()
    return own / (1 + own) * every / (every - 1)


def ishigami(x: Tensor) -> Tensor:
    """``sin u + 7 sin² v + 0.1 w⁴ sin u`` on ``[−π, π]³``."""
    u, v, w = (math.pi * (2 * x - 1)).T
    return u.sin() + 7 * v.sin() ** 2 + 0.1 * w**4 * u.sin()


def ishigami_indices() -> Tensor:
    pi4 = math.pi**4
    u = 0.5 * (1 + 0.1 * pi4 / 5) ** 2
    v = 49 / 8
    uw = 0.01 * pi4**2 * (1 / 18 - 1 / 50)
    return torch.tensor([u + uw, v, uw], dtype=torch.float64) / (u + v + uw)


ADDITIVE = torch.tensor([3.0, -2.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ ADDITIVE, ADDITIVE**2 / (ADDITIVE**2).sum()),
        (g_function, g_indices()),
        (ishigami, ishigami_indices()),
        (lambda x: x[:, 0] * x[:, 1], torch.tensor([4 / 7, 4 / 7], dtype=torch.float64)),
    ],
    ids=["additive", "g", "ishigami", "product"],
)
def test_the_indices_of_functions_whose_indices_are_known(
    function: Callable[[Tensor], Tensor], expected: Tensor
) -> None:
    x = torch.ones(1, len(expected), dtype=torch.float64)
    errors = []
    for n_designs in (64, 4096):
        found = SobolAttribution(OfFeatures(function), n_designs=n_designs).attribute(x)[0]
        errors.append(float((found - expected).abs().max()))
    assert errors[0] < 0.25
    assert errors[1] < 0.01
    assert errors[1] < errors[0]


def test_the_indices_of_cells_of_an_image() -> None:
    expected = torch.cat([g_indices(), torch.zeros(3, dtype=torch.float64)])
    x, net = torch.ones(1, 2, 9, 12, dtype=torch.float64), OfCells(g_function)
    maps = SobolAttribution(net, n_designs=2048, grid_size=3).attribute(x)
    cells = maps[0, 0].reshape(3, 3, 3, 4).permute(0, 2, 1, 3).reshape(9, 12)
    assert (cells == cells[:, :1]).all()
    torch.testing.assert_close(cells[:, 0], expected, rtol=0, atol=0.01)


def slow_answers(net: nn.Module, x: Tensor, target: int, base: Tensor, cells: tuple[int, ...], n: int) -> Any:
    """The answers to A, B and every mixture, one question at a time, the sequence drawn anew from scipy."""
    d = math.prod(cells)
    random = np.random.default_rng(np.random.SeedSequence(3))
    order, sequence = random.permutation(2 * d), qmc.Sobol(2 * d, rng=random)
    points = sequence.random(2 ** math.ceil(math.log2(n)))[:n][:, order]
    a, b = torch.from_numpy(points[:, :d]), torch.from_numpy(points[:, d:])

    def ask(values: Tensor) -> float:
        mask = values
        if x.ndim > 1:
            ids = [torch.arange(size) * per // size for size, per in zip(x.shape[1:], cells, strict=True)]
            mask = values.reshape(cells)[np.ix_(*ids)]
        return net((x * mask + (1 - mask) * base)[None]).softmax(1)[0, target].item()

    mixed = []
    for i in range(d):
        rows = a.clone()
        rows[:, i] = b[:, i]
        mixed.append([ask(each) for each in rows])
    return [ask(each) for each in a], [ask(each) for each in b], mixed


@pytest.mark.parametrize(
    ("build", "shape", "grid", "cells"),
    [
        (VGGLike, (3, 16, 16), (2, 3), (2, 3)),
        (TimeCNN, (2, 24), 5, (5,)),
        (TimeCNN, (2, 24), 30, (24,)),
        (MLP, (6,), 8, (6,)),
    ],
)
def test_against_scipy(
    build: Callable[[], nn.Module], shape: tuple[int, ...], grid: Any, cells: tuple[int, ...]
) -> None:
    net, x = seeded(build()).double(), batch(2, *shape, dtype=torch.float64)
    maps = SobolAttribution(net, n_designs=16, grid_size=grid, baseline_fn=0.4, seed=3).attribute(x, [2, 0])
    for sample, target in enumerate([2, 0]):
        with torch.no_grad():
            a, b, mixed = slow_answers(net, x[sample], target, torch.tensor(0.4), cells, 16)
        found = sobol_indices(
            func={"f_A": np.array([a]), "f_B": np.array([b]), "f_AB": np.array(mixed)[:, None]}, n=16
        ).total_order
        expected = torch.from_numpy(np.asarray(found).ravel())
        if len(shape) > 1:
            ids = [torch.arange(size) * per // size for size, per in zip(shape[1:], cells, strict=True)]
            expected = expected.reshape(cells)[np.ix_(*ids)]
        torch.testing.assert_close(maps[sample].squeeze(0) if len(shape) > 1 else maps[sample], expected)


def test_neighbouring_cells_blend_linearly() -> None:
    designs = Designs((9, 5), (3, 2), "linear", 0)
    grids = batch(4, 3, 2, dtype=torch.float64)
    expected = F.interpolate(grids[:, None], (9, 5), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(designs.upsample(grids), expected)
    cells = grid_cells((10, 5), 2)
    nearest = Designs((10, 5), (2, 2), "nearest", 0).upsample(grids[:, :2])
    torch.testing.assert_close(nearest[:, :, 3:], grids[:, :2].flatten(1)[:, cells][:, :, 3:])


def test_a_mixture_differs_from_a_in_one_cell() -> None:
    designs = Designs((2, 3), (2, 3), "nearest", 5)
    points = designs.draw(0, 4)
    masks = designs.masks(points, torch.arange(4 * 8)).reshape(4, 8, 6)
    for j, k in itertools.product(range(4), range(6)):
        a, b, mixed = masks[j, 0], masks[j, 1], masks[j, 2 + k]
        assert (mixed != a).nonzero().flatten().tolist() == [k]
        assert mixed[k] == b[k]
    assert torch.equal(designs.draw(1, 3), points[1:3])
    far = Designs((40, 40), (40, 40), "nearest", 5)  # a slab holds 64 of its points
    assert torch.equal(torch.cat([far.draw(0, 50), far.draw(50, 140)]), far.draw(0, 140))
    assert far.draw(0, 140).flatten(1).unique(dim=0).shape[0] == 140


def test_the_variance_does_not_drown_in_a_large_mean() -> None:
    scores = 1e-6 * batch(2, 16, 5, dtype=torch.float64)
    whole = [JansenSums.none(each).added(each).total_indices(1e-16) for each in (scores, scores + 1000.0)]
    torch.testing.assert_close(whole[0], whole[1], rtol=1e-5, atol=0)
    parts = JansenSums.none(scores).added(scores[:, :5]).added(scores[:, 5:])
    torch.testing.assert_close(parts.total_indices(1e-16), whole[0])


def test_a_score_that_does_not_vary_has_no_relevance() -> None:
    net = OfFeatures(lambda x: 0 * x.sum(1) + 0.3)
    assert (SobolAttribution(net).attribute(torch.ones(2, 4, dtype=torch.float64)) == 0).all()

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return 1 + 1e-7 * x.sum(1, keepdim=True)

    assert (SobolAttribution(Rounded()).attribute(torch.ones(2, 4)) == 0).all()


@pytest.mark.parametrize(
    ("shape", "arguments", "cells"),
    [
        ((1, 16, 16), {}, 64),
        ((1, 16, 16), {"grid_size": (3, 4)}, 12),
        ((2, 5), {}, 5),
        ((6,), {}, 6),
        ((1, 4, 4, 4), {"grid_size": 2}, 8),
    ],
)
def test_the_price(shape: tuple[int, ...], arguments: dict[str, Any], cells: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 2))
    with count_forwards() as counter:
        maps = SobolAttribution(net, n_designs=20, **arguments).attribute(batch(3, *shape), 1)
    assert counter.n_samples == 3 * 20 * (cells + 2)
    assert maps.flatten(1).unique().numel() <= 3 * cells


def test_seeds_chunks_and_neighbours(set_chunk_size: Callable[[int], None]) -> None:
    net, x = seeded(VGGLike()).double(), batch(3, 3, 16, 16, dtype=torch.float64)
    explainer = SobolAttribution(net, n_designs=11, grid_size=3, baseline_fn="blur")
    expected = explainer.attribute(x)
    with untouched(net, x):
        torch.testing.assert_close(explainer.attribute(x[1:2]), expected[1:2])
        torch.testing.assert_close(explainer.set_kwargs(batch_size=7).attribute(x), expected)
    assert not torch.allclose(explainer.set_kwargs(seed=1).attribute(x), expected, rtol=0.01)
    set_chunk_size(5)
    torch.testing.assert_close(explainer.attribute(x), expected)


def test_impossible_arguments() -> None:
    net, x = seeded(VGGLike()), batch(1, 3, 16, 16)
    for changes in ({"n_designs": 1}, {"grid_size": 0}, {"upsampling": "cubic"}, {"score": "log"}, {"seed": -1}):
        with pytest.raises(ParameterError, match=next(iter(changes))):
            SobolAttribution(net, **changes)
    with pytest.raises(ParameterError, match="grid_size to be a whole number or 2 of them"):
        SobolAttribution(net, grid_size=(3, 3, 3)).attribute(x)
    with pytest.raises(ParameterError, match="at most 10600 cells"):
        SobolAttribution(nn.Linear(10601, 2)).attribute(torch.ones(1, 10601))

    class Breaks(VGGLike):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (0 / (x.abs().amax((1, 2, 3)) > 2.8))[:, None]

    with pytest.raises(ModelError, match="finite outputs on masked inputs"):
        SobolAttribution(Breaks()).attribute(x, 0)
