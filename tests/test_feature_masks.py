from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.errors import InputError, ParameterError, UnknownNameError
from pnpxai.feature_masks import (
    SLIC,
    Each,
    FeatureMaskFunction,
    Felzenszwalb,
    Grid,
    Groups,
    Quickshift,
    feature_mask_for,
    grid_cells,
    sums_by_feature,
)
from pnpxai.words import Words
from tests.harm import untouched
from tests.nets import batch

SUPERPIXELS = [SLIC, Felzenszwalb, Quickshift]


def picture(n: int = 2, c: int = 3, size: int = 48) -> Tensor:
    """A dark and a bright half with a disc across, a little noisy; each image its own."""
    axis = torch.linspace(-1, 1, size)
    disc = (axis[:, None] ** 2 + axis**2 < 0.4).float()
    halves = (axis > 0).float().expand(size, size)
    channels = torch.stack([halves, disc, 1 - disc, halves * disc])[:c]
    return torch.stack([channels.roll(5 * i, -1) + 0.02 * batch(c, size, size, seed=i) for i in range(n)])


def test_the_names() -> None:
    names = {"grid": Grid, "each": Each, "words": Words, "groups": Groups}
    names |= {"slic": SLIC, "felzenszwalb": Felzenszwalb, "quickshift": Quickshift}
    assert names == FeatureMaskFunction.REGISTRY
    assert FeatureMaskFunction.resolve("slic") == SLIC()


@pytest.mark.parametrize("name", ["grid", "each", "slic", "felzenszwalb", "quickshift"])
@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_ids_count_from_zero_and_each_image_stands_alone(name: str, c: int) -> None:
    function, x = FeatureMaskFunction.resolve(name), picture(2, c)
    with untouched(None, x):
        ids = function(x)
    assert ids.shape == (2, 48, 48)
    assert ids.dtype == torch.long
    for i in range(2):
        assert ids[i].unique().tolist() == list(range(int(ids[i].max()) + 1))
        assert torch.equal(function(x[i : i + 1])[0], ids[i])


@pytest.mark.parametrize("function", [SLIC(sigma=0.0), Felzenszwalb(), Quickshift()])
def test_superpixels_follow_the_picture(function: FeatureMaskFunction) -> None:
    x = picture(1)
    ids = function(x)[0].flatten()
    pixels = x[0].flatten(1).T  # (h·w, c)
    n_segments = int(ids.max()) + 1
    assert 2 <= n_segments < 400
    sums = torch.zeros(n_segments, 3).index_add_(0, ids, pixels)
    means = sums / ids.bincount()[:, None]
    within = (pixels - means[ids]).pow(2).mean()
    cells = grid_cells((48, 48), round(n_segments**0.5)).flatten()
    coarse = torch.zeros(int(cells.max()) + 1, 3).index_add_(0, cells, pixels) / cells.bincount()[:, None]
    assert within < 0.1 * (pixels - coarse[cells]).pow(2).mean()


@pytest.mark.parametrize("cls", SUPERPIXELS)
def test_brightness_and_contrast_do_not_matter(cls: type[FeatureMaskFunction]) -> None:
    x = picture(1).double()
    ids = cls()(x)
    assert torch.equal(cls()(x * 4 - 2), ids)
    assert cls()(torch.zeros(1, 3, 48, 48)).shape == (1, 48, 48)


@pytest.mark.parametrize("cls", [Grid, *SUPERPIXELS])
def test_every_tunable_changes_the_features(cls: type[FeatureMaskFunction]) -> None:
    x = picture(1) + 0.3 * batch(1, 3, 48, 48)
    assert cls.TUNABLES
    for name, space in cls.TUNABLES.items():
        assert isinstance(space, FloatDistribution | IntDistribution)
        ends = [cls().set_kwargs(**{name: end})(x) for end in (space.low, space.high)]
        assert not torch.equal(*ends), name


@pytest.mark.parametrize(("cls", "name"), [(SLIC, "sigma"), (Felzenszwalb, "sigma"), (Quickshift, "ratio")])
def test_the_other_arguments_reach_too(cls: type[FeatureMaskFunction], name: str) -> None:
    x = picture(1) + 0.3 * batch(1, 3, 48, 48)
    assert not torch.equal(cls().set_kwargs(**{name: 0.0})(x), cls()(x))


