from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import nn

import pnpxai
from pnpxai.metrics import AbPC
from pnpxai.modality import (
    ImageModality,
    Spectrum,
    TabularModality,
    TextModality,
    TimeSeriesModality,
    VolumeModality,
)
from pnpxai.report._canvas import Canvas
from pnpxai.report._charts import Axis, axis_over, round_values
from pnpxai.report._colour import Scale, colours, overlay, scale_of, stretched
from pnpxai.report._curves import charts
from pnpxai.report._pictures import bars_png, photograph_png, series_png


def decoded(address: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    return np.asarray(picture.convert("RGB"))


def test_a_signed_map_is_centred_on_zero() -> None:
    values = np.concatenate([np.linspace(-1, 0, 500), np.linspace(0, 2, 500), [100.0]])
    scale = scale_of(values)
    assert scale.signed
    assert scale.low == -scale.high
    assert scale.high == sorted(np.abs(values))[995]  # the first of 1001 at or above 99.5 % of the way from 0 to 1000
    assert scale.clipped == pytest.approx(5 / 1001)


def test_a_one_sided_map_runs_between_its_percentiles() -> None:
    values = np.linspace(10, 20, 1001)
    scale = scale_of(values)
    assert not scale.signed
    assert (scale.low, scale.high) == (pytest.approx(10.05), pytest.approx(19.95))


def test_a_map_of_one_spike_is_not_flattened_to_nothing() -> None:
    values = np.zeros(10_000)
    values[7] = 3.0
    assert (scale_of(values).low, scale_of(values).high) == (0.0, 3.0)
    values[8] = -1.0
    assert (scale_of(values).low, scale_of(values).high) == (-3.0, 3.0)


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, allow_subnormal=False)))
def test_colours_are_colours_and_keep_the_order(values: np.ndarray) -> None:
    scale = scale_of(values)
    painted = colours(values, scale)
    assert painted.shape == (len(values), 3)
    assert painted.min() >= 0
    assert painted.max() <= 1
    redness = painted[:, 0] - painted[:, 2]
    assert (np.diff(redness[np.argsort(values)]) >= -1e-9).all()
    assert 0 <= scale.clipped <= 1


def test_white_leaves_the_faded_photograph_and_red_takes_blue_from_it() -> None:
    photograph = np.stack([np.zeros((1, 2)), np.ones((1, 2)), np.zeros((1, 2))], -1)
    shown = overlay(np.array([[0.0, 1.0]]), photograph, Scale(-1.0, 1.0, True, 0.0))
    faded = 0.55 + 0.45 * 0.587
    np.testing.assert_allclose(shown[0, 0], [faded] * 3)
    np.testing.assert_allclose(shown[0, 1], faded * np.array([0xC5, 0x1D, 0x28]) / 255)


def test_pictures_keep_their_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)) / 255
    np.testing.assert_array_equal(decoded(photograph_png(picture)), np.round(picture * 255))


def test_inputs_are_stretched_to_the_full_range() -> None:
    shown = stretched(np.array([[[-1.0, 0.0, 3.0]], [[1.0, 2.0, 0.0]]]))
    np.testing.assert_allclose(shown, [[[0, 0.25, 1]], [[0.5, 0.75, 0.25]]])
    np.testing.assert_array_equal(stretched(np.full((2, 2, 1), 7.0)), np.zeros((2, 2, 3)))
    assert stretched(np.zeros((2, 3, 5))).shape == (2, 3, 3)


