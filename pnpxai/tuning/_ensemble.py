"""Between search and judgement: are the best configurations better together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pnpxai.errors import PnPXAIError
from pnpxai.explainers import RankEnsemble
from pnpxai.explainers.rank_ensemble import rank_average
from pnpxai.forward import count_forwards
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._judge import gain_of
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._race import FIRST_LOOK, Race
from pnpxai.tuning._result import Configuration, Entry
from pnpxai.tuning._standings import Standing, order

CANDIDATES = 12
"""Configurations that may join an ensemble of …"""
LARGEST_ENSEMBLE = 5
"""… at most so many."""
SURE = 10
"""Samples that a new member is judged by at first: its gain is small beside the samples' differences."""
ENSEMBLE_SHARE = 0.06
"""What explaining for members may cost, as a share of a search without a race; one too dear is not tried."""
ENSEMBLE = "RankEnsemble"


@dataclass(frozen=True)
class Ensemble:
    """Configurations whose maps are averaged by rank.

    Attributes:
        members: the best first.
        objective: explains and scores.
        tuning_scores: the ensemble's, one a tuning sample.
    """

    members: tuple[Configuration, ...]
    objective: Objective
    tuning_scores: tuple[float, ...]

    @property
    def explainer(self) -> RankEnsemble:
        """It as one explainer, whose maps are pooled already."""
        best = self.members[0].explainer
        return RankEnsemble(
            best.model,
            [each.explainer for each in self.members],
            [each.postprocessor for each in self.members],
            best.forward_arg_extractor,
            best.additional_forward_arg_extractor,
        )

    @property
    def postprocessor(self) -> PostProcessor:
        """What leaves its maps as they are."""
        return PostProcessor(channel_dim=self.objective.postprocessor.channel_dim)

    def scores(self, index: Sequence[int]) -> list[float]:
        """One score a sample, from the members' maps."""
        maps = [each.postprocessor(self.objective.cache.maps(each.explainer, index)) for each in self.members]
        judged = [(self.explainer, self.postprocessor, rank_average(maps))]
        return self.objective.book.scores(judged, index)[0]

    @property
    def race(self) -> Race:
        """What a larger ensemble has to win."""
        return replace(self.objective.race, incumbent=list(self.tuning_scores))

    def promise(self, other: Configuration) -> float:
        """How much better one member more makes it on the samples of a first look."""
        larger = replace(self, members=(*self.members, other))
        try:
            lead = self.race.lead(larger.scores(self.objective.index[:FIRST_LOOK]))
        except PnPXAIError:
            return -math.inf
        return float(lead.mean())

    def price(self, other: Configuration, n: int) -> float:
        """What explaining the first ``n`` samples by one member more costs, less what is explained already."""
        missing = self.objective.cache.missing(other.explainer, self.objective.index[:n])
        return len(missing) * other.forwards_per_sample

    def joined_by(self, other: Configuration) -> Ensemble:
        """The ensemble with one member more, raced against itself on the tuning samples; itself if that is no gain.

        A gain is a mean lead above its standard error (the one-standard-error rule; Breiman et al., 1984).
        """
        larger, race = replace(self, members=(*self.members, other)), self.race
        scores: list[float] = []
        for stop in race.looks:
            scores += larger.scores(self.objective.index[len(scores) : stop])
            if len(scores) >= SURE and race.over(scores):
                return self
        lead = race.lead(scores)
        spread = float(lead.std(ddof=1)) if len(lead) > 1 else math.inf
        gains = float(lead.mean()) > spread / math.sqrt(len(lead))
        return replace(larger, tuning_scores=tuple(scores)) if gains else self

    def judged(self, best: Configuration, holdout_index: Sequence[int], seed: int) -> Entry | None:
        """The ensemble against its best member, on the hold-out; None where a member fails there."""
        try:
            unseen = tuple(self.scores(holdout_index)) if holdout_index else ()
        except PnPXAIError:
            return None
        tuned = Configuration(
            self.explainer,
            self.postprocessor,
            {"members": ", ".join(type(each.explainer).__name__ for each in self.members)},
            self.tuning_scores,
            unseen,
            estimate=sum(self.tuning_scores) / len(self.tuning_scores),
            forwards_per_sample=sum(each.forwards_per_sample for each in self.members),
            seconds_per_sample=sum(each.seconds_per_sample for each in self.members),
        )
        return Entry(ENSEMBLE, best, tuned, gain_of(tuned, best, self.objective, seed), 0)


def together(found: Sequence[Standing], objective: Objective, unraced_forwards: float) -> Ensemble | None:
    """The best explainer joined by the next ones, one after the other, as long as that is better on the tuning samples.

    Forward selection (Caruana et al., 2004) over the best `CANDIDATES` configurations, tuned and default, one of an
    explainer at most: each step ranks them by their promise on the samples of a first look and takes the first that is
    a gain. What is missing of their maps is explained as far as `ENSEMBLE_SHARE` allows. None where nothing is better
    than the best alone.
    """
    if not found or not found[0].tuned.scored(objective.race.n):
        return None
    made = Ensemble((found[0].tuned,), objective, found[0].tuned.tuning_scores)
    purse = _Purse(ENSEMBLE_SHARE * unraced_forwards)
    waiting = _candidates(found[1:], objective)
    while waiting and len(made.members) < LARGEST_ENSEMBLE:
        joined, made = _enlarged(made, waiting, purse)
        if joined is None:
            break
        waiting = [each for each in waiting if each[0] != joined]
    return made if len(made.members) > 1 else None


@dataclass
class _Purse:
    """The samples that may still go through the model."""

    left: float

    def affords(self, price: float) -> bool:
        """Whether it holds that much; what costs no explanation is always afforded."""
        return price <= max(self.left, 0.0)

    @contextlib.contextmanager
    def paying(self) -> Iterator[None]:
        """Take from it what is asked of the model inside."""
        with count_forwards() as counter:
            yield
        self.left -= counter.n_samples


def _enlarged(
    made: Ensemble, waiting: Sequence[tuple[str, Configuration]], purse: _Purse
) -> tuple[str | None, Ensemble]:
    """The ensemble and the name of what joined it, if anything did."""
    promising = []
    for name, each in waiting:
        if purse.affords(made.price(each, FIRST_LOOK)):
            with purse.paying():
                promising.append((made.promise(each), name, each))
    promising.sort(key=lambda each: each[0], reverse=True)
    for promise, name, each in promising:
        if promise == -math.inf or not purse.affords(made.price(each, made.objective.race.n)):
            continue
        with purse.paying(), contextlib.suppress(PnPXAIError):
            larger = made.joined_by(each)
            if larger is not made:
                return name, larger
    return None, made


def _candidates(found: Sequence[Standing], objective: Objective) -> list[tuple[str, Configuration]]:
    both = [(standing.name, each) for standing in found for each in (standing.tuned, standing.default)]
    tried = [each for i, each in enumerate(both) if each[1].tuning_scores and each not in both[:i]]
    return sorted(tried, key=lambda each: order(objective, each[1])[1], reverse=True)[:CANDIDATES]
