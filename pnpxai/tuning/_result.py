"""What a tuning run found: the recommended explanation, the evidence for it, and how to keep it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from torch import Tensor, nn

from pnpxai.explainers import Explainer
from pnpxai.metrics import Metric
from pnpxai.modality import Modality
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import Recommendation
from pnpxai.tuning._statistics import Gain


@dataclass(frozen=True)
class Configuration:
    """One explainer with one post-processing, and its scores.

    Attributes:
        explainer: on the user's own model.
        postprocessor: makes one number a feature of its maps.
        params: what was chosen, as the study names it (``RISE.p_keep``).
        tuning_scores: one score a tuning sample.
        holdout_scores: one score a hold-out sample; empty where it was not scored there.
        n_forwards: samples through the model to explain the tuning samples once.
        seconds: time to explain the tuning samples once.
    """

    explainer: Explainer
    postprocessor: PostProcessor
    params: Mapping[str, Any]
    tuning_scores: tuple[float, ...]
    holdout_scores: tuple[float, ...] = ()
    n_forwards: int = 0
    seconds: float = 0.0

    def maps(self, inputs: Any, targets: Any = None) -> Tensor:
        """Post-processed maps ``(n, h, w)``, ``(n, t)`` or ``(n, d)``."""
        return self.postprocessor(self.explainer.attribute(inputs, targets))


@dataclass(frozen=True)
class Entry:
    """One explainer's line: its default and its tuned configuration, compared on the hold-out.

    Attributes:
        name: the explainer's name in the study.
        default: as the explainer came; without scores where it failed.
        tuned: the best configuration found (the default itself where nothing better was found).
        gain: tuned against default on the hold-out; None without a hold-out, or where the default failed.
        n_trials: finished trials spent on it.
        failures: reasons of its failed trials, each once.
    """

    name: str
    default: Configuration
    tuned: Configuration
    gain: Gain | None
    n_trials: int
    failures: tuple[str, ...] = ()

    @property
    def recommended(self) -> Configuration:
        """The tuned configuration if the hold-out confirms its gain (or none was measured), else the default."""
        return self.tuned if self.gain is None or self.gain.confirmed else self.default


@dataclass(frozen=True, repr=False)
class TuneResult:
    """The outcome of `pnpxai.tune`.

    Attributes:
        entries: one a explainer that finished a trial, best tuning score first.
        failed: explainers none of whose trials finished, with the reason.
        metric: the metric that judged.
        modality: the kind of data.
        recommendation: what was recommended and rejected before tuning; None where explainers were given.
        controls: scores of random, edge and centre maps on the judging samples (the hold-out if there is one).
        inputs, targets: what was explained (targets as given, or the predicted classes).
        tuning_index, holdout_index: which samples were used for what.
        n_forwards: samples through the model in all.
        seconds: duration in all.
        seed: of the split, the sampler and the metric's bootstrap.
        versions: package name to version.
        caveats: what a reader has to know before trusting the result.
        study: the Optuna study; None in a loaded result.
    """

    entries: tuple[Entry, ...]
    failed: Mapping[str, str]
    metric: Metric
    modality: Modality
    recommendation: Recommendation | None
    controls: Mapping[str, tuple[float, ...]]
    inputs: Any
    targets: Any
    tuning_index: tuple[int, ...]
    holdout_index: tuple[int, ...]
    n_forwards: int
    seconds: float
    seed: int
    versions: Mapping[str, str]
    caveats: tuple[str, ...] = ()
    study: optuna.Study | None = field(default=None, compare=False)

    @property
    def winner(self) -> Entry:
        """The entry with the best tuning score."""
        return self.entries[0]

    @property
    def recommended(self) -> Configuration:
        """What to use: the winner's tuned configuration, or its default where the hold-out does not confirm a gain."""
        return self.winner.recommended

    @property
    def explainer(self) -> Explainer:
        """The recommended explainer, on the user's own model."""
        return self.recommended.explainer

    @property
    def postprocessor(self) -> PostProcessor:
        """The recommended post-processing."""
        return self.recommended.postprocessor

    @property
    def score(self) -> float:
        """Mean score of the winner's tuned configuration on the judging samples."""
        return _mean(_judged(self.winner.tuned))

    @property
    def default_score(self) -> float:
        """Mean score of the winner's default configuration on the judging samples."""
        return _mean(_judged(self.winner.default))

    @property
    def holdout(self) -> Gain | None:
        """The winner's tuned configuration against its default on the hold-out; None without a hold-out."""
        return self.winner.gain

    @property
    def leaderboard(self) -> pd.DataFrame:
        """One row an explainer, best tuning score first; failed explainers last, with their reason.

        Columns: ``explainer, settings`` (recommended for it: tuned or default), ``tuning_score`` (of the tuned, on the
        tuning samples), ``tuned_score, default_score`` (on the hold-out, or on the tuning samples where there is none),
        ``gain, gain_low, gain_high`` (paired, 95 % interval), ``n_judged, forwards_per_sample, seconds_per_sample,
        n_trials, parameters, failure``.
        """
        return leaderboard(self)

    def report(self, path: str | Path, **options: Any) -> Path:
        """Write a self-contained HTML report; see `pnpxai.report.write_report` for the options."""
        room_above = importlib.import_module("pnpxai.report")
        written: Path = room_above.write_report(self, path, **options)
        return written

    def save(self, path: str | Path) -> Path:
        """Keep the result in a folder, as JSON and safetensors; see `TuneResult.load`."""
        from pnpxai.tuning._keep import save

        return save(self, Path(path))

    @staticmethod
    def load(path: str | Path, model: nn.Module) -> TuneResult:
        """The result kept in a folder, its explainers on ``model``.

        Raises:
            StudyError: no result there, or it holds something that JSON cannot (a function, a model of its own).
        """
        from pnpxai.tuning._keep import load

        return load(Path(path), model)

    def explain(self, inputs: Any, targets: Any = None) -> Tensor:
        """Maps of any inputs as they were judged: by the recommended explainer, then post-processing."""
        return self.recommended.maps(inputs, targets)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        board = self.leaderboard.drop(columns=["parameters"])
        shown = board.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")
        better = "higher" if type(self.metric).HIGHER_IS_BETTER else "lower"
        head = f"{type(self.metric).__name__}, {better} is better; best tuning score first"
        lines = [head, shown, "", self.verdict]
        return "\n".join([*lines, *(f"Note: {each}" for each in self.caveats)])

    @property
    def verdict(self) -> str:
        """The recommendation in a sentence or two."""
        entry, gain = self.winner, self.winner.gain
        metric = type(self.metric).__name__
        if entry.tuned is entry.default:
            others = entry.n_trials - 1
            tried = (
                f"nothing better was found in {others} other trials" if others > 0 else "no other settings were tried"
            )
            return f"Use {entry.name} with its default settings: {tried} ({metric})."
        if not entry.default.tuning_scores:
            return f"Use {entry.name} with {_shown(entry.tuned.params)}; its default settings failed."
        if gain is None:
            return (
                f"Use {entry.name} with {_shown(entry.tuned.params)}; there was no hold-out, so the gain over its "
                f"default ({self.score:.3f} against {self.default_score:.3f} {metric}) is not confirmed."
            )
        interval = (
            f"{gain.mean:+.3f} {metric} on {gain.n} unseen samples, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
        )
        if gain.confirmed:
            return f"Use {entry.name} with {_shown(entry.tuned.params)}: {interval} against its default."
        return f"Use {entry.name} with its default settings: the tuned ones are not confirmed ({interval})."


