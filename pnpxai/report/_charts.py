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
        """Round values inside, one for every 24 units of length at most."""
        return round_values(self.low, self.high, max(2, min(6, int(self.length / 24))))


@dataclass(frozen=True)
class LogAxis:
    """Maps positive values onto a line of ``length`` units by their logarithm."""

    low: float
    high: float
    length: float
    start: float = 0.0

    def __call__(self, value: float) -> float:
        """Where a value lies.

        Example:
            >>> LogAxis(0.1, 10.0, 100.0)(1.0)
            50.0
        """
        place = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + self.length * place, 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Powers of ten inside; where there are fewer than three, also twice and five times these.

        Example:
            >>> LogAxis(0.05, 3.0, 100.0).ticks, LogAxis(0.5, 200.0, 100.0).ticks
            ((0.05, 0.1, 0.2, 0.5, 1.0, 2.0), (1.0, 10.0, 100.0))
        """
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 2, 5)):
            values = (float(f"{digit}e{power}") for power in powers for digit in digits)
            inside = tuple(each for each in values if self.low <= each <= self.high)
            if len(inside) > 2:
                break
        return inside


def axis_over(values: Iterable[float], length: float, *, margin: float = 0.06, least: float = 0.0) -> Axis:
    """An axis that holds all finite values, with a margin at both ends.

    Args:
        values: what it has to hold; what is not finite is left out.
        length: in the units of the drawing.
        margin: share of the range added at both ends.
        least: the least range, about the middle of the values.
    """
    inside = [each for each in values if math.isfinite(each)] or [0.0]
    low, high = min(inside), max(inside)
    reach = max(high - low, least) or max(abs(high), 1.0)
    middle, half = (low + high) / 2, reach * (0.5 + margin)
    return Axis(middle - half, middle + half, length)


def round_values(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], at most ``most`` and one.

    Example:
        >>> round_values(-0.03, 0.31), round_values(-0.03, 0.31, most=2)
        ((0.0, 0.1, 0.2, 0.3), (0.0, 0.2))
    """
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(each for each in (1, 2, 5, 10) if (high - low) / (each * step) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def polyline(xs: Sequence[float], ys: Sequence[float], across: Axis, up: Axis) -> str:
    """The points of an SVG line.

    Example:
        >>> polyline([0.0, 1.0], [0.0, 1.0], Axis(0, 1, 100), Axis(0, 1, 50, downwards=True))
        '0.0,50.0 100.0,0.0'
    """
    return " ".join(f"{across(x)},{up(y)}" for x, y in zip(xs, ys, strict=True))
