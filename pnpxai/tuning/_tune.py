"""``tune``: split the samples, search, and judge what was found on samples the search never saw."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from typing import Any, Literal

import optuna
import torch
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn
from tqdm.auto import tqdm

from pnpxai.errors import ParameterError, StudyError, unknown_name
from pnpxai.explainers import Explainer
from pnpxai.forward import Extractor, Request, Targets, count_forwards, model_reference
from pnpxai.guard import guard
from pnpxai.metrics import Metric, metric_for
from pnpxai.modality import Modality, modality_for
from pnpxai.outputs import TargetFunction
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import ExplainerLike, Recommendation, explainers_for, recommend
from pnpxai.tunable import to_json
from pnpxai.tuning._judge import caveats, control_scores, judge, split
from pnpxai.tuning._maps import MapCache
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._result import TuneResult
from pnpxai.tuning._study import (
    enqueue_defaults,
    n_finished,
    open_study,
    quiet_optuna,
    sampler_for,
    weights_digest,
)

PRUNERS = ("wilcoxon",)


def tune(
    model: nn.Module,
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
    storage: str | BaseStorage | None = None,
    study_name: str | None = None,
    workers: int = 1,
    progress: bool = True,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> TuneResult:
    """Find the explanation of a model that a metric trusts most, with its settings, and check it on unseen samples.

    One Optuna study searches explainers, their parameters and the post-processing of their maps on the tuning
    samples; the default of each explainer comes first. Then each explainer's tuned and default configuration are
    compared, sample by sample, on the hold-out; unless the interval of the gain lies above zero, the default is
    recommended.

    Args:
        model: never changed.
        inputs: a batch ``(n, …)``, or what the extractors understand.
        targets: class indices ``(n,)``, an int, None for the predicted classes, or a function of the outputs.
        explainers: names, classes or instances; None for those `recommend` proves to fit.
        metric: a name, class or instance of `pnpxai.metrics`.
        modality: a name or object; None guesses from the inputs.
        postprocessor: where the search for post-processing starts; None for the modality's usual one.
        n_trials: finished trials the study ends with, those of earlier runs of the same study included.
        timeout: seconds after which no further trial is begun.
        seed: of the split, the sampler and the bootstrap.
        holdout: how many samples judge and are not tuned on, as a share below 1 or as a number.
        sampler: ``"tpe"``, ``"random"`` or an Optuna sampler.
        pruner: ``"wilcoxon"`` stops a configuration that has lost a paired test against the best so far; None never.
        storage: as Optuna takes it (``sqlite:///…``, a storage object); an existing study goes on.
        study_name: as Optuna takes it.
        workers: processes; one.
        progress: show a bar with an estimate of the time left.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.

    Raises:
        ParameterError: a hold-out larger than the data, an unknown name, a number out of range.
        StudyError: no trial succeeded, or a stored study is about something else.
    """
    _check_numbers(n_trials=n_trials, timeout=timeout, seed=seed, workers=workers, pruner=pruner)
    if postprocessor is not None and not isinstance(postprocessor, PostProcessor):
        raise ParameterError(
            "postprocessor as a PostProcessor, or None",
            f"{postprocessor!r}",
            "Build one, such as PostProcessor('sum_abs').",
        )
    sampler_for(sampler, seed)
    scorer = metric_for(metric, model, forward_arg_extractor, additional_forward_arg_extractor)
    start = time.perf_counter()
    with quiet_optuna(), count_forwards() as counter:
        explained, fixed_targets = _resolve(
            model, inputs, targets, forward_arg_extractor, additional_forward_arg_extractor
        )
        kind = modality_for(modality, explained)
        if not isinstance(metric, Metric):
            scorer = scorer.set_kwargs(channel_dim=kind.channel_dim)
        n = len(explained)
        tuning_index, holdout_index = split(n, holdout, fixed_targets, seed)
        found: Recommendation | None = None
        extractors = forward_arg_extractor, additional_forward_arg_extractor
        if explainers is None:
            found = recommend(
                model,
                inputs,
                fixed_targets,
                modality=kind,
                forward_arg_extractor=forward_arg_extractor,
                additional_forward_arg_extractor=additional_forward_arg_extractor,
            )
        named = _named(found.explainers if found else explainers_for(model, explainers, *extractors))
        cache = MapCache(inputs, fixed_targets)
        objective = Objective(
            named,
            postprocessor or kind.postprocessor,
            kind.candidates,
            scorer,
            cache,
            tuning_index,
            race=pruner is not None,
        )
        study = open_study(
            maximize=type(scorer).HIGHER_IS_BETTER,
            sampler=sampler,
            seed=seed,
            storage=storage,
            study_name=study_name,
            identity={
                "model": weights_digest(model) if storage is not None else None,
                "metric": to_json(scorer),
                "postprocessor": to_json(postprocessor or kind.postprocessor),
                "modality": to_json(kind),
                "explainers": {name: to_json(each) for name, each in named.items()},
                "inputs": to_json(inputs),
                "targets": to_json(fixed_targets),
                "tuning samples": list(tuning_index),
            },
        )
        enqueue_defaults(study, [objective.default_params(name) for name in named])
        search(study, objective, n_trials, timeout, progress)
        entries, failed = judge(study, objective, holdout_index, seed, progress)
        controls = control_scores(objective, holdout_index or tuning_index, explained, seed)
    if not entries:
        reasons = "; ".join(f"{name}: {why.rstrip('.')}" for name, why in failed.items())
        raise StudyError("at least one explainer that can be scored", reasons, "See `recommend` for what fits.")
    return TuneResult(
        entries=tuple(entries),
        failed=failed,
        metric=scorer,
        modality=kind,
        recommendation=found,
        controls=controls,
        inputs=inputs,
        targets=fixed_targets,
        tuning_index=tuple(tuning_index),
        holdout_index=tuple(holdout_index),
        n_forwards=counter.n_samples,
        seconds=time.perf_counter() - start,
        seed=seed,
        versions=versions(),
        caveats=tuple(caveats(entries, tuning_index, holdout_index, controls, targets, scorer)),
        study=study,
    )


def search(
    study: optuna.Study, objective: Objective, n_trials: int, timeout: float | None = None, progress: bool = False
) -> None:
    """Run trials until the study has ``n_trials`` finished ones; a failing trial is recorded and the study goes on."""
    for known in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if len(known.user_attrs["scores"]) == len(objective.index):
            objective.remember(known.user_attrs["scores"])
    remaining = n_trials - n_finished(study)
    if remaining <= 0:
        return
    with tqdm(total=n_trials, initial=n_trials - remaining, desc="tuning", unit="trial", disable=not progress) as bar:

        def advance(study: optuna.Study, trial: FrozenTrial) -> None:
            bar.update()
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                bar.set_postfix_str(f"best {study.best_value:.3f} {study.best_trial.params['explainer']}")

        study.optimize(objective, n_trials=remaining, timeout=timeout, catch=(Exception,), callbacks=[advance])


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    packages = ("pnpxai", "torch", "optuna", "captum", "zennit", "numpy", "scipy", "scikit-image")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _resolve(
    model: nn.Module, inputs: Any, targets: Targets, forward_arg_extractor: Any, additional: Any
) -> tuple[Tensor, Tensor | TargetFunction]:
    model_reference(model)
    with guard(model), torch.inference_mode(False):
        request = Request.build(model, inputs, targets, forward_arg_extractor, additional)
        _ = request.outputs
        fixed = request.targets
        return request.inputs[0].cpu(), fixed.cpu() if isinstance(fixed, Tensor) else fixed


def _named(explainers: Sequence[Explainer]) -> dict[str, Explainer]:
    if not explainers:
        raise StudyError("at least one explainer that fits the model", "none", "See `recommend` for the reasons.")
    named: dict[str, Explainer] = {}
    for each in explainers:
        name = type(each).__name__
        same = sum(type(other).__name__ == name for other in named.values())
        named[f"{name}#{same + 1}" if same else name] = each
    return named


def _check_numbers(*, n_trials: int, timeout: float | None, seed: int, workers: int, pruner: object) -> None:
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise ParameterError("n_trials to be a whole number from 1", f"{n_trials!r}", "Ask for at least one trial.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ParameterError("seed to be a whole number from 0 to below 2³¹", f"{seed!r}", "Choose one in that range.")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise ParameterError("timeout in seconds above 0, or None", f"{timeout!r}", "Leave it out for no limit.")
    if workers != 1:
        raise ParameterError("workers to be 1", f"{workers!r}", "Run one process for each study.")
    if pruner is not None and pruner not in PRUNERS:
        raise unknown_name("pruner", pruner, PRUNERS)
