"""Numbers as they are printed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def mean(scores: Sequence[float]) -> float:
    """The mean, NaN for none."""
    return math.fsum(scores) / len(scores) if scores else math.nan


def number(value: float | None, sign: str = "") -> str:
    """Three decimals with a true minus sign; a dash for what is not there.

    Args:
        value: the number.
        sign: ``"+"`` to put a plus before what is not negative.

    Example:
        >>> number(-0.0316), number(0.5, "+"), number(None)
        ('−0.032', '+0.500', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{sign}.3f}".replace("-", "−")


def share(value: float | None) -> str:
    """A share in per cent.

    Example:
        >>> share(0.6875), share(float("nan"))
        ('69 %', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def p_value(value: float | None) -> str:
    """A p value: below a thousandth only that.

    Example:
        >>> p_value(0.0312), p_value(1e-6)
        ('0.031', '< 0.001')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def minus(text: str) -> str:
    """A text with true minus signs before its numbers.

    Example:
        >>> minus("a 95 % interval, -0.5 to +1e-3 (-2)")
        'a 95 % interval, −0.5 to +1e-3 (−2)'
    """
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def tick(value: float) -> str:
    """A round number on an axis, as short as it can be.

    Example:
        >>> tick(-0.2), tick(0.0), tick(10.0)
        ('−0.2', '0', '10')
    """
    return f"{value:.6g}".replace("-", "−")


def cost(value: float | None, unit: str = "") -> str:
    """A cost to two or three digits, whole numbers in groups of three.

    Example:
        >>> cost(1500.0), cost(0.0123, "s"), cost(float("nan"))
        ('1 500', '0.012 s', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.0f}".replace(",", " ") if value >= 100 or value == round(value) else f"{value:.2g}"
    return f"{text} {unit}" if unit else text


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
