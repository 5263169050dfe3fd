"""A result as a table and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pnpxai.tuning._ensemble import ENSEMBLE
from pnpxai.tuning._result import Entry, TuneResult, judging_score

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(result: TuneResult) -> pd.DataFrame:
    """The table behind `TuneResult.leaderboard`."""
    import pandas as pd

    entries = [*result.entries, *([result.ensemble] if result.ensemble else [])]
    if result.winner is result.ensemble:
        entries = [*entries[-1:], *entries[:-1]]
    rows = [_row(each, result) for each in entries]
    rows += [{"explainer": name, "settings": "failed", "failure": why} for name, why in result.failed.items()]
    rows += [{"explainer": name, "settings": "not tried"} for name in result.untried]
    return pd.DataFrame(rows)


def _row(entry: Entry, result: TuneResult) -> dict[str, Any]:
    gain = None if entry.tuned is entry.default else entry.gain
    used = result.recommended if entry is result.winner else entry.recommended
    settings = "tuned" if used is not entry.default else "default"
    complete = entry.tuned.scored(len(result.tuning_index))
    if entry is result.ensemble:
        settings = "ensemble" if entry is result.winner else "not used"
    return {
        "explainer": entry.name,
        "settings": settings if complete else "stopped",
        "tuning_score": entry.tuned.estimate,
        "tuned_score": judging_score(entry.tuned) if complete else math.nan,
        "default_score": judging_score(entry.default) if complete else math.nan,
        "gain": gain.mean if gain else math.nan,
        "gain_low": gain.low if gain else math.nan,
        "gain_high": gain.high if gain else math.nan,
        "p_value": gain.p_adjusted if gain else math.nan,
        "win_rate": gain.win_rate if gain else math.nan,
        "n_judged": len(entry.tuned.holdout_scores or entry.tuned.tuning_scores),
        "forwards_per_sample": entry.tuned.forwards_per_sample,
        "seconds_per_sample": entry.tuned.seconds_per_sample,
        "n_trials": entry.n_trials,
        "parameters": shown(entry.tuned.params if not complete or entry is result.ensemble else used.params),
        "failure": "; ".join(entry.failures),
    }


def as_text(result: TuneResult) -> str:
    """The leaderboard, the verdict and the caveats."""
    board = result.leaderboard.drop(columns=["parameters", "p_value", "win_rate", "seconds_per_sample"])
    table = board.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")
    better = "higher" if type(result.metric).HIGHER_IS_BETTER else "lower"
    head = f"{type(result.metric).__name__}, {better} is better; best tuning score first, then what the race stopped"
    return "\n".join([head, table, "", result.verdict, *(f"Note: {each}" for each in result.caveats)])


def verdict(result: TuneResult) -> str:
    """The recommendation in a sentence or two."""
    entry, gain = result.winner, result.winner.gain
    metric = type(result.metric).__name__
    if entry.tuned is entry.default:
        others = entry.n_trials - 1
        tried = f"nothing better was found in {others} other trials" if others > 0 else "no other settings were tried"
        return f"Use {entry.name} with its default settings ({metric} {result.score:.3f}): {tried}."
    if not entry.default.tuning_scores:
        return f"Use {entry.name} with {shown(entry.tuned.params)}; its default settings failed."
    if gain is None:
        return _without_holdout(result)
    interval = (
        f"{gain.mean:+.3f} {metric} on {gain.n} unseen samples, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    )
    if entry.name == ENSEMBLE:
        members = entry.tuned.params["members"]
        return f"Use {entry.name}, the average of {members} by the ranks of their maps: {interval} against the best."
    if gain.confirmed:
        return f"Use {entry.name} with {shown(entry.tuned.params)}: {interval} against its default."
    return f"Use {entry.name} with its default settings: the tuned ones are not confirmed ({interval})."


def _without_holdout(result: TuneResult) -> str:
    entry, opinion = result.winner, result.opinion
    metric = type(result.metric).__name__
    scores = f"{result.score:.3f} against {result.default_score:.3f} {metric}"
    if opinion is None:
        return (
            f"Use {entry.name} with {shown(entry.tuned.params)}; there was no hold-out, so the gain over its "
            f"default ({scores}) is not confirmed."
        )
    other = type(opinion.metric).__name__
    if opinion.agrees:
        return (
            f"Use {entry.name} with {shown(entry.tuned.params)}: there was no hold-out, but {other}, which was not "
            f"tuned for, finds it better than its default too ({opinion.gain:+.3f}; {scores})."
        )
    return (
        f"Use {entry.name} with its default settings: there was no hold-out, and {other}, which was not tuned for, "
        f"does not find the tuned ones better ({opinion.gain:+.3f})."
    )


def shown(params: Mapping[str, Any]) -> str:
    """Parameters in a line, without the explainer's name."""
    return (
        ", ".join(f"{name.partition('.')[2] or name}={_number(value)}" for name, value in params.items()) or "default"
    )


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
