from __future__ import annotations

import json
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from pnpxai.errors import DeclarationError, ParameterError, UnknownNameError
from pnpxai.limits import OneOf, OrNone, WholeWithin, Within
from pnpxai.tunable import Role, Tunable, choices, presets, suggest, to_json, trial_params


class Surface(Role):
    """What a toy is covered with."""


class Plain(Surface):
    NAME = "plain"


class Rough(Surface):
    NAME = "rough"
    TUNABLES = {"grain": FloatDistribution(0.1, 10.0, log=True)}
    LIMITS = {"grain": Within(0.0, low_open=True)}

    def __init__(self, grain: float = 1.0) -> None:
        self.grain = grain


class Toy(Tunable):
    TUNABLES = {
        "weight": FloatDistribution(0.0, 4.0),
        "size": IntDistribution(1, 9),
        "shape": choices((28, 28), (14, 14), (7, 7)),
        "colour": choices("red", "blue", None),
        "surface": Surface,
        "n_parts": IntDistribution(8, 512, log=True),
    }
    BUDGET = ("n_parts",)
    LIMITS = {"weight": Within(0.0), "size": WholeWithin(1), "seed": OrNone(WholeWithin(0)), "mode": OneOf(("a", "b"))}

    def __init__(
        self,
        model: nn.Module | None = None,
        weight: float = 0.5,
        size: int = 3,
        shape: tuple[int, int] = (28, 28),
        colour: str | None = "red",
        surface: str | Surface = "plain",
        n_parts: int = 64,
        seed: int | None = 0,
        mode: str = "a",
        table: Any = None,
    ) -> None:
        self.model = model
        self.weight = weight
        self.size = size
        self.shape = shape
        self.colour = colour
        self.surface = surface
        self.n_parts = n_parts
        self.seed = seed
        self.mode = mode
        self.table = table


CANDIDATES = {Surface: [Plain(), Rough()]}


class Box(Tunable):
    TUNABLES = {"toy": Toy, "depth": FloatDistribution(1.0, 2.0)}

    def __init__(self, toy: Toy | None = None, depth: float = 1.5) -> None:
        self.toy = toy
        self.depth = depth


def not_in_the_constructor() -> None:
    class Wrong(Tunable):
        TUNABLES = {"lenght": FloatDistribution(0, 1)}

        def __init__(self, length: float = 0.5) -> None:
            self.length = length


def limit_not_in_the_constructor() -> None:
    class Wrong(Tunable):
        LIMITS = {"lenght": Within(0)}

        def __init__(self, length: float = 0.5) -> None:
            self.length = length


def default_out_of_range() -> None:
    class Wrong(Tunable):
        TUNABLES = {"length": FloatDistribution(0, 1)}

        def __init__(self, length: float = 1.5) -> None:
            self.length = length


def default_not_among_the_choices() -> None:
    class Wrong(Tunable):
        TUNABLES = {"length": choices("short", "long")}

        def __init__(self, length: str = "medium") -> None:
            self.length = length


def no_default() -> None:
    class Wrong(Tunable):
        TUNABLES = {"length": FloatDistribution(0, 1)}

        def __init__(self, length: float) -> None:
            self.length = length


def collects_positional() -> None:
    class Wrong(Tunable):
        def __init__(self, *lengths: float) -> None:
            self.lengths = lengths


def collects_keywords() -> None:
    class Wrong(Tunable):
        def __init__(self, **lengths: float) -> None:
            self.lengths = lengths


def positional_only() -> None:
    class Wrong(Tunable):
        def __init__(self, length: float = 1.0, /) -> None:
            self.length = length


def budget_not_tunable() -> None:
    class Wrong(Tunable):
        BUDGET = ("length",)

        def __init__(self, length: float = 0.5) -> None:
            self.length = length


def with_preset(preset: dict[str, Any]) -> Callable[[], None]:
    def define() -> None:
        class Wrong(Toy):
            PRESETS = (preset,)

    return define


def overrides_get_tunables() -> None:
    class Wrong(Tunable):
        def get_tunables(self) -> dict[str, Any]:
            return {}


def inherits_a_declaration_it_breaks() -> None:
    class Wrong(Rough):
        def __init__(self) -> None:
            super().__init__()


