"""Why the verdict is what it is, in sentences."""

from __future__ import annotations

from pnpxai.report._numbers import cost, mean, number
from pnpxai.tuning import Configuration, TuneResult
from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM, Gain


def reasons(result: TuneResult) -> list[str]:
    """What speaks for the recommended explanation, what against it, and its cost."""
    told = [_best_of(result), _on_unseen(result), _beaten_by(result), _beside_controls(result), _cost(result)]
    return [each for each in told if each]


def _best_of(result: TuneResult) -> str:
    better = "higher" if type(result.metric).HIGHER_IS_BETTER else "lower"
    scores = [f"{each.name} with {number(mean(each.tuned.tuning_scores))}" for each in result.entries[:2]]
    return (
        f"It has the best {type(result.metric).__name__} ({better} is better) of {len(result.entries)} explainers on "
        f"the {len(result.tuning_index)} tuning samples: {', before '.join(scores)}."
    )


def _on_unseen(result: TuneResult) -> str:
    gain = result.winner.gain
    if gain is None or result.winner.tuned is result.winner.default:
        return ""
    return (
        f"On {gain.n} samples the tuning never saw, the tuned settings score {number(result.score)} and the default "
        f"ones {number(result.default_score)}; paired gain {number(gain.mean, '+')}, 95 % interval "
        f"{number(gain.low, '+')} to {number(gain.high, '+')}, better on {gain.win_rate:.0%} of them. {_ending(gain)}"
    )


def _ending(gain: Gain) -> str:
    if gain.confirmed:
        return "The interval lies above zero: the tuned settings are recommended."
    if gain.n < FEWEST_TO_CONFIRM:
        return (
            f"So few samples allow no statement at 95 % (it takes {FEWEST_TO_CONFIRM}): the default settings are "
            "recommended."
        )
    return "The interval reaches zero: the default settings are recommended."


def _beaten_by(result: TuneResult) -> str:
    sign = 1 if type(result.metric).HIGHER_IS_BETTER else -1
    own = sign * mean(judged(result.recommended))
    above = [each for each in result.entries[1:] if sign * mean(judged(each.recommended)) > own]
    if not above or not result.holdout_index:
        return ""
    names = ", ".join(f"{each.name} ({number(mean(judged(each.recommended)))})" for each in above)
    return (
        f"On the hold-out it scores {number(sign * own)} as recommended, and others score better: {names}. So few "
        "samples do not settle the order of explainers."
    )


def _beside_controls(result: TuneResult) -> str:
    if not result.controls:
        return ""
    scores = ", ".join(f"{name} {number(mean(each))}" for name, each in result.controls.items())
    return (
        f"Maps that know nothing of the model score {scores} on the same samples; the recommended explanation "
        f"scores {number(mean(judged(result.recommended)))}."
    )


def _cost(result: TuneResult) -> str:
    used = result.recommended
    n = max(len(used.tuning_scores), 1)
    forwards, seconds = cost(used.n_forwards / n), cost(used.seconds / n, "s")
    return f"One explanation costs {forwards} samples through the model and {seconds} here."


def judged(configuration: Configuration) -> tuple[float, ...]:
    """The scores a configuration is compared by: on the hold-out, or on the tuning samples where there is none."""
    return configuration.holdout_scores or configuration.tuning_scores
