from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pnpxai.errors import InputError, ParameterError
from pnpxai.forward import count_forwards
from pnpxai.metrics import PointingGame, RelevanceMass, RelevanceRank
from pnpxai.metrics.localisation import RegionMetric, positive_share, top_share
from tests.nets import VGGLike, batch, seeded

ALL: list[type[RegionMetric]] = [PointingGame, RelevanceMass, RelevanceRank]
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
X = batch(2, 1, 2, 2)
REGIONS = torch.tensor([[[True, False], [True, False]], [[False, False], [False, True]]])
MAPS = torch.tensor([[[3.0, 2.0], [1.0, -9.0]], [[0.5, 4.0], [0.0, 4.5]]])


def test_by_hand() -> None:
    found = [each(MODEL, regions=REGIONS).evaluate(X, 0, MAPS).tolist() for each in ALL]
    assert found == [[1.0, 1.0], [pytest.approx(4 / 6), pytest.approx(0.5)], [0.5, 1.0]]


MAPS_AND_REGIONS = st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=6)


@given(MAPS_AND_REGIONS)
def test_ties_are_the_mean_over_all_ways_to_break_them(pairs: list[tuple[int, bool]]) -> None:
    values, inside = [each for each, _ in pairs], [each for _, each in pairs]
    for count in range(1, len(pairs) + 1):
        hits = []
        for places in itertools.permutations(range(len(pairs))):
            top = sorted(range(len(pairs)), key=lambda i: (-values[i], places[i]))[:count]
            hits.append(sum(inside[i] for i in top) / count)
        found = top_share(torch.tensor([values], dtype=torch.float64), torch.tensor([inside]), torch.tensor([count]))
        assert found.item() == pytest.approx(sum(hits) / len(hits), abs=1e-12)


@given(MAPS_AND_REGIONS)
def test_mass_of_what_is_positive(pairs: list[tuple[int, bool]]) -> None:
    total = sum(value for value, _ in pairs if value > 0)
    expected = sum(value for value, inside in pairs if value > 0 and inside) / total if total else 0.0
    values, inside = (torch.tensor([each]) for each in zip(*pairs, strict=True))
    assert positive_share(values.double(), inside).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ALL)
def test_nothing_is_asked_and_rows_follow_their_samples(metric: type[RegionMetric]) -> None:
    model, x = seeded(VGGLike()), batch(5, 3, 16, 16)
    maps, regions = batch(5, 3, 16, 16, seed=2), batch(5, 16, 16, seed=3) > 0
    whole = metric(model, regions=regions)
    with count_forwards() as counter:
        found = whole.evaluate(x, None, maps)
        index = [4, 1, 1]
        some = whole.for_samples(index)
        assert torch.equal(some.evaluate(x[index], None, maps[index]), found[index])
    assert counter.n_samples == 0
    assert some == metric(model, regions=regions[index])
    assert hash(some) == hash(metric(model, regions=regions[index]))
    assert some != metric(model, regions=regions[[0, 1, 1]])
    assert metric(model).for_samples(index) == metric(model)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("regions", "error", "words"),
    [
        (None, ParameterError, "regions="),
        (REGIONS[:1], InputError, "for_samples"),
        (REGIONS[:, :1], InputError, r"\(2, 2, 2\)"),
        (REGIONS.float(), InputError, "bool"),
        (REGIONS & torch.tensor([True, False])[:, None, None], InputError, "sample 1"),
    ],
)
def test_regions_that_do_not_fit_are_refused(
    metric: type[RegionMetric], regions: Tensor | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        metric(MODEL, regions=regions).evaluate(X, 0, MAPS)


@pytest.mark.parametrize(
    ("shape", "channel_dim", "positions"),
    [((2, 5), 1, (2, 5)), ((2, 3, 7), 1, (2, 7)), ((2, 7, 3), -1, (2, 7)), ((2, 3, 7), None, (2, 3, 7))],
)
def test_regions_have_the_positions_of_the_inputs(
    shape: tuple[int, ...], channel_dim: int | None, positions: tuple[int, ...]
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(shape[1:]).prod()), 2))
    regions = torch.zeros(positions, dtype=torch.bool)
    regions[:, ..., -2:] = True
    metric = RelevanceMass(model, regions=regions, channel_dim=channel_dim)
    expected = 2 / positions[-1]
    assert metric.evaluate(batch(*shape), 0, torch.ones(shape)).tolist() == pytest.approx([expected, expected])


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e37])
def test_scale_does_not_matter_in_single_precision(scale: float) -> None:
    values, inside = batch(3, 50).abs(), batch(3, 50, seed=2) > 0
    torch.testing.assert_close(positive_share(values * scale, inside), positive_share(values, inside))
