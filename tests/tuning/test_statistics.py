from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM, has_lost, paired_gain


def test_interval_is_scipys_bca_on_the_differences() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.5, 0.2, 20), rng.normal(0.4, 0.2, 20)
    expected = stats.bootstrap(
        (first - second,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(7)
    ).confidence_interval
    gain = paired_gain(first, second, seed=7)
    assert gain.mean == pytest.approx(np.mean(first - second))
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert gain.win_rate == np.mean(first > second)


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


def test_chance_is_rarely_confirmed() -> None:
    """With no difference between the two, at most about one run in forty lies above zero (two-sided 95 %)."""
    rng = np.random.default_rng(0)
    confirmed = 0
    for run in range(80):
        first, second = rng.normal(size=(2, 30))
        confirmed += paired_gain(first, second, seed=run).confirmed
    assert confirmed <= stats.binom.ppf(0.999, 80, 0.035)


def test_race_is_scipys_one_sided_test_shared_among_looks() -> None:
    rng = np.random.default_rng(1)
    incumbent = rng.normal(0.5, 0.1, 16)
    worse = incumbent[:8] - rng.uniform(0.01, 0.1, 8)
    p = stats.wilcoxon(worse - incumbent[:8], alternative="less").pvalue
    assert p == pytest.approx(1 / 256)
    assert has_lost(worse, incumbent, higher_is_better=True, looks=1)
    assert has_lost(worse, incumbent, higher_is_better=True, looks=12)
    assert not has_lost(worse, incumbent, higher_is_better=True, looks=13)
    assert not has_lost(worse, incumbent, higher_is_better=False, looks=1)
    assert not has_lost(incumbent[:8], incumbent, higher_is_better=True, looks=1)
