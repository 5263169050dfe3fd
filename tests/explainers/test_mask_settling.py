"""RISE until its map is settled: sample by sample, whatever the neighbours, and never because nothing was seen yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ParameterError
from pnpxai.explainers import RISE
from pnpxai.explainers._mask_settling import LOOKS_IN_A_ROW, looks
from pnpxai.forward import count_forwards
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded

MOST = 2000


def settled(model: nn.Module, tol: float = 0.2, **settings: object) -> RISE:
    return RISE(model, n_masks=MOST, grid_size=3, estimator="ridge", tol=tol, **settings)  # type: ignore[arg-type]


@pytest.fixture
def photo_model() -> nn.Module:
    return seeded(VGGLike())


def test_samples_are_asked_until_their_own_map_is_settled(photo_model: nn.Module) -> None:
    inputs = batch(4, 3, 16, 16)
    with count_forwards() as counter:
        found = settled(photo_model).explain(inputs, 1)
    numbers = found.n_masks.tolist()
    assert len(set(numbers)) > 1
    assert set(numbers) <= set(looks(0, MOST))
    assert counter.n_samples == sum(numbers)
    assert (found.relative_error <= 0.2).all()
    for i, n in enumerate(numbers):
        alone = settled(photo_model).explain(inputs[i : i + 1], 1)
        assert alone.n_masks.tolist() == [n]
        of_all = RISE(photo_model, n_masks=n, grid_size=3, estimator="ridge").explain(inputs, 1)
        for name in ("relevance", "standard_error", "relative_error"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(found, name)[i], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(getattr(of_all, name)[i], getattr(found, name)[i], rtol=1e-4, atol=1e-6)


def test_two_looks_in_a_row_have_to_agree(photo_model: nn.Module) -> None:
    inputs = batch(4, 3, 16, 16)
    by_look: dict[int, Tensor] = {
        n: RISE(photo_model, n_masks=n, grid_size=3, estimator="ridge").explain(inputs, 1).relative_error
        for n in looks(0, MOST)
    }
    for i, stop in enumerate(settled(photo_model).explain(inputs, 1).n_masks.tolist()):
        in_a_row, expected = 0, MOST
        for n, errors in by_look.items():
            in_a_row = in_a_row + 1 if errors[i] <= 0.2 else 0
            if in_a_row == LOOKS_IN_A_ROW:
                expected = n
                break
        assert stop == expected


@pytest.mark.parametrize(("make", "shape"), [(VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (MLP, (6,))])
def test_a_smaller_tol_asks_more_and_errs_less(make: type, shape: tuple[int, ...]) -> None:
    model, inputs = seeded(make()), batch(6, *shape)
    truth = RISE(model, n_masks=20_000, grid_size=3, seed=9).attribute(inputs, 1).flatten(1)
    numbers, errors = [], []
    for tol in (0.4, 0.1):
        found = settled(model, tol, sampling="independent").set_kwargs(n_masks=8000).explain(inputs, 1)
        numbers.append(found.n_masks.float().mean())
        errors.append((found.relevance.flatten(1) - truth).square().mean(1).sqrt() / truth.std(1))
        assert errors[-1].square().mean().sqrt() < 1.3 * tol
    assert numbers[0] < numbers[1]


def test_budgets_nest(photo_model: nn.Module) -> None:
    inputs, explainer = batch(3, 3, 16, 16), settled(photo_model)
    with count_forwards() as once:
        whole = explainer.attribute(inputs, 1)
    with count_forwards() as in_steps:
        *_, last = explainer.refine(inputs, 1, [60, 200, 700, MOST])
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-6)
    assert in_steps.n_samples == once.n_samples


def test_a_score_that_has_not_moved_is_not_settled() -> None:
    class OnOneOfMany(nn.Module):
        """Answers to the first feature only where the other five are all gone."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            seen = self.weight * x[:, 0] * (x[:, 1:].abs().sum(1) == 0)
            return torch.stack([seen, -seen], 1)

    found = settled(OnOneOfMany(), 0.5, p_keep=0.9).set_kwargs(n_masks=400).explain(torch.ones(1, 6), 0)
    assert found.n_masks.tolist() == [400]
    assert torch.isinf(found.relative_error).all()


@pytest.mark.parametrize("estimator", ["paper", "normalized", "centered"])
def test_other_estimators_have_no_error_to_stop_by(estimator: str) -> None:
    with pytest.raises(ParameterError, match="ridge"):
        RISE(seeded(MLP()), estimator=estimator, tol=0.2).attribute(batch(1, 6))


@pytest.mark.parametrize("tol", [0.0, -0.1, float("nan")])
def test_tol_is_above_zero(tol: float) -> None:
    with pytest.raises(ParameterError, match="tol"):
        RISE(seeded(MLP()), estimator="ridge", tol=tol)
