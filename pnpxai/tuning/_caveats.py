"""What a reader has to know before trusting the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pnpxai.forward import Targets
from pnpxai.metrics import Metric
from pnpxai.tuning._opinion import Opinion
from pnpxai.tuning._result import Entry
from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM, Gain


def caveats(
    entries: Sequence[Entry],
    n_tuning: int,
    n_holdout: int,
    controls: Mapping[str, Sequence[float]],
    targets: Targets,
    metric: Metric,
    runner_up: Gain | None,
    opinion: Opinion | None,
    exhausted: bool,
) -> list[str]:
    """Sentences."""
    notes: list[str] = []
    if not n_holdout:
        judge = f"; {opinion.metric!r} judged on the same samples" if opinion else ""
        notes.append(
            f"There was no hold-out: scores are those of the samples that were tuned on, which flatters them{judge}."
        )
    elif n_holdout < FEWEST_TO_CONFIRM:
        notes.append(
            f"{n_holdout} hold-out samples cannot confirm a gain at 95 %; it takes at least {FEWEST_TO_CONFIRM}."
        )
    if runner_up is not None and not runner_up.confirmed:
        notes.append(
            f"The hold-out does not settle that {entries[0].name} is better than {entries[1].name} "
            f"({runner_up.mean:+.3f}, {runner_up.low:+.3f} to {runner_up.high:+.3f})."
        )
    stopped = [each.name for each in entries if not each.tuned.scored(n_tuning)]
    if stopped:
        notes.append(
            "Stopped in the race, their tuning scores are estimates and the hold-out was not asked: "
            f"{', '.join(stopped)}."
        )
    untried = sum(each.n_trials <= 1 for each in entries)
    if untried and not exhausted:
        notes.append(
            f"{untried} of {len(entries)} explainers were tried with their default settings only; raise n_trials."
        )
    if exhausted:
        notes.append("There was nothing else to try: the search ended before n_trials.")
    lucky = [each for each in entries if abs(each.tuned.seed_luck) > 0]
    if lucky:
        told = ", ".join(f"{each.name} {each.tuned.seed_luck:+.3f}" for each in lucky)
        notes.append(f"What the seeds of the finalists gained by luck is taken off their tuning scores: {told}.")
    if n_tuning < 16:
        notes.append(f"The search saw {n_tuning} samples; more would make the choice of explainer steadier.")
    if targets is None:
        notes.append("Targets are the predicted classes: this says nothing about whether the predictions are right.")
    if entries and controls:
        winner = entries[0].tuned
        judged = winner.holdout_scores or winner.tuning_scores
        sign = 1 if type(metric).HIGHER_IS_BETTER else -1
        better = [name for name, scores in controls.items() if sign * (np.mean(scores) - np.mean(judged)) >= 0]
        if better:
            notes.append(f"A map that knows nothing of the model does as well by this metric: {', '.join(better)}.")
    return notes
