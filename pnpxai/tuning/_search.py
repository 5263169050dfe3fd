"""Running trials until the study has as many as asked for."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import BaseTrial, FrozenTrial, TrialState
from tqdm.auto import tqdm

from pnpxai.tuning._claims import REPEATS, full, n_finished, release
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._study import sampler_for

PAUSE = 0.2
"""Seconds between looks at a study whose last trials are being run by others."""
Callback: TypeAlias = Callable[[optuna.Study, FrozenTrial], None]
LEVELS = 3
"""Values of a number that the grid tries."""
MOST_REPEATS = 20
"""Random choices in a row that were all tried before: then there is nothing else to try."""


@dataclass
class Guided:
    """Chooses at random for once where the sampler repeats itself, and stops a study whose space is exhausted.

    A callback after each trial. Exploiting samplers come back to the best explainer, and if it has nothing to tune
    they would for ever.
    """

    sampler: BaseSampler
    random: RandomSampler
    repeats: int = 0

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Look at what the last trial was."""
        repeated = trial.state == TrialState.PRUNED and trial.user_attrs.get("skipped", "").startswith(REPEATS)
        self.repeats = self.repeats + 1 if repeated else 0
        study.sampler = self.random if repeated else self.sampler
        if self.repeats >= MOST_REPEATS:
            study.set_user_attr("exhausted", True)
            study.stop()


def search(
    study: optuna.Study,
    objective: Objective,
    *,
    sampler: str | BaseSampler,
    seed: int,
    timeout: float | None = None,
    progress: bool = False,
    worker: int = 0,
    n_workers: int = 1,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run trials until the study has ``objective.n_trials`` of its own or other workers'.

    A failing trial is recorded and the study goes on. The grid ends with its last combination.

    Args:
        study: of any storage.
        objective: scores a trial.
        sampler: a name or an Optuna sampler.
        seed: of the sampler; each worker, and each continuation, gets another.
        timeout: seconds after which no further trial is begun.
        progress: show a bar.
        worker: this worker's number.
        n_workers: how many there are.
        callbacks: called after each trial.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    key = seed + len(study.trials) + 7919 * worker
    study.sampler = sampler_for(sampler, key, len(objective.explainers), n_workers)
    guided = Guided(study.sampler, RandomSampler(seed=key))
    if study.user_attrs.get("n_trials") != objective.n_trials:
        study.set_user_attr("n_trials", objective.n_trials)
    finished = n_finished(study)
    with tqdm(total=objective.n_trials, initial=finished, desc="tuning", unit="trial", disable=not progress) as bar:

        def nothing_left() -> bool:
            release(study)
            while full(study, objective.n_trials) and time.monotonic() < deadline:
                time.sleep(PAUSE)
                release(study)
            done = n_finished(study)
            bar.update(done - bar.n)
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                bar.set_postfix_str(f"best {study.best_value:.3f} {study.best_trial.params['explainer']}")
            waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            exhausted = done < objective.n_trials and sampler == "grid" and not waiting
            if exhausted or (done >= objective.n_trials and study.user_attrs.get("exhausted")):
                study.set_user_attr("exhausted", exhausted)
            return exhausted or done >= objective.n_trials

        def advance(study: optuna.Study, trial: FrozenTrial) -> None:
            if nothing_left():
                study.stop()

        if nothing_left():
            return
        left = None if timeout is None else deadline - time.monotonic()
        study.optimize(objective, timeout=left, catch=(Exception,), callbacks=[guided, *callbacks, advance])


def grid(objective: Objective) -> Iterator[Mapping[str, Any]]:
    """Every combination of `LEVELS` values of each number and all choices, the explainers in turns.

    The values lie in the middle of equal parts of a range (of its logarithm where it is declared so).
    """
    spaces = [_combinations(objective, name) for name in objective.explainers]
    for turn in itertools.zip_longest(*spaces):
        yield from (each for each in turn if each is not None)


def _combinations(objective: Objective, name: str) -> Iterator[Mapping[str, Any]]:
    """Depth first through a space that unfolds as it is chosen from."""
    stack: list[dict[str, Any]] = [{"explainer": name}]
    while stack:
        fixed = stack.pop()
        try:
            objective.build(cast(BaseTrial, _Fixed(fixed)))
        except _Open as question:
            stack += [{**fixed, question.parameter: value} for value in reversed(question.values)]
        else:
            yield fixed


class _Open(Exception):
    """A parameter that is not fixed yet, and the values it is given in turn."""

    def __init__(self, parameter: str, values: Sequence[Any]) -> None:
        super().__init__(parameter)
        self.parameter = parameter
        self.values = values


@dataclass(frozen=True)
class _Fixed:
    """A trial that answers with what is fixed."""

    params: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, choices)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._answer(name, levels(low, high, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        near = (low + round((each - low) / step) * step for each in levels(low, high + step, log=log))
        return self._answer(name, list(dict.fromkeys(min(each, high) for each in near)))

    def _answer(self, name: str, values: Sequence[Any]) -> Any:
        if name not in self.params:
            raise _Open(name, values)
        return self.params[name]


def levels(low: float, high: float, *, log: bool) -> list[float]:
    """The middles of `LEVELS` equal parts of a range.

    Example:
        >>> levels(0.0, 6.0, log=False)
        [1.0, 3.0, 5.0]
    """
    shares = [(part + 0.5) / LEVELS for part in range(LEVELS)]
    if log:
        return [math.exp(math.log(low) + share * (math.log(high) - math.log(low))) for share in shares]
    return [low + share * (high - low) for share in shares]
