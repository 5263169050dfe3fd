"""What the tests of several workers ask of a study."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

import pnpxai
from pnpxai.tuning._problem import Problem, pose
from tests.nets import MLP, batch, seeded
from tests.tuning.explainers import Fixed, Weighted


def problem(**options: Any) -> dict[str, Any]:
    """A small problem that other processes can be sent, or build again."""
    model = options.pop("model", None) or seeded(MLP())
    explainers = options.pop("explainers", None) or [Weighted(model), Fixed, "Gradient"]
    return {"model": model, "inputs": batch(8, 6), "metric": "complexity", "explainers": explainers, **options}


def slow_problem() -> dict[str, Any]:
    """A problem whose trials take a while, so that several workers meet."""
    model = seeded(MLP())
    return problem(model=model, explainers=[Weighted(model, seconds=0.05), Fixed])


def posed_problem(call: Mapping[str, Any], n_trials: int) -> Problem:
    """What `pnpxai.tune` makes of it."""
    bound = inspect.signature(pnpxai.tune).bind(**call)
    bound.apply_defaults()
    known = set(inspect.signature(pose).parameters)
    given = {name: each for name, each in bound.arguments.items() if name in known} | {"n_trials": n_trials}
    return pose(**given, race=True, stored=True)


def settings(trial: FrozenTrial) -> tuple[tuple[str, Any], ...]:
    """What a trial tried."""
    return tuple(sorted((name, each) for name, each in trial.params.items() if not name.startswith("postprocessor.")))


def complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


def assert_each_once(study: optuna.Study, n_trials: int) -> None:
    """Exactly so many trials are finished, each with other settings, and nothing is left over or lost."""
    done = complete(study)
    assert len(done) == n_trials
    assert len({settings(each) for each in done}) == n_trials
    others = [each for each in study.get_trials() if each.state != TrialState.COMPLETE]
    assert {each.state for each in others} <= {TrialState.PRUNED, TrialState.FAIL}
    tried = {settings(each) for each in done}
    for each in others:
        noted = each.user_attrs
        assert noted.get("failure") == "interrupted" or "skipped" in noted, each
        if noted.get("skipped", "").startswith("it repeats"):
            assert settings(each) in tried


def record(trial: FrozenTrial) -> Mapping[str, Any]:
    """All that has to survive of a finished trial."""
    return {
        "params": trial.params,
        "value": trial.value,
        "scores": trial.user_attrs["scores"],
        "end": trial.datetime_complete,
    }
