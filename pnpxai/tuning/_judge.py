"""Judging what a search found, on samples that it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tqdm.auto import tqdm

from pnpxai.errors import PnPXAIError
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._result import Configuration, Entry
from pnpxai.tuning._standings import Standing
from pnpxai.tuning._statistics import Gain, holm, paired_gain


def judge(
    found: Sequence[Standing], objective: Objective, holdout_index: Sequence[int], seed: int, progress: bool = False
) -> tuple[list[Entry], dict[str, str]]:
    """Tuned and default configuration of each explainer that ran the whole race, on the hold-out; and who failed there.

    Those that the race stopped have lost already, and are not explained again.
    """
    entries: list[Entry] = []
    failed: dict[str, str] = {}
    open_still = [each for each in found if each.tuned.scored(objective.race.n)]
    for each in tqdm(open_still, desc="judging", unit="explainer", disable=not progress or not holdout_index):
        try:
            entries.append(_judged(each, objective, holdout_index, seed))
        except PnPXAIError as error:
            failed[each.name] = f"on the hold-out: {error}"
    entries += [
        Entry(each.name, each.default, each.tuned, None, each.n_trials, each.failures)
        for each in found
        if each not in open_still
    ]
    return adjusted(entries), failed


def unseen(objective: Objective, configuration: Configuration, holdout_index: Sequence[int]) -> Configuration:
    """The configuration with its scores on the hold-out."""
    if not holdout_index:
        return configuration
    scores = objective.scores(configuration.explainer, configuration.postprocessor, holdout_index)
    return replace(configuration, holdout_scores=tuple(scores))


def gain_of(one: Configuration, other: Configuration, objective: Objective, seed: int) -> Gain | None:
    """One configuration against another on the hold-out; None where one was not scored there."""
    if not one.holdout_scores or not other.holdout_scores:
        return None
    return paired_gain(
        one.holdout_scores, other.holdout_scores, higher_is_better=objective.race.higher_is_better, seed=seed
    )


def _judged(standing: Standing, objective: Objective, holdout_index: Sequence[int], seed: int) -> Entry:
    tuned = unseen(objective, standing.tuned, holdout_index)
    default = tuned
    if standing.tuned is not standing.default:
        default = standing.default
        if default.tuning_scores:
            default = unseen(objective, default, holdout_index)
    gain = gain_of(tuned, default, objective, seed)
    return Entry(standing.name, default, tuned, gain, standing.n_trials, standing.failures)


def adjusted(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with their gains' p values adjusted for as many explainers as had a gain to show."""
    p_values = [each.gain.p_value if each.gain and each.tuned is not each.default else math.nan for each in entries]
    return [
        replace(each, gain=replace(each.gain, p_adjusted=p)) if each.gain else each
        for each, p in zip(entries, holm(p_values), strict=True)
    ]
