"""Running trials until the study has as many as asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from pnpxai.tuning._claims import REPEATS, full, n_finished, release
from pnpxai.tuning._grid import at_most, untried
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._study import sampler_for

PAUSE = 0.2
"""Seconds between looks at a study whose last trials are being run by others."""
Callback: TypeAlias = Callable[[optuna.Study, FrozenTrial], None]
MOST_REPEATS = 20
"""Random choices in a row that were all tried before: then it is looked up what there is that was not."""


@dataclass
class Guided:
    """Chooses at random for once where the sampler repeats itself, and stops a study whose space is exhausted.

    A callback after each trial. Exploiting samplers come back to the best explainer, and if it has nothing to tune
    they would for ever. A space with no more combinations than trials is tried in turns, without chance.

    Attributes:
        sampler: chooses as a rule.
        random: chooses after a repeat.
        objective: knows what there is to choose.
        small: there are no more combinations than trials.
        repeats: how many trials in a row were repeats.
    """

    sampler: BaseSampler
    random: RandomSampler
    objective: Objective
    small: bool = False
    repeats: int = 0

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Look at what the last trial was."""
        repeated = trial.state == TrialState.PRUNED and trial.user_attrs.get("skipped", "").startswith(REPEATS)
        self.repeats = self.repeats + 1 if repeated else 0
        study.sampler = self.random if repeated else self.sampler
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if self.repeats >= MOST_REPEATS or (self.small and not waiting):
            self.repeats = 0
            other = untried(study, self.objective)
            if other is None:
                study.set_user_attr("exhausted", True)
                study.stop()
            else:
                study.enqueue_trial(dict(other))


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
    small = at_most(objective, objective.n_trials)
    guided = Guided(study.sampler, RandomSampler(seed=key), objective, small)
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
        if small and untried(study, objective) is None:
            study.set_user_attr("exhausted", True)
            return
        left = None if timeout is None else deadline - time.monotonic()
        study.optimize(objective, timeout=left, catch=(Exception,), callbacks=[guided, *callbacks, advance])
