"""What a reader has to know before trusting the outcome."""

from __future__ import annotations

from collections.abc import Iterator

from pnpxai.batches import Targets
from pnpxai.targets import is_open
from pnpxai.tuning._result import TuneResult, judging_score, mean
from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM

FEW = 16
"""With fewer tuning samples the order of explainers is mostly chance."""


def caveats(result: TuneResult, targets: Targets, exhausted: bool) -> tuple[str, ...]:
    """Sentences about a result that has none yet.

    Args:
        result: judged.
        targets: as they were given.
        exhausted: the search ended because there was nothing else to try.
    """
    return (
        *_about_judging(result),
        *_about_defaults(result),
        *_about_the_race(result, exhausted),
        *_about_the_data(result, targets),
        *_about_controls(result),
    )


def _about_judging(result: TuneResult) -> Iterator[str]:
    n = len(result.holdout_index)
    if not n:
        judge = f"; {result.opinion.metric!r} judged on the same samples" if result.opinion else ""
        yield f"There was no hold-out: scores are those of the samples that were tuned on, which flatters them{judge}."
    elif n < FEWEST_TO_CONFIRM:
        yield f"{n} hold-out samples cannot confirm a gain at 95 %; it takes at least {FEWEST_TO_CONFIRM}."
    gain = result.runner_up
    if gain is not None and not gain.confirmed:
        first, second = (each.name for each in result.entries[:2])
        interval = f"{gain.mean:+.3f}, {gain.low:+.3f} to {gain.high:+.3f} on {gain.n} samples"
        lead = f"({first} less {second}, each as tuned: {interval})"
        if gain.n >= FEWEST_TO_CONFIRM and gain.high < 0:
            yield f"The hold-out speaks for {second} rather than {first} {lead}."
        else:
            yield f"The hold-out does not settle which of {first} and {second} is better {lead}."


def _about_defaults(result: TuneResult) -> Iterator[str]:
    """The winner was chosen as tuned; where that is not recommended, others may be better in their defaults."""
    entry, n = result.winner, len(result.tuning_index)
    if result.recommended is not entry.default or not entry.default.scored(n):
        return
    sign, own = 1 if type(result.metric).HIGHER_IS_BETTER else -1, mean(entry.default.tuning_scores)
    scored = {each.name: mean(each.default.tuning_scores) for each in result.entries if each.default.scored(n)}
    better = {name: score for name, score in scored.items() if sign * (score - own) > 0}
    if better:
        others = ", ".join(
            f"{name} {better[name]:.3f}" for name in sorted(better, key=lambda name: -sign * better[name])
        )
        yield (
            f"{entry.name} was chosen as tuned. In default settings others have a better "
            f"{type(result.metric).__name__} on the tuning samples: {others}, against {own:.3f}."
        )


def _about_the_race(result: TuneResult, exhausted: bool) -> Iterator[str]:
    stopped = [each.name for each in result.entries if not each.tuned.scored(len(result.tuning_index))]
    if stopped:
        names = ", ".join(stopped)
        yield f"Stopped in the race, so their tuning scores are estimates and the hold-out was not asked: {names}."
    if result.untried:
        yield f"Not tried for want of trials or time: {', '.join(result.untried)}."
    once = [each.name for each in result.entries if each.n_trials <= 1 and type(each.tuned.explainer).TUNABLES]
    if once and not exhausted:
        yield f"Tried once, more trials may do better: {', '.join(once)}."
    if exhausted:
        yield "There was nothing else to try: the search ended before n_trials."
    lucky = [f"{each.name} {each.tuned.seed_luck:+.3f}" for each in result.entries if each.tuned.seed_luck]
    if lucky:
        yield f"What the finalists' seeds gained by luck is taken off their tuning scores: {', '.join(lucky)}."


def _about_the_data(result: TuneResult, targets: Targets) -> Iterator[str]:
    n = len(result.tuning_index)
    if n < FEW:
        yield f"The search saw {n} samples; more would make the choice of explainer steadier."
    if is_open(targets):
        what = "the predicted classes" if targets is None else "read off the predictions"
        yield f"Targets are {what}: this says nothing about whether the predictions are right."


def _about_controls(result: TuneResult) -> Iterator[str]:
    sign = 1 if type(result.metric).HIGHER_IS_BETTER else -1
    own = judging_score(result.recommended)
    better = [name for name, scores in result.controls.items() if sign * (mean(scores) - own) >= 0]
    if better:
        yield f"A map that knows nothing of the model does as well by this metric: {', '.join(better)}."
