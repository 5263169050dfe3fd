from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pnpxai.errors import InputError, ParameterError, UnknownNameError
from pnpxai.postprocess import (
    NormalizationFunction,
    PoolingFunction,
    PostProcessor,
    channel_axis,
    feature_values,
)
from tests.nets import batch

POOLED = {"sum": -1.0, "sum_abs": 7.0, "max_abs": 4.0, "l2": math.sqrt(21.0), "positive": 0.0}
"""Of the channels 1, 2, -4."""


def test_every_pooling_by_hand() -> None:
    assert set(PoolingFunction.REGISTRY) == set(POOLED)
    maps = torch.tensor([1.0, 2.0, -4.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 5)
    for name, expected in POOLED.items():
        torch.testing.assert_close(PostProcessor(name)(maps), torch.full((2, 4, 5), expected))


def test_every_normalisation_by_hand() -> None:
    maps = torch.tensor([[1.0, -4.0, 2.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    expected = {
        "identity": maps,
        "min_max": torch.tensor([[5 / 6, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        "max_abs": torch.tensor([[0.25, -1.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
    }
    assert set(NormalizationFunction.REGISTRY) == set(expected)
    for name, each in expected.items():
        torch.testing.assert_close(PostProcessor("sum", name)(maps), each)


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-25, 1e25])
def test_the_euclidean_norm_of_very_small_and_very_large_maps(scale: float) -> None:
    found = PostProcessor("l2")(torch.tensor([3.0, -4.0, 0.0]).reshape(1, 3, 1) * scale)
    assert found.item() == pytest.approx(5 * scale, rel=1e-4, abs=0)


@pytest.mark.parametrize("pooling", sorted(PoolingFunction.REGISTRY))
@pytest.mark.parametrize("normalization", sorted(NormalizationFunction.REGISTRY))
@pytest.mark.parametrize(
    ("shape", "channel_dim", "pooled"),
    [
        ((2, 3, 4, 5), 1, (2, 4, 5)),
        ((2, 3, 4), 1, (2, 4)),
        ((2, 4, 3), -1, (2, 4)),
        ((2, 4, 3), 2, (2, 4)),
        ((2, 6), 1, (2, 6)),
        ((2, 3, 4), None, (2, 3, 4)),
    ],
)
def test_shapes_and_each_sample_by_itself(
    pooling: str, normalization: str, shape: tuple[int, ...], channel_dim: int | None, pooled: tuple[int, ...]
) -> None:
    maps = batch(*shape)
    before = maps.clone()
    processor = PostProcessor(pooling, normalization, channel_dim)
    made = processor(maps)
    assert made.shape == pooled
    assert torch.equal(maps, before)
    for i in range(2):
        assert torch.equal(processor(maps[i : i + 1])[0], made[i])


def test_channels_last_are_pooled_like_channels_first() -> None:
    maps = batch(2, 3, 4, 5)
    for name in POOLED:
        torch.testing.assert_close(PostProcessor(name, channel_dim=-1)(maps.movedim(1, -1)), PostProcessor(name)(maps))


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=20))
def test_normalisation_keeps_the_order_and_bounds(values: list[int]) -> None:
    maps = torch.tensor([values], dtype=torch.float64)
    for name, low in (("min_max", 0.0), ("max_abs", -1.0)):
        made = PostProcessor("sum", name)(maps)
        assert low <= made.min() <= made.max() <= 1.0
        if len(set(values)) > 1:
            assert torch.equal((made[0, :, None] - made[0]).sign(), (maps[0, :, None] - maps[0]).sign())
        torch.testing.assert_close(PostProcessor("sum", name)(made), made)


@pytest.mark.parametrize(("dim", "ndim", "axis"), [(1, 4, 1), (-1, 3, 2), (2, 3, 2), (None, 4, None), (1, 2, None)])
def test_the_axis_of_channels(dim: int | None, ndim: int, axis: int | None) -> None:
    assert channel_axis(dim, ndim) == axis


@pytest.mark.parametrize("dim", [0, 3, -3, -4, 99])
def test_an_axis_that_is_not_there(dim: int) -> None:
    with pytest.raises(ParameterError, match=f"channel_dim .* received {dim}"):
        PostProcessor(channel_dim=dim)(batch(2, 3, 4))
    with pytest.raises(ParameterError, match="channel_dim"):
        feature_values(batch(2, 4), batch(2, 3, 4), dim)


def test_names_that_stand_for_nothing() -> None:
    with pytest.raises(UnknownNameError, match="sum_abs"):
        PostProcessor("sumabs")(batch(2, 3, 4))
    with pytest.raises(UnknownNameError, match="min_max"):
        PostProcessor("sum", "minmax")(batch(2, 3, 4))


def test_feature_values_sum_channels_and_flatten_in_the_order_of_positions() -> None:
    inputs, maps = batch(2, 3, 4, 5), batch(2, 3, 4, 5, seed=2)
    expected = torch.stack([maps[:, :, i // 5, i % 5].sum(1) for i in range(20)], 1)
    torch.testing.assert_close(feature_values(maps, inputs, 1), expected)
    torch.testing.assert_close(feature_values(maps.sum(1), inputs, 1), expected)
    torch.testing.assert_close(feature_values(maps.sum(1, keepdim=True), inputs, 1), expected)
    last = feature_values(maps.movedim(1, -1), inputs.movedim(1, -1), -1)
    torch.testing.assert_close(last, expected)
    assert torch.equal(feature_values(maps, inputs, None), maps.flatten(1))


def test_feature_values_keep_precision_and_take_whole_numbers() -> None:
    fine = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert feature_values(fine, batch(1, 2), 1)[0].diff().item() > 0
    assert feature_values(torch.tensor([[3, 1]]), batch(1, 2), 1).dtype == torch.float32
    traced = batch(1, 2).requires_grad_()
    assert not feature_values(traced, batch(1, 2), 1).requires_grad


@pytest.mark.parametrize(
    "attributions",
    [
        torch.zeros(2, 2, 4, 5),
        torch.zeros(2, 5, 4),
        torch.zeros(1, 4, 5),
        torch.zeros(2, 20),
        torch.zeros(()),
        None,
        [[0.0]],
        torch.full((2, 4, 5), math.nan),
        torch.full((2, 3, 4, 5), -math.inf),
    ],
)
def test_attributions_that_do_not_fit(attributions: Tensor | None) -> None:
    with pytest.raises(InputError, match="attributions"):
        feature_values(attributions, batch(2, 3, 4, 5), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_channels_of_coarse_maps_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    maps = torch.tensor([1.0, 2.0**-9, 2.0**-10]).reshape(1, 3, 1).to(dtype)
    found = feature_values(maps, maps, 1)
    assert found.dtype == torch.float32
    assert found.item() == 1 + 2.0**-9 + 2.0**-10
