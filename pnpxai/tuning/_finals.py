"""Between search and judgement: do the finalists owe their place to a lucky seed, and are they better together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pnpxai.errors import PnPXAIError
from pnpxai.explainers import RankEnsemble
from pnpxai.explainers.rank_ensemble import rank_average
from pnpxai.postprocess import PostProcessor
from pnpxai.tunable import constructor_parameters
from pnpxai.tuning._judge import gain_of
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._race import FIRST_LOOK, Race
from pnpxai.tuning._result import Configuration, Entry
from pnpxai.tuning._standings import Standing, order

FINALISTS = 3
"""Explainers whose seeds are varied: the best, and those that may be."""
OTHER_SEEDS = 2
"""Further seeds each of them is tried with …"""
SEEDS_SHARE = 0.1
"""… on as many samples as that share of the search's forwards buys, at least those of a first look."""
LARGEST_ENSEMBLE = 5
ENSEMBLE_SHARE = 0.1
"""What maps of explainers that the race stopped may cost an ensemble, as a share of the search's forwards."""
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


class Ensemble:
    """The best explainers' maps, averaged by rank, and their scores on the tuning samples as far as they may win.

    Maps of those that ran the whole race are there already; of those that were stopped, the rest is explained as far
    as `ENSEMBLE_SHARE` allows.

    Args:
        found: the standings, best first.
        objective: explains and scores.
        search_forwards: what the search took.
    """

    def __init__(self, found: Sequence[Standing], objective: Objective, search_forwards: int) -> None:
        self.members = _members(found, objective, search_forwards)
        self.objective = objective
        best = self.members[0].explainer
        self.explainer = RankEnsemble(
            best.model,
            [each.explainer for each in self.members],
            [each.postprocessor for each in self.members],
            best.forward_arg_extractor,
            best.additional_forward_arg_extractor,
        )
        self.postprocessor = PostProcessor(channel_dim=objective.postprocessor.channel_dim)
        self.tuning_scores: list[float] = []

    def run(self) -> None:
        """Race against the best member.

        Raises:
            PnPXAIError: the members' maps are not alike, or one fails.
        """
        race = self._race()
        for stop in race.looks:
            self.tuning_scores += self.scores(self.objective.index[len(self.tuning_scores) : stop])
            if race.over(self.tuning_scores):
                break

    def judged(self, best: Configuration, holdout_index: Sequence[int], seed: int) -> Entry:
        """The ensemble against its best member; on the hold-out only if it is ahead on the tuning samples."""
        race = self._race()
        ahead = len(self.tuning_scores) == race.n and float(race.lead(self.tuning_scores).mean()) > 0
        tuned = Configuration(
            self.explainer,
            self.postprocessor,
            {"members": ", ".join(type(each.explainer).__name__ for each in self.members)},
            tuple(self.tuning_scores),
            tuple(self.scores(holdout_index)) if ahead and holdout_index else (),
            estimate=race.value(self.tuning_scores),
            forwards_per_sample=sum(each.forwards_per_sample for each in self.members),
            seconds_per_sample=sum(each.seconds_per_sample for each in self.members),
        )
        return Entry(ENSEMBLE, best, tuned, gain_of(tuned, best, self.objective, seed), 0)

    def scores(self, index: Sequence[int]) -> list[float]:
        """One score a sample."""
        maps = [each.postprocessor(self.objective.cache.maps(each.explainer, index)) for each in self.members]
        judged = [(self.explainer, self.postprocessor, rank_average(maps))]
        return self.objective.book.scores(judged, index)[0]

    def _race(self) -> Race:
        race = self.objective.race
        return Race(race.n, race.higher_is_better, race.enabled, [*self.members[0].tuning_scores])


def together(found: Sequence[Standing], objective: Objective, search_forwards: int) -> Ensemble | None:
    """The ensemble of the best explainers, raced on the tuning samples; None where there are no two, or it fails."""
    if len(found) < 2 or not found[0].tuned.scored(objective.race.n):
        return None
    made = Ensemble(found, objective, search_forwards)
    if len(made.members) < 2:
        return None
    try:
        made.run()
    except PnPXAIError:
        return None
    return made


def _members(found: Sequence[Standing], objective: Objective, search_forwards: int) -> list[Configuration]:
    """The best explainers, best first, leaving out those whose missing maps would cost too much."""
    left = ENSEMBLE_SHARE * search_forwards
    members: list[Configuration] = []
    for each in (each.tuned for each in found):
        missing = 0 if each.scored(objective.race.n) else objective.race.n
        if len(members) < LARGEST_ENSEMBLE and missing * each.forwards_per_sample <= left:
            left -= missing * each.forwards_per_sample
            members.append(each)
    return members
