from __future__ import annotations

import itertools
import math
from typing import Any

import optuna
import pytest
from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState

import pnpxai
from pnpxai.errors import ParameterError, UnknownNameError
from pnpxai.tuning._grid import levels
from tests.nets import MLP, seeded
from tests.tuning.explainers import Fixed, Switched, Weighted
from tests.tuning.studies import complete, problem, settings

MODEL = seeded(MLP())


def tuned(*explainers: Any, **options: Any) -> pnpxai.TuneResult:
    call = {"progress": False, **options}
    return pnpxai.tune(**problem(model=MODEL, explainers=explainers or [Weighted(MODEL), Switched, Fixed]), **call)


def test_the_grid_is_every_combination_once() -> None:
    result = tuned(Switched, Fixed, Weighted(MODEL), sampler="grid", n_trials=500)
    thirds = [-2 + 4 * share for share in (1 / 6, 3 / 6, 5 / 6)]
    expected = {
        (("Switched.shift", shift), ("Switched.way", way), ("explainer", "Switched"))
        for way, shift in itertools.product(("plain", "absolute", "reversed"), (0, 2, 3))
    }
    expected |= {(("explainer", "Fixed"),)}
    found = [settings(each) for each in complete(result.study)]
    weighted = sorted(each[0][1] for each in found if ("explainer", "Weighted") in each)
    assert weighted == pytest.approx(sorted([*thirds, 0.5]))  # and the default
    others = [each for each in found if ("explainer", "Weighted") not in each]
    assert len(others) == len(set(others)) == len(expected)
    assert set(others) == expected
    assert any("nothing else to try" in each for each in result.caveats)


def test_the_grid_takes_explainers_in_turns_and_stops_where_asked() -> None:
    result = tuned(Switched, Weighted(MODEL), sampler="grid", n_trials=6)
    order = [each.params["explainer"] for each in complete(result.study)]
    assert len(order) == 6
    assert sorted(order) == ["Switched"] * 3 + ["Weighted"] * 3
    assert not any("nothing else to try" in each for each in result.caveats)


def test_levels_are_the_middles_of_equal_parts_and_lie_inside() -> None:
    assert levels(0.0, 6.0, log=False) == pytest.approx([1, 3, 5])
    logs = [math.log10(each) for each in levels(1e-3, 1e3, log=True)]
    assert logs == pytest.approx([-2, 0, 2])


def trials_of(result: pnpxai.TuneResult) -> list[tuple[Any, ...]]:
    return [
        (each.number, each.state, each.params, each.value, each.user_attrs.get("scores"))
        for each in result.study.get_trials()
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "gp", "object"])
def test_same_seed_same_study_trial_by_trial(sampler: str) -> None:
    explainers = [Weighted(MODEL)] if sampler == "gp" else [Weighted(MODEL), Switched, Fixed]

    def study(seed: int) -> list[tuple[Any, ...]]:
        chooser = NSGAIISampler(seed=seed) if sampler == "object" else sampler
        return trials_of(tuned(*explainers, sampler=chooser, seed=seed, n_trials=16))

    first = study(3)
    assert study(3) == first
    assert any(each[1] == TrialState.COMPLETE for each in first)
    assert study(4) != first


def test_unknown_samplers_list_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="gp, grid, random, tpe"):
        tuned(sampler="bayes")


def test_a_gaussian_process_takes_one_explainer() -> None:
    with pytest.raises(ParameterError, match="one explainer.*2 explainers"):
        tuned(Fixed, Weighted(MODEL), sampler="gp")


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_study_with_nothing_to_tune_ends_early_and_says_so(sampler: str) -> None:
    result = tuned(Fixed, "Gradient", sampler=sampler, n_trials=40)
    assert len(complete(result.study)) == len(result.study.get_trials()) == 2
    assert any("nothing else to try" in each for each in result.caveats)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_trials", [12, 40])
def test_a_small_space_is_tried_completely(seed: int, n_trials: int) -> None:
    result = tuned(Switched, sampler="random", n_trials=n_trials, seed=seed)
    assert len(complete(result.study)) == 12
    assert len(result.study.get_trials()) == 12
    assert {settings(each)[:2] for each in complete(result.study)} == {
        (("Switched.shift", shift), ("Switched.way", way))
        for shift, way in itertools.product(range(4), ("plain", "absolute", "reversed"))
    }
    assert result.study.user_attrs.get("exhausted", False) is (n_trials > 12)


def test_one_space_among_many_without_any_is_found() -> None:
    fixed = [Fixed(MODEL) for _ in range(30)]
    result = tuned(*fixed, Weighted(MODEL), sampler="random", n_trials=36)
    assert len(complete(result.study)) == 36


def test_a_study_that_goes_on_is_not_called_exhausted(tmp_path: Any) -> None:
    call = {"storage": str(tmp_path / "study.journal"), "study_name": "study"}
    assert tuned(Fixed, n_trials=3, **call).study.user_attrs["exhausted"]
    again = tuned(Fixed, n_trials=1, **call)
    assert not again.study.user_attrs["exhausted"]
    assert not any("nothing else to try" in each for each in again.caveats)
    assert isinstance(again.study, optuna.Study)
    assert tuned(Fixed, n_trials=5, **call).study.user_attrs["exhausted"]
    assert len(again.study.get_trials()) == 1
