"""Between search and judgement: do the finalists owe their place to a lucky seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pnpxai.errors import PnPXAIError
from pnpxai.tunable import constructor_parameters
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._race import FIRST_LOOK
from pnpxai.tuning._result import Configuration
from pnpxai.tuning._standings import Standing, order

FINALISTS = 3
"""Explainers whose seeds are varied: the best, and those that may be."""
OTHER_SEEDS = 2
"""Further seeds each of them is tried with …"""
SEEDS_SHARE = 0.1
"""… on as many samples as that share of the search's forwards buys, at least those of a first look."""


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
