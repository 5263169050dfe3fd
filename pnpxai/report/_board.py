"""The leaderboard as lines of numbers and marks on common axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pnpxai.report._charts import Axis, axis_over
from pnpxai.report._numbers import mean
from pnpxai.tuning import Configuration, Entry, TuneResult

STRIP = 104.0
"""Width of the small charts in the table."""


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        numbers: what `TuneResult.leaderboard` holds.
        use: which settings to use, or why none.
        estimated: the tuning score is an estimate: the race stopped it, or what its seed gained by luck is taken off.
        stopped: the race stopped it, and nothing else is known.
        tuned_at, default_at: where the marks lie; None where there is no score.
        gain_at: low end, mean and high end; None without an interval.
        better_found: something else than the default.
        confirmed: the hold-out confirms the gain.
    """

    numbers: dict[str, Any]
    use: str
    estimated: bool
    stopped: bool
    tuned_at: float | None
    default_at: float | None
    gain_at: tuple[float, ...] | None
    better_found: bool
    confirmed: bool


@dataclass(frozen=True)
class Control:
    """The mean score of maps that know nothing of the model, and where its mark lies."""

    name: str
    score: float
    at: float


@dataclass(frozen=True)
class Board:
    """The leaderboard with its two small charts, of scores and of gains."""

    rows: tuple[Row, ...]
    controls: tuple[Control, ...]
    scores: Axis
    gains: Axis


def lines(result: TuneResult) -> list[Entry]:
    """Every explainer and the ensemble in the leaderboard's order: the ensemble first where it won, otherwise last."""
    if result.ensemble is None:
        return list(result.entries)
    if result.winner is result.ensemble:
        return [result.ensemble, *result.entries]
    return [*result.entries, result.ensemble]


def used(result: TuneResult, entry: Entry) -> Configuration:
    """The configuration of an explainer to use, by the hold-out or by the other metric."""
    return result.recommended if entry is result.winner else entry.recommended


def stopped(result: TuneResult, entry: Entry) -> bool:
    """Whether the race stopped an explainer before it was scored on all tuning samples."""
    return not entry.tuned.scored(len(result.tuning_index))


def board(result: TuneResult) -> Board:
    """The leaderboard and the controls on common axes."""
    entries = lines(result)
    table = result.leaderboard.to_dict("records")[: len(entries)]
    controls = {name: mean(scores) for name, scores in result.controls.items()}
    scored = [row[column] for row in table for column in ("tuned_score", "default_score")]
    scores = axis_over([*scored, *controls.values()], STRIP)
    ends = [row[column] for row in table for column in ("gain_low", "gain", "gain_high")]
    gains = axis_over([0.0, *ends], STRIP, least=(scores.high - scores.low) / 10)
    rows = []
    for row, entry in zip(table, entries, strict=True):
        interval = [_at(gains, row[column]) for column in ("gain_low", "gain", "gain_high")]
        tuned = entry.tuned is not entry.default
        rows.append(
            Row(
                {str(name): value for name, value in row.items()},
                _use(result, entry),
                stopped(result, entry) or bool(entry.tuned.seed_luck),
                stopped(result, entry),
                _at(scores, row["tuned_score"]),
                _at(scores, row["default_score"]),
                tuple(each for each in interval if each is not None) if None not in interval else None,
                tuned,
                tuned and entry.gain is not None and entry.gain.confirmed,
            )
        )
    marks = tuple(Control(name, score, scores(score)) for name, score in controls.items() if math.isfinite(score))
    return Board(tuple(rows), marks, scores, gains)


def _at(axis: Axis, value: float) -> float | None:
    return axis(value) if math.isfinite(value) else None


def _use(result: TuneResult, entry: Entry) -> str:
    if stopped(result, entry):
        return "stopped"
    if entry is result.ensemble:
        return "average" if entry is result.winner else "not used"
    return "default" if used(result, entry) is entry.default else "tuned"
