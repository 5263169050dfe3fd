from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnpxai.limits import Limit, OneOf, OrNone, WholeWithin, Within


@pytest.mark.parametrize(
    ("limit", "value", "allowed"),
    [
        (Within(0, 1), 0, True),
        (Within(0, 1), 1.0, True),
        (Within(0, 1), 1.0000001, False),
        (Within(0, 1, low_open=True), 0.0, False),
        (Within(0, 1, low_open=True), 5e-324, True),
        (Within(0, 1, high_open=True), 1, False),
        (Within(0, 1), True, False),
        (Within(0, 1), "0.5", False),
        (Within(0, 1), None, False),
        (Within(0, 1), 0.5 + 0j, False),
        (Within(0), math.nan, False),
        (Within(0), math.inf, False),
        (Within(), -math.inf, False),
        (Within(0, 1), np.float32(0.5), True),
        (Within(0, 1), np.int64(2), False),
        (Within(0, 1), Fraction(1, 3), True),
        (Within(0, 1), (0.1, 0.9), True),
        (Within(0, 1), [0.1, 1.9], False),
        (Within(0, 1), (), False),
        (WholeWithin(1), 3, True),
        (WholeWithin(1), np.int32(3), True),
        (WholeWithin(1), 3.0, False),
        (WholeWithin(1), True, False),
        (WholeWithin(1), (7, 7), True),
        (WholeWithin(1), (7, 0), False),
        (WholeWithin(1), (7, 7.5), False),
        (OneOf(("a", None)), "a", True),
        (OneOf(("a", None)), None, True),
        (OneOf(("a", None)), "b", False),
        (OrNone(WholeWithin(1)), None, True),
        (OrNone(WholeWithin(1)), 0, False),
        (OrNone(OneOf(("a",))), "a", True),
    ],
)
def test_what_is_allowed(limit: Limit, value: object, allowed: bool) -> None:
    assert limit.allows(value) is allowed


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Within(0, 1), "a number in [0, 1]"),
        (Within(0, 1, low_open=True, high_open=True), "a number in (0, 1)"),
        (WholeWithin(1), "a whole number in [1, inf)"),
        (OneOf(("a", 3)), "one of 'a', 3"),
        (OrNone(WholeWithin(1, 4)), "None or a whole number in [1, 4]"),
    ],
)
def test_what_it_says(limit: Limit, text: str) -> None:
    assert str(limit) == text


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-20, 20), st.booleans(), st.booleans())
def test_an_interval(low: float, high: float, value: float, low_open: bool, high_open: bool) -> None:
    expected = low <= value <= high and not (low_open and value == low) and not (high_open and value == high)
    assert Within(low, high, low_open, high_open).allows(value) is expected