@pytest.mark.parametrize(
    ("define", "words"),
    [
        (not_in_the_constructor, ("'lenght'", "length", "Wrong")),
        (limit_not_in_the_constructor, ("'lenght'", "length")),
        (default_out_of_range, ("Wrong.length", "1.5", "high=1")),
        (default_not_among_the_choices, ("Wrong.length", "'medium'", "short")),
        (no_default, ("Wrong.length",)),
        (collects_positional, ("*lengths", "one by one")),
        (collects_keywords, ("**lengths", "one by one")),
        (positional_only, ("length", "by name")),
        (budget_not_tunable, ("BUDGET", "length")),
        (overrides_get_tunables, ("TUNABLES", "Wrong.get_tunables")),
        (inherits_a_declaration_it_breaks, ("'grain'",)),
        (with_preset({"wieght": 1.0}), ("presets of Wrong", "'wieght'")),
        (with_preset({"seed": 1}), ("presets of Wrong", "'seed'")),
        (with_preset({"weight": 1.0, "n_parts": 100}), ("no budget", "'n_parts'")),
        (with_preset({"weight": 4.5}), ("weight", "high=4", "4.5")),
        (with_preset({"shape": (9, 9)}), ("shape", "(9, 9)")),
        (with_preset({"surface": "smooth"}), ("surface", "'smooth'")),
        (with_preset({"surface": 3}), ("surface", "3")),
        (with_preset({"surface": Rough(50.0)}), ("surface", "Rough(grain=50.0)")),
        (with_preset({"surface": "rough", "surface.grain": 50.0}), ("presets of Rough", "grain", "50.0")),
        (with_preset({"surface.grain": 3.0}), ("presets of Plain", "'grain'")),
        (with_preset({"size.grain": 3.0}), ("size.grain", "3.0")),
        (with_preset({"weight": 0.5, "surface": Plain()}), ("differ from its defaults",)),
        (with_preset({}), ("differ from its defaults",)),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_false_declaration_fails_where_the_class_is_defined(
    define: Callable[[], None], words: tuple[str, ...]
) -> None:
    with pytest.raises(DeclarationError) as caught:
        define()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Toy(wieght=0.1), ("parameter of Toy", "'wieght'", "Did you mean 'weight'?")),
        (lambda: Toy().set_kwargs(wieght=0.1), ("'wieght'", "Did you mean 'weight'?")),
        (lambda: Toy().set_kwargs(**{"surfaec.grain": 2.0}), ("'surfaec'", "Did you mean 'surface'?")),
        (lambda: Toy(surface=Rough()).set_kwargs(**{"surface.gain": 2.0}), ("Rough", "'gain'", "'grain'")),
        (lambda: Toy().set_kwargs(**{"size.grain": 2.0}), ("size of Toy", "3")),
        (lambda: Toy(weight=-0.1), ("weight of Toy", "[0.0, inf)", "-0.1")),
        (lambda: Toy(weight=math.nan), ("weight of Toy", "nan")),
        (lambda: Toy().set_kwargs(size=2.5), ("size of Toy", "whole number", "2.5")),
        (lambda: Toy(surface=Rough()).set_kwargs(**{"surface.grain": 0}), ("grain of Rough", "(0.0, inf)")),
        (lambda: Toy(mode="c"), ("mode of Toy", "one of 'a', 'b'", "'c'")),
        (lambda: Toy(*range(11)), ("Toy(model, weight", "11 positional")),
        (lambda: type("Needy", (Tunable,), {"__init__": lambda self, length: None})(), ("Needy(length)", "no length")),
    ],
)
def test_a_wrong_argument(build: Callable[[], Tunable], words: tuple[str, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        build()
    assert all(word in str(caught.value) for word in words), str(caught.value)


VALUES = {
    "weight": st.floats(0, 100),
    "size": st.integers(1, 20),
    "shape": st.sampled_from([(28, 28), (3, 5)]),
    "colour": st.sampled_from(["red", None]),
    "surface": st.one_of(st.just("plain"), st.builds(Rough, grain=st.floats(0.01, 5))),
    "n_parts": st.integers(1, 99),
    "table": st.one_of(st.none(), st.lists(st.integers()), st.builds(torch.tensor, st.lists(st.integers(0, 3)))),
}
SOME_KWARGS = st.fixed_dictionaries({}, optional=VALUES)


@given(SOME_KWARGS, SOME_KWARGS)
def test_set_kwargs_equals_constructing_anew(first: dict[str, Any], second: dict[str, Any]) -> None:
    model = nn.Linear(2, 2)
    toy = Toy(model, **first)
    before = toy.get_params()
    changed = toy.set_kwargs(**second)
    anew = Toy(model, **{**first, **second})
    assert changed == anew
    assert hash(changed) == hash(anew)
    assert changed is not toy
    assert changed.model is model
    assert all(toy.get_params()[name] is value for name, value in before.items())


@given(SOME_KWARGS, st.sampled_from(sorted(VALUES)), st.data())
def test_objects_are_equal_if_and_only_if_their_parameters_are(
    kwargs: dict[str, Any], name: str, data: st.DataObject
) -> None:
    toy, again = Toy(**kwargs), pickle.loads(pickle.dumps(Toy(**kwargs)))
    assert toy == again
    assert hash(toy) == hash(again)
    assert json.dumps(to_json(toy)) == json.dumps(to_json(again))
    value = data.draw(VALUES[name])
    same = json.dumps(to_json(value)) == json.dumps(to_json(toy.get_params()[name]))
    assert (toy.set_kwargs(**{name: value}) == toy) is same


def test_objects_of_other_classes_and_values_of_other_types_differ() -> None:
    assert Plain() != Rough()
    assert Toy(size=1) != 1
    assert Toy(weight=1) != Toy(weight=1.0)
    assert Toy(table=torch.zeros(2)) != Toy(table=torch.zeros(2, dtype=torch.float64))
    assert Toy(table=(torch.zeros(2), 1)) == Toy(table=(torch.zeros(2), 1))
    assert Toy(table=np.zeros(3)) == Toy(table=np.zeros(3))
    assert Toy(table={"a": np.zeros(3)}) != Toy(table={"a": np.ones(3)})
    assert Toy(nn.Linear(1, 1)) != Toy(nn.Linear(1, 1))


def test_set_kwargs_reaches_into_a_role() -> None:
    rough = Rough(2.0)
    toy = Toy(surface=rough)
    changed = toy.set_kwargs(**{"surface.grain": 3.0})
    assert changed.surface == Rough(3.0)
    assert rough.grain == 2.0
    assert Toy(surface="rough").set_kwargs(**{"surface.grain": 3.0}) == changed
    assert Box(Toy(surface=rough)).set_kwargs(**{"toy.surface.grain": 3.0}).toy == changed


def test_a_copy_shares_the_model() -> None:
    model = nn.Linear(2, 2)
    toy = Toy(model, weight=2.0)
    assert toy.copy() == toy
    assert toy.copy() is not toy
    assert toy.copy().model is model


def test_get_tunables_is_plain_data() -> None:
    assert Toy().get_tunables() == {
        "weight": (float, {"low": 0.0, "high": 4.0, "log": False}),
        "size": (int, {"low": 1, "high": 9, "log": False}),
        "shape": (list, {"choices": [(28, 28), (14, 14), (7, 7)]}),
        "colour": (list, {"choices": ["red", "blue", None]}),
        "surface": (Surface, {}),
        "n_parts": (int, {"low": 8, "high": 512, "log": True}),
    }


def test_repr_shows_what_is_not_default() -> None:
    assert repr(Toy(nn.Linear(1, 1), weight=2.0, surface=Rough(3.0))) == "Toy(weight=2.0, surface=Rough(grain=3.0))"


class Holder(Tunable):
    def __init__(self, values: Any = None) -> None:
        self.values = values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([[1.0, 2.0]]), "tensor([[1., 2.]])"),
        (torch.zeros(1, 384), "<tensor of shape (1, 384), float32>"),
        ({"x": np.zeros((2, 5), np.int64)}, "{'x': <array of shape (2, 5), int64>}"),
        ((Holder(torch.zeros(7)), "a" * 99), f"(Holder(values=<tensor of shape (7,), float32>), '{'a' * 99}')"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...]"),
    ],
)
def test_repr_shows_the_shape_of_large_values(values: Any, expected: str) -> None:
    assert repr(Holder(values)) == f"Holder(values={expected})"


