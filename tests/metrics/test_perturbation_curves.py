from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pnpxai.baselines import Blur
from pnpxai.errors import InputError, ModelError, ParameterError, TargetError, UnknownNameError
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, Deletion, Insertion, LeRF, MoRF
from pnpxai.metrics._curves import ranks, removal_counts
from pnpxai.replacing import rectangles
from tests.metrics.oracles import linear_model, slow_curve, tie_order, trapezoid
from tests.nets import MLP, TinyTransformer, VGGLike, batch, seeded

WEIGHTS = [2.0, -1.0, 0.5, 3.0, -0.25]
MODEL = linear_model(WEIGHTS)
X = torch.tensor([[1.0, 2.0, -1.0, 0.5, 4.0]], dtype=torch.float64)
RELEVANCE = torch.tensor([[2.0, -2.0, -0.5, 1.5, -1.0]], dtype=torch.float64)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def close(found: Tensor, expected: object, **tolerance: float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), **(tolerance or EXACT))


def test_curves_of_a_linear_model_in_closed_form() -> None:
    curves = MoRF(MODEL, n_steps=5, score="logit").curves(X, 0, RELEVANCE)
    close(curves.fractions, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    close(curves.morf, [[0.0, -2.0, -3.5, -3.0, -2.0, 0.0]])
    close(curves.lerf, [[0.0, 2.0, 3.0, 3.5, 2.0, 0.0]])
    close(MoRF(MODEL, n_steps=5, score="logit").evaluate(X, 0, RELEVANCE), [-2.1])
    close(LeRF(MODEL, n_steps=5, score="logit").evaluate(X, 0, RELEVANCE), [2.1])
    close(AbPC(MODEL, n_steps=5, score="logit").evaluate(X, 0, RELEVANCE), [4.2])


def test_the_exact_map_is_the_best_of_all_orders() -> None:
    orders = torch.tensor(list(itertools.permutations(range(5))), dtype=torch.float64)
    inputs = X.expand(len(orders), 5)
    morf = MoRF(MODEL, n_steps=5, score="logit").evaluate(inputs, 0, orders)
    lerf = LeRF(MODEL, n_steps=5, score="logit").evaluate(inputs, 0, orders)
    close(morf.min(), -2.1)
    close(lerf.max(), 2.1)
    best = (RELEVANCE[:, :, None] > RELEVANCE[:, None, :]).sum(2)  # the place of each feature, least relevant 0
    assert (orders[morf.argmin()] == best).all()
    assert (orders[lerf.argmax()] == best).all()
    assert (morf < -2.1 + 1e-9).sum() == 1


def test_the_sign_is_kept() -> None:
    curves = LeRF(MODEL, n_steps=5, score="logit").curves(X, 0, RELEVANCE)
    close(curves.lerf[0, 1], 2.0)  # what speaks against the target goes first, and the score rises
    magnitudes = LeRF(MODEL, n_steps=5, score="logit").evaluate(X, 0, RELEVANCE.abs())
    assert magnitudes < 2.0


@pytest.mark.parametrize("feature", range(5))
def test_a_one_hot_map_removes_its_feature_first_and_last(feature: int) -> None:
    one_hot = torch.zeros_like(X).index_fill_(1, torch.tensor([feature]), 1.0)
    curves = AbPC(MODEL, n_steps=5, score="logit").curves(X, 0, one_hot)
    close(curves.morf[0, 1], -RELEVANCE[0, feature].item())
    close(curves.lerf[0, -2], RELEVANCE[0, feature].item())


@pytest.mark.parametrize("seed", range(3))
def test_the_two_directions_of_a_constant_map_are_each_others_reverse(seed: int) -> None:
    curves = AbPC(MODEL, n_steps=5, score="logit", seed=seed).curves(X, 0, torch.full_like(X, 0.3))
    close(curves.morf + curves.lerf.flip(1), torch.full((1, 6), RELEVANCE.sum().item()))
    expected = slow_curve(MODEL, X[0], 0, tie_order(5, seed), torch.zeros(5), 5, logit=True)[1]
    close(curves.morf, [expected])


def test_a_constant_map_has_no_area_on_average_over_seeds() -> None:
    areas = [
        AbPC(MODEL, n_steps=5, score="logit", seed=s).evaluate(X, 0, torch.ones_like(X)).item() for s in range(300)
    ]
    spread = torch.tensor(areas).std().item()
    assert spread > 0.5
    assert abs(sum(areas) / 300) < 3 * spread / math.sqrt(300)


def test_negative_zero_ties_with_zero() -> None:
    mixed = torch.tensor([[0.0, -0.0, 0.0, -0.0, -0.0, 0.0]])
    for seed in range(5):
        assert ranks(mixed, seed).tolist() == ranks(torch.zeros(1, 6), seed).tolist()


@given(
    values=st.lists(st.integers(-2, 2), min_size=1, max_size=9),
    n_steps=st.integers(1, 20),
    seed=st.integers(0, 99),
    target=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_any_number_of_features_steps_and_ties_against_a_slow_loop(
    values: list[int], n_steps: int, seed: int, target: int
) -> None:
    f = len(values)
    model = seeded(nn.Sequential(nn.Linear(f, 5), nn.Tanh(), nn.Linear(5, 3)).double())
    x, baseline = batch(1, f, dtype=torch.float64), batch(1, f, seed=2, dtype=torch.float64)
    metric = AbPC(model, baseline_fn=baseline, n_steps=n_steps, seed=seed)
    curves = metric.curves(x, target, torch.tensor([values]))
    place = {feature: i for i, feature in enumerate(tie_order(f, seed))}
    order = sorted(range(f), key=lambda i: (-values[i], place[i]))
    fractions, morf = slow_curve(model, x[0], target, order, baseline[0], n_steps)
    close(curves.fractions, fractions)
    close(curves.morf, [morf])
    close(curves.lerf, [slow_curve(model, x[0], target, order[::-1], baseline[0], n_steps)[1]])
    area = trapezoid(fractions, curves.lerf[0].tolist()) - trapezoid(fractions, morf)
    close(metric.evaluate(x, target, torch.tensor([values])), [area])


@given(f=st.integers(1, 300), n_steps=st.integers(1, 60))
def test_shares_are_equal_and_none_is_counted_twice(f: int, n_steps: int) -> None:
    counts = removal_counts(f, n_steps).tolist()
    assert counts[0] == 0
    assert counts[-1] == f
    assert len(counts) == min(f, n_steps) + 1
    steps = [b - a for a, b in itertools.pairwise(counts)]
    assert min(steps) >= 1
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    ("net", "shape", "channel_dim"),
    [(VGGLike, (2, 3, 16, 16), 1), (TinyTransformer, (2, 8, 4), -1), (TinyTransformer, (2, 8, 4), 2)],
)
def test_a_position_goes_with_all_its_channels(
    net: Callable[[], nn.Module], shape: tuple[int, ...], channel_dim: int
) -> None:
    model = seeded(net().double())
    x, baseline = batch(*shape, dtype=torch.float64), batch(*shape, seed=2, dtype=torch.float64)
    values = batch(*shape, seed=3, dtype=torch.float64).sum(channel_dim)
    curves = AbPC(model, channel_dim=channel_dim, baseline_fn=baseline, n_steps=4).curves(x, [0, 2], values)
    inner = channel_dim - 1 if channel_dim > 0 else channel_dim
    for i, target in enumerate([0, 2]):
        order = values[i].flatten().argsort(descending=True).tolist()
        for found, each in ((curves.morf, order), (curves.lerf, order[::-1])):
            expected = slow_curve(model, x[i], target, each, baseline[i], 4, channel_dim=inner)[1]
            close(found[i], expected)


def test_without_channels_every_entry_is_a_feature() -> None:
    x, w = batch(1, 2, 3, dtype=torch.float64), batch(6, seed=5, dtype=torch.float64)
    model = linear_model(w.tolist())
    relevance = x * w.reshape(1, 2, 3)
    curves = MoRF(model, channel_dim=None, n_steps=6, score="logit").curves(x, 0, relevance)
    falls = relevance.flatten().sort(descending=True).values.cumsum(0)
    close(curves.morf[0, 1:], relevance.sum() - falls)


def test_maps_with_channels_are_summed() -> None:
    model, x, maps = seeded(VGGLike()), batch(2, 3, 16, 16), batch(2, 3, 16, 16, seed=4)
    metric = AbPC(model)
    assert torch.equal(metric.evaluate(x, 0, maps), metric.evaluate(x, 0, maps.sum(1)))
    assert torch.equal(metric.evaluate(x, 0, maps.sum(1)), metric.evaluate(x, 0, maps.sum(1, keepdim=True)))
    assert torch.equal(metric.evaluate((x,), 0, (maps,)), metric.evaluate(x, 0, maps))


@pytest.mark.parametrize("baseline_fn", ["zeros", "blur", "mean"])
def test_insertion_minus_deletion_is_the_area_between(baseline_fn: str) -> None:
    model, x, values = seeded(VGGLike().double()), batch(3, 3, 16, 16, dtype=torch.float64), batch(3, 16, 16, seed=4)
    found = {each: each(model, baseline_fn=baseline_fn).evaluate(x, 1, values) for each in (AbPC, Insertion, Deletion)}
    close(found[Insertion] - found[Deletion], found[AbPC])
    assert found[AbPC].abs().min() > 1e-6


def test_insertion_starts_from_a_blur_and_deletion_ends_in_zeros() -> None:
    model, x, values = (
        seeded(VGGLike().double()),
        batch(1, 3, 16, 16, dtype=torch.float64),
        batch(1, 16, 16, seed=4, dtype=torch.float64),
    )
    order = values.flatten().argsort(descending=True).tolist()
    baseline = Blur()(x)
    inserted = slow_curve(model, baseline[0], 1, order, x[0], 256, channel_dim=0)
    close(Insertion(model, n_steps=256).evaluate(x, 1, values), [trapezoid(*inserted)])
    deleted = slow_curve(model, x[0], 1, order, torch.zeros_like(x[0]), 256, channel_dim=0)
    close(Deletion(model, n_steps=256).evaluate(x, 1, values), [trapezoid(*deleted)])


@pytest.mark.parametrize("n_steps", [1, 2, 10, 300])
@pytest.mark.parametrize("targets", [None, 2])
def test_every_point_is_asked_for_once(n_steps: int, targets: int | None) -> None:
    model, x = seeded(VGGLike()), batch(3, 3, 16, 16)
    with count_forwards() as counter:
        AbPC(model, n_steps=n_steps).evaluate(x, targets, batch(3, 16, 16))
    assert counter.n_samples == 3 * (2 + 2 * (min(n_steps, 256) - 1))


def test_chunks_are_full_across_inputs_and_directions(set_chunk_size: Callable[[int], None]) -> None:
    set_chunk_size(7)
    with count_forwards() as counter:
        AbPC(seeded(MLP()), n_steps=6).evaluate(batch(5, 6), 0, batch(5, 6, seed=2))
    assert counter.n_calls == 2 + math.ceil(5 * 10 / 7)


def test_logit_and_probability_and_a_target_function() -> None:
    model, x, values = seeded(MLP().double()), batch(1, 6, dtype=torch.float64), batch(1, 6, seed=2)
    order = values[0].argsort(descending=True).tolist()
    expected = slow_curve(model, x[0], 1, order, torch.zeros(6), 6, logit=True)[1]
    close(MoRF(model, n_steps=6, score="logit").curves(x, 1, values).morf, [expected])
    close(MoRF(model, n_steps=6).curves(x, lambda outputs: outputs[:, 1], values).morf, [expected])
    probability = slow_curve(model, x[0], 1, order, torch.zeros(6), 6)[1]
    close(MoRF(model, n_steps=6).curves(x, 1, values).morf, [probability])


def test_without_targets_the_predicted_class_is_scored() -> None:
    model, x, values = seeded(MLP()), batch(4, 6), batch(4, 6, seed=2)
    predicted = model(x).argmax(1)
    assert torch.equal(MoRF(model).evaluate(x, None, values), MoRF(model).evaluate(x, predicted, values))


@pytest.mark.parametrize(
    "attributions",
    [
        torch.zeros(2, 16, 15),
        torch.zeros(1, 16, 16),
        torch.zeros(2, 2, 16, 16),
        torch.zeros(16, 16),
        torch.zeros(2, 256),
        "a map",
        (torch.zeros(2, 16, 16), torch.zeros(2, 16, 16)),
        torch.full((2, 16, 16), math.nan),
        torch.full((2, 16, 16), math.inf),
    ],
)
def test_attributions_that_do_not_fit_are_refused(attributions: object) -> None:
    with pytest.raises(InputError, match="attributions"):
        MoRF(seeded(VGGLike())).evaluate(batch(2, 3, 16, 16), 0, attributions)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"n_steps": 0}, ParameterError),
        ({"n_steps": 2.5}, ParameterError),
        ({"score": "loss"}, ParameterError),
        ({"seed": -1}, ParameterError),
        ({"steps": 3}, ParameterError),
        ({"baseline_fn": "zeroes"}, UnknownNameError),
        ({"baseline_fn": torch.zeros(4)}, ParameterError),
        ({"baseline_fn": math.nan}, ParameterError),
        ({"channel_dim": 0}, ParameterError),
        ({"channel_dim": 4}, ParameterError),
        ({"channel_dim": -4}, ParameterError),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        AbPC(seeded(VGGLike()), **arguments).evaluate(batch(2, 3, 16, 16), 0, torch.zeros(2, 16, 16))


