from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pnpxai.explainers._coalitions import FEW, pair_masses, random_coalitions, shapley_pairs
from tests.explainers.games import every_coalition

SIZES = [1, 2, 3, 7, FEW, FEW + 1, 60, 400]


def kernel(d: int, size: int) -> float:
    """Lundberg & Lee's, not normalised."""
    return (d - 1) / (math.comb(d, size) * size * (d - size))


def rows(coalitions: Tensor) -> list[tuple[bool, ...]]:
    return [tuple(each) for each in coalitions.tolist()]


@pytest.mark.parametrize("d", SIZES)
def test_pairs_and_halves_continue_and_never_repeat(d: int) -> None:
    many, few = shapley_pairs(d, 300, seed=1), shapley_pairs(d, 20, seed=1)
    assert torch.equal(many.chosen[:20], few.chosen)
    assert len(many.chosen) == min(300, 2 ** (d - 1) - 1)
    whole, none, *others = rows(many.coalitions)
    assert all(whole)
    assert not any(none)
    assert all(one != other for one, other in zip(others[::2], others[1::2], strict=True))
    assert all(sum(one) + sum(other) == d for one, other in zip(others[::2], others[1::2], strict=True))
    assert len({whole, none, *others}) == 2 + len(others)
    halves = random_coalitions(d, 300, seed=1)
    assert torch.equal(halves[:20], random_coalitions(d, 20, seed=1))
    assert halves[0].all()
    assert len(halves) == min(300, 2**d)
    if d != FEW + 1:
        assert len(set(rows(halves))) == len(halves)
    if len(halves) == 300:
        assert not torch.equal(halves, random_coalitions(d, 300, seed=2))
        assert not torch.equal(many.chosen, shapley_pairs(d, 300, seed=2).chosen)


@pytest.mark.parametrize("d", [2, 3, 6, 9])
def test_all_pairs_have_the_weights_of_the_kernel(d: int) -> None:
    pairs = shapley_pairs(d, 1000, seed=3)
    middle = [z for z in rows(every_coalition(d)) if 0 < sum(z) < d]
    assert sorted(rows(pairs.coalitions[2:])) == middle
    expected = torch.tensor([kernel(d, int(each.sum())) for each in pairs.chosen], dtype=torch.float64)
    torch.testing.assert_close(pairs.weights / pairs.weights.sum(), expected / expected.sum())
    torch.testing.assert_close(pairs.weights.sum().item(), 1.0)
    assert sorted(rows(random_coalitions(d, 1000, seed=3))) == rows(every_coalition(d))


def test_the_weight_of_a_pair_is_the_kernel_on_average_however_few_are_drawn() -> None:
    # rank conditioning has no bias: E[w_j · (j was drawn)] = μ_j, and Σ_j of it is 1 (Cohen and Kaplan, 2007)
    d, n_seeds = 5, 1500
    found = torch.zeros(n_seeds, 2**d, dtype=torch.float64)
    codes = 2 ** torch.arange(d)
    for seed in range(n_seeds):
        pairs = shapley_pairs(d, 4, seed)
        found[seed, (pairs.chosen * codes).sum(1)] = pairs.weights
    whole = shapley_pairs(d, 100, 0)
    expected = torch.zeros(2**d, dtype=torch.float64)
    expected[(whole.chosen * codes).sum(1)] = whole.weights
    assert ((found.mean(0) - expected).abs() <= 4.5 * found.std(0) / n_seeds**0.5).all()


@pytest.mark.parametrize("d", [11, FEW + 1, 40])
def test_sizes_have_the_weights_of_the_kernel_on_average_and_features_are_alike(d: int) -> None:
    # listed and drawn; 25 pairs, among which those of a single feature would come back often
    n_seeds = 200
    found, present = torch.zeros(n_seeds, d // 2 + 1, dtype=torch.float64), torch.zeros(d)
    for seed in range(n_seeds):
        pairs = shapley_pairs(d, 25, seed)
        sizes = pairs.chosen.sum(1)
        found[seed].index_add_(0, torch.minimum(sizes, d - sizes), pairs.weights)
        present += (pairs.chosen == pairs.chosen[:, :1]).float().mean(0)
    law = torch.tensor([1 / (s * (d - s)) for s in range(1, d)], dtype=torch.float64)
    expected = torch.zeros(d // 2 + 1, dtype=torch.float64)
    for s in range(1, d):
        expected[min(s, d - s)] += law[s - 1] / law.sum()
    common = expected * n_seeds > 5
    spread = found.std(0) / n_seeds**0.5
    assert ((found.mean(0) - expected).abs() <= 4.5 * spread)[common].all()
    together = present[1:] / n_seeds
    assert together.max() - together.min() < 0.09


def test_masses_are_probabilities_for_any_number_of_features() -> None:
    for d in (2, 5, 10):
        half = every_coalition(d)[1 : 2 ** (d - 1)]
        torch.testing.assert_close(pair_masses(half).sum().item(), 1.0)
    many = shapley_pairs(3000, 50, seed=0)
    assert torch.isfinite(many.weights).all()
    assert (many.weights > 0).all()


def test_halves_are_halves() -> None:
    share = random_coalitions(60, 4000, seed=0)[1:].double()
    assert (share.mean(0) - 0.5).abs().max() < 4.5 * 0.5 / 4000**0.5
    assert (torch.corrcoef(share.T) - torch.eye(60)).abs().max() < 5 / 4000**0.5
