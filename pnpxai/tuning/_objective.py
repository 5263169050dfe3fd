"""From an Optuna trial to a score: build the configuration, explain, post-process, score sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from optuna.trial import BaseTrial, Trial

from pnpxai.errors import ExplanationError
from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards, take_samples
from pnpxai.metrics import Metric
from pnpxai.postprocess import NormalizationFunction, PostProcessor
from pnpxai.tunable import Candidates, suggest, trial_params
from pnpxai.tuning._maps import MapCache, take_targets
from pnpxai.tuning._statistics import has_lost
from pnpxai.tuning._study import interrupt

POSTPROCESSOR = "postprocessor"
BLOCK = 8


@dataclass
class Objective:
    """What a study optimises: the metric's mean over the tuning samples.

    Attributes:
        explainers: name in the study to explainer, with the arguments that are not tuned.
        postprocessor: likewise.
        candidates: role to the objects that may fill it.
        metric: scores maps.
        cache: explains, and holds all samples.
        index: the tuning samples, in the order in which they are scored.
        race: stop a configuration that has lost against the best so far, after any block of samples.
    """

    explainers: Mapping[str, Explainer]
    postprocessor: PostProcessor
    candidates: Candidates
    metric: Metric
    cache: MapCache
    index: Sequence[int]
    race: bool = True
    _incumbent: list[float] = field(default_factory=list)
    _scored: dict[tuple[Explainer, PostProcessor], list[float]] = field(default_factory=dict)

    def build(self, trial: BaseTrial) -> tuple[Explainer, PostProcessor]:
        """The configuration a trial chooses (running) or chose (finished)."""
        name = trial.suggest_categorical("explainer", list(self.explainers))
        explainer = suggest(trial, self.explainers[name], self.candidates, prefix=f"{name}.")
        postprocessor = suggest(trial, self.postprocessor, self.orders, prefix=f"{POSTPROCESSOR}.")
        return explainer, postprocessor

    @property
    def orders(self) -> Candidates:
        """The candidates for post-processing that can differ: none that keep the order where only that counts."""
        if not type(self.metric).ORDER_ONLY:
            return self.candidates
        return {role: each for role, each in self.candidates.items() if role is not NormalizationFunction}

    def default_params(self, name: str) -> dict[str, object]:
        """What a trial chooses to be an explainer as it came, with the usual post-processing."""
        return {
            "explainer": name,
            **trial_params(self.explainers[name], self.candidates, prefix=f"{name}."),
            **trial_params(self.postprocessor, self.orders, prefix=f"{POSTPROCESSOR}."),
        }

    def __call__(self, trial: Trial) -> float:
        """Score a trial; each sample's score is kept with it as ``scores``, the reason of a failure as ``failure``.

        Returns:
            The mean score; for a configuration that the race stopped, the incumbent's mean plus the mean paired
            difference on the samples both have seen.
        """
        try:
            return self._run(trial)
        except KeyboardInterrupt:
            interrupt(trial.study, trial._trial_id)
            raise
        except Exception as error:
            trial.set_user_attr("failure", str(error) or type(error).__name__)
            raise

    def _run(self, trial: Trial) -> float:
        explainer, postprocessor = self.build(trial)
        key = explainer, postprocessor
        with count_forwards() as counter:
            scores = self._scored.get(key)
            if scores is None:
                scores = self._score(explainer, postprocessor, race=not trial.user_attrs.get("default"))
                self._scored[key] = scores
            else:
                trial.set_user_attr("repeats", True)
        n_forwards, seconds = self.cache.cost(explainer, self.index)
        trial.set_user_attr("scores", scores)
        trial.set_user_attr("n_forwards", counter.n_samples)
        trial.set_user_attr("explain_forwards", n_forwards)
        trial.set_user_attr("explain_seconds", seconds)
        return self.value(scores)

    def value(self, scores: Sequence[float]) -> float:
        """The number a study compares, also for scores of fewer than all samples."""
        if len(scores) == len(self.index):
            self.remember(scores)
            return _mean(scores)
        seen = self._incumbent[: len(scores)]
        return _mean(self._incumbent) + _mean(scores) - _mean(seen)

    def remember(self, scores: Sequence[float]) -> None:
        """Make complete scores the incumbent if they are better."""
        sign = 1 if type(self.metric).HIGHER_IS_BETTER else -1
        if not self._incumbent or sign * _mean(scores) > sign * _mean(self._incumbent):
            self._incumbent = list(scores)

    def scores(self, explainer: Explainer, postprocessor: PostProcessor, index: Sequence[int]) -> list[float]:
        """One score for each sample of ``index``.

        Raises:
            ExplanationError: a score is not finite.
        """
        inputs, targets = take_samples(self.cache.inputs, index), take_targets(self.cache.targets, index)
        maps = postprocessor(self.cache.maps(explainer, index))
        scores = self.metric.judging(explainer, postprocessor).evaluate(inputs, targets, maps)
        if not torch.isfinite(scores).all():
            raise ExplanationError(
                f"a finite {type(self.metric).__name__}", "NaN or infinity", "The metric is not defined for this map."
            )
        return [float(each) for each in scores]

    def _score(self, explainer: Explainer, postprocessor: PostProcessor, race: bool) -> list[float]:
        scores: list[float] = []
        looks = max(1, math.ceil(len(self.index) / BLOCK) - 1)
        for start in range(0, len(self.index), BLOCK):
            scores += self.scores(explainer, postprocessor, self.index[start : start + BLOCK])
            racing = race and self.race and self._incumbent and len(scores) < len(self.index)
            if racing and has_lost(
                scores, self._incumbent, higher_is_better=type(self.metric).HIGHER_IS_BETTER, looks=looks
            ):
                break
        return scores


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