def test_a_role_is_found_by_name_or_passed_through() -> None:
    assert Surface.resolve("rough") == Rough()
    rough = Rough(4.0)
    assert Surface.resolve(rough) is rough
    with pytest.raises(UnknownNameError, match=r"one of: plain, rough; received 'ruogh'\. Did you mean 'rough'\?"):
        Surface.resolve("ruogh")
    assert {"plain": Plain, "rough": Rough} == Surface.REGISTRY
    assert "plain" not in Role.REGISTRY


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Rough(2.0), {"class": "Rough", "params": {"grain": 2.0}}),
        (((1, 2), [None, True]), [[1, 2], [None, True]]),
        ({"a": {1: "b"}}, {"a": {"1": "b"}}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (torch.float16, "torch.float16"),
        (nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (math.sqrt, "math.sqrt"),
        (
            torch.zeros(1, 2),
            {
                "tensor": "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc",
                "shape": [1, 2],
                "dtype": "torch.float32",
            },
        ),
    ],
    ids=str,
)
def test_to_json(value: object, expected: object) -> None:
    assert to_json(value) == expected
    assert json.loads(json.dumps(to_json(value))) == expected


def test_to_json_tells_arrays_apart() -> None:
    assert to_json(np.zeros(3)) != to_json(np.ones(3))
    assert to_json(torch.zeros(4)) != to_json(torch.zeros(2, 2))
    assert to_json(torch.zeros(2, dtype=torch.bfloat16)) != to_json(torch.zeros(2, dtype=torch.float16))


