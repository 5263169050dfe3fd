from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pnpxai.errors import ParameterError
from pnpxai.forward import count_forwards
from pnpxai.metrics import AOPC, AbPC, Comprehensiveness, MoRF, Sufficiency, evaluate_together
from pnpxai.metrics.comprehensiveness import ERASER
from tests.metrics.oracles import linear_model, tie_order
from tests.nets import MLP, VGGLike, batch, seeded

WEIGHTS = [2.0, -1.0, 0.5, 3.0, -0.25]
MODEL = linear_model(WEIGHTS)
X = torch.tensor([[1.0, 2.0, -1.0, 0.5, 4.0]], dtype=torch.float64)
RELEVANCE = torch.tensor([[2.0, -2.0, -0.5, 1.5, -1.0]], dtype=torch.float64)  # in order: 2, 1.5, -.5, -1, -2; sum 0


def lost(kept: list[int], f: int) -> list[int]:
    return [i for i in range(f) if i not in kept]


def test_a_linear_model_in_closed_form() -> None:
    arguments = {"n_steps": 5, "score": "logit"}
    found = [
        each(MODEL, **arguments).evaluate(X, 0, RELEVANCE).item() for each in (AOPC, Comprehensiveness, Sufficiency)
    ]
    assert found[0] == pytest.approx((0 + 2.0 + 3.5 + 3.0 + 2.0 + 0.0) / 6)
    assert found[1] == pytest.approx((2.0 + 3.5) / 2)
    assert found[2] == pytest.approx(-(2.0 + 3.5) / 2)  # the rest sums to -(2 + …), and the whole to 0


@pytest.mark.parametrize("n_steps", [1, 3, 10])
def test_area_over_the_curve_is_what_lies_above_it_by_sums(n_steps: int) -> None:
    model, x, values = seeded(VGGLike().double()), batch(3, 3, 16, 16, dtype=torch.float64), batch(3, 16, 16, seed=4)
    curve = MoRF(model, n_steps=n_steps).curves(x, 1, values).morf
    for row, score in zip(curve.tolist(), AOPC(model, n_steps=n_steps).evaluate(x, 1, values).tolist(), strict=True):
        assert score == pytest.approx(sum(row[0] - each for each in row) / (n_steps + 1), abs=1e-12)


@given(
    values=st.lists(st.integers(-2, 2), min_size=1, max_size=9),
    fractions=st.one_of(st.just(ERASER), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(tuple)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_fractions_one_by_one_in_a_slow_loop(values: list[int], fractions: tuple[float, ...], seed: int) -> None:
    f = len(values)
    model = seeded(nn.Sequential(nn.Linear(f, 5), nn.Tanh(), nn.Linear(5, 3)).double())
    x, baseline = batch(1, f, dtype=torch.float64), batch(1, f, seed=2, dtype=torch.float64)
    place = {feature: i for i, feature in enumerate(tie_order(f, seed))}
    order = sorted(range(f), key=lambda i: (-values[i], place[i]))

    def score(removed: list[int]) -> float:
        changed = x.clone()
        changed[0, removed] = baseline[0, removed]
        return model(changed).softmax(1)[0, 2].item()

    without, alone = [], []
    for fraction in fractions:
        top = order[: max(1, math.floor(fraction * f + 0.5))]
        without.append(score([]) - score(top))
        alone.append(score([]) - score(lost(top, f)))
    arguments = {"baseline_fn": baseline, "fractions": fractions, "seed": seed}
    found = [
        each(model, **arguments).evaluate(x, 2, torch.tensor([values])) for each in (Comprehensiveness, Sufficiency)
    ]
    assert found[0].item() == pytest.approx(sum(without) / len(without), abs=1e-12)
    assert found[1].item() == pytest.approx(sum(alone) / len(alone), abs=1e-12)


@pytest.mark.parametrize("f", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("n_steps", [1, 2, 4, 10])
def test_without_fractions_the_steps_up_to_half_the_features(f: int, n_steps: int) -> None:
    model = linear_model([2.0**i for i in range(f)])
    x = torch.ones(1, f, dtype=torch.float64)
    stops = {math.floor(i * f / n_steps + 0.5) for i in range(n_steps + 1)}
    halves = [each for each in sorted(stops) if 1 <= each <= f / 2] or [min(stops - {0})]
    kept = [f - each for each in sorted(stops, reverse=True) if 1 <= f - each <= f / 2] or [
        f - max(each for each in stops if each < f)
    ]
    total = 2.0**f - 1
    top = {k: sum(2.0**i for i in range(f - k, f)) for k in range(f + 1)}
    arguments = {"n_steps": n_steps, "score": "logit"}
    found = [
        each(model, **arguments).evaluate(x, 0, x * model[1].weight).item() for each in (Comprehensiveness, Sufficiency)
    ]
    assert found[0] == pytest.approx(sum(top[k] for k in halves) / len(halves))
    assert found[1] == pytest.approx(sum(total - top[k] for k in kept) / len(kept))


def test_fractions_are_asked_on_their_own_and_once_for_both() -> None:
    model, x, maps = seeded(VGGLike()), batch(2, 3, 16, 16), batch(2, 16, 16, seed=2)
    both = [each(model, fractions=ERASER) for each in (Comprehensiveness, Sufficiency)]
    with count_forwards() as counter:
        evaluate_together(both, x, 1, maps)
    assert counter.n_samples == 2 * (2 + 10)
    with count_forwards() as counter:
        evaluate_together([*both, AbPC(model)], x, 1, maps)
    assert counter.n_samples == 2 * (2 + 10 + 18)


def test_areas_of_curves_at_fractions_follow_each_direction() -> None:
    curves = Comprehensiveness(MODEL, fractions=(0.2,), score="logit").curves(X, 0, RELEVANCE)
    assert curves.fractions.tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert curves.lerf_fractions.tolist() == pytest.approx([0.0, 0.8, 1.0])
    assert curves.morf.tolist() == [pytest.approx([0.0, -2.0, 0.0])]
    assert curves.lerf.tolist() == [pytest.approx([0.0, 2.0, 0.0])]
    assert curves.lerf_area.item() == pytest.approx(2.0 * 0.8 / 2 + 2.0 * 0.2 / 2)


@pytest.mark.parametrize("fractions", [(), (0.0, 0.5), (1.1,), "half", 0])
def test_fractions_that_are_none_are_refused(fractions: object) -> None:
    with pytest.raises(ParameterError, match="fractions"):
        Sufficiency(seeded(MLP()), fractions=fractions)
