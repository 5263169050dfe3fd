"""What every registered explainer must do; a new class is tested from the moment it is registered."""

from __future__ import annotations

import inspect
import math
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

import pnpxai.explainers  # noqa: F401  # registers the explainers
from pnpxai.errors import ModelError, ParameterError, PnPXAIError, UnsupportedModelError
from pnpxai.explainers import EXPLAINERS, Explainer, Gradient
from pnpxai.explainers.lrp import LRPBase
from pnpxai.forward import count_forwards
from pnpxai.modality import Image
from pnpxai.modules import MODULE_KINDS, detect_model_architecture
from pnpxai.relevance import MODULES, Pass, Step
from pnpxai.tunable import Role, Tunable, constructor_parameters, presets, suggest, trial_params
from tests import nets
from tests.harm import untouched
from tests.nets import (
    Opaque,
    RaisesAt,
    Wrapped,
    as_dict,
    as_tuple,
    batch,
    breaks_in_backward,
    opaque,
    seeded,
    times_backward_broke,
)

FLOAT32 = 2e-4
"""Of a map's largest magnitude: some hundreds of float32 sums in another order (2**-24 each), amplified by Adam's or a
rule's divisions."""
FLOAT64 = 1e-9
SAME = 1e-6
"""The same sums in the same order; the processor may still take another path for another memory alignment."""


@dataclass(frozen=True)
class Ground:
    """A tiny network and the shape of its inputs."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def net(self) -> nn.Module:
        return seeded(self.build())

    def inputs(self, n: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
        return batch(n, *self.shape, dtype=dtype)


GROUNDS = [
    Ground(nets.VGGLike, (3, 16, 16)),
    Ground(nets.TimeCNN, (2, 24)),
    Ground(nets.MLP, (6,)),
    Ground(nets.TinyTransformer, (8, 4)),
    Ground(nets.LSTMClassifier, (8, 4)),
]
CHEAP = 12
"""What a budget is set to where it may be."""


def grounds(cls: type[Explainer]) -> Iterator[Ground]:
    """The networks that the class declares to support."""
    for ground in GROUNDS:
        kinds = detect_model_architecture(ground.net(), ground.inputs(1)).kinds
        fits = kinds & set(cls.SUPPORTED_MODULES) and not kinds & set(cls.EXCLUDED_MODULES)
        if fits and (not cls.INPUT_NDIMS or len(ground.shape) + 1 in cls.INPUT_NDIMS):
            yield ground


def cheap(cls: type[Explainer]) -> dict[str, Any]:
    """Small budgets for the class."""
    return {
        name: CHEAP if name not in cls.LIMITS or cls.LIMITS[name].allows(CHEAP) else _low(cls.TUNABLES[name])
        for name in cls.BUDGET
    }


def _low(space: Any) -> Any:
    return space.choices[0] if isinstance(space, CategoricalDistribution) else space.low


def maps_of(explainer: Explainer, inputs: Any, targets: Any = 1) -> Tensor:
    maps = explainer.attribute(inputs, targets)
    assert isinstance(maps, Tensor)
    assert torch.isfinite(maps).all()
    return maps


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max()).clamp(min=1e-30))


CLASSES = [pytest.param(cls, id=name) for name, cls in sorted(EXPLAINERS.items())]
PAIRS = [
    pytest.param(cls, ground, id=f"{name}-{ground.build.__name__}")
    for name, cls in sorted(EXPLAINERS.items())
    for ground in grounds(cls)
]
PARAMETERS = [
    pytest.param(cls, name, id=f"{cls.__name__}-{name}")
    for _, cls in sorted(EXPLAINERS.items())
    for name in cls.TUNABLES
]
each_class = pytest.mark.parametrize("cls", CLASSES)
each_pair = pytest.mark.parametrize(("cls", "ground"), PAIRS)
FIRST = [pytest.param(cls, next(grounds(cls)), id=name) for name, cls in sorted(EXPLAINERS.items())]
each_first = pytest.mark.parametrize(("cls", "ground"), FIRST)


def _each_pair_with(names: tuple[str, ...], first: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> Any:
    """All rows of values on a class's first network, some of them on its others."""
    mains = {each.id: each.values for each in FIRST}
    rows = [
        pytest.param(*pair.values, *values, id=f"{pair.id}-{values[0]}")
        for pair in PAIRS
        for values in (first if pair.values == mains[pair.values[0].__name__] else others)
    ]
    return pytest.mark.parametrize(("cls", "ground", *names), rows)


