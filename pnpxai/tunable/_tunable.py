"""Objects that are their constructor's arguments, and say which of them may be tuned."""

from __future__ import annotations

import functools
import inspect
import json
import warnings
from abc import ABCMeta
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pnpxai.errors import DeclarationError, ParameterError, unknown_name
from pnpxai.limits import Limit
from pnpxai.tunable._values import Described, same, shown, to_json

T = TypeVar("T", bound="Tunable")
R = TypeVar("R", bound="Role")


Space: TypeAlias = "BaseDistribution | type[Tunable]"


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
        if isinstance(space, BaseDistribution) and not contains(space, default):
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
        space, filling = cls.TUNABLES[head], role_filling(cls, head, values[head])
        if rest and isinstance(filling, Tunable):
            _check_preset(type(filling), {rest: value}, filling.get_params())
            value = filling.set_kwargs(**{rest: value})
        elif rest or not _fits(space, value):
            raise DeclarationError(
                f"presets of {cls.__name__} to keep {name} to {space}", f"{value!r}", "Change one of the two."
            )
        values[head] = value
    if all(role_filling(cls, name, values[name]) == role_filling(cls, name, defaults[name]) for name in values):
        raise DeclarationError(
            f"presets of {cls.__name__} that differ from its defaults", f"{dict(preset)}", "Take the preset out."
        )


def _fits(space: BaseDistribution | type[Tunable], value: Any) -> bool:
    """Whether a search over ``space`` can meet ``value``."""
    if isinstance(space, BaseDistribution):
        return contains(space, value)
    if isinstance(value, str) and issubclass(space, Role):
        return value in space.REGISTRY
    own = type(value).TUNABLES if isinstance(value, space) else {}
    return isinstance(value, space) and all(_fits(each, getattr(value, name)) for name, each in own.items())


def role_filling(cls: type[Tunable], name: str, value: Any) -> Any:
    """The value of a tunable, where it names what fills a role the object meant."""
    role = cls.TUNABLES.get(name)
    if isinstance(value, str) and isinstance(role, type) and issubclass(role, Role) and value in role.REGISTRY:
        return role.resolve(value)
    return value


def contains(space: BaseDistribution, value: Any) -> bool:
    if isinstance(space, CategoricalDistribution):
        return any(value is each or value == each for each in space.choices)
    if isinstance(space, FloatDistribution | IntDistribution):
        return isinstance(value, int | float) and space.low <= value <= space.high
    return False


class Tunable(Described, metaclass=_CheckedAtConstruction):
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

    @property
    def searched(self) -> Mapping[str, Space]:
        """Those of ``TUNABLES`` that matter to this object as it is set up: all, unless a class says otherwise."""
        return type(self).TUNABLES

    def described(self) -> dict[str, Any]:
        """`get_params` with the objects that names of roles mean, so that both ways of saying it are equal."""
        return {name: role_filling(type(self), name, value) for name, value in self.get_params().items()}

    def copy(self: T) -> T:
        """An equal object; a model is shared, never copied."""
        return type(self)(**self.get_params())

    def get_tunables(self) -> dict[str, tuple[type, dict[str, Any]]]:
        """The search space as plain data: ``{"epsilon": (float, {"low": 1e-6, "high": 1.0, "log": True})}``."""
        return {name: _as_plain(space) for name, space in type(self).TUNABLES.items()}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self.described(), other.described()
        return all(same(mine[name], theirs[name]) for name in mine)

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(to_json(self), sort_keys=True)))

    def __repr__(self) -> str:
        defaults = constructor_parameters(type(self))
        changed = (
            f"{name}={shown(value)}"
            for name, value in self.get_params().items()
            if name != "model" and not isinstance(value, torch.nn.Module) and not same(value, defaults[name].default)
        )
        return f"{type(self).__name__}({', '.join(changed)})"


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
        raise unknown_name(cls.__name__, value, cls.names())

    @classmethod
    def names(cls) -> list[str]:
        """The names that say all there is to say: of listed classes that need no arguments, such as data."""
        needed = {name: constructor_parameters(each).values() for name, each in cls.REGISTRY.items()}
        return [name for name, each in needed.items() if all(one.default is not one.empty for one in each)]


def _as_plain(space: BaseDistribution | type[Tunable]) -> tuple[type, dict[str, Any]]:
    if isinstance(space, CategoricalDistribution):
        return list, {"choices": list(space.choices)}
    if isinstance(space, FloatDistribution | IntDistribution):
        kind = float if isinstance(space, FloatDistribution) else int
        return kind, {"low": space.low, "high": space.high, "log": space.log}
    assert isinstance(space, type)
    return space, {}
