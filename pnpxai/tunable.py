"""Objects that are their constructor's arguments, and say which of them may be tuned."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import numbers
import warnings
from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from pnpxai.errors import DeclarationError, ParameterError, unknown_name
from pnpxai.limits import Limit

T = TypeVar("T", bound="Tunable")
R = TypeVar("R", bound="Role")
Candidates: TypeAlias = Mapping[type["Tunable"], Sequence["Tunable"]]


def choices(*values: Any) -> CategoricalDistribution:
    """A categorical search space over any values; tuples are stored in a study under a label such as ``28x28``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return CategoricalDistribution(values)


@functools.cache  # asked at every construction, and dear
def constructor_parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class's constructor by name, without ``self``."""
    initializer = cls.__init__  # type: ignore[misc]  # read, never called
    if initializer is object.__init__:
        return MappingProxyType({})
    return MappingProxyType(dict(list(inspect.signature(initializer).parameters.items())[1:]))


class _CheckedAtConstruction(ABCMeta):
    """Turns a misspelt or impossible argument into a ``ParameterError`` where the object is built."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        parameters = constructor_parameters(cls)
        unknown = [name for name in kwargs if name not in parameters]
        if unknown:
            error = unknown_name(f"parameter of {cls.__name__}", unknown[0], parameters)
            raise ParameterError(error.expected, error.received, error.advice)
        missing = [
            name
            for name, each in list(parameters.items())[len(args) :]
            if each.default is inspect.Parameter.empty and name not in kwargs
        ]
        if missing or len(args) > len(parameters):
            raise ParameterError(
                f"{cls.__name__}({', '.join(parameters)})",
                f"no {missing[0]}" if missing else f"{len(args)} positional arguments",
                "Pass the arguments by name.",
            )
        made = super().__call__(*args, **kwargs)
        for name, limit in made.LIMITS.items():
            value = getattr(made, name)
            if not limit.allows(value):
                raise ParameterError(
                    f"{name} of {cls.__name__} to be {limit}", f"{value!r}", f"Set {name} within those limits."
                )
        return made


def _check_declaration(cls: type[Tunable]) -> None:
    if "get_tunables" in cls.__dict__:
        raise DeclarationError("the search space in TUNABLES", f"{cls.__name__}.get_tunables", "Declare TUNABLES.")
    parameters = constructor_parameters(cls)
    for each in parameters.values():
        if each.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise DeclarationError(
                f"{cls.__name__}.__init__ to take each of its arguments by name",
                f"{each} ({each.kind.description})",
                "List the arguments one by one.",
            )
    for name in cls.BUDGET:
        if name not in cls.TUNABLES:
            raise DeclarationError(f"every name in BUDGET of {cls.__name__} in TUNABLES", name, "Add it to TUNABLES.")
    for name in (*cls.TUNABLES, *cls.LIMITS):
        if name not in parameters:
            raise DeclarationError(
                f"tunables of {cls.__name__} among its arguments ({', '.join(parameters)})",
                repr(name),
                "Add the argument to __init__, or take it out of the declaration.",
            )
    for name, space in cls.TUNABLES.items():
        default = parameters[name].default
        if isinstance(space, BaseDistribution) and not _contains(space, default):
            raise DeclarationError(
                f"the default of {cls.__name__}.{name} in its range {space}", f"{default!r}", "Widen the range."
            )
    defaults = {name: parameters[name].default for name in cls.TUNABLES}
    for preset in cls.PRESETS:
        _check_preset(cls, preset, defaults)


def _check_preset(cls: type[Tunable], preset: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    values = dict(defaults)
    for name, value in preset.items():
        head, _, rest = name.partition(".")
        if head not in cls.TUNABLES or head in cls.BUDGET:
            raise DeclarationError(
                f"presets of {cls.__name__} to set tunables, and no budget",
                repr(name),
                "Take it out of the preset, or declare it in TUNABLES.",
            )
        space, filling = cls.TUNABLES[head], _filling(cls, head, values[head])
        if rest and isinstance(filling, Tunable):
            _check_preset(type(filling), {rest: value}, filling.get_params())
            value = filling.set_kwargs(**{rest: value})
        elif rest or not _fits(space, value):
            raise DeclarationError(
                f"presets of {cls.__name__} to keep {name} to {space}", f"{value!r}", "Change one of the two."
            )
        values[head] = value
    if all(_filling(cls, name, values[name]) == _filling(cls, name, defaults[name]) for name in values):
        raise DeclarationError(
            f"presets of {cls.__name__} that differ from its defaults", f"{dict(preset)}", "Take the preset out."
        )


def _fits(space: BaseDistribution | type[Tunable], value: Any) -> bool:
    """Whether a search over ``space`` can meet ``value``."""
    if isinstance(space, BaseDistribution):
        return _contains(space, value)
    if isinstance(value, str) and issubclass(space, Role):
        return value in space.REGISTRY
    own = type(value).TUNABLES if isinstance(value, space) else {}
    return isinstance(value, space) and all(_fits(each, getattr(value, name)) for name, each in own.items())


def _filling(cls: type[Tunable], name: str, value: Any) -> Any:
    """The value of a tunable, where it names what fills a role the object meant."""
    role = cls.TUNABLES.get(name)
    if isinstance(value, str) and isinstance(role, type) and issubclass(role, Role) and value in role.REGISTRY:
        return role.resolve(value)
    return value


def _contains(space: BaseDistribution, value: Any) -> bool:
    if isinstance(space, CategoricalDistribution):
        return any(value is each or value == each for each in space.choices)
    if isinstance(space, FloatDistribution | IntDistribution):
        return isinstance(value, int | float) and space.low <= value <= space.high
    return False


class Tunable(metaclass=_CheckedAtConstruction):
    """An object whose constructor stores its arguments under their own names and computes nothing.

    Attributes:
        TUNABLES: argument name to the space it may be searched in: an Optuna distribution, or a `Role` whose
            candidates (and their own tunables) are searched in its place.
        PRESETS: further settings known to be good, tried right after the defaults: values of tunables by name
            (``"baseline_fn.sigma"`` for what a role is tuned by), inside their spaces and no budgets.
        BUDGET: those tunables that buy accuracy with time; a search leaves them alone unless told otherwise.
        LIMITS: argument name to the values it may take at all; checked whenever an object is built.
    """

    TUNABLES: ClassVar[Mapping[str, BaseDistribution | type[Tunable]]] = {}
    PRESETS: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    BUDGET: ClassVar[tuple[str, ...]] = ()
    LIMITS: ClassVar[Mapping[str, Limit]] = {}
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_declaration(cls)
        cls.__signature__ = inspect.Signature(list(constructor_parameters(cls).values()))

    def get_params(self) -> dict[str, Any]:
        """The constructor's arguments as this object holds them."""
        return {name: getattr(self, name) for name in constructor_parameters(type(self))}

    def set_kwargs(self: T, **kwargs: Any) -> T:
        """A new object with some arguments changed; ``{"baseline_fn.sigma": 3.0}`` reaches into a role.

        Raises:
            ParameterError: a name this object does not have, or a value it cannot take.
        """
        params = self.get_params()
        for name, value in kwargs.items():
            head, _, rest = name.partition(".")
            role = type(self).TUNABLES.get(head)
            if rest and isinstance(params.get(head), str) and isinstance(role, type) and issubclass(role, Role):
                params[head] = role.resolve(params[head])
            if rest and isinstance(params.get(head), Tunable):
                value = params[head].set_kwargs(**{rest: value})
            elif rest and head in params:
                raise ParameterError(
                    f"{head} of {type(self).__name__} to be an object with parameters",
                    f"{params.get(head)!r}",
                    f"Set {head} to an object before setting {rest} on it.",
                )
            params[head] = value
        return type(self)(**params)

    def _filled(self) -> dict[str, Any]:
        """`get_params` with the objects that names of roles mean, so that both ways of saying it are equal."""
        return {name: _filling(type(self), name, value) for name, value in self.get_params().items()}

    def copy(self: T) -> T:
        """An equal object; a model is shared, never copied."""
        return type(self)(**self.get_params())

    def get_tunables(self) -> dict[str, tuple[type, dict[str, Any]]]:
        """The search space as plain data: ``{"epsilon": (float, {"low": 1e-6, "high": 1.0, "log": True})}``."""
        return {name: _as_plain(space) for name, space in type(self).TUNABLES.items()}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self._filled(), other._filled()
        return all(_same(mine[name], theirs[name]) for name in mine)

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(to_json(self), sort_keys=True)))

    def __repr__(self) -> str:
        defaults = constructor_parameters(type(self))
        shown = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if not isinstance(value, torch.nn.Module) and not _same(value, defaults[name].default)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Role(Tunable):
    """A part another object is given, named in text: a baseline, a pooling, a normalisation.

    A direct subclass opens a role (``BaselineFunction``); below it, a class with a ``NAME`` is listed under it.
    """

    NAME: ClassVar[str] = ""
    REGISTRY: ClassVar[dict[str, type[Role]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Role in cls.__bases__:
            cls.REGISTRY = {}
        elif "NAME" in cls.__dict__:
            cls.REGISTRY[cls.NAME] = cls

    @classmethod
    def resolve(cls: type[R], value: Any) -> R:
        """The object meant by a name, or the object itself.

        Raises:
            UnknownNameError: a name that is not listed under this role.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value in cls.REGISTRY:
            return cls.REGISTRY[value]()  # type: ignore[return-value]  # the registry of R holds subclasses of R
        raise unknown_name(cls.__name__, value, cls.REGISTRY)


def suggest(
    trial: BaseTrial, obj: T, candidates: Candidates | None = None, *, prefix: str = "", budget: bool = False
) -> T:
    """Let a trial choose the tunables of ``obj``; a finished trial gives back the same object.

    Args:
        trial: a running Optuna trial (searches) or a frozen one (rebuilds).
        obj: where the arguments that are not tuned come from.
        candidates: role to the objects that may fill it; a role without candidates stays as it is, and so does one
            that ``obj`` fills with something of its own (a function, a tensor). A number or choice of ``obj``'s own
            outside its declared space widens it; a value of another kind stays as it is.
        prefix: put before each name in the study.
        budget: search what ``BUDGET`` names, too.
    """
    chosen: dict[str, Any] = {}
    for name, space in _searched(obj, candidates or {}, budget):
        if isinstance(space, list):
            by_label = {_role_label(each): each for each in space}
            if len(by_label) < len(space):
                raise ParameterError(
                    f"candidates for {name} with a name each",
                    ", ".join(map(_role_label, space)),
                    "Keep one of each name.",
                )
            label = trial.suggest_categorical(prefix + name, list(by_label))
            chosen[name] = suggest(trial, by_label[label], candidates, prefix=f"{prefix}{name}.", budget=budget)
        elif isinstance(space, FloatDistribution):
            chosen[name] = trial.suggest_float(prefix + name, space.low, space.high, step=space.step, log=space.log)
        elif isinstance(space, IntDistribution):
            chosen[name] = trial.suggest_int(prefix + name, space.low, space.high, step=space.step, log=space.log)
        else:
            by_value = {_label(each): each for each in (*space.choices, getattr(obj, name))}
            chosen[name] = by_value[trial.suggest_categorical(prefix + name, list(by_value))]
    return obj.set_kwargs(**chosen)


def trial_params(
    obj: Tunable, candidates: Candidates | None = None, *, prefix: str = "", budget: bool = False
) -> dict[str, Any]:
    """What a trial has to choose so that `suggest` builds ``obj`` as it stands (to enqueue a default)."""
    params: dict[str, Any] = {}
    for name, space in _searched(obj, candidates or {}, budget):
        value = getattr(obj, name)
        if isinstance(space, list):
            filled = _filling(type(obj), name, value)
            params[prefix + name] = _role_label(filled)
            params |= trial_params(filled, candidates, prefix=f"{prefix}{name}.", budget=budget)
        else:
            params[prefix + name] = _label(value) if isinstance(space, CategoricalDistribution) else value
    return params


def presets(obj: T, candidates: Candidates | None = None) -> list[T]:
    """``obj`` under each preset of its class that a search around ``obj`` can meet, to be enqueued by `trial_params`.

    Left out are presets that set what is not searched here (a role that no candidate fills as the preset does, or that
    ``obj`` fills with something of its own), and those that ``obj`` already is.

    Args:
        obj: as for `suggest`.
        candidates: as for `suggest`.
    """
    changed = [obj.set_kwargs(**preset) for preset in type(obj).PRESETS]
    start = trial_params(obj, candidates)
    return [
        each for each in changed if _is_met(obj, each, candidates or {}) and trial_params(each, candidates) != start
    ]


def _is_met(obj: Tunable, wanted: Tunable, candidates: Candidates) -> bool:
    """Whether `suggest` can make ``wanted`` of ``obj``."""
    spaces = dict(_searched(obj, candidates, budget=False))
    for name, value in wanted.get_params().items():
        space = spaces.get(name)
        if isinstance(space, list):
            filled = _filling(type(obj), name, value)
            met = any(type(each) is type(filled) and _is_met(each, filled, candidates) for each in space)
        else:
            met = _same(value, getattr(obj, name)) or (space is not None and _contains(space, value))
        if not met:
            return False
    return True


def to_json(value: Any) -> Any:
    """A JSON-compatible description that is equal for equal parameters; models appear by class, tensors by digest."""
    if isinstance(value, Tunable):
        params = {name: to_json(each) for name, each in value._filled().items()}
        return {"class": type(value).__name__, "params": params}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        digest = hashlib.sha256(data.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"tensor": digest, "shape": list(data.shape), "dtype": str(data.dtype)}
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [to_json(each) for each in value]
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _searched(obj: Tunable, candidates: Candidates, budget: bool) -> Iterator[tuple[str, Any]]:
    for name, space in type(obj).TUNABLES.items():
        if name in type(obj).BUDGET and not budget:
            continue
        if isinstance(space, BaseDistribution):
            widened = _with(space, getattr(obj, name))
            if widened is not None:
                yield name, widened
        elif space in candidates:
            own = getattr(obj, name)
            if isinstance(own, str) and issubclass(space, Role):
                own = space.resolve(own)
            if isinstance(own, space):
                others = [each for each in candidates[space] if _role_label(each) != _role_label(own)]
                yield name, [own, *others]


def _with(space: BaseDistribution, value: Any) -> BaseDistribution | None:
    """The space, widened to hold ``value``; None where it cannot."""
    if isinstance(space, CategoricalDistribution):
        known = [_label(each) for each in space.choices]
        if _label(value) in known:
            return space
        plain = value is None or isinstance(value, bool | int | float | str | tuple | list)
        return choices(*space.choices, value) if plain else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    if isinstance(space, IntDistribution) and isinstance(value, numbers.Integral) and space.step == 1:
        low, high = min(space.low, int(value)), max(space.high, int(value))
        return IntDistribution(low, high, space.log) if low > 0 or not space.log else None
    if isinstance(space, FloatDistribution) and space.step is None:
        least, most = min(space.low, float(value)), max(space.high, float(value))
        return FloatDistribution(least, most, space.log) if least > 0 or not space.log else None
    return space if _contains(space, value) else None


def _as_plain(space: BaseDistribution | type[Tunable]) -> tuple[type, dict[str, Any]]:
    if isinstance(space, CategoricalDistribution):
        return list, {"choices": list(space.choices)}
    if isinstance(space, FloatDistribution | IntDistribution):
        kind = float if isinstance(space, FloatDistribution) else int
        return kind, {"low": space.low, "high": space.high, "log": space.log}
    assert isinstance(space, type)
    return space, {}


def _label(value: Any) -> CategoricalChoiceType:
    if isinstance(value, tuple | list):
        return "x".join(str(each) for each in value)
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _role_label(value: Tunable) -> str:
    return value.NAME if isinstance(value, Role) else type(value).__name__


def _same(mine: Any, other: Any) -> bool:
    if mine is other:
        return True
    if type(mine) is not type(other):
        return False
    if isinstance(mine, torch.Tensor):
        return mine.dtype == other.dtype and torch.equal(mine, other)
    if isinstance(mine, np.ndarray):
        return mine.dtype == other.dtype and np.array_equal(mine, other)
    if isinstance(mine, tuple | list):
        return len(mine) == len(other) and all(map(_same, mine, other))
    if isinstance(mine, Mapping):
        return list(mine) == list(other) and all(_same(mine[key], other[key]) for key in mine)
    return bool(mine == other)