def test_a_series_has_its_map_as_ground() -> None:
    series = np.zeros((2, 1))
    scale = Scale(-1.0, 1.0, True, 0.0)
    picture = decoded(series_png(series, np.array([-1.0, 1.0]), scale)).astype(int)
    h, w = picture.shape[:2]
    left, right = picture[h // 4, w * 2 // 5], picture[h // 4, w * 4 // 5]
    np.testing.assert_array_equal(left, [0x1A, 0x5A, 0xA6])
    np.testing.assert_array_equal(right, [0xC5, 0x1D, 0x28])
    plain = decoded(series_png(series))
    np.testing.assert_array_equal(plain[h // 4, w * 2 // 5], [255, 255, 255])


def test_many_features_are_drawn_by_the_largest() -> None:
    values = np.arange(1.0, 41.0)
    scale = Scale(0.0, 40.0, False, 0.0)
    many, few = decoded(bars_png(values, scale)), decoded(bars_png(values[16:], scale))
    painted = [(each == [0xC5, 0x1D, 0x28]).all(-1).any() for each in (many, few)]
    assert painted == [True, True]
    assert not (many == few).all()  # other labels, and the note that some are left out


def test_columns_have_the_names_the_table_gives_them() -> None:
    x = torch.tensor([1.0, 2.0])
    named, other, numbered = (
        decoded(Canvas.build(x, TabularModality(names=names), None).draw())
        for names in (["age", "weight"], ["size", "weight"], ["one name"])
    )
    assert named.shape == other.shape == numbered.shape
    assert (named != other).any()
    assert (numbered == decoded(Canvas.build(x, TabularModality(), None).draw())).all()  # names that do not fit


def test_a_spectrum_is_a_picture_of_its_amplitudes() -> None:
    x = torch.zeros(2, 3, 24)
    x[:, 1, 5] = torch.tensor([3.0, -4.0])
    canvas = Canvas.build(x, Spectrum(), None)
    assert canvas.ground.shape == (6, 24, 3)  # each channel twice, to be tall enough
    bright = (canvas.ground > 0.99).all(-1).nonzero()
    assert sorted(zip(*(each.tolist() for each in bright), strict=True)) == [(2, 5), (3, 5)]
    assert decoded(canvas.draw(x[0].numpy())).shape == (6, 24, 3)


def test_text_shows_the_length_of_each_tokens_vector() -> None:
    canvas = Canvas.build(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), TextModality(), None)
    np.testing.assert_allclose(canvas.ground, [5.0, 1.0])


def test_series_have_channels_where_the_modality_says() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(Canvas.build(x, TimeSeriesModality(1), None).ground, x.T)
    np.testing.assert_array_equal(Canvas.build(x, TimeSeriesModality(2), None).ground, x)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_round_values_are_round_inside_and_few(low: float, width: float, most: int) -> None:
    values = round_values(low, low + width, most)
    slack = 1e-6 * width
    assert len(values) <= most + 1
    assert all(low - slack <= each <= low + width + slack for each in values)
    steps = np.diff(values)
    if len(steps):
        mantissa = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - each) for each in (1, 2, 5)) < 1e-3
        assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-3)


def test_an_axis_holds_what_it_is_told_and_no_more() -> None:
    axis = axis_over([0.0, float("nan"), 2.0], 112.0)
    assert (axis(0.0), axis(2.0)) == (pytest.approx(6.0), pytest.approx(106.0))
    assert axis_over([], 10.0)(0.0) == 5.0
    wide = axis_over([1.0, 1.0], 10.0, least=2.0, margin=0.0)
    assert (wide.low, wide.high) == (0.0, 2.0)


def test_curves_are_drawn_where_the_scores_are() -> None:
    net = nn.Linear(2, 1, bias=False).requires_grad_(False)
    net.weight.copy_(torch.tensor([[3.0, 1.0]]))
    inputs = torch.ones(3, 2)
    found = pnpxai.tune(
        net, inputs, explainers=["GradientXInput"], metric=AbPC(net), n_trials=1, holdout=0, progress=False
    )
    drawn = charts(found, inputs, None, torch.tensor([[3.0, 1.0]] * 3), torch.tensor([[1.0, 3.0]] * 3))[0]
    scores = {"morf": [4.0, 1.0, 0.0], "lerf": [4.0, 3.0, 0.0]}
    for line in drawn.lines[:2]:
        points = [tuple(map(float, each.split(","))) for each in line.points.split()]
        assert points == [(drawn.across(x), drawn.up(y)) for x, y in zip((0, 0.5, 1), scores[line.style], strict=True)]
    assert (drawn.abpc, drawn.random_abpc) == (1.0, -1.0)
    assert drawn.up(4.0) < drawn.up(0.0)


def test_axes_point_the_right_way() -> None:
    assert Axis(0, 1, 10, start=5)(1) == 15
    assert Axis(0, 1, 10, start=5, downwards=True)(1) == 5


def test_a_volume_is_shown_by_its_middle_plane() -> None:
    x = torch.arange(5 * 2 * 2).reshape(1, 5, 2, 2).float()
    canvas = Canvas.build(x, VolumeModality(), None)
    np.testing.assert_allclose(canvas.ground[..., 0], [[0, 1 / 3], [2 / 3, 1]])
    assert "middle of 5" in canvas.note
    alike = torch.zeros(5, 2, 2)
    alike[2, 0, 1] = 1.0
    other = alike.clone()
    other[0, 1, 1] = other[2].max()
    assert canvas.draw(alike.double().numpy()) == canvas.draw(other.double().numpy())
    assert canvas.draw(alike.double().numpy()) != canvas.draw(alike.flip(2).double().numpy())


def test_few_pixels_are_shown_as_squares() -> None:
    assert Canvas.build(torch.zeros(3, 16, 96), ImageModality(), None).coarse
    assert not Canvas.build(torch.zeros(3, 16, 97), ImageModality(), None).coarse
    assert not Canvas.build(torch.zeros(1, 16), TimeSeriesModality(), None).coarse
