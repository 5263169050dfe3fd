"""What a report says, gathered from a result as plain data for the template."""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

from pnpxai.explainers import RankEnsemble
from pnpxai.modality import MODALITIES
from pnpxai.modules import Architecture, detect_model_architecture
from pnpxai.tunable import Role, Tunable, constructor_parameters
from pnpxai.tuning import Entry, TuneResult

NOT_SHOWN = ("model", "explainer", "forward_arg_extractor", "additional_forward_arg_extractor", "tokenizer")
"""Arguments that say what an object works on, not how."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a configuration, default beside tuned."""

    name: str
    default: str
    tuned: str


def architecture(result: TuneResult) -> Architecture:
    """What was detected when explainers were recommended, or detected now."""
    if result.recommendation is not None:
        return result.recommendation.detected_architectures
    explainer = result.explainer
    return detect_model_architecture(
        explainer.model,
        result.inputs,
        forward_arg_extractor=explainer.forward_arg_extractor,
        additional_forward_arg_extractor=explainer.additional_forward_arg_extractor,
    )


@dataclass(frozen=True)
class Fit:
    """An explainer that fits the model and what a full explanation of one sample costs; None without a dry run."""

    name: str
    forwards: float | None
    seconds: float | None


def kind_of_data(result: TuneResult) -> str:
    """The name of the modality, or of its class where it is one's own."""
    kind = type(result.modality)
    return next((name.replace("_", " ") for name, each in MODALITIES.items() if each is kind), kind.__name__)


def rejected(result: TuneResult) -> list[tuple[str, str]]:
    """Names and the reason they share, in the order in which the reasons came."""
    names: dict[str, list[str]] = {}
    for name, reason in (result.recommendation.rejected if result.recommendation else {}).items():
        names.setdefault(reason, []).append(name)
    return [(", ".join(each), reason) for reason, each in names.items()]


def recommended(result: TuneResult) -> list[Fit]:
    """The recommended explainers, cheapest first."""
    found = result.recommendation
    if found is None:
        return []
    runs = {type(each).__name__: found.dry_runs.get(type(each).__name__) for each in found.explainers}
    return [
        Fit(name, run.full_forwards if run else None, run.full_seconds if run else None) for name, run in runs.items()
    ]


def metric_parameters(result: TuneResult) -> dict[str, str]:
    """The metric's arguments but for what it works on."""
    return arguments(result.metric)


def parameters(entry: Entry) -> list[Parameter]:
    """Every argument of an explainer and its post-processing, default beside tuned; of an ensemble, its members."""
    ensemble = entry.tuned.explainer
    if isinstance(ensemble, RankEnsemble) and not isinstance(entry.default.explainer, RankEnsemble):
        members = zip(ensemble.explainers, ensemble.postprocessors, strict=True)
        return [Parameter(type(each).__name__, "–", in_words(each, after)) for each, after in members]
    default, tuned = (
        arguments(each.explainer) | arguments(each.postprocessor) for each in (entry.default, entry.tuned)
    )
    return [Parameter(name, default.get(name, "–"), tuned.get(name, "–")) for name in {**default, **tuned}]


def arguments(owner: Tunable) -> dict[str, str]:
    """The arguments of an object, in words, but for what it works on."""
    return {
        name: describe(type(owner), name, value) for name, value in owner.get_params().items() if name not in NOT_SHOWN
    }


def in_words(*owners: Tunable) -> str:
    """The arguments of some objects that are not the usual ones of their classes; where channels are is the data's.

    Example:
        >>> from pnpxai.postprocess import PostProcessor
        >>> in_words(PostProcessor("l2")), in_words(PostProcessor())
        ('pooling_fn l2', 'as it comes')
    """
    told = []
    for each in owners:
        usual = constructor_parameters(type(each))
        told += [
            f"{name} {value}"
            for name, value in arguments(each).items()
            if name != "channel_dim" and value != describe(type(each), name, usual[name].default)
        ]
    return ", ".join(told) or "as it comes"


def describe(owner: type[Tunable], name: str, value: Any) -> str:
    """The value of an argument, in words; a role by its name and its own parameters.

    Example:
        >>> from pnpxai.baselines import Blur
        >>> from pnpxai.postprocess import PostProcessor
        >>> describe(PostProcessor, "pooling_fn", "sum"), describe(PostProcessor, "baseline_fn", Blur(3.0))
        ('sum', 'blur (sigma 3)')
    """
    role = owner.TUNABLES.get(name)
    if isinstance(value, str) and isinstance(role, type) and issubclass(role, Role):
        value = role.resolve(value)
    if isinstance(value, Role):
        own = ", ".join(f"{key} {each}" for key, each in arguments(value).items())
        return f"{value.NAME} ({own})" if own else value.NAME
    if isinstance(value, Tunable):
        return f"{type(value).__name__} ({in_words(value)})"
    if isinstance(value, tuple | list):
        return ("; " if any(isinstance(each, Tunable) for each in value) else " × ").join(
            describe(owner, "", each) for each in value
        )
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.__name__ if isinstance(value, FunctionType | type) else str(value)
