"""What the samples say that the tuning never saw, or another metric where there are none."""

from __future__ import annotations

import math

from pnpxai.report._board import stopped
from pnpxai.report._numbers import number, p_value, share
from pnpxai.tuning import Gain, TuneResult
from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM


def judgement(result: TuneResult) -> list[str]:
    """Tuned against default, and against the next explainer."""
    return [_on_unseen(result), _by_another_metric(result), _runner_up(result)]


def _on_unseen(result: TuneResult) -> str:
    entry, gain = result.winner, result.winner.gain
    if gain is None or entry.tuned is entry.default:
        return ""
    together = entry is result.ensemble
    first, second = ("together they score", f"{result.entries[0].name} alone")
    if not together:
        first, second = ("the tuned settings score", "the default ones")
    return (
        f"On {gain.n} samples the tuning never saw, {first} {number(result.score)} and {second} "
        f"{number(result.default_score)}; paired gain {number(gain.mean, '+')}, {_interval(gain)}, better on "
        f"{share(gain.win_rate)} of them{_p_value(result)}. {_ending(gain, together)}"
    )


def _interval(gain: Gain) -> str:
    return f"95 % interval {number(gain.low, '+')} to {number(gain.high, '+')}"


def _p_value(result: TuneResult) -> str:
    gain = result.winner.gain
    if gain is None or math.isnan(gain.p_value):
        return ""
    if math.isnan(gain.p_adjusted):
        return f" (Wilcoxon {_p(gain.p_value)})"
    tests = sum(each.gain is not None and each.tuned is not each.default for each in result.entries)
    adjusted = f", adjusted by Holm for {tests} explainers" if tests > 1 else ""
    return f" (Wilcoxon {_p(gain.p_adjusted)}{adjusted})"


def _p(value: float) -> str:
    shown = p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _ending(gain: Gain, together: bool) -> str:
    winner, loser = ("average", "best of them alone") if together else ("tuned settings", "default settings")
    verb = "is" if together else "are"
    if gain.confirmed:
        return f"The interval lies above zero: the {winner} {verb} recommended."
    if gain.n < FEWEST_TO_CONFIRM:
        return (
            f"So few samples allow no statement at 95 % (it takes {FEWEST_TO_CONFIRM}): the {loser} {verb} recommended."
        )
    return f"The interval reaches zero: the {loser} {verb} recommended."


def _by_another_metric(result: TuneResult) -> str:
    opinion = result.opinion
    if opinion is None:
        return ""
    name = type(opinion.metric).__name__
    tuned, default = (sum(each) / len(each) for each in (opinion.tuned, opinion.default))
    ending = (
        "It agrees, on samples that were tuned on: the tuned settings are recommended."
        if opinion.agrees
        else "It does not agree: the default settings are recommended."
    )
    baseline = getattr(opinion.metric, "baseline_fn", None)
    by = f" with the baseline {getattr(baseline, 'NAME', baseline)}" if baseline is not None else ""
    return (
        f"There was no hold-out, so another metric was asked that was not tuned for: by {name}{by} the tuned settings "
        f"score {number(tuned)} and the default ones {number(default)}. {ending}"
    )


def _runner_up(result: TuneResult) -> str:
    gain = result.runner_up
    if gain is None or len(result.entries) < 2 or stopped(result, result.entries[1]):
        return ""
    first, second = (each.name for each in result.entries[:2])
    if gain.confirmed:
        ending = f"{first} is better on unseen samples, too."
    elif gain.n >= FEWEST_TO_CONFIRM and gain.high < 0:
        ending = f"The hold-out speaks for {second}."
    else:
        ending = "The hold-out does not settle which is better."
    return (
        f"{first} and the next explainer, {second}, each in its best settings, differ by {number(gain.mean, '+')} on "
        f"the {gain.n} hold-out samples, {_interval(gain)}. {ending}"
    )
