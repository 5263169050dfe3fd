"""Between search and judgement: do the finalists owe their place to a lucky seed, and are they better together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pnpxai.errors import PnPXAIError
from pnpxai.explainers import RankEnsemble
from pnpxai.explainers.rank_ensemble import rank_average
from pnpxai.forward import count_forwards
from pnpxai.postprocess import PostProcessor
from pnpxai.tunable import constructor_parameters
from pnpxai.tuning._judge import gain_of
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._race import FIRST_LOOK
from pnpxai.tuning._result import Configuration, Entry
from pnpxai.tuning._standings import Standing, order

FINALISTS = 3
"""Explainers whose seeds are varied: the best, and those that may be."""
OTHER_SEEDS = 2
"""Further seeds each of them is tried with …"""
SEEDS_SHARE = 0.1
"""… on as many samples as that share of the search's forwards buys, at least those of a first look."""
CANDIDATES = 12
"""Configurations that may join an ensemble of …"""
LARGEST_ENSEMBLE = 5
"""… at most so many."""
SURE = 10
"""Samples that a new member is given at least: its gain is small beside the samples' differences."""
ENSEMBLE_SHARE = 0.25
"""What trying members may cost, as a share of the search; one that turns out to be a gain may go beyond it."""
ENSEMBLE = "RankEnsemble"


def steadied(found: Sequence[Standing], objective: Objective, search_forwards: int) -> list[Standing]:
    """The standings after the finalists' seeds were varied: what a seed gained by luck no longer counts.

    The luck is the mean difference, sample by sample, between the scores with the seed that was searched with and
    the mean over that one and `OTHER_SEEDS` others.
    """
    finalists = [each for each in found if each.tuned.scored(objective.race.n) and _has_seed(each.tuned)]
    done = {each.name: _without_luck(each, objective, search_forwards) for each in finalists[:FINALISTS]}
    again = [done.get(each.name, each) for each in found]
    return sorted(again, key=lambda each: order(objective, each.tuned), reverse=True)


def _has_seed(configuration: Configuration) -> bool:
    return "seed" in constructor_parameters(type(configuration.explainer))


def _without_luck(standing: Standing, objective: Objective, search_forwards: int) -> Standing:
    tuned = standing.tuned
    price = max(tuned.forwards_per_sample, 1.0) * OTHER_SEEDS * FINALISTS
    m = min(max(FIRST_LOOK, int(SEEDS_SHARE * search_forwards / price)), objective.race.n)
    index = objective.index[:m]
    own = tuned.explainer.get_params()["seed"]
    others = [tuned.explainer.set_kwargs(seed=own + 1 + each) for each in range(OTHER_SEEDS)]
    try:
        tried = [objective.scores(each, tuned.postprocessor, index) for each in others]
    except PnPXAIError:
        return standing
    means = [sum(scores) / m for scores in (tuned.tuning_scores[:m], *tried)]
    luck = means[0] - sum(means) / len(means)
    steady = replace(tuned, estimate=tuned.estimate - luck, seed_luck=luck)
    return replace(standing, tuned=steady, default=steady if standing.default is tuned else standing.default)


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

    def joined_by(self, other: Configuration) -> Ensemble:
        """The ensemble with one member more, raced against itself on the tuning samples; itself if that is no gain."""
        larger = replace(self, members=(*self.members, other))
        race = replace(self.objective.race, incumbent=list(self.tuning_scores))
        scores: list[float] = []
        for stop in race.looks:
            scores += larger.scores(self.objective.index[len(scores) : stop])
            if len(scores) >= SURE and race.over(scores):
                return self
        return replace(larger, tuning_scores=tuple(scores)) if float(race.lead(scores).mean()) > 0 else self

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


def together(found: Sequence[Standing], objective: Objective, search_forwards: int) -> Ensemble | None:
    """The best explainer joined by the next ones, one after the other, as long as that is better on the tuning samples.

    Forward selection (Caruana et al., 2004) over the best `CANDIDATES` configurations, tuned and default, as far as
    their scores are known, one of an explainer at most. Maps of those that ran the whole race are there already; of
    those that were stopped the rest is explained, as far as `ENSEMBLE_SHARE` allows. None where nothing is better than
    the best alone.
    """
    if not found or not found[0].tuned.scored(objective.race.n):
        return None
    made = Ensemble((found[0].tuned,), objective, found[0].tuned.tuning_scores)
    left = ENSEMBLE_SHARE * search_forwards
    joined: set[str] = set()
    for name, each in _candidates(found[1:], objective):
        missing = 0 if each.scored(objective.race.n) else SURE
        if missing * each.forwards_per_sample > left or name in joined or len(made.members) == LARGEST_ENSEMBLE:
            continue
        with count_forwards() as counter, contextlib.suppress(PnPXAIError):
            larger = made.joined_by(each)
            joined |= {name} if larger is not made else set()
            made = larger
        left -= counter.n_samples
    return made if len(made.members) > 1 else None


def _candidates(found: Sequence[Standing], objective: Objective) -> list[tuple[str, Configuration]]:
    both = [(standing.name, each) for standing in found for each in (standing.tuned, standing.default)]
    tried = [each for i, each in enumerate(both) if each[1].tuning_scores and each not in both[:i]]
    return sorted(tried, key=lambda each: order(objective, each[1])[1], reverse=True)[:CANDIDATES]