@given(length=st.integers(1, 60), width=st.integers(1, 20), size=st.integers(1, 16))
@settings(max_examples=60)
def test_cells_of_a_grid_are_nearly_equal_blocks(length: int, width: int, size: int) -> None:
    ids = grid_cells((length, width), size)
    rows, columns = min(size, length), min(size, width)
    assert ids.unique().tolist() == list(range(rows * columns))
    for each in range(rows * columns):
        where = (ids == each).nonzero()
        low, high = where.min(0).values, where.max(0).values
        assert len(where) == int((high - low + 1).prod())
        assert length // rows <= int(high[0] - low[0]) + 1 <= -(-length // rows)
        assert width // columns <= int(high[1] - low[1]) + 1 <= -(-width // columns)


def test_a_grid_over_series() -> None:
    assert Grid(3)(batch(2, 4, 7)).tolist() == [[0, 0, 0, 1, 1, 2, 2]] * 2
    assert Grid(9)(batch(1, 4, 3)).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("cls", SUPERPIXELS)
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 8), (2, 3, 4, 8, 8)])
def test_superpixels_want_images(cls: type[FeatureMaskFunction], shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"images .* for {cls.__name__}"):
        cls()(batch(*shape))


def test_a_grid_over_volumes_and_none_over_features() -> None:
    ids = Grid(2)(batch(2, 3, 2, 4, 3))
    blocks = torch.arange(8).reshape(2, 2, 2).repeat_interleave(2, 1).repeat_interleave(torch.tensor([2, 1]), 2)
    assert torch.equal(ids, blocks.expand(2, 2, 4, 3))
    assert Grid(2)(batch(2, 5)).tolist() == [[0, 1, 2, 3, 4]] * 2
    with pytest.raises(InputError, match="grid over"):
        Grid()(batch(5))


def test_each_channel_in_each_cell() -> None:
    ids = Grid(3, by_channel=True)(batch(2, 2, 7))
    assert ids.tolist() == [[[0, 0, 0, 1, 1, 2, 2], [3, 3, 3, 4, 4, 5, 5]]] * 2
    assert torch.equal(feature_mask_for(Grid(3, by_channel=True), batch(2, 2, 7)), ids)
    assert Grid(2, by_channel=True)(batch(1, 3, 4, 4)).flatten(1).unique().tolist() == list(range(12))
    assert torch.equal(Grid(by_channel=True)(batch(2, 5)), Grid()(batch(2, 5)))


def test_a_feature_mask_by_name_object_function_or_none() -> None:
    x = picture(2)
    for each in (None, "grid", Grid(), lambda inputs: 3 - 2 * (48 - Grid()(inputs))):
        assert torch.equal(feature_mask_for(each, x), Grid()(x))
    assert torch.equal(feature_mask_for("slic", x), SLIC()(x))
    uneven = feature_mask_for(lambda _: torch.tensor([[-1, 7, 7], [True, False, 9]]), batch(2, 3))
    assert uneven.tolist() == [[0, 1, 1], [1, 0, 2]]
    with pytest.raises(UnknownNameError, match="slic"):
        feature_mask_for("slik", x)
    for wrong in (torch.zeros(2, 1, 48, 48, dtype=torch.long), torch.zeros(2, 48, 48), None):
        with pytest.raises(ParameterError, match=r"whole numbers of shape \(2, 48, 48\)"):
            feature_mask_for(lambda _, wrong=wrong: wrong, x)


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (Grid, {"size": 0}),
        (SLIC, {"n_segments": 0}),
        (SLIC, {"compactness": 0.0}),
        (Felzenszwalb, {"min_size": 0}),
        (Quickshift, {"kernel_size": 0.5}),
        (Quickshift, {"ratio": 1.5}),
    ],
)
def test_impossible_arguments(cls: type[FeatureMaskFunction], arguments: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        cls(**arguments)


def test_each_position_by_itself() -> None:
    assert Each()(batch(2, 5)).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert torch.equal(Each()(batch(2, 3, 4, 5)), torch.arange(20).reshape(4, 5).expand(2, 4, 5))


def test_what_features_have_together() -> None:
    maps, features = batch(2, 3, 4), torch.tensor([[0, 0, 1, 2]] * 3 + [[1, 1, 1, 0]] * 3).reshape(2, 3, 4)
    sums = sums_by_feature(maps, features)
    for i, each in itertools.product(range(2), range(3)):
        assert float(sums[i, each]) == pytest.approx(float(maps[i][features[i] == each].sum()), abs=1e-6)
    assert sums[1, 2] == 0
