"""Paired statistics on per-sample scores: is a gain confirmed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_TO_CONFIRM = 6
"""With fewer pairs not even gains on all of them are beyond chance at two-sided 95 % (2 · 2⁻ⁿ > .05 for n < 6)."""


@dataclass(frozen=True)
class Gain:
    """Paired differences on samples the tuning never saw, positive where the first is better.

    Attributes:
        mean: the mean difference.
        low, high: its 95 % interval: the BCa bootstrap's (Efron, 1987), widened to `mean_interval` where that is wider,
            because a bootstrap is too sure of itself with few samples; NaN with fewer than two.
        win_rate: share of samples on which the first is better, ties counting half.
        n: number of samples.
        p_value: two-sided Wilcoxon signed-rank test; 1 where all scores are equal, NaN with fewer than two samples.
        p_adjusted: the same by Holm's method, for as many explainers as were judged.
    """

    mean: float
    low: float
    high: float
    win_rate: float
    n: int
    p_value: float = math.nan
    p_adjusted: float = math.nan

    @property
    def confirmed(self) -> bool:
        """Whether the interval lies above zero and rests on enough samples."""
        return self.n >= FEWEST_TO_CONFIRM and self.low > 0


def paired_gain(
    scores: Sequence[float], reference: Sequence[float], *, higher_is_better: bool = True, seed: int = 0
) -> Gain:
    """How much better ``scores`` are than ``reference`` on the same samples; ``seed`` is the bootstrap's.

    Example:
        >>> gain = paired_gain([0.5, 0.6, 0.7, 0.6, 0.5, 0.7], [0.1, 0.1, 0.3, 0.1, 0.2, 0.2])
        >>> round(gain.mean, 3), gain.confirmed
        (0.433, True)
    """
    difference = np.asarray(scores, dtype=float) - np.asarray(reference, dtype=float)
    if not higher_is_better:
        difference = -difference
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    win_rate = float(((difference > 0) + 0.5 * (difference == 0)).mean()) if n else math.nan
    if n < 2:
        return Gain(mean, math.nan, math.nan, win_rate, n)
    lows, highs = zip(mean_interval(difference), bootstrap_interval(difference, seed), strict=True)
    from scipy import stats

    telling = difference[difference != 0]
    p_value = float(stats.wilcoxon(telling).pvalue) if len(telling) else 1.0
    return Gain(mean, min(lows), max(highs), win_rate, n, p_value)


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """The BCa bootstrap's 95 % interval for the mean behind at least two values (Efron, 1987), of 9,999 resamples."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    from scipy import stats

    scale = float(np.abs(values).max())  # the cubes in the acceleration stay in range
    interval = stats.bootstrap(
        (values / scale,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(seed)
    ).confidence_interval
    return scale * float(interval.low), scale * float(interval.high)


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval for the mean behind at least two values: on each side the wider of two.

    One is Student's; the other is corrected for skewness by Hall's cubic (Hall, 1992, J. R. Stat. Soc. B 54, 221):
    ``t + c t²/3 + c² t³/27 + c/6`` with ``c = skewness/√n`` is nearer to Student's t than the t statistic itself. A
    bootstrap's percentiles or BCa are too narrow for few values. By simulation with mean 0, for 6, 8, 16 and 32 values,
    BCa lies above 0 in 7, 6, 4 and 3 % of cases if they are normal. This lies there in 2 %, and in no more than 2.3 %
    if they are uniform, heavy-tailed (t, 3 degrees) or half of them tied; but where rare large losses hide behind many
    small gains in 3.7, 3.6, 3.2 and 2.9 % (mirrored gamma, shape 4) or 5.6, 5.1, 4.0 and 3.2 % (mirrored exponential).

    Example:
        >>> low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    n, mean = len(values), float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean
    from scipy import stats

    scale = float(np.abs(values).max())  # squares and cubes of the scaled values stay in range
    centred = values / scale - (values / scale).mean()
    spread = float((centred**2).mean())
    skewness = float((centred**3).mean()) / spread**1.5 * math.sqrt(n * (n - 1)) / (n - 2) if n > 2 else 0.0
    error = scale * math.sqrt(spread / (n - 1))
    t = float(stats.t.ppf(0.975, n - 1))
    c = skewness / math.sqrt(n)
    ends = [t, -t] if abs(c) < 1e-9 else [3 / c * (float(np.cbrt(1 + c * (each - c / 6))) - 1) for each in (t, -t)]
    return mean - max(t, ends[0]) * error, mean - min(-t, ends[1]) * error


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for several questions by Holm's step-down method (Holm, 1979); NaN stays, and is not counted.

    Example:
        >>> [round(each, 3) for each in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    places = sorted((i for i, each in enumerate(p_values) if not math.isnan(each)), key=lambda i: p_values[i])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(places):
        largest = max(largest, min(1.0, (len(places) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