def test_neither_attributions_nor_explainer_and_a_class_that_is_not_there() -> None:
    with pytest.raises(ParameterError, match="explainer"):
        MoRF(MODEL).evaluate(X, 0)
    with pytest.raises(TargetError):
        MoRF(MODEL).evaluate(X, 1, RELEVANCE)


def test_a_model_that_fails_on_the_baseline_gives_no_score() -> None:
    class Reciprocal(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / x.sum(1, keepdim=True)

    with pytest.raises(ModelError, match="baseline_fn"):
        MoRF(Reciprocal(3, 2)).evaluate(torch.ones(1, 3), 0, torch.ones(1, 3))


def test_a_half_precision_model_is_scored_in_single_precision() -> None:
    model, x, values = seeded(MLP()), batch(3, 6), batch(3, 6, seed=2)
    expected = AbPC(model).evaluate(x, 0, values)
    found = AbPC(model.bfloat16()).evaluate(x, 0, values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # bfloat16 has 3 digits


@pytest.mark.parametrize("metric", [MoRF, LeRF])
def test_a_model_that_ends_in_a_softmax_is_not_given_another_in_half_precision(metric: type[MoRF]) -> None:
    """The probabilities of a bfloat16 softmax sum to 1 within its own precision, not within that of float32."""
    model = nn.Sequential(seeded(nn.Linear(6, 5)), nn.Softmax(1))
    model[0].weight.data *= 3
    x, values = batch(8, 6), batch(8, 6, seed=2)
    expected = metric(model).curves(x, 0, values)
    found = metric(model.bfloat16()).curves(x, 0, values)
    assert found.morf.dtype == torch.float32
    close(found.morf, expected.morf, rtol=0, atol=0.02)
    close(found.lerf, expected.lerf, rtol=0, atol=0.02)


def test_a_target_function_gets_single_precision() -> None:
    seen: list[torch.dtype] = []

    def margin(outputs: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return outputs[:, 0] - outputs[:, 1]

    assert MoRF(seeded(MLP()).bfloat16()).evaluate(batch(2, 6), margin, batch(2, 6)).dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_each_of_several_inputs_keeps_its_precision() -> None:
    asked = []

    def model(one: Tensor, other: Tensor) -> Tensor:
        asked.append((one.dtype, other.dtype))
        return torch.stack([one.sum(1) + other.sum(1), one.sum(1) * 0], 1)

    inputs = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0]], dtype=torch.float64)
    metric = AbPC(model, forward_arg_extractor=lambda each: each, score="logit", n_steps=3)
    curves = metric.curves(inputs, 0, inputs)
    assert set(asked) == {(torch.float32, torch.float64)}
    close(curves.morf, [[6.0, 3.0, 1.0, 0.0]])
    close(curves.lerf, [[6.0, 5.0, 3.0, 0.0]])


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 9))
def test_rectangles_are_the_items_in_their_order(start: int, n: int, n_each: int) -> None:
    found = rectangles(start, start + n, n_each)
    items = [i * n_each + j for rows, each in found for i in range(rows.start, rows.stop) for j in _numbers(each)]
    assert items == list(range(start, start + n))
    assert len(found) <= 3


