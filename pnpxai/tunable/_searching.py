"""What a search over an object's tunables chooses, and the object that it chose."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from pnpxai.errors import ParameterError
from pnpxai.tunable._tunable import Role, T, Tunable, choices, contains, role_filling
from pnpxai.tunable._values import same

Candidates: TypeAlias = Mapping[type[Tunable], Sequence[Tunable]]


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
            filled = role_filling(type(obj), name, value)
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
            filled = role_filling(type(obj), name, value)
            met = any(type(each) is type(filled) and _is_met(each, filled, candidates) for each in space)
        else:
            met = same(value, getattr(obj, name)) or (space is not None and contains(space, value))
        if not met:
            return False
    return True


def _searched(obj: Tunable, candidates: Candidates, budget: bool) -> Iterator[tuple[str, Any]]:
    for name, space in obj.searched.items():
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
    return space if contains(space, value) else None


def _label(value: Any) -> CategoricalChoiceType:
    if isinstance(value, tuple | list):
        return "x".join(str(each) for each in value)
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _role_label(value: Tunable) -> str:
    return value.NAME if isinstance(value, Role) else type(value).__name__
