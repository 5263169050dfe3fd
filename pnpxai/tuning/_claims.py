"""Whose turn a trial is: nothing is tried twice, by however many workers, and what a dead one left is tried again."""

from __future__ import annotations

import copy
import os
import platform
import time
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import optuna
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import is_heartbeat_enabled
from optuna.trial import FrozenTrial, Trial, TrialState

MAX_RETRIES = 2
"""How often a trial is given to another worker when its own was killed; a trial that kills each worker is given up."""
INTERRUPTED = "interrupted"
REPEATS = "it repeats trial"
"""How the reason begins for which a trial is left that another one has made."""
GLANCE = 0.01
"""Seconds between looks at a trial that another worker is about to take or leave."""
UNCLAIMED = timedelta(seconds=20)
"""After this a running trial without a worker's name is taken to be a dead worker's: claiming takes milliseconds."""
_SEEN: WeakKeyDictionary[BaseStorage, dict[int, float]] = WeakKeyDictionary()


def worker_name() -> str:
    """This process among all machines and times: ``host:pid:begun``."""
    return f"{platform.node()}:{os.getpid()}:{_begun(os.getpid())}"


def alive(worker: object) -> bool:
    """Whether a worker may still be running: any on another machine, and another process of this one that lives."""
    host, pid, begun = str(worker).rsplit(":", 2)
    return host != platform.node() or (int(pid) != os.getpid() and _begun(int(pid)) == begun)


def _begun(pid: int) -> str:
    """When a living process of this machine was started, in its own units; empty if there is none."""
    try:
        described = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if described[0] in "ZX" else described[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"


def chosen(trial: FrozenTrial | Trial) -> dict[str, Any]:
    """What a trial chose for its maps; the post-processing is found afterwards."""
    return {name: value for name, value in trial.params.items() if not name.startswith("postprocessor.")}


def claim(trial: Trial, n_trials: int) -> None:
    """Take a trial whose parameters are known, by writing this worker's name to it, or leave it.

    Of several workers with one choice the first to have written a name keeps it; while none has, all but the one with
    the lowest number leave it, and that one waits until they have. So exactly one keeps it, whatever the order.

    Raises:
        TrialPruned: another trial made the same choice, or there are ``n_trials`` others before it.
    """
    patience = time.monotonic() + UNCLAIMED.total_seconds()
    while True:
        trials = trial.study.get_trials(deepcopy=False)
        if _places(trials, trial.number) >= n_trials:
            raise optuna.TrialPruned(f"the study has its {n_trials} trials")
        gone = killed(trials)
        later = False
        for each in trials:
            if each.number == trial.number or each.number in gone or chosen(each) != chosen(trial):
                continue
            running = each.state == TrialState.RUNNING
            first = alive(each.user_attrs["worker"]) if "worker" in each.user_attrs else each.number < trial.number
            if first if running else counts(each, gone):
                raise optuna.TrialPruned(f"{REPEATS} {each.number}")
            later |= running and "worker" not in each.user_attrs
        if not later or time.monotonic() > patience:
            break
        time.sleep(GLANCE)
    trial.set_user_attr("worker", worker_name())


def _places(trials: Sequence[FrozenTrial], number: int) -> int:
    """How many of the trials asked for are taken: those before a number that count or will, and those tried again."""
    gone = killed(trials)
    again = sum(each.state == TrialState.WAITING and "retry_history" in each.system_attrs for each in trials)
    before = (each for each in trials if each.number < number and each.number not in gone)
    return again + sum(each.state == TrialState.RUNNING or counts(each, gone) for each in before)


def full(study: optuna.Study, n_trials: int) -> bool:
    """Whether there is nothing to begin for now: the trials that are not finished are being run, by living workers."""
    trials = study.get_trials(deepcopy=False)
    gone = killed(trials)
    running = sum(each.state == TrialState.RUNNING and _watched(study, each) for each in trials)
    finished = sum(counts(each, gone) for each in trials)
    return finished < n_trials <= finished + running


def counts(trial: FrozenTrial, retried: Iterable[int]) -> bool:
    """Whether a trial is one of those asked for: scored, or failed by itself rather than with its worker."""
    if trial.state == TrialState.COMPLETE:
        return True
    return (
        trial.state == TrialState.FAIL
        and trial.user_attrs.get("failure") != INTERRUPTED
        and trial.number not in retried
    )


def killed(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials that are tried again under another number."""
    return {number for each in trials for number in each.system_attrs.get("retry_history", ())}


def n_finished(study: optuna.Study) -> int:
    """Trials that count."""
    trials = study.get_trials(deepcopy=False)
    retried = killed(trials)
    return sum(counts(each, retried) for each in trials)


def release(study: optuna.Study) -> None:
    """Mark what dead workers left running as failed, and queue it again.

    Those of this machine are known by their process; those of others only where the storage has heartbeats.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _dead(study, trial):
            give_back(study, trial)


def give_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a dead worker's trial again, unless that was done too often, and mark it as failed.

    In this order, so that it is not lost if this process is killed in between; a second copy would be left by `claim`.
    """
    again = len(trial.system_attrs.get("retry_history", ())) < MAX_RETRIES
    failure = INTERRUPTED if again else f"its worker was killed {MAX_RETRIES + 1} times"
    try:
        study._storage.set_trial_user_attr(trial._trial_id, "failure", failure)
        queue_again(study, trial)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass  # another process was quicker


def interrupt(trial: Trial) -> None:
    """Note that the user stopped a trial, which Optuna is about to mark as failed, and queue it again."""
    trial.set_user_attr("failure", INTERRUPTED)
    queue_again(trial.study, trial.study._storage.get_trial(trial._trial_id))


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue what a killed worker was trying, as Optuna does, at most `MAX_RETRIES` times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
    fresh = copy.deepcopy(trial)
    for name in ("worker", "failure"):
        fresh.user_attrs.pop(name, None)
    retry(study, fresh)


def _dead(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a running trial's worker is known to be gone."""
    if "worker" in trial.user_attrs:
        return not alive(trial.user_attrs["worker"])
    if is_heartbeat_enabled(study._storage):  # other machines, other clocks: what counts is how long it was seen so
        first = _SEEN.setdefault(study._storage, {}).setdefault(trial._trial_id, time.monotonic())
        return time.monotonic() - first > UNCLAIMED.total_seconds()
    return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNCLAIMED


def _watched(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a running trial's end would be noticed, be it by death."""
    host = str(trial.user_attrs.get("worker", platform.node())).rsplit(":", 2)[0]
    return is_heartbeat_enabled(study._storage) or (host == platform.node() and not _dead(study, trial))
