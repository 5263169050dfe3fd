"""What a report says, gathered from a result as plain data for the template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from pnpxai.modality import MODALITIES
from pnpxai.modules import Architecture, detect_model_architecture
from pnpxai.postprocess import PostProcessor
from pnpxai.report._charts import Axis, axis_over
from pnpxai.report._numbers import mean
from pnpxai.tunable import Role, Tunable
from pnpxai.tuning import Configuration, Entry, TuneResult

STRIP = 118.0
"""Width of the small charts in the table."""


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard: what `TuneResult.leaderboard` holds, which settings to use, where the marks lie."""

    numbers: dict[str, Any]
    use: str
    tuned_at: float
    default_at: float
    gain_at: tuple[float, ...] | None
    better_found: bool
    confirmed: bool


@dataclass(frozen=True)
class Control:
    """The mean score of maps that know nothing of the model, and where its mark lies."""

    name: str
    score: float
    at: float


@dataclass(frozen=True)
class Board:
    """The leaderboard with its two small charts, of scores and of gains."""

    rows: tuple[Row, ...]
    controls: tuple[Control, ...]
    scores: Axis
    gains: Axis


@dataclass(frozen=True)
class Parameter:
    """One argument of a configuration, default beside tuned."""

    name: str
    default: str
    tuned: str


def board(result: TuneResult) -> Board:
    """The leaderboard and the controls on common axes."""
    table = result.leaderboard.to_dict("records")[: len(result.entries)]
    controls = {name: mean(scores) for name, scores in result.controls.items()}
    scored = [row[column] for row in table for column in ("tuned_score", "default_score")]
    scores = axis_over([*scored, *controls.values()], STRIP)
    ends = [row[column] for row in table for column in ("gain_low", "gain", "gain_high")]
    gains = axis_over([0.0, *ends], STRIP, least=(scores.high - scores.low) / 10)
    rows = []
    for row, entry in zip(table, result.entries, strict=True):
        interval = (row["gain_low"], row["gain"], row["gain_high"])
        tuned = entry.tuned is not entry.default
        rows.append(
            Row(
                {str(name): value for name, value in row.items()},
                "tuned" if tuned and entry.recommended is entry.tuned else "default",
                scores(row["tuned_score"]),
                scores(row["default_score"]),
                tuple(map(gains, interval)) if tuned and all(map(math.isfinite, interval)) else None,
                tuned,
                tuned and entry.gain is not None and entry.gain.confirmed,
            )
        )
    marks = tuple(Control(name, score, scores(score)) for name, score in controls.items())
    return Board(tuple(rows), marks, scores, gains)


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
    hidden = ("model", "explainer", "forward_arg_extractor", "additional_forward_arg_extractor")
    metric = result.metric
    return {
        name: describe(type(metric), name, value) for name, value in metric.get_params().items() if name not in hidden
    }


def parameters(entry: Entry) -> list[Parameter]:
    """Every argument of an explainer and its post-processing, default beside tuned."""
    default, tuned = _described(entry.default), _described(entry.tuned)
    return [Parameter(name, default.get(name, "–"), tuned.get(name, "–")) for name in {**default, **tuned}]


def _described(configuration: Configuration) -> dict[str, str]:
    explainer = {
        name: describe(type(configuration.explainer), name, value)
        for name, value in configuration.explainer.get_params().items()
        if name not in ("model", "forward_arg_extractor", "additional_forward_arg_extractor")
    }
    after = configuration.postprocessor.get_params()
    return explainer | {name: describe(PostProcessor, name, value) for name, value in after.items()}


def describe(owner: type[Tunable], name: str, value: Any) -> str:
    """The value of an argument, in words; a role by its name and its own parameters.

    Example:
        >>> from pnpxai.baselines import Blur
        >>> describe(PostProcessor, "pooling_fn", "sum"), describe(PostProcessor, "baseline_fn", Blur(3.0))
        ('sum', 'blur (sigma 3)')
    """
    role = owner.TUNABLES.get(name)
    if isinstance(value, str) and isinstance(role, type) and issubclass(role, Role):
        value = role.resolve(value)
    if isinstance(value, Role):
        own = ", ".join(f"{key} {describe(type(value), key, each)}" for key, each in value.get_params().items())
        return f"{value.NAME} ({own})" if own else value.NAME
    if isinstance(value, tuple | list):
        return " × ".join(describe(owner, "", each) for each in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.__name__ if isinstance(value, FunctionType | type) else str(value)
