"""A further process, perhaps on another machine, for a study that `tune` has begun."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage

from pnpxai.errors import ParameterError, StudyError
from pnpxai.tuning._claims import n_finished, worker_name
from pnpxai.tuning._problem import check_numbers, pose
from pnpxai.tuning._search import search
from pnpxai.tuning._study import Storage, open_study, quiet_optuna, storage_for, without_password
from pnpxai.tuning._tune import tune

POSED = set(inspect.signature(pose).parameters) & set(inspect.signature(tune).parameters)
OWN_SEEDS = 100_000


def join(problem: Mapping[str, Any], *, storage: Storage, study_name: str, progress: bool = True) -> tuple[int, int]:
    """Run trials of a study that `tune` has begun, until it has as many as it was begun with.

    Whoever called `tune` waits for the last of them, and judges. A worker that is killed loses nothing: on a database
    server others take its trial over after a minute.

    Args:
        problem: the arguments of `tune` that the study was begun with; ``storage``, ``study_name``, ``n_trials`` and
            ``workers`` among them are ignored, and ``timeout`` is this worker's own.
        storage: as for `tune`; what several machines can write to.
        study_name: the study's.
        progress: show a bar.

    Returns:
        Trials that the study has now, and that it was begun for.

    Raises:
        StudyError: there is no such study, or it is about something else.
        ParameterError: the arguments are not those of `tune`.
    """
    arguments = _completed(problem)
    with quiet_optuna():
        opened = storage_for(storage)
        if opened is None:
            raise ParameterError("the storage of a study", "None", "Name it as for tune().")
        try:
            n_trials = _asked(opened, study_name, storage)
            posed = pose(**{name: arguments[name] for name in POSED} | {"n_trials": n_trials}, **_derived(arguments))
            objective = posed.objective
            study = open_study(
                maximize=objective.race.higher_is_better,
                storage=opened,
                study_name=study_name,
                identity=posed.identity,
                metric_name=type(objective.metric).__name__,
            )
            search(
                study,
                objective,
                sampler=arguments["sampler"],
                seed=arguments["seed"],
                timeout=arguments["timeout"],
                progress=progress,
                worker=1 + zlib.crc32(worker_name().encode()) % OWN_SEEDS,
                n_workers=2,
            )
            return n_finished(study), n_trials
        finally:
            if opened is not storage and isinstance(opened, RDBStorage):
                opened.remove_session()
                opened.engine.dispose()


def _completed(problem: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(tune).bind(**problem)
    except TypeError as error:
        raise ParameterError(
            "the arguments of tune() by name",
            f"{error}",
            "Return what tune() was called with, at least model and inputs.",
        ) from error
    bound.apply_defaults()
    numbers = {name: bound.arguments[name] for name in ("n_trials", "timeout", "seed", "workers")}
    check_numbers(**numbers)
    return dict(bound.arguments)


def _derived(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"race": arguments["pruner"] is not None, "stored": True}


def _asked(opened: optuna.storages.BaseStorage, study_name: str, storage: Storage) -> int:
    """How many trials the study was begun for."""
    try:
        n_trials = optuna.load_study(study_name=study_name, storage=opened).user_attrs.get("n_trials")
    except KeyError:
        n_trials = None
    if not isinstance(n_trials, int):
        raise StudyError(
            f"a study {study_name!r} that tune() has begun in {without_password(storage)}",
            "none",
            "Call tune() with this storage and study_name first.",
        )
    return n_trials
