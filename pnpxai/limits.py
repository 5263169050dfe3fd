"""The values an argument may take at all, declared on a class and checked when an object is built."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Within:
    """The finite numbers an argument may take (each element, where the argument is a tuple)."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def allows(self, value: Any) -> bool:
        """Whether every number of ``value`` lies inside."""
        if isinstance(value, tuple | list):
            return len(value) > 0 and all(self.allows(each) for each in value)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            return False
        number = float(value)
        above = number > self.low if self.low_open else number >= self.low
        return above and (number < self.high if self.high_open else number <= self.high)

    def __str__(self) -> str:
        left = "(" if self.low_open or math.isinf(self.low) else "["
        right = ")" if self.high_open or math.isinf(self.high) else "]"
        return f"a number in {left}{self.low}, {self.high}{right}"


@dataclass(frozen=True)
class WholeWithin(Within):
    """The whole numbers an argument may take (each element, where the argument is a tuple)."""

    def allows(self, value: Any) -> bool:
        """Whether every number of ``value`` is whole and lies inside."""
        if isinstance(value, tuple | list):
            return super().allows(value)
        return isinstance(value, numbers.Integral) and super().allows(value)

    def __str__(self) -> str:
        return super().__str__().replace("a number", "a whole number")


@dataclass(frozen=True)
class OneOf:
    """The values an argument may take, listed."""

    values: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        """Whether ``value`` is one of the listed."""
        return any(value is each or value == each for each in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(each) for each in self.values)


@dataclass(frozen=True)
class OrNone:
    """A limit that lets ``None`` through."""

    limit: Within | OneOf

    def allows(self, value: Any) -> bool:
        """Whether ``value`` is ``None`` or inside the limit."""
        return value is None or self.limit.allows(value)

    def __str__(self) -> str:
        return f"None or {self.limit}"


Limit: TypeAlias = Within | OneOf | OrNone
