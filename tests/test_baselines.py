from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pnpxai.baselines import (
    BaselineFunction,
    Blur,
    Conditional,
    Constant,
    Invert,
    Marginal,
    Mean,
    Token,
    Zeros,
    baseline_for,
)
from pnpxai.errors import ParameterError, UnknownNameError
from tests.nets import batch

SHAPES = [(2, 5), (2, 3, 7), (2, 3, 6, 5)]


def test_the_names() -> None:
    assert {
        "zeros": Zeros,
        "mean": Mean,
        "blur": Blur,
        "invert": Invert,
        "constant": Constant,
        "marginal": Marginal,
        "conditional": Conditional,
        "token": Token,
    } == BaselineFunction.REGISTRY


@pytest.mark.parametrize("name", ["zeros", "mean", "blur", "invert", "constant"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_each_sample_from_itself_alone(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = batch(*shape, dtype=dtype)
    before = x.clone()
    made = baseline_for(name, x)
    assert made.shape == x.shape
    assert made.dtype == dtype
    assert torch.equal(x, before)
    assert made.data_ptr() != x.data_ptr()
    for i in range(len(x)):
        assert torch.equal(baseline_for(name, x[i : i + 1])[0], made[i])


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_invert_by_loops(shape: tuple[int, ...]) -> None:
    x = batch(*shape, dtype=torch.float64)
    rows = x.reshape(-1, 5) if len(shape) == 2 else x.reshape(6, -1)
    means = torch.tensor([[math.fsum(row) / len(row)] * len(row) for row in rows.tolist()], dtype=torch.float64)
    torch.testing.assert_close(Mean()(x), means.reshape(shape), rtol=0, atol=1e-14)
    inverted = torch.tensor([[max(row) + min(row) - each for each in row] for row in rows.tolist()])
    torch.testing.assert_close(Invert()(x), inverted.to(x).reshape(shape), rtol=0, atol=1e-6)
    torch.testing.assert_close(Invert()(Invert()(x)), x, rtol=0, atol=1e-14)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Blur ``(rows, length)`` by an explicit kernel, with the border values repeated."""
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    padded = F.pad(x[:, None], (radius, radius), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]


@pytest.mark.parametrize("sigma", [0.7, 3.0, 10.0])
def test_blur_against_an_explicit_kernel(sigma: float) -> None:
    blur = Blur(sigma)
    x = batch(2, 9, dtype=torch.float64)
    torch.testing.assert_close(blur(x), gaussian(x, sigma), rtol=0, atol=1e-12)
    x = batch(2, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(blur(x), gaussian(x.reshape(6, 9), sigma).reshape(x.shape), rtol=0, atol=1e-12)
    x = batch(2, 3, 6, 9, dtype=torch.float64)
    rows = gaussian(x.reshape(36, 9), sigma).reshape(x.shape).transpose(2, 3)
    both = gaussian(rows.reshape(54, 6), sigma).reshape(rows.shape).transpose(2, 3)
    torch.testing.assert_close(blur(x), both, rtol=0, atol=1e-12)


@given(value=st.floats(-100, 100), sigma=st.floats(0.1, 20))
@settings(max_examples=20)
def test_a_flat_input_stays_flat_when_blurred_or_inverted(value: float, sigma: float) -> None:
    x = torch.full((1, 2, 8, 8), value, dtype=torch.float64)
    torch.testing.assert_close(Blur(sigma)(x), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Invert()(x), x, rtol=1e-12, atol=1e-12)


def test_a_larger_sigma_removes_more() -> None:
    x = batch(1, 1, 32, 32)
    spreads = [Blur(sigma)(x).std().item() for sigma in (0.5, 2.0, 10.0)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 2 * spreads[1] > 4 * spreads[2]


def test_channels_last() -> None:
    x = batch(2, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(baseline_for("mean", x, -1), x.mean(1, keepdim=True).expand_as(x))
    rows = gaussian(x.transpose(1, 2).reshape(8, 9), 10.0).reshape(2, 4, 9).transpose(1, 2)
    torch.testing.assert_close(baseline_for("blur", x, 2), rows, rtol=0, atol=1e-12)
    embedding = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert torch.equal(baseline_for(embedding, x, -1)[1, 5], embedding)
    assert torch.equal(baseline_for(lambda inputs: inputs + 1, x, -1), x + 1)


@pytest.mark.parametrize(
    ("baseline_fn", "expected"),
    [
        (0.5, 0.5),
        (2, 2.0),
        (torch.tensor(3.0), 3.0),
        (Constant(-1.0), -1.0),
        (lambda inputs: torch.full_like(inputs, 7.0), 7.0),
        ("zeros", 0.0),
    ],
)
def test_whatever_stands_for_a_baseline(baseline_fn: object, expected: float) -> None:
    assert torch.equal(baseline_for(baseline_fn, batch(2, 3, 4, 4)), torch.full((2, 3, 4, 4), expected))


def test_one_value_a_channel() -> None:
    colour = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    made = baseline_for(colour, batch(2, 3, 4, 5))
    assert torch.equal(made, colour.expand(2, 3, 4, 5))
    assert made.is_contiguous()


def test_a_baseline_that_was_learned_takes_no_gradient() -> None:
    learned = torch.ones(3, 4, requires_grad=True)
    assert not baseline_for(lambda inputs: inputs * learned, batch(2, 3, 4)).requires_grad


def wrong_shape(inputs: Tensor) -> Tensor:
    return inputs[:, :1]


def not_finite(inputs: Tensor) -> Tensor:
    return inputs / 0


def too_large(inputs: Tensor) -> Tensor:
    return inputs.double() * 0 + 1e300  # not in float32


def no_tensor(inputs: Tensor) -> Tensor:
    return inputs.numpy()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("baseline_fn", "says"),
    [
        (wrong_shape, r"\(2, 1, 4\)"),
        (not_finite, "NaN or infinity"),
        (too_large, "NaN or infinity in torch.float32"),
        (no_tensor, "ndarray"),
        (math.nan, "NaN or infinity"),
        (torch.zeros(5), r"\(5,\)"),
        (torch.zeros(3, 3, 4), r"\(3, 3, 4\)"),
    ],
)
def test_what_is_no_baseline(baseline_fn: Callable[[Tensor], Tensor], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        baseline_for(baseline_fn, batch(2, 3, 4))


def test_a_misspelt_name_and_an_impossible_sigma() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'blur'"):
        baseline_for("blurr", batch(2, 3, 4))
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ParameterError, match="sigma"):
            Blur(sigma)