each_precision = _each_pair_with(
    ("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)], [(torch.float64, FLOAT64)]
)
each_moment = _each_pair_with(("when",), [("at first",), ("in the middle",), ("at last",)], [("in the middle",)])


def first(cls: type[Explainer]) -> tuple[Ground, nn.Module, Explainer]:
    ground = next(grounds(cls))
    net = ground.net()
    return ground, net, cls(net, **cheap(cls))


def test_there_are_explainers() -> None:
    assert len(EXPLAINERS) >= 2


@each_class
def test_the_declaration_is_complete(cls: type[Explainer]) -> None:
    assert EXPLAINERS[cls.__name__] is cls
    assert not inspect.isabstract(cls)
    room = sys.modules[cls.__module__.rpartition(".")[0]]
    assert getattr(room, cls.__name__) is cls
    assert cls.__name__ in room.__all__
    assert set(cls.SUPPORTED_MODULES) <= set(MODULE_KINDS)
    assert cls.SUPPORTED_MODULES
    assert not set(cls.SUPPORTED_MODULES) & set(cls.EXCLUDED_MODULES)
    assert cls.EXPLANATION_TYPE == "attribution"
    assert list(constructor_parameters(cls))[:3] == [
        *("model", "forward_arg_extractor", "additional_forward_arg_extractor")
    ]
    assert list(grounds(cls)), "no network of this test fits; add one to GROUNDS"


@each_class
def test_the_docstring_has_arguments_and_an_example(cls: type[Explainer]) -> None:
    text = inspect.getdoc(cls) or ""
    assert cls.__doc__ is not None
    assert ">>>" in text
    own = set(constructor_parameters(cls)) - set(constructor_parameters(Explainer))
    inherited = "\n".join(inspect.getdoc(each) or "" for each in cls.__mro__ if issubclass(each, Explainer))
    missing = [name for name in own if f"{name}:" not in inherited]
    assert not missing, f"not described: {missing}"


@pytest.mark.parametrize(("cls", "name"), PARAMETERS)
def test_a_tunables_range_is_allowed_and_holds_the_default(cls: type[Explainer], name: str) -> None:
    space, limit = cls.TUNABLES[name], cls.LIMITS.get(name)
    default = constructor_parameters(cls)[name].default
    if isinstance(space, CategoricalDistribution):
        ends: list[Any] = list(space.choices)
    elif isinstance(space, FloatDistribution | IntDistribution):
        ends = [space.low, space.high]
        assert space.low <= default <= space.high
        assert limit is not None, "a number without LIMITS"
    else:
        assert isinstance(space, type)
        assert issubclass(space, Tunable)
        assert default is None or not issubclass(space, Role) or isinstance(space.resolve(default), space)
        return
    assert limit is None or all(limit.allows(each) for each in [*ends, default])


@pytest.mark.parametrize("cls", CLASSES)
def test_a_value_outside_its_limits_is_refused(cls: type[Explainer]) -> None:
    net = first(cls)[1]
    for name, limit in cls.LIMITS.items():
        for value in (math.nan, -1e9, object()):
            if not limit.allows(value):
                with pytest.raises(PnPXAIError, match=name):
                    cls(net, **{name: value})


OF_TOKENS = ("token", "words")
"""What fills a role for token ids alone."""


def _alternatives(space: BaseDistribution | type[Tunable], default: Any) -> list[Any]:
    if isinstance(space, CategoricalDistribution):
        values = list(space.choices)
    elif isinstance(space, FloatDistribution):
        middle = math.sqrt(space.low * space.high) if space.log else (space.low + space.high) / 2
        values = [space.high, middle, space.low]
    elif isinstance(space, IntDistribution):
        values = [(space.low + space.high) // 2, space.high, space.low]
    else:
        assert isinstance(space, type)
        assert issubclass(space, Role)
        values = [space.resolve(each) for each in space.names() if each not in OF_TOKENS]
        return [each for each in values if default is None or each != space.resolve(default)]
    return [each for each in values if each != default]


@pytest.mark.parametrize(("cls", "name"), PARAMETERS)
def test_every_tunable_reaches_the_map_or_as_a_budget_the_cost(cls: type[Explainer], name: str) -> None:
    ground, _, explainer = first(cls)
    inputs = ground.inputs(2)
    if name in cls.BUDGET:
        dearer = explainer.set_kwargs(**{name: 2 * getattr(explainer, name)})
        costs = []
        for each in (explainer, dearer):
            with count_forwards() as counter:
                maps_of(each, inputs)
            costs.append(counter.n_samples)
        assert costs[0] < costs[1]
        return
    alternatives = [{name: each} for each in _alternatives(cls.TUNABLES[name], getattr(explainer, name))]
    assert alternatives
    assert any(each > 1e-3 for each in changes(cls, alternatives))


def changes(cls: type[Explainer], settings: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """How much each of some settings changes the map, on one network after another: some mean nothing to one kind."""
    for ground in grounds(cls):
        explainer, inputs = cls(ground.net(), **cheap(cls)), ground.inputs(2)
        default = maps_of(explainer, inputs)
        yield from (distance(maps_of(explainer.set_kwargs(**each), inputs), default) for each in settings)


@pytest.mark.parametrize(
    ("cls", "name"), [each for each in PARAMETERS if isinstance(each.values[0].TUNABLES[each.values[1]], type)]
)
def test_a_roles_own_tunables_reach_the_map(cls: type[Explainer], name: str) -> None:
    ground, _, explainer = first(cls)
    role = cls.TUNABLES[name]
    assert isinstance(role, type)
    assert issubclass(role, Role)
    inputs = ground.inputs(2)
    reached = 0
    for candidate in (role.REGISTRY[each] for each in role.names() if each not in OF_TOKENS):
        for inner, space in candidate.TUNABLES.items():
            values = _alternatives(space, getattr(candidate(), inner))
            least = {other: _low(each) for other, each in candidate.TUNABLES.items() if other != inner}
            starts = (explainer.set_kwargs(**{name: each}) for each in (candidate(), candidate(**least)))
            changes = (
                distance(maps_of(start.set_kwargs(**{f"{name}.{inner}": each}), inputs), maps_of(start, inputs))
                for start in starts
                for each in values
            )
            assert any(change > 1e-3 for change in changes), f"{candidate.__name__}.{inner}"
            reached += 1
    assert reached


@each_first
def test_it_explains_functions_if_and_only_if_it_says_so(cls: type[Explainer], ground: Ground) -> None:
    net, inputs = ground.net(), ground.inputs(2)
    function = opaque(net)
    module = Opaque(function)
    if cls.OUTPUTS_ONLY:
        expected = maps_of(cls(net, **cheap(cls)), inputs)
        for model in (function, module):
            with untouched(net, inputs):
                maps = maps_of(cls(model, **cheap(cls)), inputs)
            assert distance(maps, expected) <= SAME
        return
    with untouched(net, inputs), pytest.raises(UnsupportedModelError, match=f"{cls.__name__}.*answer, a function"):
        cls(function, **cheap(cls)).attribute(inputs, 1)
    with untouched(module, inputs), pytest.raises(PnPXAIError):  # else it may declare OUTPUTS_ONLY = True
        cls(module, **cheap(cls)).attribute(inputs, 1)


@each_class
def test_set_kwargs_equals_constructing_anew(cls: type[Explainer]) -> None:
    ground, net, explainer = first(cls)
    inputs = ground.inputs(2)
    before = maps_of(explainer, inputs)
    for name, space in cls.TUNABLES.items():
        if name in cls.BUDGET:
            continue
        value = _alternatives(space, getattr(explainer, name))[0]
        changed, anew = explainer.set_kwargs(**{name: value}), cls(net, **{**cheap(cls), name: value})
        assert changed == anew != explainer
        assert changed.model is net
        assert distance(maps_of(changed, inputs), maps_of(anew, inputs)) <= SAME
    assert distance(maps_of(explainer, inputs), before) <= SAME


@each_pair
def test_copies_and_pickles_explain_alike(cls: type[Explainer], ground: Ground) -> None:
    net, inputs = ground.net(), ground.inputs(2)
    explainer = cls(net, **cheap(cls))
    expected = maps_of(explainer, inputs)
    copied, pickled = explainer.copy(), pickle.loads(pickle.dumps(explainer))
    assert copied == explainer
    assert copied.model is net
    assert distance(maps_of(copied, inputs), expected) <= SAME
    assert distance(maps_of(pickled, inputs), expected) <= SAME
    again = pickle.loads(pickle.dumps(pickled))
    assert distance(maps_of(again.set_kwargs(model=net), inputs), expected) <= SAME


@each_pair
@pytest.mark.parametrize("chosen", ["given", "predicted"])
def test_the_shape_is_the_inputs_or_has_one_channel(cls: type[Explainer], ground: Ground, chosen: str) -> None:
    maps = maps_of(cls(ground.net(), **cheap(cls)), ground.inputs(), 1 if chosen == "given" else None)
    assert tuple(maps.shape) in {
        (3, *ground.shape),
        (3, 1, *ground.shape[1:]) if ground.shape[1:] else (3, *ground.shape),
    }
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert (maps.flatten(1).std(1) > 0).all(), "a constant map"


def _troubled(ground: Ground) -> nn.Module:
    """A network in a mixed mode, with hooks, frozen parameters and gradients of its own."""
    net = ground.net().train()
    modules, parameters = list(net.modules()), list(net.parameters())
    modules[-1].eval()
    modules[-1].register_forward_hook(_seen)
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.full_like(parameters[-1], 0.5)
    net.own = [1, 2]
    return net


def _seen(*_: Any) -> None:
    return None


@each_pair
def test_nothing_is_touched(cls: type[Explainer], ground: Ground) -> None:
    net, inputs, targets = _troubled(ground), ground.inputs(), torch.tensor([1, 0, 2])
    explainer = cls(net, **cheap(cls))
    with untouched(net, inputs, targets):
        maps_of(explainer, inputs, targets)
    leaf = ground.inputs().requires_grad_()
    with untouched(net, leaf):
        maps_of(explainer, leaf, None)


@each_first
def test_training_mode_and_frozen_parameters_do_not_change_the_map(cls: type[Explainer], ground: Ground) -> None:
    expected = maps_of(cls(ground.net(), **cheap(cls)), ground.inputs())
    assert distance(maps_of(cls(_troubled(ground), **cheap(cls)), ground.inputs()), expected) <= SAME
    frozen = ground.net().requires_grad_(False)
    assert distance(maps_of(cls(frozen, **cheap(cls)), ground.inputs()), expected) <= SAME


@each_moment
def test_nothing_is_touched_when_the_model_raises(
    cls: type[Explainer], ground: Ground, when: str, set_chunk_size: Callable[[int], None]
) -> None:
    set_chunk_size(1)
    inputs = ground.inputs()
    with count_forwards() as counter:
        maps_of(cls(ground.net(), **cheap(cls)), inputs)
    at = {"at first": 1, "in the middle": counter.n_calls // 2 + 1, "at last": counter.n_calls}[when]
    net = RaisesAt(_troubled(ground), at)
    explainer = cls(net, **cheap(cls))
    with untouched(net, inputs), pytest.raises(ModelError, match="the network broke here") as caught:
        explainer.attribute(inputs, 1)
    assert isinstance(caught.value.__cause__, RuntimeError)


class BreaksInBackward(nn.Module):
    """Its gradient raises."""

    def forward(self, outputs: Tensor) -> Tensor:
        return breaks_in_backward(outputs)


class BreaksInRelevance(Pass):
    """Its relevance raises, as the gradient of `BreaksInBackward` does."""

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            torch.autograd.backward(breaks_in_backward(torch.zeros(1, requires_grad=True) * 1))
        raise NotImplementedError


@each_first
def test_nothing_is_touched_when_the_gradient_raises(
    cls: type[Explainer], ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODULES, BreaksInBackward, BreaksInRelevance())
    net, inputs = nn.Sequential(_troubled(ground), BreaksInBackward()), ground.inputs()
    explainer, before = cls(net, **cheap(cls)), times_backward_broke()
    said = []
    with untouched(net, inputs):
        try:
            explainer.attribute(inputs, 1)
        except PnPXAIError as error:
            said.append("the gradient broke here" in str(error))
    assert said == [True] * (times_backward_broke() > before)
    assert said or not issubclass(cls, LRPBase)


@each_precision
def test_chunks_do_not_change_the_map(
    cls: type[Explainer],
    ground: Ground,
    dtype: torch.dtype,
    tolerance: float,
    set_chunk_size: Callable[[int], None],
) -> None:
    net, inputs, targets = ground.net().to(dtype), ground.inputs(dtype=dtype), torch.tensor([1, 0, 2])
    explainer = cls(net, **cheap(cls))
    set_chunk_size(256)
    expected = maps_of(explainer, inputs, targets)
    for size in (1, 3):
        set_chunk_size(size)
        assert distance(maps_of(explainer, inputs, targets), expected) <= tolerance
    if "batch_size" in constructor_parameters(cls):
        for size in (1, 5, 64):
            assert distance(maps_of(explainer.set_kwargs(batch_size=size), inputs, targets), expected) <= tolerance


@each_precision
def test_the_neighbours_in_a_batch_do_not_change_a_map(
    cls: type[Explainer], ground: Ground, dtype: torch.dtype, tolerance: float
) -> None:
    net, inputs, targets = ground.net().to(dtype), ground.inputs(dtype=dtype), torch.tensor([1, 0, 2])
    explainer = cls(net, **cheap(cls))
    expected = maps_of(explainer, inputs, targets)
    for i in range(3):
        alone = maps_of(explainer, inputs[i : i + 1], targets[i : i + 1])
        assert distance(alone, expected[i : i + 1]) <= tolerance
    order = torch.tensor([2, 0, 1])
    assert distance(maps_of(explainer, inputs[order], targets[order]), expected[order]) <= tolerance
    twice = torch.tensor([1, 1])
    assert distance(maps_of(explainer, inputs[twice], targets[twice]), expected[twice]) <= tolerance


@each_pair
def test_the_same_seed_gives_the_same_map_and_another_seed_another(cls: type[Explainer], ground: Ground) -> None:
    explainer = cls(ground.net(), **cheap(cls))
    expected = maps_of(explainer, ground.inputs())
    states = torch.get_rng_state()
    try:
        torch.manual_seed(123)
        assert distance(maps_of(explainer, ground.inputs()), expected) <= SAME
    finally:
        torch.set_rng_state(states)
    if "seed" in constructor_parameters(cls):
        seeds = [maps_of(explainer.set_kwargs(**_all_random(explainer), seed=seed), ground.inputs()) for seed in (1, 2)]
        assert distance(seeds[0], seeds[1]) > 1e-3


def _all_random(explainer: Explainer) -> dict[str, Any]:
    """The switches that must be on for the seed to matter."""
    return {"add_noise": True} if "add_noise" in constructor_parameters(type(explainer)) else {}


@each_first
def test_double_precision_comes_back_and_agrees(cls: type[Explainer], ground: Ground) -> None:
    explainer = cls(ground.net(), **cheap(cls))
    expected = maps_of(explainer, ground.inputs())
    inputs = ground.inputs(dtype=torch.float64)
    maps = maps_of(explainer, inputs)
    assert maps.dtype == torch.float64
    assert distance(maps, expected.double()) <= SAME
    doubled = maps_of(explainer.set_kwargs(model=ground.net().double()), inputs)
    assert distance(doubled, expected.double()) <= 2e-3


@each_first
def test_the_memory_layout_does_not_change_the_map(cls: type[Explainer], ground: Ground) -> None:
    explainer, inputs = cls(ground.net(), **cheap(cls)), ground.inputs()
    expected = maps_of(explainer, inputs)
    layouts = [
        inputs.transpose(0, -1).contiguous().transpose(0, -1),
        torch.stack([inputs, inputs], -1)[..., 0],
        torch.cat([inputs, inputs])[:3],
    ]
    for each in layouts:
        assert torch.equal(each, inputs)
        assert distance(maps_of(explainer, each), expected) <= FLOAT32
    one = inputs[:1].expand(3, *ground.shape)
    assert distance(maps_of(explainer, one)[2:], expected[:1]) <= FLOAT32


@each_pair
def test_the_callers_gradient_mode_does_not_matter(cls: type[Explainer], ground: Ground) -> None:
    explainer, targets = cls(ground.net(), **cheap(cls)), [1, 0, 2]
    expected = maps_of(explainer, ground.inputs(), torch.tensor(targets))
    with torch.no_grad():
        assert distance(maps_of(explainer, ground.inputs(), torch.tensor(targets)), expected) <= SAME
    with torch.inference_mode():
        maps = maps_of(explainer, ground.inputs(), torch.tensor(targets))
    assert distance(maps, expected) <= SAME


@each_first
def test_targets_as_int_tensor_none_and_function(cls: type[Explainer], ground: Ground) -> None:
    net, inputs = Wrapped(ground.net(), nets.identity), ground.inputs()
    explainer = cls(net, **cheap(cls))
    expected = maps_of(explainer, inputs, 2)
    assert distance(maps_of(explainer, inputs, torch.tensor([2, 2, 2])), expected) <= SAME
    assert distance(maps_of(explainer, inputs, [2, 2, 2]), expected) <= SAME
    best = net(inputs).argmax(1)
    assert distance(maps_of(explainer, inputs, None), maps_of(explainer, inputs, best)) <= SAME
    named = maps_of(explainer, inputs, lambda outputs: outputs[:, 2])
    as_probability = maps_of(explainer, inputs, lambda outputs: outputs.softmax(1)[:, 2])
    assert min(distance(named, expected), distance(as_probability, expected)) <= FLOAT32


@each_class
def test_two_classes_have_one_map_if_and_only_if_it_says_so(cls: type[Explainer]) -> None:
    ground, _, explainer = first(cls)
    first_two = [maps_of(explainer, ground.inputs(), each) for each in (0, 1)]
    assert (distance(*first_two) > 1e-3) == cls.OF_TARGETS


@each_first
@pytest.mark.parametrize("form", [as_dict, as_tuple])
def test_outputs_may_be_tuples_and_mappings(
    cls: type[Explainer], ground: Ground, form: Callable[[Tensor], Any]
) -> None:
    expected = maps_of(cls(ground.net(), **cheap(cls)), ground.inputs())
    maps = maps_of(cls(Wrapped(ground.net(), form), **cheap(cls)), ground.inputs())
    assert distance(maps, expected) <= SAME


@each_first
def test_inputs_may_be_picked_from_anything(cls: type[Explainer], ground: Ground) -> None:
    inputs = ground.inputs()
    expected = maps_of(cls(ground.net(), **cheap(cls)), inputs)
    explainer = cls(ground.net(), forward_arg_extractor=lambda data: data["x"], **cheap(cls))
    with untouched(None, inputs):
        assert distance(maps_of(explainer, {"x": inputs, "y": None}), expected) <= SAME


@each_class
def test_a_network_with_in_place_relus_gives_the_same_map(cls: type[Explainer]) -> None:
    ground = next(grounds(cls))
    if ground.build is not nets.VGGLike:
        pytest.skip("takes no images")
    expected = maps_of(cls(ground.net(), **cheap(cls)), ground.inputs())
    maps = maps_of(cls(seeded(nets.VGGLike(inplace=True)), **cheap(cls)), ground.inputs())
    assert distance(maps, expected) <= SAME


@each_class
def test_nothing_is_warned_of(cls: type[Explainer]) -> None:
    ground, _, explainer = first(cls)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps_of(explainer, ground.inputs(1))


PRESETS = [
    pytest.param(cls, preset, id="-".join([cls.__name__, *(f"{name}={value}" for name, value in preset.items())]))
    for _, cls in sorted(EXPLAINERS.items())
    for preset in cls.PRESETS
]


@each_class
def test_presets_are_few_and_come_from_somewhere(cls: type[Explainer]) -> None:
    assert len(cls.PRESETS) <= 2
    assert ("Presets:" in (inspect.getdoc(cls) or "")) == bool(cls.PRESETS)


@each_class
def test_a_search_can_start_from_every_preset(cls: type[Explainer]) -> None:
    explainer, candidates = first(cls)[2], Image().candidates
    found = presets(explainer, candidates)
    assert found == [explainer.set_kwargs(**preset) for preset in cls.PRESETS]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for each in [explainer, *found]:
        study.enqueue_trial(trial_params(each, candidates, prefix="its."))
    for each in [explainer, *found]:
        trial = study.ask()
        built = suggest(trial, explainer, candidates, prefix="its.")
        study.tell(trial, 0.0)
        assert trial_params(built, candidates) == trial_params(each, candidates)
        assert trial.params == trial_params(each, candidates, prefix="its.")


@pytest.mark.parametrize(("cls", "preset"), PRESETS)
def test_every_preset_reaches_the_map(cls: type[Explainer], preset: dict[str, Any]) -> None:
    assert any(each > 1e-3 for each in changes(cls, [preset]))


GROWING = (3, 7, CHEAP)
each_nested = pytest.mark.parametrize(("cls", "ground"), [each for each in PAIRS if each.values[0].NESTED])


def at_budgets(explainer: Explainer, inputs: Tensor, targets: Any) -> tuple[list[Tensor], int]:
    """The maps at each budget, each from the beginning, and what the last of them costs."""
    (name,) = explainer.BUDGET
    maps = []
    for budget in GROWING:
        with count_forwards() as counter:
            maps.append(maps_of(explainer.set_kwargs(**{name: budget}), inputs, targets))
    return maps, counter.n_samples


@each_nested
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)])
@pytest.mark.parametrize("targets", [None, [1, 0, 2]], ids=["predicted", "given"])
def test_refining_gives_the_maps_of_every_budget_at_the_cost_of_the_last(
    cls: type[Explainer], ground: Ground, dtype: torch.dtype, tolerance: float, targets: Any
) -> None:
    inputs, explainer = ground.inputs(dtype=dtype), cls(ground.net().to(dtype))
    expected, cost = at_budgets(explainer, inputs, targets)
    with count_forwards() as counter:
        found = list(explainer.refine(inputs, targets, GROWING))
    assert counter.n_samples == cost
    assert all(distance(*pair) <= tolerance for pair in zip(found, expected, strict=True))
    assert distance(found[0], found[-1]) > 1e-3
    assert all(each.dtype == dtype and not each.requires_grad for each in found)


@each_nested
def test_refining_gives_the_same_maps_where_samples_do_not_share_a_batch(
    cls: type[Explainer], ground: Ground, set_chunk_size: Callable[[int], None]
) -> None:
    set_chunk_size(1)
    inputs, explainer = ground.inputs(), cls(ground.net())
    expected, _ = at_budgets(explainer, inputs, None)
    found = list(explainer.refine(inputs, None, GROWING))
    assert all(distance(*pair) <= SAME for pair in zip(found, expected, strict=True))
    (name,) = cls.BUDGET
    (alone,) = explainer.set_kwargs(**{name: 7}).refine(inputs)
    assert distance(alone, expected[1]) <= SAME


@each_nested
def test_between_two_budgets_the_model_is_the_callers(cls: type[Explainer], ground: Ground) -> None:
    net, inputs = _troubled(ground), ground.inputs()
    explainer = cls(net)
    expected, _ = at_budgets(explainer, inputs, None)
    steps = explainer.refine(inputs, None, GROWING)
    for each in expected:
        with untouched(net, inputs):
            maps = next(steps)
        assert distance(maps, each) <= FLOAT32
        maps.zero_()
        net.train(not net.training)
        inputs.mul_(-1)
        maps_of(Gradient(net), ground.inputs())
        torch.rand(1)
    with untouched(net, inputs), pytest.raises(StopIteration):
        next(steps)


@each_nested
def test_a_state_stays_as_it_is_when_it_is_continued(cls: type[Explainer], ground: Ground) -> None:
    explainer = cls(ground.net())
    request = explainer.request(ground.inputs(), 1)
    state = explainer.explain_further(request, GROWING[0], None)[1]
    again = [explainer.explain_further(request, GROWING[1], state)[0] for _ in range(2)]
    one, other = (each[0] if isinstance(each, tuple) else each for each in again)
    assert distance(one, other) <= SAME


@each_nested
def test_nothing_is_touched_when_refining_stops_half_way(
    cls: type[Explainer], ground: Ground, set_chunk_size: Callable[[int], None]
) -> None:
    set_chunk_size(1)
    net, inputs = _troubled(ground), ground.inputs()
    explainer = cls(net)
    with untouched(net, inputs):
        steps = explainer.refine(inputs, 1, GROWING)
        next(steps)
        steps.close()
        steps = explainer.refine(inputs, 1, GROWING)
        del steps
    with count_forwards() as counter:
        list(explainer.refine(inputs, 1, GROWING))
    for at in (1, counter.n_calls // 2 + 1, counter.n_calls):
        broken = RaisesAt(net, at)
        with untouched(broken, inputs), pytest.raises(ModelError, match="the network broke here"):
            list(cls(broken).refine(inputs, 1, GROWING))


@pytest.mark.parametrize("cls", [each for each in CLASSES if not each.values[0].NESTED])
def test_a_budget_that_cannot_be_continued_is_not_refined(cls: type[Explainer]) -> None:
    ground, _, explainer = first(cls)
    with pytest.raises(ParameterError, match=f"budget can be continued, to refine .*RISE.*; received {cls.__name__}"):
        explainer.refine(ground.inputs(), 1, GROWING)


@pytest.mark.parametrize("cls", [each for each in CLASSES if each.values[0].NESTED])
@pytest.mark.parametrize(
    "budgets", [(5, 5), (7, 3), (0, 5), (2, 4.5), (True, 5), ("few", "many"), (math.nan,)], ids=str
)
def test_budgets_must_be_growing_whole_numbers(cls: type[Explainer], budgets: Any) -> None:
    ground, _, explainer = first(cls)
    with pytest.raises(ParameterError, match=f"budgets that grow .* each {cls.BUDGET[0]} of {cls.__name__}"):
        explainer.refine(ground.inputs(), 1, budgets)
