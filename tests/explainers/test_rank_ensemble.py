from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import pnpxai.explainers
from pnpxai.errors import InputError, ParameterError, PnPXAIError
from pnpxai.explainers import (
    EXPLAINERS,
    RISE,
    Explainer,
    Gradient,
    GradientXInput,
    LRPUniformEpsilon,
    RankEnsemble,
    SmoothGrad,
    rank_average,
)
from pnpxai.forward import count_forwards
from pnpxai.postprocess import PostProcessor
from tests import nets
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, TinyTransformer, VGGLike, Wrapped, as_dict, batch, seeded


def slow_ranks(values: list[float]) -> list[float]:
    """By counting, feature by feature."""
    most = len(values) - 1
    return [
        (sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2) / most if most else 0.5 for a in values
    ]


def slow_average(maps: list[Tensor]) -> Tensor:
    ranks = [torch.tensor([slow_ranks(row) for row in each.flatten(1).tolist()]) for each in maps]
    return (sum(ranks[1:], ranks[0]) / len(ranks)).reshape(maps[0].shape)


def several_maps(draw: st.DrawFn, values: st.SearchStrategy[float]) -> list[Tensor]:
    m, n, f = (draw(st.integers(1, most)) for most in (4, 3, 9))
    rows = st.lists(values, min_size=f, max_size=f)
    samples = st.lists(rows, min_size=n, max_size=n)
    return [torch.tensor(draw(samples)) for _ in range(m)]


MAPS = st.one_of(
    st.composite(several_maps)(st.integers(-2, 2).map(float)),
    st.composite(several_maps)(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)),
)


@given(MAPS)
def test_it_is_the_mean_rank(maps: list[Tensor]) -> None:
    found = rank_average(maps)
    torch.testing.assert_close(found, slow_average(maps), rtol=0, atol=1e-6)
    if maps[0].shape[1] > 1:
        by_scipy = sum(stats.rankdata(each.numpy(), axis=1) - 1 for each in maps) / (len(maps) * (maps[0].shape[1] - 1))
        torch.testing.assert_close(found, torch.as_tensor(by_scipy).float(), rtol=0, atol=1e-6)


@given(MAPS, st.randoms())
def test_the_order_of_maps_and_their_scale_do_not_matter(maps: list[Tensor], random: Any) -> None:
    expected = rank_average(maps)
    mixed = maps.copy()
    random.shuffle(mixed)
    assert torch.equal(rank_average(mixed), expected)
    assert torch.equal(rank_average([4 * each for each in maps]), expected)
    assert torch.equal(rank_average([each.double() ** 3 for each in maps]).float(), expected)
    assert torch.equal(rank_average([-each for each in maps]) * -1 + 1, expected) or torch.allclose(
        rank_average([-each for each in maps]), 1 - expected, atol=1e-6
    )


def test_shapes_and_dtypes() -> None:
    maps = [batch(2, 3, 4, seed=seed) for seed in (1, 2, 3)]
    found = rank_average(maps)
    assert torch.equal(found.flatten(1), rank_average([each.flatten(1) for each in maps]))
    assert rank_average([maps[0].half(), maps[1].bfloat16()]).dtype == torch.float32
    assert rank_average([maps[0].double(), maps[1]]).dtype == torch.float64
    assert rank_average([torch.zeros(1, 5)]).tolist() == [[0.5] * 5]
    assert rank_average([torch.zeros(2, 1)]).tolist() == [[0.5], [0.5]]
    assert rank_average([torch.tensor([[-0.0, 0.0, 1.0]])]).tolist() == [[0.25, 0.25, 1.0]]


@pytest.mark.parametrize(
    ("maps", "match"),
    [
        ([], "no map"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"\(2, 3\) and \(2, 4\)"),
        ([torch.tensor([[1.0, torch.nan]])], "NaN"),
        ([torch.zeros(3)], "finite maps"),
    ],
)
def test_what_has_no_ranks(maps: list[Tensor], match: str) -> None:
    with pytest.raises(InputError, match=match):
        rank_average(maps)


