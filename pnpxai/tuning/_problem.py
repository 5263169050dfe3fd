"""A tuning problem: model, samples, explainers and metric, checked and put together."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model, check_model
from pnpxai.errors import ParameterError, StudyError
from pnpxai.explainers import Explainer
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.kept import digest
from pnpxai.metrics import Metric, metric_for
from pnpxai.metrics.localisation import check_regions
from pnpxai.modality import Modality, modality_for
from pnpxai.outputs import TargetFunction
from pnpxai.postprocess import Maps, PostProcessor
from pnpxai.recommender import ExplainerLike, Recommendation, explainers_for, recommend
from pnpxai.targets import Target
from pnpxai.tunable import to_json
from pnpxai.tuning._aims import aims_for
from pnpxai.tuning._identity import model_digest, targets_identity
from pnpxai.tuning._maps import MapCache, Samples
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._race import Race
from pnpxai.tuning._split import split


@dataclass(frozen=True)
class Problem:
    """What a study is about.

    Attributes:
        objective: scores trials on the tuning samples.
        modality: the kind of data.
        recommendation: None where explainers were given.
        explained: what is explained, of all samples.
        tuning_index, holdout_index: which samples are used for what.
        identity: what makes a stored study the same one: parts and their digests.
    """

    objective: Objective
    modality: Modality
    recommendation: Recommendation | None
    explained: Maps
    tuning_index: tuple[int, ...]
    holdout_index: tuple[int, ...]
    identity: dict[str, str]


def pose(
    model: Model,
    inputs: Any,
    targets: Targets,
    *,
    explainers: Sequence[ExplainerLike] | None,
    metric: str | type[Metric] | Metric,
    modality: str | Modality | None,
    postprocessor: PostProcessor | None,
    aims: Sequence[str | type[Metric] | Metric] | None,
    regions: Tensor | None,
    n_trials: int,
    seed: int,
    holdout: float | int,
    race: bool,
    stored: bool,
    cache_dir: str | Path | None,
    forward_arg_extractor: Extractor | None,
    additional_forward_arg_extractor: Extractor | None,
) -> Problem:
    """Check and complete what `pnpxai.tune` was given; see there."""
    extractors = forward_arg_extractor, additional_forward_arg_extractor
    scorer = metric_for(metric, model, *extractors)
    explained, about, fixed, asked = _resolved(model, inputs, targets, *extractors)
    first = explained[0] if isinstance(explained, tuple) else explained
    kind = modality_for(modality, first, *about, isinstance(explained, tuple))
    if regions is not None:
        check_regions(regions, first, kind.channel_dim)
    if not isinstance(metric, Metric):
        scorer = kind.settled(scorer.set_kwargs(channel_dim=kind.channel_dim))
    tuning_index, holdout_index = split(len(first), holdout, fixed, seed)
    found: Recommendation | None = None
    if explainers is None:
        found = recommend(
            model,
            inputs,
            fixed,
            modality=kind,
            forward_arg_extractor=forward_arg_extractor,
            additional_forward_arg_extractor=additional_forward_arg_extractor,
        )
    if found is not None and not found.explainers:
        raise _nothing_fits(found)
    named = _named(found.explainers if found else explainers_for(model, explainers, *extractors, kind))
    known = model_digest(model, inputs, *extractors) if stored or cache_dir is not None else None
    data = {"model": known, "inputs": to_json(inputs), "targets": asked}
    usual = postprocessor or kind.postprocessor
    objective = Objective(
        named,
        usual,
        kind.candidates,
        scorer,
        MapCache(Samples(inputs, fixed), folder=cache_dir, identity=data),
        tuning_index,
        n_trials,
        Race(len(tuning_index), type(scorer).HIGHER_IS_BETTER, race),
        aims_for(aims, model, kind, regions, *extractors),
    )
    parts = {
        **data,
        "metric": to_json(scorer),
        "postprocessor": to_json(usual),
        "modality": to_json(kind),
        "explainers": {name: to_json(each) for name, each in named.items()},
        "tuning samples": list(tuning_index),
    }
    identity = {name: digest(each) for name, each in parts.items()}
    return Problem(objective, kind, found, explained, tuple(tuning_index), tuple(holdout_index), identity)


def check_numbers(*, n_trials: int, timeout: float | None, seed: int, workers: int) -> None:
    """Refuse numbers out of range.

    Raises:
        ParameterError: says which.
    """
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise ParameterError("n_trials to be a whole number from 1", f"{n_trials!r}", "Ask for at least one trial.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ParameterError("seed to be a whole number from 0 to below 2³¹", f"{seed!r}", "Choose one in that range.")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise ParameterError("timeout in seconds above 0, or None", f"{timeout!r}", "Leave it out for no limit.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ParameterError("workers to be a whole number from 1", f"{workers!r}", "Ask for at least one process.")


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    packages = ("pnpxai", "torch", "optuna", "captum", "zennit", "numpy", "scipy", "scikit-image")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _resolved(
    model: Model, inputs: Any, targets: Targets, forward_arg_extractor: Any, additional: Any
) -> tuple[Maps, tuple[bool, bool], Tensor | TargetFunction, Any]:
    """What is explained, whether it is tokens and of known words, targets with nothing open, what tells these apart."""
    check_model(model)
    with guard(model), torch.inference_mode(False):
        request = Request.build(model, inputs, targets, forward_arg_extractor, additional)
        _ = request.outputs
        fixed = request.targets
        own = fixed.cpu() if isinstance(fixed, Tensor | Target) else fixed
        several = tuple(each.cpu() for each in request.inputs)
        explained = several if len(several) > 1 else several[0]
        return explained, (request.tokens, request.word_ids), own, targets_identity(request)


def _nothing_fits(found: Recommendation) -> StudyError:
    told = []
    for reason, count in Counter(found.rejected.values()).most_common():
        name = next(each for each, why in found.rejected.items() if why == reason)
        told.append(f"{name}{f' and {count - 1} more' if count > 1 else ''}: {reason.rstrip('.')}")
    return StudyError("at least one explainer that fits the model", "none; " + "; ".join(told), "See `recommend`.")


def _named(explainers: Sequence[Explainer]) -> dict[str, Explainer]:
    if not explainers:
        raise StudyError("at least one explainer that fits the model", "none", "See `recommend` for the reasons.")
    named: dict[str, Explainer] = {}
    for each in explainers:
        name = type(each).__name__
        same = sum(type(other).__name__ == name for other in named.values())
        named[f"{name}#{same + 1}" if same else name] = each
    return named
