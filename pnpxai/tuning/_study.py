"""Opening and continuing an Optuna study."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage

from pnpxai.errors import ParameterError, StudyError, unknown_name
from pnpxai.tuning._claims import queue_again, release
from pnpxai.tuning._journal import journal

SAMPLERS = ("gp", "grid", "random", "tpe")
JOURNAL = (".journal", ".jsonl", ".log")
"""Endings of a file that holds a study as a journal."""
HEARTBEAT = 30
"""Seconds between signs of life of a worker on a database server."""
Storage: TypeAlias = str | Path | BaseStorage | None


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Only errors in Optuna's log inside the block (a failed trial is in the result); its verbosity is restored."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def sampler_for(sampler: str | BaseSampler, seed: int, n_explainers: int = 1, n_workers: int = 1) -> BaseSampler:
    """A sampler by name, or the object itself; ``"grid"`` is a queue (`grid`) and samples at random beyond it.

    Raises:
        UnknownNameError: a name that is no sampler.
        ParameterError: ``"gp"`` for several explainers, whose parameters differ.
    """
    if isinstance(sampler, BaseSampler):
        return sampler
    if sampler in ("random", "grid"):
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler == "gp":
            if n_explainers > 1:
                raise ParameterError(
                    "one explainer for the sampler 'gp', which models one space of parameters",
                    f"{n_explainers} explainers",
                    "Pass explainers=[one], or use the sampler 'tpe'.",
                )
            return GPSampler(seed=seed)
        if sampler == "tpe":
            return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=n_workers > 1)
    raise unknown_name("sampler", sampler, SAMPLERS)


def storage_for(storage: Storage) -> BaseStorage | None:
    """Optuna's storage for an address, a journal's file, or the storage object itself.

    Workers on a database server give signs of life, so that the trials of a killed one are tried again by others.

    Raises:
        StudyError: it cannot be opened.
    """
    if storage is None or isinstance(storage, BaseStorage):
        return storage
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if Path(storage).suffix in JOURNAL and "://" not in str(storage):
                return journal(storage)
            if str(storage).startswith("sqlite:"):
                return RDBStorage(str(storage))
            return _on_server(with_driver(str(storage)))
    except Exception as error:
        raise StudyError(
            "storage that Optuna can open, such as 'study.journal', 'sqlite:///study.db' or 'postgresql://…'",
            f"{without_password(storage)} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            "Check the address, that its folder exists, and that the database's driver is installed "
            "(for PostgreSQL, pip install 'pnpxai[distributed]').",
        ) from error


def _on_server(address: str, attempts: int = 3) -> RDBStorage:
    """Storage with heartbeats; of several processes that create the tables at once, all but one have to look again."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    try:
        return RDBStorage(address, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=queue_again)
    except (IntegrityError, ProgrammingError):
        if attempts == 1:
            raise
        return _on_server(address, attempts - 1)


def with_driver(address: str) -> str:
    """An address of PostgreSQL with the driver that is installed, whichever SQLAlchemy would take by itself.

    Example:
        >>> with_driver("postgresql+pg8000://host/name")
        'postgresql+pg8000://host/name'
    """
    scheme, separator, rest = address.partition("://")
    if scheme == "postgresql" and importlib.util.find_spec("psycopg"):
        scheme = "postgresql+psycopg"
    return scheme + separator + rest


def without_password(storage: object) -> str:
    """An address as it can be shown.

    Example:
        >>> without_password("postgresql://anna:secret@host/name")
        "'postgresql://anna:***@host/name'"
    """
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", repr(storage))


def open_study(
    *,
    maximize: bool,
    storage: BaseStorage | None,
    study_name: str | None,
    identity: Mapping[str, Any],
    metric_name: str,
) -> optuna.Study:
    """A new study, or the stored one of that name if it is about the same thing.

    Trials that a killed process left running are marked failed, and queued again.

    Raises:
        StudyError: the stored study has another direction, or is about other data, explainers or another metric.
    """
    direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
    study = optuna.create_study(
        storage=storage,
        study_name=study_name or ("pnpxai" if storage else None),
        load_if_exists=True,
        direction=direction,
    )
    if study.direction.name.lower() != direction:
        raise StudyError(
            f"a study that wants to {direction}",
            f"{study.study_name!r}, which {study.direction.name.lower()}s",
            "Choose another study_name.",
        )
    known = study.user_attrs.get("identity")
    if known is None:
        if study.trials:
            raise StudyError(
                "a study made by tune()", f"{study.study_name!r} with other trials", "Choose another study_name."
            )
        study.set_user_attr("identity", dict(identity))
        study.set_metric_names([metric_name])
    elif known != identity:
        changed = ", ".join(name for name in identity if known.get(name) != identity[name])
        raise StudyError(
            f"the {changed} that the study {study.study_name!r} was begun with",
            "others",
            "Go on with the same call, or choose another study_name.",
        )
    release(study)
    return study


def enqueue(study: optuna.Study, chosen: Sequence[Mapping[str, Any]], kind: str) -> None:
    """Queue configurations, each once in the life of a study, marked as of a kind (``"default"``, ``"preset"``)."""
    for params in chosen:
        study.enqueue_trial(dict(params), user_attrs={kind: True}, skip_if_exists=True)