def ensemble_of(net: nn.Module, channel_dim: int | None = 1, **kwargs: Any) -> RankEnsemble:
    members = [Gradient(net, **kwargs), SmoothGrad(net, n_samples=4, **kwargs), GradientXInput(net, **kwargs)]
    poolings = ["sum_abs", "l2", "sum"]
    return RankEnsemble(net, members, [PostProcessor(each, channel_dim=channel_dim) for each in poolings])


@pytest.mark.parametrize(
    ("build", "shape", "channel_dim", "expected"),
    [
        (VGGLike, (3, 16, 16), 1, (1, 16, 16)),
        (TimeCNN, (2, 24), 1, (1, 24)),
        (TinyTransformer, (8, 4), 2, (8, 1)),
        (TinyTransformer, (8, 4), None, (8, 4)),
        (MLP, (6,), 1, (6,)),
    ],
)
def test_it_ranks_the_post_processed_maps(
    build: Callable[[], nn.Module], shape: tuple[int, ...], channel_dim: int | None, expected: tuple[int, ...]
) -> None:
    net, inputs, targets = seeded(build()), batch(3, *shape), torch.tensor([1, 0, 2])
    ensemble = ensemble_of(net, channel_dim)
    found = ensemble.attribute(inputs, targets)
    assert found.shape == (3, *expected)
    pooled = [
        postprocessor(explainer.attribute(inputs, targets))
        for explainer, postprocessor in zip(ensemble.explainers, ensemble.postprocessors, strict=True)
    ]
    torch.testing.assert_close(found.flatten(1), slow_average(pooled).flatten(1), rtol=0, atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found.flatten(1).std(1) > 0.1).all()


def test_targets_of_all_kinds() -> None:
    net, inputs = seeded(VGGLike(), 2), 4 * batch(8, 3, 16, 16)
    ensemble = ensemble_of(net)
    expected = ensemble.attribute(inputs, 2)
    for each in (torch.full((8,), 2), [2] * 8, lambda outputs: outputs[:, 2]):
        assert torch.equal(ensemble.attribute(inputs, each), expected)
    best = net(inputs).argmax(1)
    assert len(best.unique()) > 1
    assert torch.equal(ensemble.attribute(inputs), ensemble.attribute(inputs, best))


class Recording(Gradient):
    """A gradient that keeps what it was asked for."""

    def attribute(self, inputs: Any, targets: Any = None) -> Any:
        self.asked = targets
        return super().attribute(inputs, targets)


def test_the_predicted_class_is_asked_for_once_and_is_every_members() -> None:
    net, inputs = seeded(VGGLike()), batch(3, 3, 16, 16)
    members = [Recording(net), Recording(net)]
    ensemble = RankEnsemble(net, members, [PostProcessor("l2"), PostProcessor()])
    with count_forwards() as counter:
        ensemble.attribute(inputs)
    assert counter.n_samples == 3 + 2 * 3
    assert all(torch.equal(each.asked, net(inputs).argmax(1)) for each in members)
    with count_forwards() as counter:
        ensemble.attribute(inputs, 1)
    assert counter.n_samples == 2 * 3


def test_inputs_and_outputs_of_all_kinds() -> None:
    net, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    expected = ensemble_of(net).attribute(inputs, 1)
    (of_tuple,) = ensemble_of(net).attribute((inputs,), 1)
    assert torch.equal(of_tuple, expected)
    assert torch.equal(ensemble_of(Wrapped(net, as_dict)).attribute(inputs, 1), expected)
    picking = ensemble_of(net, forward_arg_extractor=lambda data: data["x"])
    assert torch.equal(picking.attribute({"x": inputs}), ensemble_of(net).attribute(inputs))
    doubled = ensemble_of(net).attribute(inputs.double(), 1)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled, expected.double())
    with torch.inference_mode():
        made = ensemble_of(net).attribute(inputs)
    assert torch.equal(made, ensemble_of(net).attribute(inputs))


def test_nothing_is_touched() -> None:
    net, inputs = seeded(VGGLike()).train(), batch(2, 3, 16, 16).requires_grad_()
    ensemble = ensemble_of(net)
    with untouched(net, inputs):
        ensemble.attribute(inputs)
    broken = nets.RaisesAt(net, 4)
    with untouched(broken, inputs), pytest.raises(PnPXAIError, match="the network broke here"):
        ensemble.set_kwargs(model=broken).attribute(inputs)


