"""One sample, every budget at its least: what a run will cost, before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from pnpxai.experiment._costs import Costs, Step
from pnpxai.experiment._parts import Part
from pnpxai.explainers import Explainer, shares_work
from pnpxai.forward import count_forwards
from pnpxai.kept import Cost
from pnpxai.metrics import Answers, Metric, answers_together, evaluate_together
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import FIRST_CALL, DryRun, least_budget, try_once

T = TypeVar("T")


@dataclass
class Trial:
    """Finds what the steps of a run cost that have not been measured yet.

    Attributes:
        load: one sample.
        explainers: of the run, in its order.
        postprocessor: for the maps that are judged.
        metrics: of the run.
        dry_runs: trials of explainers made before, by name.
    """

    load: Callable[[], Part]
    explainers: Sequence[Explainer]
    postprocessor: PostProcessor
    metrics: Sequence[Metric]
    dry_runs: Mapping[str, DryRun]

    def note(self, costs: Costs) -> None:
        """Note what is missing among the costs, and why a step failed."""
        steps: list[Step] = [("answers", None)]
        for each in self.explainers:
            steps += [("maps", each), ("scores", each)]
        for step in steps:
            if costs.of_one(step) is None and step not in costs.failed:
                try:
                    costs.tried[step] = self._cost(step)
                except Exception as error:
                    costs.failed[step] = str(error) or type(error).__name__

    def _cost(self, step: Step) -> Cost:
        kind, explainer = step
        if explainer is None:
            return self._answered[1]
        if kind == "maps":
            return self._explained(explainer)
        return self._judged(explainer)

    @cached_property
    def _part(self) -> tuple[Part, Cost]:
        return _timed(self.load)

    @cached_property
    def _answered(self) -> tuple[Answers, Cost]:
        part, loading = self._part
        judges = [each.for_samples(part.ids) for each in self.metrics]
        answers, asking = _timed(lambda: answers_together(judges, part.inputs, part.targets))
        return answers, Cost(loading.forwards + asking.forwards, loading.seconds + asking.seconds)

    def _explained(self, explainer: Explainer) -> Cost:
        before = self.explainers[: self.explainers.index(explainer)]
        if any(shares_work(each, explainer) and each.budget >= explainer.budget for each in before):
            return Cost()
        part = self._part[0]
        run = self.dry_runs.get(type(explainer).__name__) or try_once(explainer, part.inputs, part.targets)
        if not isinstance(run, DryRun):
            raise RuntimeError(run)
        return Cost(run.full_forwards, run.full_seconds)

    def _judged(self, explainer: Explainer) -> Cost:
        """Of one map; metrics that explain again take as much more as the explainer's budget is larger."""
        cheap, share = least_budget(explainer)
        part = self._part[0]
        maps = self.postprocessor(cheap.attribute(part.inputs, part.targets))
        once = self._scored([each for each in self.metrics if not type(each).EXPLAINS_AGAIN], cheap, maps)
        again = self._scored([each for each in self.metrics if type(each).EXPLAINS_AGAIN], cheap, maps)
        return Cost(once.forwards + share * again.forwards, once.seconds + share * again.seconds)

    def _scored(self, metrics: Sequence[Metric], explainer: Explainer, maps: Tensor) -> Cost:
        part, answers = self._part[0], self._answered[0]
        judges = [each.for_samples(part.ids).judging(explainer, self.postprocessor) for each in metrics]
        return _timed(lambda: evaluate_together(judges, part.inputs, part.targets, maps, answers))[1]


def _timed(call: Callable[[], T]) -> tuple[T, Cost]:
    """What a call returns and took; a short first call is timed again, as it may have been spent on imports."""
    start = time.perf_counter()
    with count_forwards() as counter:
        made = call()
    seconds = time.perf_counter() - start
    if seconds < FIRST_CALL:
        start = time.perf_counter()
        made = call()
        seconds = time.perf_counter() - start
    return made, Cost(counter.n_samples, seconds)
