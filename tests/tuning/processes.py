"""Processes that take part in a study, begun quickly and killed at the end."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage

import pnpxai
from pnpxai.tuning._study import storage_for
from tests.tuning.studies import slow_problem

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.tuning.studies"])


@contextlib.contextmanager
def begun(function: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    """A process that does something, killed at the end if it still does."""
    process = FORKED.Process(target=function, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


@contextlib.contextmanager
def stored(storage: str | BaseStorage, name: str = "study") -> Iterator[optuna.Study]:
    """A study read by itself, its connections closed afterwards."""
    opened = storage_for(storage)
    assert opened is not None
    try:
        yield optuna.load_study(study_name=name, storage=opened)
    finally:
        close(opened)


def close(storage: BaseStorage) -> None:
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def n_complete(path: Path) -> int:
    """Read only: opening a journal by Optuna would create it, at the same time as the other process."""
    return path.read_text(encoding="utf-8").count('"state":1') if path.exists() else 0


def wait_until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def run_study(path: str, n_trials: int, workers: int) -> None:
    call = slow_problem()
    pnpxai.tune(**call, n_trials=n_trials, workers=workers, storage=path, study_name="study", progress=False)