def _study(storage: str | None = None) -> optuna.Study:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(
            storage=storage, study_name="toys", load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed=3)
        )


@pytest.mark.parametrize("budget", [False, True])
def test_a_finished_trial_gives_back_what_the_running_one_built(tmp_path: Path, budget: bool) -> None:
    storage = f"sqlite:///{tmp_path / 'toys.db'}"
    model = nn.Linear(2, 2)
    built: dict[int, Toy] = {}

    def objective(trial: optuna.Trial) -> float:
        built[trial.number] = suggest(trial, Toy(model, seed=7), CANDIDATES, budget=budget)
        return float(trial.number)

    _study(storage).optimize(objective, n_trials=12)
    reread = _study(storage)
    assert reread.best_trial.number == 0
    for trial in reread.trials:
        again = suggest(trial, Toy(model, seed=7), CANDIDATES, budget=budget)
        assert again == built[trial.number]
        assert again.model is model
        assert again.seed == 7
        assert again.shape in [(28, 28), (14, 14), (7, 7)]
        assert trial.params["shape"] in ["28x28", "14x14", "7x7"]
        assert ("surface.grain" in trial.params) == (trial.params["surface"] == "rough")
        assert ("n_parts" in trial.params) is budget
        assert (again.n_parts == 64) is not budget or budget
    assert {type(each.surface) for each in built.values()} == {Plain, Rough}
    assert len({each.weight for each in built.values()}) == 12


@pytest.mark.parametrize(
    "toy",
    [Toy(), Toy(weight=3.25, size=9, shape=(7, 7), colour=None, surface=Rough(0.3), n_parts=200)],
    ids=["default", "changed"],
)
@pytest.mark.parametrize("budget", [False, True])
def test_an_enqueued_object_is_built_exactly(toy: Toy, budget: bool) -> None:
    study = _study()
    params = trial_params(toy, CANDIDATES, prefix="Toy.", budget=budget)
    study.enqueue_trial(params)
    built = suggest(study.ask(), Toy(n_parts=toy.n_parts), CANDIDATES, prefix="Toy.", budget=budget)
    filled = toy.set_kwargs(surface=Surface.resolve(toy.surface))
    assert built == filled
    assert study.trials[0].params == params
    assert set(params) == {
        *("Toy.weight", "Toy.size", "Toy.shape", "Toy.colour", "Toy.surface"),
        *(["Toy.surface.grain"] if toy.surface == Rough(0.3) else []),
        *(["Toy.n_parts"] if budget else []),
    }


def test_a_role_without_candidates_is_left_alone() -> None:
    rough = Rough(0.3)
    trial = optuna.trial.FixedTrial({"weight": 1.0, "size": 2, "shape": "7x7", "colour": "blue"})
    assert suggest(trial, Toy(surface=rough)) == Toy(None, 1.0, 2, (7, 7), "blue", rough)


def test_prefixes_go_down_with_the_roles() -> None:
    box = Box(Toy())
    candidates = {Toy: [Toy()], **CANDIDATES}
    params = {"depth": 1.25, "toy": "Toy", "toy.weight": 1.0, "toy.size": 2, "toy.shape": "7x7", "toy.colour": "red"}
    params |= {"toy.surface": "rough", "toy.surface.grain": 2.0}
    built = suggest(optuna.trial.FixedTrial(params), box, candidates)
    assert built == Box(Toy(None, 1.0, 2, (7, 7), "red", Rough(2.0)), 1.25)


