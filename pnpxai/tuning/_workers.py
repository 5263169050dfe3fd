"""Several processes on one study, each with the whole problem and a seed of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from tqdm.auto import tqdm

from pnpxai.errors import ParameterError, StudyError
from pnpxai.tuning._claims import n_finished, release
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._search import search
from pnpxai.tuning._study import quiet_optuna, storage_for

MOST_RESTARTS = 3
"""How often a worker that died is replaced."""
PAUSE = 0.5
"""Seconds between looks at the study."""
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C has ended."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to take part in a study.

    Attributes:
        objective: scores trials.
        storage: of the study, as it can be sent to another process.
        study_name: the study's.
        sampler: a name or an Optuna sampler.
        seed: of the study; each worker samples with another.
        timeout: seconds after which no further trial is begun.
        n_workers: how many take part.
    """

    objective: Objective
    storage: Any
    study_name: str
    sampler: str | BaseSampler
    seed: int
    timeout: float | None
    n_workers: int


def run_workers(job: Job, folder: Path, progress: bool = False) -> None:
    """Run a study by processes of its own and wait for them; one that dies is replaced.

    Each is started anew (not forked), and computes with its share of this process's threads, unless the environment
    says otherwise (``OMP_NUM_THREADS``).

    Args:
        job: what is to be done.
        folder: where the job can be written for the workers to read.
        progress: show a bar.

    Raises:
        ParameterError: something in it cannot be sent to another process.
        StudyError: workers keep dying.
    """
    path = folder / "job.pickle"
    try:
        path.write_bytes(pickle.dumps(job))
    except Exception as error:  # objects may raise anything when they are asked for their state
        raise ParameterError(
            "a model, explainers and functions that can be sent to another process",
            f"{type(error).__name__}: {error}",
            "Define them at the top of a module (no lambdas), or use workers=1.",
        ) from error
    start = time.monotonic()

    def begun(number: int) -> BaseProcess:
        left = None if job.timeout is None else max(0.0, job.timeout - (time.monotonic() - start))
        process = multiprocessing.get_context("spawn").Process(target=work, args=(str(path), number, left))
        with _threads(max(1, torch.get_num_threads() // job.n_workers)):
            process.start()
        return process

    workers: dict[int, BaseProcess] = {}
    dead = 0
    with (
        opened(job) as study,
        tqdm(total=job.objective.n_trials, desc="tuning", unit="trial", disable=not progress) as bar,
    ):
        try:
            for number in range(job.n_workers):
                workers[number] = begun(number)
            while workers:
                multiprocessing.connection.wait([each.sentinel for each in workers.values()], PAUSE)
                bar.update(n_finished(study) - bar.n)
                for number, worker in list(workers.items()):
                    if worker.is_alive():
                        continue
                    code = worker.exitcode
                    workers.pop(number).close()
                    if code:
                        dead += 1
                        release(study)
                        if dead > MOST_RESTARTS * job.n_workers:
                            raise StudyError(
                                "workers that live",
                                f"{dead} that died, the last with exit code {code}",
                                "Look at the messages above. A script that calls tune() has to do so under "
                                '`if __name__ == "__main__":`; otherwise too little memory for several workers is '
                                "the usual cause.",
                            )
                        workers[number] = begun(number)
        finally:
            for worker in workers.values():
                worker.terminate()
            for worker in workers.values():
                worker.join()
                worker.close()


@contextlib.contextmanager
def opened(job: Job) -> Iterator[optuna.Study]:
    """The study of a job, by connections of its own that are closed afterwards."""
    storage = storage_for(job.storage)
    assert storage is not None
    try:
        yield optuna.load_study(study_name=job.study_name, storage=storage)
    finally:
        if storage is not job.storage and isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def work(path: str, number: int, timeout: float | None) -> None:
    """Take part in a study, as one of several processes."""
    job: Job = pickle.loads(Path(path).read_bytes())
    if number and isinstance(job.sampler, BaseSampler):
        job.sampler.reseed_rng()
    try:
        with quiet_optuna(), opened(job) as study:
            search(
                study,
                job.objective,
                sampler=job.sampler,
                seed=job.seed,
                timeout=timeout,
                worker=number,
                n_workers=job.n_workers,
                callbacks=[stop_alone],
            )
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None  # the parent was interrupted, too, and says so


def stop_alone(study: optuna.Study, trial: FrozenTrial) -> None:
    """End a worker whose parent was killed, after the trial it was running."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        study.stop()


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Processes started inside compute with ``n`` threads, unless the environment says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(n)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
