"""Opening and continuing an Optuna study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from pnpxai.errors import StudyError, unknown_name
from pnpxai.tunable import to_json

SAMPLERS = ("random", "tpe")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Only errors in Optuna's log inside the block (a failed trial is in the result); its verbosity is restored."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.ERROR))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def sampler_for(sampler: str | BaseSampler, seed: int) -> BaseSampler:
    """A sampler by name, or the object itself.

    Raises:
        UnknownNameError: a name that is no sampler.
    """
    if isinstance(sampler, BaseSampler):
        return sampler
    if sampler == "random":
        return RandomSampler(seed=seed)
    if sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, group=True)
    raise unknown_name("sampler", sampler, SAMPLERS)


def open_study(
    *,
    maximize: bool,
    sampler: str | BaseSampler,
    seed: int,
    storage: str | BaseStorage | None,
    study_name: str | None,
    identity: Mapping[str, Any],
) -> optuna.Study:
    """A new study, or the stored one of that name if it is about the same thing.

    Trials that a killed process left running are marked failed, and asked again if they were enqueued.

    Raises:
        StudyError: the stored study has another direction, or is about other data, explainers or another metric.
    """
    sampler_for(sampler, seed)
    direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=study_name or ("pnpxai" if storage else None),
            load_if_exists=True,
            direction=direction,
        )
    except Exception as error:
        raise StudyError(
            "storage that Optuna can open, such as 'sqlite:///study.db' or a storage object",
            f"{storage!r} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            "Check the address, and that its folder exists.",
        ) from error
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
    elif known != identity:
        changed = ", ".join(name for name in identity if known.get(name) != identity[name])
        raise StudyError(
            f"the {changed} that the study {study.study_name!r} was begun with",
            "others",
            "Go on with the same call, or choose another study_name.",
        )
    study.sampler = sampler_for(sampler, seed + len(study.trials))
    _fail_stale(study)
    return study


def weights_digest(model: nn.Module) -> str:
    """A digest of a model's class, parameters and buffers: trials on other weights are trials of another model."""
    held = [*model.named_parameters(), *model.named_buffers()]
    described = [type(model).__qualname__, *([name, to_json(each)] for name, each in held)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def enqueue_defaults(study: optuna.Study, defaults: Sequence[Mapping[str, Any]]) -> None:
    """Put default configurations first, each once in the life of a study."""
    for params in defaults:
        study.enqueue_trial(dict(params), user_attrs={"default": True}, skip_if_exists=True)


def n_finished(study: optuna.Study) -> int:
    """Trials that are over, failed ones included."""
    return len(study.get_trials(deepcopy=False, states=FINISHED)) - sum(map(_is_stale, study.trials))


def interrupt(study: optuna.Study, trial_id: int) -> None:
    """Mark a running trial as interrupted, so that it does not count; what was enqueued is enqueued again."""
    study._storage.set_trial_user_attr(trial_id, "failure", "interrupted")
    trial = study._storage.get_trial(trial_id)
    fixed = trial.system_attrs.get("fixed_params")
    if fixed:
        study.enqueue_trial(fixed, user_attrs={"default": bool(trial.user_attrs.get("default"))})


def _fail_stale(study: optuna.Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        interrupt(study, trial._trial_id)
        study.tell(trial.number, state=TrialState.FAIL)


def _is_stale(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get("failure") == "interrupted"
