"""Faithfulness against cost: every trial as a point, those that no other beats in both joined and listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pnpxai.report._charts import Axis, LogAxis, axis_over
from pnpxai.report._contents import in_words
from pnpxai.tuning import Choice, TuneResult

WIDTH, HEIGHT = 640.0, 250.0
LEFT, TOP, RIGHT, BOTTOM = 46.0, 10.0, 14.0, 36.0
WIDE = 10.0
"""Ratio of the dearest trial to the cheapest above which costs are drawn by their logarithm."""
LETTER, LINE = 5.8, 12.0
"""About the size of a letter of a label."""
FEWEST = 3
"""With fewer trials there is nothing to draw."""
ALSO = ("complexity", "stability", "localisation")
"""Aims that the table shows where they were measured."""


@dataclass(frozen=True)
class Point:
    """One trial: ``style`` says whether it is of the front, another, or one that the race stopped."""

    x: float
    y: float
    style: str
    title: str


@dataclass(frozen=True)
class Label:
    """The name of an explainer beside its first point of the front."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Listed:
    """One trial of the front in the table: numbers that were not measured are None."""

    choice: Choice
    settings: str
    others: tuple[float | None, ...]


@dataclass(frozen=True)
class Front:
    """The chart and the table.

    Attributes:
        across, up: cost and score.
        points: the front's last, so that they lie on top.
        steps: the line that joins the front, as SVG points.
        labels: names of the front's explainers.
        listed: the front, best score first.
        others: names of the other aims that were measured of a trial of the front.
    """

    across: Axis | LogAxis
    up: Axis
    points: tuple[Point, ...]
    steps: str
    labels: tuple[Label, ...]
    listed: tuple[Listed, ...]
    others: tuple[str, ...]
    width: float = WIDTH
    height: float = HEIGHT


def front(result: TuneResult) -> Front | None:
    """Score against runtime; None with too few trials."""
    if len(result.trials) < FEWEST:
        return None
    found = result.pareto("score", "runtime")
    trials = [*found.dominated, *found.front]
    across = _costs([each.values["runtime"] for each in trials])
    reach = axis_over([each.values["score"] for each in trials], 1.0)
    up = Axis(reach.low, reach.high, HEIGHT - TOP - BOTTOM, TOP, True)
    points = [_point(each, each in found.front, across, up) for each in trials]
    best = sorted(found.front, key=lambda each: each.values["runtime"])
    others = tuple(name for name in ALSO if any(name in each.values for each in found.front))
    listed = [
        Listed(each, in_words(each.explainer, each.postprocessor), tuple(each.values.get(name) for name in others))
        for each in found.front
    ]
    return Front(
        across, up, tuple(points), _steps(best, across, up), tuple(_labels(best, across, up)), tuple(listed), others
    )


def _costs(values: Sequence[float]) -> Axis | LogAxis:
    length = WIDTH - LEFT - RIGHT
    low, high = min(values), max(values)
    if low > 0 and high > WIDE * low:
        return LogAxis(low / 1.3, high * 1.3, length, LEFT)
    reach = axis_over([0.0, *values], 1.0)
    return Axis(min(0.0, low), reach.high, length, LEFT)


def _point(choice: Choice, best: bool, across: Axis | LogAxis, up: Axis) -> Point:
    score, seconds = choice.values["score"], choice.values["runtime"]
    style = ("best" if best else "other") + ("" if choice.complete else " stopped")
    return Point(
        across(seconds), up(score), style, f"{choice.name}, trial {choice.number}: {score:.3f}, {seconds:.2g} s"
    )


def _steps(best: Sequence[Choice], across: Axis | LogAxis, up: Axis) -> str:
    """The best score that may be had for a cost: level up to the next dearer trial."""
    points: list[str] = []
    for each in best:
        x, y = across(each.values["runtime"]), up(each.values["score"])
        if points:
            points.append(f"{x},{points[-1].partition(',')[2]}")
        points.append(f"{x},{y}")
    return " ".join(points)


def _labels(best: Sequence[Choice], across: Axis | LogAxis, up: Axis) -> list[Label]:
    """Each explainer's name once, where it covers no other; a name without room is left to the table."""
    placed: list[Label] = []
    taken: list[tuple[float, float, float, float]] = []
    for each in best:
        if each.name in [label.text for label in placed]:
            continue
        x, y, width = across(each.values["runtime"]), up(each.values["score"]), LETTER * len(each.name)
        for dx, dy, anchor in ((8, 13, "start"), (8, -6, "start"), (-8, -6, "end"), (-8, 13, "end")):
            left = x + dx - (width if anchor == "end" else 0)
            box = (left, y + dy - LINE, left + width, y + dy)
            inside = left >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                placed.append(Label(round(x + dx, 2), round(y + dy, 2), anchor, each.name))
                taken.append(box)
                break
    return placed


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
