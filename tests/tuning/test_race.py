from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pnpxai.tuning._race import Race, chance_to_win, has_lost, looks


@pytest.mark.parametrize("n", [1, 5, 6, 7, 9, 16, 64, 1000])
def test_looks_grow_and_end_with_all(n: int) -> None:
    ends = looks(n)
    assert ends[-1] == n
    assert all(now >= 1.3 * before for before, now in zip(ends, ends[1:], strict=False))
    assert len(ends) == 1 or ends[0] >= 6


def test_lost_is_a_signed_rank_test_of_the_samples_that_differ() -> None:
    """Eight losses of eight are 1 in 256, however many equal scores surround them."""
    losses = -np.arange(1, 9) / 100
    surrounded = np.concatenate([losses, np.zeros(12)])
    assert stats.wilcoxon(losses, alternative="less").pvalue == pytest.approx(1 / 256)
    for difference in (losses, surrounded):
        assert has_lost(difference, level=1 / 255)
        assert not has_lost(difference, level=1 / 257)
    assert not has_lost(-losses, level=0.99)
    assert not has_lost(np.zeros(20), level=1.0)


def test_chance_to_win_is_that_of_simulated_futures() -> None:
    """Known samples, and the rest drawn around a drift that is itself only known as well as they tell (flat prior)."""
    rng = np.random.default_rng(0)
    seen, n = np.array([0.02, -0.03, 0.01, -0.02, 0.05, -0.01, 0.0, 0.03, -0.04, 0.02] * 3), 48
    k, spread = len(seen), seen.std(ddof=1)
    drift = rng.normal(seen.mean(), spread / np.sqrt(k), (200_000, 1))
    rest = rng.normal(drift, spread, (200_000, n - k))
    ahead = ((seen.sum() + rest.sum(1)) > 0).mean()
    assert chance_to_win(seen, n) == pytest.approx(ahead, abs=0.01)
    assert chance_to_win(-seen, n) == pytest.approx(1 - ahead, abs=0.01)
    assert chance_to_win(np.zeros(8), n) == 0.0


def test_a_loser_is_stopped_and_an_equal_or_better_one_is_not() -> None:
    rng = np.random.default_rng(1)
    incumbent = rng.normal(0.3, 0.1, 64)
    race = Race(64, incumbent=incumbent.tolist())
    stopped = {"worse": 0, "better": 0}
    for name, gain in (("worse", -0.05), ("better", 0.05)):
        for _ in range(200):
            scores = (incumbent + rng.normal(gain, 0.06, 64)).tolist()
            stopped[name] += any(race.over(scores[:end]) for end in race.looks)
    assert stopped["worse"] >= 198
    assert stopped["better"] <= 10  # by chance at any of five looks


def test_direction_and_switch() -> None:
    incumbent = [0.5] * 64
    worse = [0.5 - 0.01 * each for each in range(1, 9)]
    assert Race(64, True, True, incumbent).over(worse)
    assert not Race(64, False, True, incumbent).over(worse)
    assert not Race(64, True, False, incumbent).over(worse)
    assert not Race(64, True, True, []).over(worse)
    assert not Race(8, True, True, incumbent[:8]).over(worse)  # all are seen: there is nothing left to stop


def test_value_is_the_incumbents_mean_plus_the_paired_difference() -> None:
    race = Race(4, incumbent=[0.1, 0.2, 0.3, 0.8])
    assert race.value([0.2, 0.2]) == pytest.approx(0.35 + 0.05)
    assert race.value([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_only_complete_and_better_scores_become_the_incumbent() -> None:
    race = Race(2)
    race.enter([9.0])
    assert race.incumbent == []
    race.enter([0.1, 0.2])
    race.enter([0.2, 0.0])
    assert race.incumbent == [0.1, 0.2]
    race.enter([0.3, 0.2])
    assert race.incumbent == [0.3, 0.2]
    lower = Race(2, higher_is_better=False, incumbent=[0.3, 0.2])
    lower.enter([0.1, 0.2])
    assert lower.incumbent == [0.1, 0.2]
