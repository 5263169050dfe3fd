"""What the search found, explainer by explainer, before anything is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from pnpxai.tuning._claims import counts, killed
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._result import Configuration

DIED = "its worker gave no sign of life."


@dataclass(frozen=True)
class Standing:
    """One explainer after the search.

    Attributes:
        name: in the study.
        default: as the explainer came, with the usual post-processing; without scores where it failed.
        tuned: the best configuration found; the default itself where nothing is better.
        n_trials: finished trials spent on it.
        failures: reasons of its failed trials, each once.
    """

    name: str
    default: Configuration
    tuned: Configuration
    n_trials: int
    failures: tuple[str, ...]


def standings(study: optuna.Study, objective: Objective) -> tuple[list[Standing], dict[str, str], list[str]]:
    """Explainers that finished a trial, best first, those that ran the whole race before those that were stopped.

    Also those whose trials all failed, with the reason, and those that were not tried.
    """
    trials = study.get_trials(deepcopy=False)
    retried = killed(trials)
    found: list[Standing] = []
    failed: dict[str, str] = {}
    untried: list[str] = []
    for name in objective.explainers:
        own = [each for each in trials if each.params.get("explainer") == name]
        failures = tuple(dict.fromkeys(each.user_attrs.get("failure", DIED) for each in own if _failed(each, retried)))
        done = [each for each in own if each.state == TrialState.COMPLETE]
        if not done:
            if failures:
                failed[name] = "; ".join(failures)
            else:
                untried.append(name)
            continue
        n_trials = sum(counts(each, retried) for each in own)
        tuned = max((_configuration(objective, each) for each in done), key=lambda each: order(objective, each))
        default = _default(objective, name, done)
        if tuned.params == default.params or (
            default.scored(objective.race.n) and not _better(tuned, default, objective)
        ):
            tuned = default
        found.append(Standing(name, default, tuned, n_trials, failures))
    found.sort(key=lambda each: order(objective, each.tuned), reverse=True)
    return found, failed, untried


def order(objective: Objective, configuration: Configuration) -> tuple[bool, float]:
    """What configurations are compared by: a whole race first, then the score as far as it is known."""
    sign = 1 if objective.race.higher_is_better else -1
    return configuration.scored(objective.race.n), sign * configuration.estimate


def _better(one: Configuration, other: Configuration, objective: Objective) -> bool:
    return order(objective, one) > order(objective, other)


def _failed(trial: FrozenTrial, retried: set[int]) -> bool:
    return trial.state == TrialState.FAIL and counts(trial, retried)


def _default(objective: Objective, name: str, done: Sequence[FrozenTrial]) -> Configuration:
    explainer, postprocessor = objective.explainers[name], objective.postprocessor
    params = objective.params(name, explainer, postprocessor)
    configuration = Configuration(explainer, postprocessor, {k: v for k, v in params.items() if k != "explainer"}, ())
    first = next((each for each in done if each.user_attrs.get("default")), None)
    if first is None:
        return configuration
    scores = tuple(first.user_attrs["usual_scores"])
    return replace(
        configuration,
        tuning_scores=scores,
        estimate=objective.race.value(scores, first.user_attrs.get("usual_to_come", 0.0)),
        forwards_per_sample=first.user_attrs["forwards_per_sample"],
        seconds_per_sample=first.user_attrs["seconds_per_sample"],
    )


def _configuration(objective: Objective, trial: FrozenTrial) -> Configuration:
    explainer, postprocessor = objective.built(trial)
    scores = tuple(trial.user_attrs["scores"])
    return Configuration(
        explainer,
        postprocessor,
        {name: value for name, value in trial.params.items() if name != "explainer"},
        scores,
        estimate=objective.race.value(scores, trial.user_attrs.get("to_come", 0.0)),
        forwards_per_sample=trial.user_attrs["forwards_per_sample"],
        seconds_per_sample=trial.user_attrs["seconds_per_sample"],
    )
