from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from pnpxai.errors import ParameterError
from pnpxai.forward import count_forwards
from pnpxai.metrics import MuFidelity
from pnpxai.metrics._subsets import correlations, random_subsets, share_of
from tests.metrics.oracles import linear_model
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
@pytest.mark.parametrize("shape", [(3, 2), (3, 7), (3, 2, 12), (3, 1, 11, 13)])
def test_one_for_the_exact_map_of_a_linear_model(shape: tuple[int, ...], correlation: str) -> None:
    x = batch(*shape, dtype=torch.float64)
    weights = batch(*shape[1:], seed=2, dtype=torch.float64)
    baseline = batch(*shape, seed=3, dtype=torch.float64)
    metric = MuFidelity(
        linear_model(weights.flatten().tolist()),
        baseline_fn=baseline,
        score="logit",
        correlation=correlation,
        n_perturbations=50,
    )
    exact = weights * (x - baseline)
    ones = torch.ones(3, dtype=torch.float64)
    tolerance = 1e-9 if correlation == "pearson" else 0.02  # rounding parts ties between equal subsets
    torch.testing.assert_close(metric.evaluate(x, 0, exact), ones, rtol=0, atol=tolerance)
    torch.testing.assert_close(metric.evaluate(x, 0, -7 * exact), -ones, rtol=0, atol=tolerance)


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
@pytest.mark.parametrize("grid_size", [None, 4, 5])
def test_against_a_slow_loop(grid_size: int | None, correlation: str) -> None:
    model, x = seeded(VGGLike().double()), batch(2, 3, 16, 16, dtype=torch.float64)
    maps = batch(2, 16, 16, seed=4, dtype=torch.float64)
    n_cells = 256 if grid_size is None else grid_size**2
    subsets = random_subsets(30, n_cells, share_of(n_cells, 0.2), seed=5)
    found = MuFidelity(
        model, n_perturbations=30, grid_size=grid_size, correlation=correlation, baseline_fn="mean", seed=5
    ).evaluate(x, 1, maps)
    for i in range(2):
        given_, lost = [], []
        clean = model(x[i : i + 1]).softmax(1)[0, 1].item()
        for subset in subsets:
            changed, total = x[i].clone(), 0.0
            for row in range(16):
                for column in range(16):
                    side = 16 if grid_size is None else grid_size
                    if subset[row * side // 16 * side + column * side // 16]:
                        changed[:, row, column] = x[i].mean((1, 2))
                        total += maps[i, row, column].item()
            given_.append(total)
            lost.append(clean - model(changed[None]).softmax(1)[0, 1].item())
        expected = (stats.pearsonr if correlation == "pearson" else stats.spearmanr)(given_, lost).statistic
        assert found[i].item() == pytest.approx(expected, abs=1e-9)


def test_series_are_cut_along_time() -> None:
    model, x = seeded(TimeCNN().double()), batch(1, 2, 24, dtype=torch.float64)
    maps = torch.arange(24, dtype=torch.float64)[None]
    coarse = maps.reshape(1, 8, 3).mean(2, keepdim=True).expand(1, 8, 3).reshape(1, 24)
    metric = MuFidelity(model, grid_size=8, n_perturbations=40)
    torch.testing.assert_close(metric.evaluate(x, 0, maps), metric.evaluate(x, 0, coarse), rtol=0, atol=1e-12)
    alone = MuFidelity(model, grid_size=None, n_perturbations=40)
    assert (alone.evaluate(x, 0, maps) - alone.evaluate(x, 0, coarse)).abs() > 1e-4


def test_a_constant_map_or_score_is_zero() -> None:
    x, maps = batch(2, 3, 16, 16), batch(2, 16, 16, seed=4)
    model = seeded(VGGLike())
    zeros = torch.zeros(2)
    for constant in (torch.zeros(2, 16, 16), torch.full((2, 16, 16), 0.1)):
        assert torch.equal(MuFidelity(model, n_perturbations=20).evaluate(x, 0, constant), zeros)
    deaf = seeded(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    with torch.no_grad():
        deaf[1].weight.zero_()
    assert torch.equal(MuFidelity(deaf, n_perturbations=20).evaluate(x, 0, maps), zeros)
    single = seeded(nn.Linear(1, 2))
    assert torch.equal(MuFidelity(single).evaluate(batch(2, 1), 0, batch(2, 1, seed=2)), zeros)


def test_the_cost_and_the_scale_of_the_map() -> None:
    model, x = seeded(MLP().double()), batch(4, 6, dtype=torch.float64)
    maps = batch(4, 6, seed=2, dtype=torch.float64)
    metric = MuFidelity(model, n_perturbations=33)
    with count_forwards() as counter:
        found = metric.evaluate(x, None, maps)
    assert counter.n_samples == 4 * (1 + 33)
    torch.testing.assert_close(metric.evaluate(x, None, 1e-6 * maps), found, rtol=0, atol=1e-9)


@given(n_cells=st.integers(1, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_subsets_are_of_one_size(n_cells: int, share: float, seed: int) -> None:
    sizes = random_subsets(20, n_cells, share_of(n_cells, share), seed).sum(1)
    assert (sizes == min(max(round(share * n_cells), 1), n_cells)).all()


def test_every_cell_is_drawn_alike() -> None:
    often = random_subsets(20_000, 10, 3, seed=1).double().mean(0)
    assert (often - 0.3).abs().max() < 5 * (0.3 * 0.7 / 20_000) ** 0.5
    assert not torch.equal(random_subsets(20, 10, 3, 1), random_subsets(20, 10, 3, 2))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
def test_correlations_with_ties_against_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    constant = len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1
    for ranked, other in ((False, stats.pearsonr), (True, stats.spearmanr)):
        found = correlations(first[None], second[None], ranked=ranked)
        expected = 0.0 if constant else other(first.numpy(), second.numpy()).statistic
        assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_perturbations": 1},
        {"subset_share": 0.0},
        {"subset_share": 1.0},
        {"grid_size": 1},
        {"grid_size": 2.5},
        {"correlation": "kendall"},
        {"score": "loss"},
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        MuFidelity(seeded(MLP()), **arguments)


def test_the_same_subsets_for_every_image_and_map() -> None:
    seen: list[Tensor] = []

    class Seeing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x == 0)
            return super().forward(x)

    model, x = Seeing(6, 2), batch(3, 6).abs() + 0.1
    metric = MuFidelity(model, n_perturbations=9)
    metric.evaluate(x, 0, batch(3, 6, seed=2))
    first = seen[1].reshape(3, 9, 6)
    seen.clear()
    metric.evaluate(x, 0, batch(3, 6, seed=3))
    assert torch.equal(first, seen[1].reshape(3, 9, 6))
    assert torch.equal(first, first[:1].expand(3, 9, 6))
    assert len({tuple(each.tolist()) for each in first[0]}) > 3
