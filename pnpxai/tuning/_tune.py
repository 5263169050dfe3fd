"""``tune``: split the samples, search, and judge what was found on samples the search never saw."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import Study
from torch import Tensor

from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model
from pnpxai.errors import ParameterError, unknown_name
from pnpxai.forward import count_forwards
from pnpxai.metrics import Metric
from pnpxai.modality import Modality
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import ExplainerLike
from pnpxai.tuning._conclude import conclude, spent
from pnpxai.tuning._grid import grid
from pnpxai.tuning._journal import journal
from pnpxai.tuning._problem import Problem, check_numbers, pose
from pnpxai.tuning._result import TuneResult
from pnpxai.tuning._search import search
from pnpxai.tuning._study import Storage, enqueue, open_study, quiet_optuna, sampler_for, storage_for
from pnpxai.tuning._workers import Job, run_workers

PRUNERS = ("wilcoxon",)


def tune(
    model: Model,
    inputs: Any,
    targets: Targets = None,
    *,
    explainers: Sequence[ExplainerLike] | None = None,
    metric: str | type[Metric] | Metric = "abpc",
    modality: str | Modality | None = None,
    postprocessor: PostProcessor | None = None,
    n_trials: int = 50,
    timeout: float | None = None,
    seed: int = 0,
    holdout: float | int = 0.5,
    sampler: str | BaseSampler = "tpe",
    pruner: Literal["wilcoxon"] | None = "wilcoxon",
    storage: Storage = None,
    study_name: str | None = None,
    workers: int = 1,
    progress: bool = True,
    aims: Sequence[str | type[Metric] | Metric] | None = None,
    regions: Tensor | None = None,
    cache_dir: str | Path | None = None,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> TuneResult:
    """Find the explanation of a model that a metric trusts most, with its settings, and check it on unseen samples.

    One race over explainers, their parameters and the post-processing of their maps, on the tuning samples. A trial
    is an explainer with parameters, the defaults first, then the presets; its maps are explained once, and each
    post-processing that makes another order of them is scored. What has lost on the samples so far is not followed
    further. Then the finalists' seeds are varied, their maps averaged, and the explainers that ran the whole race
    are judged on the hold-out, tuned against default, sample by sample; unless the interval of the winner's gain lies
    above zero, its default is recommended.

    With one worker the same call gives the same study, trial by trial. With several the order in which they finish
    decides what is tried next, and only the defaults and presets are sure to be the same.

    Args:
        model: a module or a function from a batch to outputs; never changed.
        inputs: a batch ``(n, …)``, or what the extractors understand.
        targets: class indices ``(n,)``, an int, None for the predicted classes, or a function of the outputs.
        explainers: names, classes or instances; None for those `recommend` proves to fit.
        metric: a name, class or instance of `pnpxai.metrics`.
        modality: a name or object; None guesses from the inputs.
        postprocessor: the usual post-processing, which every default is judged with; None for the modality's.
        n_trials: finished trials the study ends with, those of earlier runs of the same study included; fewer where
            there is nothing else to try.
        timeout: seconds after which no further trial is begun.
        seed: of the split, the sampler and the bootstrap.
        holdout: how many samples judge and are not tuned on, as a share below 1 or as a number.
        sampler: ``"tpe"``, ``"random"``, ``"grid"`` (every combination, numbers at three levels), ``"gp"`` (for one
            explainer) or an Optuna sampler.
        pruner: ``"wilcoxon"`` stops a configuration that has lost a paired test against the best so far, or has no
            hope to beat it; None follows each to the end.
        storage: ``study.journal`` (a file), ``sqlite:///…``, ``postgresql://…`` or an Optuna storage; an existing
            study goes on.
        study_name: as Optuna takes it.
        workers: processes on this machine. Model and functions must be such that they can be sent to another process,
            and a script has to guard its start with ``if __name__ == "__main__"``. Not on SQLite. Threads are not
            offered: methods that hook a shared model would disturb each other.
        progress: show a bar with an estimate of the time left.
        aims: what else to measure of each trial: ``"complexity"``, ``"stability"`` (on two samples), ``"localisation"``
            or metrics; None for these, as far as they are defined.
        regions: what should be found, ``(n, …)`` without channels, true inside; for localisation.
        cache_dir: a folder where maps are kept for later runs of the same problem; None keeps them in memory.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.

    Raises:
        ParameterError: a hold-out larger than the data, an unknown name, a number out of range.
        StudyError: no trial succeeded, or a stored study is about something else.
    """
    check_numbers(n_trials=n_trials, timeout=timeout, seed=seed, workers=workers)
    if pruner is not None and pruner not in PRUNERS:
        raise unknown_name("pruner", pruner, PRUNERS)
    if postprocessor is not None and not isinstance(postprocessor, PostProcessor):
        raise ParameterError(
            "postprocessor as a PostProcessor, or None",
            f"{postprocessor!r}",
            "Build one, such as PostProcessor('sum_abs').",
        )
    sampler_for(sampler, seed)
    start = time.perf_counter()
    with quiet_optuna(), count_forwards() as counter, tempfile.TemporaryDirectory() as scratch:
        opened = storage_for(storage)
        _check_workers(workers, opened)
        problem = pose(
            model,
            inputs,
            targets,
            explainers=explainers,
            metric=metric,
            modality=modality,
            postprocessor=postprocessor,
            aims=aims,
            regions=regions,
            n_trials=n_trials,
            seed=seed,
            holdout=holdout,
            race=pruner is not None,
            stored=opened is not None,
            cache_dir=cache_dir if cache_dir is not None or workers == 1 else Path(scratch) / "maps",
            forward_arg_extractor=forward_arg_extractor,
            additional_forward_arg_extractor=additional_forward_arg_extractor,
        )
        objective = problem.objective
        sampler_for(sampler, seed, len(objective.explainers))
        if opened is None and workers > 1:
            opened = journal(Path(scratch) / "study.journal")
        study = begin(problem, opened, study_name, sampler)
        before = counter.n_samples
        if workers > 1:
            run_workers(
                Job(objective, _sendable(storage, opened), study.study_name, sampler, seed, timeout, workers),
                Path(scratch),
                progress,
            )
        else:
            search(study, objective, sampler=sampler, seed=seed, timeout=timeout, progress=progress)
        elsewhere = spent(study) - (counter.n_samples - before)
        found = conclude(problem, study, targets, seed, progress)
        kept = study if storage is not None or workers == 1 else _in_memory(study)
    return replace(
        found,
        study=kept,
        n_forwards=counter.n_samples + elsewhere,
        seconds=time.perf_counter() - start,
    )


def begin(problem: Problem, storage: BaseStorage | None, study_name: str | None, sampler: str | BaseSampler) -> Study:
    """Open the study of a problem, and queue defaults, presets and, for the sampler ``"grid"``, the grid."""
    objective = problem.objective
    study = open_study(
        maximize=objective.race.higher_is_better,
        storage=storage,
        study_name=study_name,
        identity=problem.identity,
        metric_name=type(objective.metric).__name__,
    )
    enqueue(study, objective.defaults(), "default")
    enqueue(study, objective.presets(), "preset")
    if sampler == "grid":
        enqueue(study, list(itertools.islice(grid(objective), objective.n_trials)), "grid")
    return study


def _sendable(storage: Storage, opened: BaseStorage | None) -> Any:
    return str(storage) if isinstance(opened, RDBStorage) and not isinstance(storage, BaseStorage) else opened


def _in_memory(study: Study) -> Study:
    memory = InMemoryStorage()
    optuna.copy_study(
        from_study_name=study.study_name, from_storage=study._storage, to_storage=memory, to_study_name=study.study_name
    )
    return optuna.load_study(study_name=study.study_name, storage=memory)


def _check_workers(workers: int, storage: BaseStorage | None) -> None:
    if workers == 1:
        return
    serial = isinstance(storage, RDBStorage) and storage.engine.dialect.name == "sqlite"
    if serial or isinstance(storage, InMemoryStorage):
        raise ParameterError(
            "a storage that several workers can write to",
            "SQLite" if serial else "a storage in this process's memory",
            "Use a journal (storage='study.journal') or PostgreSQL, or leave storage out.",
        )