def _numbers(each: slice) -> range:
    return range(each.start, each.stop)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_what_has_features_removed_keeps_the_order_of_the_inputs(order: torch.memory_format) -> None:
    asked = []

    def model(x: Tensor) -> Tensor:
        asked.append(x.is_contiguous(memory_format=order))
        return x.flatten(1)[:, :2]

    x = batch(2, 3, 40, 50).to(memory_format=order)
    AbPC(model).evaluate(x, 0, torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(0)))
    assert set(asked) == {True}


def test_a_model_that_writes_into_its_inputs_gets_copies() -> None:
    def model(x: Tensor) -> Tensor:
        scores = torch.stack([(x * torch.arange(1.0, 6.0)).sum(1), x[:, 0] * 0], 1)
        x.fill_(7.0)
        return scores

    x, maps = torch.tensor([[1.0, 2.0, -1.0, 0.5, 4.0]]), torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    curves = MoRF(model, n_steps=5, score="logit", baseline_fn=0.5).curves(x, 0, maps)
    close(curves.morf, [[24.0, 23.5, 20.5, 25.0, 25.0, 7.5]])  # 1 + 4 - 3 + 2 + 20, and what .5 puts in their place
    assert x.tolist() == [[1.0, 2.0, -1.0, 0.5, 4.0]]
