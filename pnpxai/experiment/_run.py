"""Explainers × post-processors × metrics over samples, a part at a time; what fails is a score with its reason."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from pnpxai.experiment._costs import Costs, Step
from pnpxai.experiment._disk import Disk, read_scores, write_scores
from pnpxai.experiment._maps import Maps
from pnpxai.experiment._parts import Loader, Part, portions
from pnpxai.explainers import Explainer
from pnpxai.metrics import Answers, Metric, answers_together, evaluate_together
from pnpxai.postprocess import PostProcessor

Score: TypeAlias = float | str
"""A score, or why there is none."""
Combination: TypeAlias = tuple[Explainer, PostProcessor, Metric]


@dataclass(frozen=True)
class Unread:
    """A sample that could not be loaded, or whose target could not be found, and why."""

    id: int
    reason: str


@dataclass
class Run:
    """What scores samples.

    Attributes:
        load: samples by id.
        maps: of the explainers.
        scores: by combination and sample, added to.
        disk: where scores are kept, too; None for nowhere.
        costs: where what steps took is noted.
        pairs: explainers with their post-processors, those of one explainer together.
        metrics: judge the maps.
        batch_size: samples in hand at once.
    """

    load: Loader
    maps: Maps
    scores: dict[Combination, dict[int, Score]]
    disk: Disk | None
    costs: Costs
    pairs: Sequence[tuple[Explainer, Sequence[PostProcessor]]]
    metrics: Sequence[Metric]
    batch_size: int

    @property
    def combinations(self) -> list[Combination]:
        """Every explainer with every post-processor and metric."""
        return [(e, p, metric) for e, postprocessors in self.pairs for p in postprocessors for metric in self.metrics]

    def missing(self, ids: Iterable[int]) -> list[int]:
        """Samples with a combination that has no score."""
        known = [self.scores.setdefault(each, {}) for each in self.combinations]
        return [i for i in ids if any(i not in each for each in known)]

    def recall(self, ids: Sequence[int]) -> None:
        """Read scores of an earlier run, and see which maps there are."""
        if self.disk is None or not self.disk.folder.is_dir():
            return
        places = {each: self.disk.score_file(*each) for each in self.combinations}
        kept = {each: found for each, path in places.items() if path and (found := read_scores(path))}
        for part in self.parts(self.missing(ids), self.load):
            if isinstance(part, Part):
                for combination, found in kept.items():
                    names = self.disk.score_names(combination[0], combination[2], part) or []
                    known = self.scores[combination]
                    known |= {i: found[name] for i, name in zip(part.ids, names, strict=False) if name in found}
                for explainer, _ in self.pairs:
                    self.maps.look(explainer, part)

    def left(self, ids: Sequence[int]) -> Counter[Step]:
        """How many of each step are left to be done."""
        left: Counter[Step] = Counter({("answers", None): len(self.missing(ids))})
        for explainer, postprocessors in self.pairs:
            left.update(self.left_of(explainer, postprocessors, ids))
        return left

    def left_of(
        self, explainer: Explainer, postprocessors: Sequence[PostProcessor], ids: Iterable[int]
    ) -> Counter[Step]:
        """How many maps of one explainer are left to be made, and to be judged."""
        judged = [self._unjudged(explainer, each, ids) for each in postprocessors]
        unmade = sum(not self.maps.known(explainer, i) for i in {i for each in judged for i in each})
        return Counter({("maps", explainer): unmade, ("scores", explainer): sum(map(len, judged))})

    def parts(self, ids: Sequence[int], load: Loader) -> Iterable[Part | Unread]:
        """Samples in hand, a batch at a time; where a batch fails, one by one."""
        for each in portions(ids, self.batch_size):
            try:
                part = load(each)
            except Exception as error:
                if len(each) == 1:
                    yield Unread(each[0], _reason(error))
                else:
                    for i in each:
                        yield from self.parts([i], load)
            else:
                yield part

    def score(self, ids: Sequence[int], done: Callable[[Counter[Step], int], object]) -> None:
        """Score samples that miss a score; ``done`` is told of steps and scores as they are finished."""
        for part in self.parts(self.missing(ids), self._measured_load):
            if isinstance(part, Unread):
                for combination in self.combinations:
                    self._note(combination, {part.id: part.reason})
                done(self.left([part.id]), len(self.combinations))
                continue
            answers = self._answers(part)
            done(Counter({("answers", None): len(part.ids)}), 0)
            for explainer, postprocessors in self.pairs:
                left = self.left_of(explainer, postprocessors, part.ids)
                self._score_maps(explainer, postprocessors, part, answers)
                done(left, len(postprocessors) * len(self.metrics) * len(part.ids))

    def _measured_load(self, ids: Sequence[int]) -> Part:
        with self.costs.measured(("answers", None), 0):  # counted when they are answered
            return self.load(ids)

    def _answers(self, part: Part) -> Answers | None:
        """What the metrics ask whatever the map; None where one of them fails, which then says so for itself."""
        with contextlib.suppress(Exception), self.costs.measured(("answers", None), len(part.ids)):
            return answers_together([each.for_samples(part.ids) for each in self.metrics], part.inputs, part.targets)
        return None

    def _score_maps(
        self, explainer: Explainer, postprocessors: Sequence[PostProcessor], part: Part, answers: Answers | None
    ) -> None:
        """All that is missing of an explainer's maps of some samples."""
        missing = {i for each in postprocessors for i in self._unjudged(explainer, each, part.ids)}
        if not missing:
            return
        reason: str | None = None
        maps: tuple[Tensor, ...] = ()
        try:
            if len(missing) < len(part.ids):
                part, answers = self.load(sorted(missing)), None
            maps = self.maps.of(explainer, part)
        except Exception as error:
            reason = _reason(error)
            self.costs.failed |= {("maps", explainer): reason, ("scores", explainer): reason}
        for postprocessor in postprocessors:
            lacking = [
                each
                for each in self.metrics
                if any(i not in self.scores[explainer, postprocessor, each] for i in part.ids)
            ]
            if reason is not None:
                found: dict[Metric, Sequence[Score]] = {each: [reason] * len(part.ids) for each in lacking}
            else:
                found = self._judge(explainer, postprocessor, lacking, part, maps, answers)
            for metric, scores in found.items():
                self._note((explainer, postprocessor, metric), dict(zip(part.ids, scores, strict=True)), part)

    def _judge(
        self,
        explainer: Explainer,
        postprocessor: PostProcessor,
        metrics: Sequence[Metric],
        part: Part,
        maps: tuple[Tensor, ...],
        answers: Answers | None,
    ) -> dict[Metric, Sequence[Score]]:
        """The scores by metrics together, or where that fails by each alone, or its reason."""
        with contextlib.suppress(Exception):  # then each metric says for itself what is wrong
            judges = [each.for_samples(part.ids).judging(explainer, postprocessor) for each in metrics]
            with self.costs.measured(("scores", explainer), len(part.ids)):
                pooled = postprocessed(postprocessor, maps)
                found = evaluate_together(judges, part.inputs, part.targets, pooled, answers)
            return {metric: each.tolist() for metric, each in zip(metrics, found, strict=True)}
        return {each: self._judge_alone(explainer, postprocessor, each, part, maps) for each in metrics}

    def _judge_alone(
        self,
        explainer: Explainer,
        postprocessor: PostProcessor,
        metric: Metric,
        part: Part,
        maps: tuple[Tensor, ...],
    ) -> Sequence[Score]:
        try:
            judge = metric.for_samples(part.ids).judging(explainer, postprocessor)
            found: list[Score] = judge.evaluate(part.inputs, part.targets, postprocessed(postprocessor, maps)).tolist()
            return found
        except Exception as error:
            self.costs.failed["scores", explainer] = _reason(error)
            return [_reason(error)] * len(part.ids)

    def _unjudged(self, explainer: Explainer, postprocessor: PostProcessor, ids: Iterable[int]) -> list[int]:
        known = [self.scores[explainer, postprocessor, each] for each in self.metrics]
        return [i for i in ids if any(i not in each for each in known)]

    def _note(self, combination: Combination, scores: dict[int, Score], part: Part | None = None) -> None:
        known = self.scores[combination]
        fresh = {i: score for i, score in scores.items() if i not in known}
        known |= fresh
        path = self.disk.score_file(*combination) if self.disk and part else None
        if self.disk is None or part is None or path is None:
            return
        names = dict(zip(part.ids, self.disk.score_names(combination[0], combination[2], part) or [], strict=False))
        kept = {names[i]: score for i, score in fresh.items() if i in names and not isinstance(score, str)}
        if kept:
            write_scores(path, kept)


def postprocessed(postprocessor: PostProcessor, maps: tuple[Tensor, ...]) -> Tensor:
    """The maps after post-processing; of several inputs ``(n, f)``, all their features side by side."""
    return postprocessor(maps if len(maps) > 1 else maps[0])


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
