from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from pnpxai.forward import count_forwards
from pnpxai.metrics import Complexity, Sparseness
from pnpxai.metrics.complexity import entropy, gini
from tests.nets import batch

MAPS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=12)


def one(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@given(MAPS)
def test_entropy_against_scipy(values: list[float]) -> None:
    magnitudes = [abs(each) for each in values]
    expected = stats.entropy(magnitudes) if sum(magnitudes) > 1e-290 else math.log(len(values))
    if sum(magnitudes) > 1e-290 or sum(magnitudes) == 0:
        assert entropy(one(values)).item() == pytest.approx(expected, abs=1e-9)


@given(MAPS)
def test_gini_against_mean_differences(values: list[float]) -> None:
    magnitudes = [abs(each) for each in values]
    f, total = len(values), math.fsum(magnitudes)
    differences = math.fsum(abs(a - b) for a in magnitudes for b in magnitudes)
    if total > 1e-290 or total == 0:
        expected = differences / (2 * f * total) if total else 0.0
        assert gini(one(values)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("f", [1, 2, 7])
def test_the_ends_of_both_scales(f: int) -> None:
    one_hot = one([0.0] * (f - 1) + [-3.0])
    assert entropy(one_hot).item() == 0
    assert gini(one_hot).item() == pytest.approx(1 - 1 / f)
    for constant in (one([0.7] * f), one([0.0] * f)):
        assert entropy(constant).item() == pytest.approx(math.log(f))
        assert gini(constant).item() == pytest.approx(0, abs=1e-15)


def test_by_hand() -> None:
    values = one([1.0, -2.0, 1.0])
    assert entropy(values).item() == pytest.approx(1.5 * math.log(2))
    assert gini(values).item() == pytest.approx((-2 * 1 + 0 * 1 + 2 * 2) / (3 * 4))


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1e37])
def test_scale_does_not_matter_in_single_precision(scale: float) -> None:
    values = batch(3, 50)
    torch.testing.assert_close(entropy(values * scale), entropy(values), rtol=1e-5, atol=0)
    torch.testing.assert_close(gini(values * scale), gini(values), rtol=1e-5, atol=0)


@pytest.mark.parametrize("metric", [Complexity, Sparseness])
def test_no_forward_is_spent(metric: type[Complexity] | type[Sparseness]) -> None:
    with count_forwards() as counter:
        found = metric(nn.Conv2d(3, 2, 3)).evaluate(batch(2, 3, 4, 4), 0, batch(2, 3, 4, 4, seed=2))
    assert counter.n_samples == 0
    assert found.shape == (2,)
