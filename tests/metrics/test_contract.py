"""What every metric in the registry has to keep."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import InputError, ModelError, ParameterError, PnPXAIError, UnsupportedModelError
from pnpxai.limits import OneOf
from pnpxai.metrics import METRICS
from pnpxai.tunable import constructor_parameters
from tests.harm import untouched
from tests.metrics.cases import (
    ASKS_NOTHING,
    BASE,
    JUDGED_BY_CONCENTRATION,
    JUDGED_BY_REGIONS,
    JUDGED_BY_STEADINESS,
    NAMES,
    OTHER_VALUES,
    Gradient,
    Wild,
    build,
    regions_for,
)
from tests.nets import MLP, Opaque, RaisesAt, TimeCNN, VGGLike, batch, opaque, seeded


def concentrated(x: Tensor) -> tuple[Tensor, Tensor]:
    worse = torch.ones(len(x), *x.shape[2:])
    better = torch.zeros_like(worse)
    better.flatten(1)[:, 3] = 1.0
    return better, worse


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_direction_is_declared(name: str) -> None:
    assert isinstance(METRICS[name].__dict__["HIGHER_IS_BETTER"], bool)
    assert METRICS[name].__name__ == name
    assert not inspect.isabstract(METRICS[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_direction_is_true(name: str) -> None:
    weights = batch(3, 8, 8, seed=3) / 10
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.stack([weights.flatten(), -weights.flatten()]))
        linear[1].bias.zero_()
    x = batch(6, 3, 8, 8)
    units = {"score": "logit"} if name == "Infidelity" else {}
    metric = build(name, linear, x, **units)
    if name in JUDGED_BY_STEADINESS:
        better, worse = metric.evaluate(x, 0), build(name, linear, x, Wild(linear)).evaluate(x, 0)
    elif name in ASKS_NOTHING:
        inside = regions_for(x)
        maps = concentrated(x) if name in JUDGED_BY_CONCENTRATION else (inside.float(), (~inside).float())
        better, worse = (metric.evaluate(x, 0, each) for each in maps)
    else:
        good = x * weights
        better, worse = (metric.evaluate(x, 0, each) for each in (good, batch(6, 8, 8, seed=9) / 10))
        worst = metric.evaluate(x, 0, -good)
        assert ((worse > worst) if METRICS[name].HIGHER_IS_BETTER else (worse < worst)).all()
    assert ((better > worse) if METRICS[name].HIGHER_IS_BETTER else (better < worse)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("net", "shape"),
    [(VGGLike, (3, 3, 16, 16)), (TimeCNN, (3, 2, 24)), (smooth, (3, 6))],
    ids=["image", "series", "tabular"],
)
def test_one_score_a_sample_whatever_its_neighbours(
    name: str, net: Callable[[], nn.Module], shape: tuple[int, ...], set_chunk_size: Callable[[int], None]
) -> None:
    model, x = seeded(net()), batch(*shape)
    metric = build(name, model, x)
    maps = metric.need_explainer().attribute(x, [0, 1, 2])
    found = metric.evaluate(x, [0, 1, 2], maps)
    assert found.shape == (3,)
    assert torch.isfinite(found).all()
    assert name in JUDGED_BY_REGIONS or len(set(found.tolist())) == 3
    assert not found.requires_grad
    singles = [metric.for_samples([i]).evaluate(x[i : i + 1], [i], maps[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(found, torch.cat(singles), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metric.evaluate(x, [0, 1, 2]), found, rtol=0, atol=0)
    set_chunk_size(4)
    torch.testing.assert_close(metric.evaluate(x, [0, 1, 2], maps), found, rtol=1e-4, atol=1e-5)
    backwards = metric.for_samples([2, 1, 0]).evaluate(x.flip(0), [2, 1, 0], maps.flip(0)).flip(0)
    torch.testing.assert_close(backwards, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_touched(name: str) -> None:
    model, x, maps = seeded(VGGLike(inplace=True)).train(), batch(2, 3, 16, 16), batch(2, 16, 16, seed=2)
    metric = build(name, model, x)
    with untouched(model, x, maps):
        metric.evaluate(x, None, maps)
    with untouched(model, x):
        metric.evaluate(x)
    with untouched(model, x):
        answers = metric.answers(x)
    with untouched(model, x, maps, answers):
        metric.evaluate(x, None, maps, answers)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("name", sorted(set(NAMES) - ASKS_NOTHING))
def test_nothing_is_touched_when_the_model_breaks(name: str, at: int) -> None:
    model, x, maps = RaisesAt(seeded(MLP()).train(), at, ValueError), batch(2, 6), batch(2, 6, seed=2)
    with untouched(model, x, maps), pytest.raises(ModelError, match="the network broke here"):
        build(name, model, x).evaluate(x, None, maps)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_reaches_the_score(name: str) -> None:
    model, x = seeded(VGGLike()), batch(4, 3, 16, 16)
    maps = torch.round(batch(4, 16, 16, seed=2))  # with ties, so that their order counts
    given = None if name in JUDGED_BY_STEADINESS else maps
    default = build(name, model, x).evaluate(x, 1, given)
    others = {**OTHER_VALUES, "regions": ~regions_for(x)}
    own = set(constructor_parameters(METRICS[name])) - BASE
    assert own <= set(others), "give the new argument another value above"
    assert set(METRICS[name].TUNABLES) <= own
    for argument in own:
        changed = build(name, model, x).set_kwargs(**{argument: others[argument]})
        assert changed == build(name, model, x, **{argument: others[argument]})
        assert not torch.equal(changed.evaluate(x, 1, given), default), argument


@pytest.mark.parametrize("name", NAMES)
def test_it_scores_maps_of_functions_if_and_only_if_it_says_so(name: str) -> None:
    model, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    function = opaque(model)
    module = Opaque(function)
    if METRICS[name].OUTPUTS_ONLY:
        expected = build(name, model, x, Wild(model)).evaluate(x, 1)
        for each in (function, module):
            torch.testing.assert_close(build(name, each, x, Wild(each)).evaluate(x, 1), expected)
        return
    with pytest.raises(UnsupportedModelError, match=name):
        build(name, function, x, Wild(function)).evaluate(x, 1)
    with pytest.raises(PnPXAIError):  # else it may declare OUTPUTS_ONLY = True
        build(name, module, x, Wild(module)).evaluate(x, 1)


@pytest.mark.parametrize("name", NAMES)
def test_order_alone_counts_where_it_is_declared(name: str) -> None:
    model, x = seeded(VGGLike()), batch(4, 3, 16, 16)
    maps = torch.round(3 * batch(4, 16, 16, seed=2))
    metric = build(name, model, x)
    same = torch.equal(metric.evaluate(x, 1, maps), metric.evaluate(x, 1, maps**3 + 1))
    assert same == METRICS[name].ORDER_ONLY


@pytest.mark.parametrize("name", NAMES)
def test_the_explainer_counts_where_it_is_declared(name: str) -> None:
    model, x, maps = seeded(VGGLike()), batch(2, 3, 16, 16), batch(2, 16, 16, seed=2)
    scores = [build(name, model, x, each(model)).evaluate(x, 1, maps) for each in (Gradient, Wild)]
    assert torch.equal(*scores) != METRICS[name].EXPLAINS_AGAIN


@pytest.mark.parametrize("name", NAMES)
def test_channels_reach_the_score(name: str) -> None:
    model, x, maps = seeded(VGGLike()), batch(8, 3, 16, 16), batch(8, 3, 16, 16, seed=2)
    pooled = build(name, model, x).evaluate(x, 1, maps)
    assert not torch.equal(build(name, model, x, channel_dim=None).evaluate(x, 1, maps), pooled)


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_kept(name: str) -> None:
    x = batch(2, 6)
    for argument, limit in METRICS[name].LIMITS.items():
        assert limit.allows(OTHER_VALUES[argument])
        for wrong in ("nonsense", -1, float("nan")):
            assert isinstance(limit, OneOf) or not limit.allows(wrong)
            with pytest.raises(ParameterError, match=argument):
                build(name, seeded(MLP()), x, **{argument: wrong})


@pytest.mark.parametrize("name", NAMES)
def test_maps_that_do_not_fit_are_refused(name: str) -> None:
    x = batch(2, 6)
    metric = build(name, seeded(MLP()), x)
    for wrong in (torch.zeros(2, 5), torch.zeros(3, 6), torch.full((2, 6), torch.nan), "map"):
        with pytest.raises(InputError, match="attributions"):
            metric.evaluate(x, 0, wrong)
    with pytest.raises(ParameterError, match="explainer"):
        METRICS[name](seeded(MLP())).evaluate(x, 0)


@pytest.mark.parametrize("name", NAMES)
def test_constant_maps_have_a_finite_score(name: str) -> None:
    model, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    for value in (0.0, 0.1, -3.0):
        found = build(name, model, x).evaluate(x, 0, torch.full((2, 16, 16), value))
        assert torch.isfinite(found).all()
