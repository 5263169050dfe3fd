from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM, holm, mean_interval, paired_gain


def test_interval_of_symmetric_differences_is_students() -> None:
    away = np.array([0.1, 0.25, 0.3, 0.7])
    first, second = np.concatenate([0.2 + away, 0.2 - away]), np.zeros(8)
    expected = stats.ttest_1samp(first, 0).confidence_interval()
    gain = paired_gain(first, second)
    assert gain.mean == pytest.approx(0.2)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert gain.win_rate == 0.625


@pytest.mark.parametrize("scale", [-1.0, 1.0, 1e-200, 1e100])
def test_interval_of_skewed_differences_is_widened_to_where_halls_cubic_is_students_quantile(scale: float) -> None:
    x = scale * np.array([0.1, 0.2, 0.15, 0.3, 0.1, 2.5])
    n, mean, error = len(x), np.mean(x), abs(scale) * stats.sem(x / scale)
    c = stats.skew(x / abs(scale), bias=False) / math.sqrt(n)
    t = stats.t.ppf(0.975, n - 1)

    def cubic(share: float) -> float:
        return share + c * share**2 / 3 + c**2 * share**3 / 27 + c / 6

    corrected = [mean - optimize.brentq(lambda s, q=q: cubic(s) - q, -50, 50) * error for q in (t, -t)]
    gain = paired_gain(x, np.zeros(n))
    assert gain.low == pytest.approx(min(mean - t * error, corrected[0]), rel=1e-9, abs=0)
    assert gain.high == pytest.approx(max(mean + t * error, corrected[1]), rel=1e-9, abs=0)
    assert (gain.low == pytest.approx(corrected[0], rel=1e-9, abs=0)) == (scale < 0)  # the long tail's side is widened
    assert (gain.high == pytest.approx(corrected[1], rel=1e-9, abs=0)) == (scale > 0)


def test_interval_reaches_at_least_as_far_as_scipys_bca() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        difference = rng.exponential(size=40) - 1
        bca = stats.bootstrap(
            (difference,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(7)
        ).confidence_interval
        gain, calibrated = paired_gain(difference, np.zeros(40), seed=7), mean_interval(difference)
        assert gain.low == pytest.approx(min(bca.low, calibrated[0]), abs=1e-3)
        assert gain.high == pytest.approx(max(bca.high, calibrated[1]), abs=1e-3)


def test_two_samples_have_students_interval() -> None:
    gain = paired_gain([0.3, 0.1], [0.0, 0.0])
    half = stats.t.ppf(0.975, 1) * 0.1
    assert (gain.low, gain.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_lower_is_better_turns_the_sign() -> None:
    scores, reference = [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2], [0.4, 0.3, 0.5, 0.4, 0.6, 0.3, 0.5]
    gain = paired_gain(scores, reference, higher_is_better=False)
    assert gain.mean == pytest.approx(np.mean(np.subtract(reference, scores)))
    assert gain.confirmed
    assert gain.win_rate == 1.0


def test_few_samples_never_confirm() -> None:
    for n in range(FEWEST_TO_CONFIRM):
        assert not paired_gain([1.0 + i / 10 for i in range(n)], [0.0] * n).confirmed


def test_equal_scores_are_no_gain() -> None:
    gain = paired_gain([0.3] * 8, [0.3] * 8)
    assert (gain.mean, gain.low, gain.high, gain.win_rate) == (0.0, 0.0, 0.0, 0.5)
    assert not gain.confirmed
    assert math.isnan(paired_gain([1.0], [0.0]).low)


DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], NDArray[np.float64]], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.025),
    "uniform": (lambda rng, n: rng.uniform(-1, 1, n), 0.025),
    "heavy tails": (lambda rng, n: rng.standard_t(3, n), 0.025),
    "half ties": (lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.5), 0.025),
    "rare large gains": (lambda rng, n: rng.gamma(4, size=n) - 4, 0.025),
    "rare large losses": (lambda rng, n: 4 - rng.gamma(4, size=n), 0.04),
}
"""Differences of mean zero, and how often a gain may be confirmed in the long run."""


@pytest.mark.parametrize("n", [6, 8, 16, 32])
@pytest.mark.parametrize("kind", DRAWS)
def test_chance_is_rarely_confirmed(kind: str, n: int) -> None:
    """With no difference between the two, at most about one run in forty lies above zero (two-sided 95 %)."""
    draw, share = DRAWS[kind]
    rng, runs = np.random.default_rng(n), 1500
    confirmed = sum(mean_interval(draw(rng, n))[0] > 0 for _ in range(runs))
    assert confirmed <= stats.binom.ppf(0.995, runs, share)


def test_a_real_gain_is_found() -> None:
    rng = np.random.default_rng(0)
    found = [paired_gain(rng.normal(1.5, 1, 8), np.zeros(8)).confirmed for _ in range(200)]
    assert np.mean(found) > 0.8  # Student's test: .95


def test_holm_steps_down_and_never_falls() -> None:
    """Holm (1979): the smallest is multiplied by how many there are, the next by one less, and so on."""
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.02


def test_p_value_is_wilcoxons_over_the_samples_that_differ() -> None:
    first, second = np.array([0.5, 0.6, 0.7, 0.4, 0.3]), np.array([0.4, 0.4, 0.4, 0.0, 0.3])
    assert paired_gain(first, second).p_value == pytest.approx(2 / 2**4)  # four gains of four
    assert paired_gain(first, first).p_value == 1.0