def test_candidates_of_one_name_are_refused() -> None:
    trial = optuna.trial.FixedTrial({"weight": 1.0, "size": 2, "shape": "7x7", "colour": "blue", "surface": "rough"})
    with pytest.raises(ParameterError, match="rough, rough"):
        suggest(trial, Toy(), {Surface: [Rough(1.0), Rough(2.0)]})


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"weight": 7.5}, "weight"),
        ({"size": 20}, "size"),
        ({"shape": (10, 10)}, "shape"),
        ({"shape": [14, 14]}, "shape"),
        ({"colour": "green"}, "colour"),
        ({"size": (5, 7)}, "size"),
        ({"surface": Rough(50.0)}, "surface"),
    ],
)
def test_a_value_outside_the_declared_space_is_enqueued_and_built_exactly(params: dict[str, Any], kept: str) -> None:
    toy = Toy(**{"surface": Plain(), **params})
    candidates = {Surface: [Plain(), Rough()]}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(trial_params(toy, candidates))
    running = study.ask()
    assert suggest(running, toy, candidates) == toy
    study.tell(running, 0.0)
    assert suggest(study.trials[0], toy, candidates) == toy
    built = []
    for _ in range(6):
        trial = study.ask()
        built.append(suggest(trial, toy, candidates))
        study.tell(trial, 0.0)
        assert suggest(study.trials[-1], toy, candidates) == built[-1]
    same = [getattr(each, kept) == getattr(toy, kept) for each in built]
    assert all(same) if params == {"size": (5, 7)} else not all(same)


class Ready(Toy):
    PRESETS = (
        {"weight": 2.0, "size": 5},
        {"shape": (7, 7), "colour": None},
        {"surface": "rough"},
        {"surface": "rough", "surface.grain": 3.0},
        {"surface": Rough(0.5), "weight": 0.25},
    )


def test_a_preset_is_enqueued_and_built_exactly() -> None:
    model = nn.Linear(2, 2)
    ready = Ready(model, n_parts=100, seed=3)
    found = presets(ready, CANDIDATES)
    assert found == [
        Ready(model, 2.0, 5, n_parts=100, seed=3),
        Ready(model, shape=(7, 7), colour=None, n_parts=100, seed=3),
        Ready(model, surface="rough", n_parts=100, seed=3),
        Ready(model, surface=Rough(3.0), n_parts=100, seed=3),
        Ready(model, weight=0.25, surface=Rough(0.5), n_parts=100, seed=3),
    ]
    study = _study()
    for each in [ready, *found]:
        study.enqueue_trial(trial_params(each, CANDIDATES, prefix="Ready."))
    for each in [ready, *found]:
        trial = study.ask()
        assert suggest(trial, ready, CANDIDATES, prefix="Ready.") == each.set_kwargs(
            surface=Surface.resolve(each.surface)
        )
        study.tell(trial, 0.0)
    assert [trial.params for trial in study.trials[1:]] == [
        trial_params(ready.set_kwargs(**preset), CANDIDATES, prefix="Ready.") for preset in Ready.PRESETS
    ]


@pytest.mark.parametrize(
    ("toy", "candidates", "kept"),
    [
        (Ready(), {}, [0, 1]),
        (Ready(), {Surface: [Plain()]}, [0, 1]),
        (Ready(surface=len), CANDIDATES, [0, 1]),
        (Ready(surface=Rough(3.0)), CANDIDATES, [0, 1, 2, 4]),
        (Ready(surface=Rough(50.0)), {Surface: [Plain()]}, [0, 1, 2, 3, 4]),
        (Ready(weight=2.0, size=5), CANDIDATES, [1, 2, 3, 4]),
        (Ready(shape=[14, 14], size=(5, 7), weight=99.0), CANDIDATES, [1, 2, 3, 4]),
        (Toy(), CANDIDATES, []),
    ],
)
def test_presets_out_of_reach_are_left_out(toy: Toy, candidates: dict[type, Any], kept: list[int]) -> None:
    found = presets(toy, candidates)
    assert found == [toy.set_kwargs(**type(toy).PRESETS[each]) for each in kept]
    study = _study()
    for each in found:
        study.enqueue_trial(trial_params(each, candidates))
        built = suggest(study.ask(), toy, candidates)
        assert trial_params(built, candidates) == trial_params(each, candidates)
