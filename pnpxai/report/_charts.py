"""Geometry of the small charts that are drawn with the page's own lines: intervals and curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Maps values onto a line of ``length`` units, with ticks at round values.

    Attributes:
        low, high: the values at the ends.
        length: in the units of the drawing.
        start: where the line begins.
        downwards: large values come first, as heights do in a drawing.
    """

    low: float
    high: float
    length: float
    start: float = 0.0
    downwards: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies.

        Example:
            >>> Axis(0.0, 2.0, 100.0)(0.5), Axis(0.0, 2.0, 100.0, downwards=True)(0.5)
            (25.0, 75.0)
        """
        place = (value - self.low) / (self.high - self.low)
        return round(self.start + self.length * (1 - place if self.downwards else place), 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round values inside, three to six of them."""
        return round_values(self.low, self.high)


def axis_over(values: Iterable[float], length: float, *, margin: float = 0.06, include: float | None = None) -> Axis:
    """An axis that holds all finite values, and ``include``, with a margin at both ends."""
    inside = [each for each in values if math.isfinite(each)] + ([] if include is None else [include])
    low, high = (min(inside), max(inside)) if inside else (0.0, 1.0)
    pad = margin * (high - low) or max(abs(high), 1e-6) * 0.5
    return Axis(low - pad, high + pad, length)


def round_values(low: float, high: float) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], at most six.

    Example:
        >>> round_values(-0.03, 0.31)
        (0.0, 0.1, 0.2, 0.3)
    """
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step *= next((each for each in (1, 2, 5) if (high - low) / (each * step) < 6), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def polyline(xs: Sequence[float], ys: Sequence[float], across: Axis, up: Axis) -> str:
    """The points of an SVG line.

    Example:
        >>> polyline([0.0, 1.0], [0.0, 1.0], Axis(0, 1, 100), Axis(0, 1, 50, downwards=True))
        '0.0,50.0 100.0,0.0'
    """
    return " ".join(f"{across(x)},{up(y)}" for x, y in zip(xs, ys, strict=True))
