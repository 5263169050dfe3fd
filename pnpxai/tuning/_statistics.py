"""Paired statistics on per-sample scores: has a candidate lost, and is a gain confirmed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST_TO_CONFIRM = 6
"""With fewer pairs no rank- or resampling-based two-sided 95 % statement exists (2 · 2⁻ⁿ > .05 for n < 6)."""


@dataclass(frozen=True)
class Gain:
    """Paired differences on samples the tuning never saw, positive where the first is better.

    Attributes:
        mean: the mean difference.
        low, high: its 95 % BCa bootstrap interval (Efron, 1987); NaN with fewer than two samples.
        win_rate: share of samples on which the first is better, ties counting half.
        n: number of samples.
    """

    mean: float
    low: float
    high: float
    win_rate: float
    n: int

    @property
    def confirmed(self) -> bool:
        """Whether the interval lies above zero and rests on enough samples."""
        return self.n >= FEWEST_TO_CONFIRM and self.low > 0


def paired_gain(
    scores: Sequence[float], reference: Sequence[float], *, higher_is_better: bool = True, seed: int = 0
) -> Gain:
    """How much better ``scores`` are than ``reference`` on the same samples.

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
    if np.ptp(difference) == 0:
        return Gain(mean, mean, mean, win_rate, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (difference,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(seed)
        ).confidence_interval
    return Gain(mean, float(interval.low), float(interval.high), win_rate, n)


def has_lost(
    scores: Sequence[float], incumbent: Sequence[float], *, higher_is_better: bool, looks: int, level: float = 0.05
) -> bool:
    """Whether a candidate is worse than the incumbent on the samples scored so far.

    One-sided Wilcoxon signed-rank test, ``level`` shared among ``looks`` repeated looks (Bonferroni).
    """
    difference = np.asarray(scores, dtype=float) - np.asarray(incumbent[: len(scores)], dtype=float)
    if not higher_is_better:
        difference = -difference
    if not difference.any():
        return False
    return bool(stats.wilcoxon(difference, alternative="less").pvalue < level / looks)