def test_members_of_one_channel_and_ensembles_may_be_members() -> None:
    net, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    rise = RISE(net, n_masks=20)
    inner = RankEnsemble(net, [rise], [PostProcessor()])
    ranks = inner.attribute(inputs, 1)
    torch.testing.assert_close(ranks[:, 0], slow_average([rise.attribute(inputs, 1)[:, 0]]), rtol=0, atol=1e-6)
    outer = RankEnsemble(net, [inner, LRPUniformEpsilon(net)], [PostProcessor(), PostProcessor()])
    lrp = LRPUniformEpsilon(net).attribute(inputs, 1).sum(1)
    torch.testing.assert_close(outer.attribute(inputs, 1)[:, 0], slow_average([ranks[:, 0], lrp]), rtol=0, atol=1e-6)


def test_it_is_exported_and_in_no_registry() -> None:
    assert RankEnsemble.__name__ in pnpxai.explainers.__all__
    assert RankEnsemble not in EXPLAINERS.values()
    with pytest.raises(ParameterError, match="budget can be continued"):
        ensemble_of(seeded(MLP())).refine(batch(1, 6), 0, (1, 2))


def test_copies_pickles_and_changed_ones() -> None:
    net, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    ensemble = ensemble_of(net)
    expected = ensemble.attribute(inputs)
    copied, pickled = ensemble.copy(), pickle.loads(pickle.dumps(ensemble))
    assert copied == ensemble == ensemble_of(net)
    assert hash(copied) == hash(ensemble) == hash(pickled)
    assert copied.model is net
    assert pickled.model is not net
    assert all(each.model is pickled.model for each in pickled.explainers)
    assert torch.equal(pickled.attribute(inputs), expected)
    again = pickled.set_kwargs(model=net)
    assert again == ensemble
    assert torch.equal(again.attribute(inputs), expected)
    fewer = ensemble.set_kwargs(explainers=ensemble.explainers[:2], postprocessors=ensemble.postprocessors[:2])
    assert fewer != ensemble
    assert hash(fewer) != hash(ensemble)
    other = ensemble.set_kwargs(explainers=[*ensemble.explainers[:2], RISE(net)])
    assert other != ensemble
    tuples = RankEnsemble(net, (Gradient(net),), (PostProcessor(),))
    assert tuples.set_kwargs(model=net) == tuples
    assert repr(tuples) == "RankEnsemble(explainers=(Gradient(),), postprocessors=(PostProcessor(),))"


NET = seeded(VGGLike())
ONE = [PostProcessor()]


@pytest.mark.parametrize(
    ("explainers", "postprocessors", "match"),
    [
        ([], [], "at least one of each"),
        ([Gradient(NET)], ONE * 2, "as many postprocessors"),
        ([Gradient], ONE, "explainers and as many"),
        ([Gradient(NET)], ["sum"], "Pass a PostProcessor"),
        ([Gradient(NET), RISE(seeded(VGGLike()))], ONE * 2, "own model.*another model in RISE"),
        ([Gradient(NET)] * 2, [PostProcessor(), PostProcessor(channel_dim=2)], "one channel_dim"),
    ],
)
def test_members_that_do_not_fit(explainers: list[Explainer], postprocessors: list[PostProcessor], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        RankEnsemble(NET, explainers, postprocessors).attribute(batch(1, 3, 16, 16))


def test_maps_that_cannot_be_compared() -> None:
    plain = PostProcessor(channel_dim=None)
    members = [Gradient(NET), RISE(NET, n_masks=5)]
    with pytest.raises(InputError, match="of one shape"):
        RankEnsemble(NET, members, [plain, plain]).attribute(batch(1, 3, 16, 16))
    with pytest.raises(InputError, match="one tensor to be explained"):
        RankEnsemble(NET, [Gradient(NET)], ONE).attribute((batch(1, 3, 16, 16), batch(1, 3, 16, 16)))