def leaderboard(result: TuneResult) -> pd.DataFrame:
    """The table behind `TuneResult.leaderboard`."""
    rows: list[dict[str, Any]] = []
    for entry in result.entries:
        n_tuning = max(len(entry.tuned.tuning_scores), 1)
        gain = None if entry.tuned is entry.default else entry.gain
        rows.append(
            {
                "explainer": entry.name,
                "settings": "tuned" if entry.recommended is not entry.default else "default",
                "tuning_score": _mean(entry.tuned.tuning_scores),
                "tuned_score": _mean(_judged(entry.tuned)),
                "default_score": _mean(_judged(entry.default)),
                "gain": gain.mean if gain else math.nan,
                "gain_low": gain.low if gain else math.nan,
                "gain_high": gain.high if gain else math.nan,
                "n_judged": len(_judged(entry.tuned)),
                "forwards_per_sample": entry.tuned.n_forwards / n_tuning,
                "seconds_per_sample": entry.tuned.seconds / n_tuning,
                "n_trials": entry.n_trials,
                "parameters": _shown(entry.recommended.params),
                "failure": "; ".join(entry.failures),
            }
        )
    rows += [{"explainer": name, "settings": "failed", "failure": why} for name, why in result.failed.items()]
    return pd.DataFrame(rows)


def _judged(configuration: Configuration) -> tuple[float, ...]:
    return configuration.holdout_scores or configuration.tuning_scores


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else math.nan


def _shown(params: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name.partition('.')[2] or name}={_number(value)}" for name, value in params.items()) or "default"
    )


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
