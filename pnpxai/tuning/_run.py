"""One trial of a study: an explainer's maps, post-processed in every way that differs, followed while they may win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pnpxai.explainers import Explainer
from pnpxai.postprocess import Maps, PostProcessor
from pnpxai.tuning._maps import MapCache, budget_name
from pnpxai.tuning._race import Race
from pnpxai.tuning._scores import ScoreBook

LEAST_RUNG = 100
"""The smallest part of a budget that is worth a look: below it the metric costs more than the explanation."""
SHRINKING = 0.5**0.5
"""How much of the gain of one doubling of a budget the next one brings: the error of a mean falls with its root."""


@dataclass(eq=False)
class Arm:
    """One post-processing of a trial's maps.

    Attributes:
        postprocessor: it.
        scores: one for each sample seen so far.
        to_come: what the rest of the budget would probably add to their mean, where it was left on a part of it.
    """

    postprocessor: PostProcessor
    scores: list[float] = field(default_factory=list)
    to_come: float = 0.0


@dataclass
class Run:
    """An explainer in the race.

    Attributes:
        explainer: makes the maps.
        arms: post-processings, the usual one first.
        race: what there is to win.
        cache: explains.
        book: scores.
        index: the samples, in the order in which they are scored.
        seen: the explainer that made the first maps (on a part of its budget if it was stopped there), and those maps.
    """

    explainer: Explainer
    arms: Sequence[Arm]
    race: Race
    cache: MapCache
    book: ScoreBook
    index: Sequence[int]
    seen: tuple[Explainer, Maps] | None = None

    def follow(self) -> Arm:
        """The best of the arms that came furthest: all samples, or where the last of them was stopped."""
        live, start = list(self.arms), 0
        for stop in self.race.looks if self.race.enabled else [len(self.index)]:
            finished = self._score(live, self.index[start:stop])
            kept = [each for each in live if not self._behind(each, live)]
            if not kept or not finished:
                break
            live, start = kept, stop
        return self._best(live)

    def _score(self, arms: Sequence[Arm], block: Sequence[int]) -> bool:
        """Score one block; False if it was left on a part of the budget, where every arm's loss shows already."""
        rungs = [] if self.seen else self._rungs()
        scored: list[list[list[float]]] = []
        left = False
        for step, maps in enumerate(self.cache.refine(self.explainer, block, rungs)):
            judged = [(self.explainer, each.postprocessor, each.postprocessor(maps)) for each in arms]
            scored.append(self.book.scores(judged, block))
            if step < len(rungs) and self._hopeless(scored, len(rungs) - step):
                self.seen = self.explainer.set_kwargs(**{budget_name(self.explainer): rungs[step]}), maps
                left = True
                for arm, rise in zip(arms, self._rises(scored), strict=True):
                    arm.to_come = rise * sum(SHRINKING**each for each in range(1, len(rungs) - step + 1))
                break
        self.seen = self.seen or (self.explainer, maps)
        for arm, own in zip(arms, scored[-1], strict=True):
            arm.scores += own
        return not left

    def _rungs(self) -> list[int]:
        """An eighth, a quarter and half of a budget that can be continued, while there is something to lose against."""
        if not self.race.enabled or not self.race.incumbent or not type(self.explainer).NESTED:
            return []
        whole = self.explainer.budget
        return [whole // 8, whole // 4, whole // 2] if whole // 8 >= LEAST_RUNG else []

    def _hopeless(self, scored: Sequence[Sequence[Sequence[float]]], doublings: int) -> bool:
        """Whether all arms lose even if each doubling of the budget still to come gains as much as the last one did."""
        if len(scored) < 2:
            return False
        reached = zip(scored[-1], self._rises(scored), strict=True)
        return all(self.race.over([each + doublings * rise for each in now]) for now, rise in reached)

    def _rises(self, scored: Sequence[Sequence[Sequence[float]]]) -> list[float]:
        """What the last doubling moved each arm's mean to the better; zero where it did not."""
        sign = 1 if self.race.higher_is_better else -1
        gained = [(sum(now) - sum(before)) / len(now) for before, now in zip(scored[-2], scored[-1], strict=True)]
        return [sign * max(sign * each, 0.0) for each in gained]

    def _behind(self, arm: Arm, arms: Sequence[Arm]) -> bool:
        """Whether an arm has lost against the incumbent, or against the best post-processing of the same maps."""
        if self.race.over(arm.scores):
            return True
        best = self._best(arms)
        rival = Race(self.race.n, self.race.higher_is_better, self.race.enabled, best.scores)
        return arm.scores != best.scores and rival.over(arm.scores)

    def _best(self, arms: Sequence[Arm]) -> Arm:
        sign = 1 if self.race.higher_is_better else -1
        return max(arms, key=lambda each: sign * (sum(each.scores) + len(each.scores) * each.to_come))
