"""What a tuning run found: the recommended explanation, the evidence for it, and how to keep it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from torch import Tensor

from pnpxai.callables import Model
from pnpxai.explainers import Explainer
from pnpxai.metrics import Metric
from pnpxai.modality import Modality
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import Recommendation
from pnpxai.tuning._opinion import Opinion
from pnpxai.tuning._pareto import Choice, Pareto
from pnpxai.tuning._statistics import Gain

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Configuration:
    """One explainer with one post-processing, and its scores.

    Attributes:
        explainer: on the user's own model.
        postprocessor: makes one number a feature of its maps.
        params: what was chosen, as the study names it (``RISE.p_keep``).
        tuning_scores: one score a tuning sample; of the first ones only, where the race stopped it.
        holdout_scores: one score a hold-out sample; empty where it was not scored there.
        estimate: the mean tuning score; where the race stopped it, what that would be by the paired differences seen;
            less what its seed gained by luck, where seeds were varied.
        forwards_per_sample: samples through the model to explain one.
        seconds_per_sample: time to explain one.
        seed_luck: how much better its seed scored than the mean of it and others; 0 where none others were tried.
    """

    explainer: Explainer
    postprocessor: PostProcessor
    params: Mapping[str, Any]
    tuning_scores: tuple[float, ...]
    holdout_scores: tuple[float, ...] = ()
    estimate: float = math.nan
    forwards_per_sample: float = 0.0
    seconds_per_sample: float = 0.0
    seed_luck: float = 0.0

    def maps(self, inputs: Any, targets: Any = None) -> Tensor:
        """Post-processed maps ``(n, h, w)``, ``(n, t)`` or ``(n, d)``; of several inputs ``(n, f)``, side by side."""
        return self.postprocessor(self.explainer.attribute(inputs, targets))

    def scored(self, n: int) -> bool:
        """Whether it was scored on all ``n`` tuning samples."""
        return len(self.tuning_scores) >= n


@dataclass(frozen=True)
class Entry:
    """One explainer's line: its default and its tuned configuration, compared on the hold-out.

    Attributes:
        name: the explainer's name in the study.
        default: as the explainer came; without scores where it failed. Of an ensemble: its best member.
        tuned: the best configuration found (the default itself where nothing better was found).
        gain: tuned against default on the hold-out; None without a hold-out, where the default failed, or where the
            race stopped the explainer, which has lost then and is not judged.
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
        entries: one a explainer that finished a trial, best tuning score first, then those the race stopped.
        failed: explainers none of whose trials finished, with the reason.
        metric: the metric that judged.
        modality: the kind of data.
        recommendation: what was recommended and rejected before tuning; None where explainers were given.
        controls: scores of random, edge and centre maps on the judging samples (the hold-out if there is one).
        inputs, targets: what was explained (targets as given, or the predicted classes).
        tuning_index, holdout_index: which samples were used for what, the tuning samples in the order of the race.
        n_forwards: samples through the model in all, other workers' included.
        seconds: duration in all.
        seed: of the split, the sampler and the metric's bootstrap.
        versions: package name to version.
        caveats: what a reader has to know before trusting the result.
        untried: explainers of which no trial was finished, for want of trials or time.
        search_forwards: samples through the model in the search, before anything was judged.
        runner_up: the winner against the next explainer, both tuned, on the hold-out; None without either.
        ensemble: the best explainers averaged by rank, against the best of them; None where there are no two.
        opinion: another metric's word on the winner where there is no hold-out.
        trials: every distinct finished trial: ``explainer``, ``score`` and the other aims.
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
    untried: tuple[str, ...] = ()
    search_forwards: int = 0
    runner_up: Gain | None = None
    ensemble: Entry | None = None
    opinion: Opinion | None = None
    trials: tuple[Choice, ...] = ()
    study: optuna.Study | None = field(default=None, compare=False)

    @property
    def winner(self) -> Entry:
        """The entry with the best tuning score; the ensemble where the hold-out confirms that it beats its members."""
        if self.ensemble is not None and self.ensemble.gain is not None and self.ensemble.gain.confirmed:
            return self.ensemble
        return self.entries[0]

    @property
    def recommended(self) -> Configuration:
        """What to use: the winner's tuned configuration, or its default where its gain is not confirmed.

        Without a hold-out the other metric has to agree.
        """
        entry = self.winner
        if self.opinion is not None and not self.opinion.agrees:
            return entry.default
        return entry.recommended

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
        return judging_score(self.winner.tuned)

    @property
    def default_score(self) -> float:
        """Mean score of the winner's default configuration on the judging samples."""
        return judging_score(self.winner.default)

    @property
    def holdout(self) -> Gain | None:
        """The winner's tuned configuration against its default on the hold-out; None without a hold-out."""
        return self.winner.gain

    @property
    def leaderboard(self) -> pd.DataFrame:
        """One row an explainer, best tuning score first; failed explainers last, with their reason.

        Columns: ``explainer, settings`` (recommended for it: tuned or default; ``stopped`` where the race stopped it),
        ``tuning_score`` (of the tuned, on the tuning samples; an estimate where it was stopped), ``tuned_score,
        default_score`` (on the hold-out, or on the tuning samples where there is none), ``gain, gain_low, gain_high``
        (paired, 95 % interval), ``p_value`` (Wilcoxon, adjusted by Holm), ``win_rate, n_judged, forwards_per_sample,
        seconds_per_sample, n_trials, parameters, failure``.
        """
        from pnpxai.tuning._leaderboard import leaderboard

        return leaderboard(self)

    def pareto(self, *aims: str) -> Pareto:
        """The trials that no other beats in every one of some aims; see `Pareto`.

        Args:
            aims: columns of `trials`, such as ``"score", "runtime"``; all that every trial has, where none are named.
        """
        return Pareto.of(self.trials, aims, metric=self.metric)

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
    def load(path: str | Path, model: Model) -> TuneResult:
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
        from pnpxai.tuning._leaderboard import as_text

        return as_text(self)

    @property
    def verdict(self) -> str:
        """The recommendation in a sentence or two."""
        from pnpxai.tuning._leaderboard import verdict

        return verdict(self)


def judging_score(configuration: Configuration) -> float:
    """The mean score on the hold-out; where it was not scored there, on the tuning samples as far as it is known."""
    return mean(configuration.holdout_scores) if configuration.holdout_scores else configuration.estimate


def mean(scores: Sequence[float]) -> float:
    """The mean; NaN of none."""
    return sum(scores) / len(scores) if scores else math.nan
