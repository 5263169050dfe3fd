"""Combinations of a study's settings: a coarse grid of all, and whatever was not tried yet."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
from optuna.trial import BaseTrial

from pnpxai.tuning._claims import chosen
from pnpxai.tuning._objective import Objective

LEVELS = 3
"""Values of a number that the grid tries."""


def grid(objective: Objective) -> Iterator[Mapping[str, Any]]:
    """Every combination of `LEVELS` values of each number and all choices, the explainers in turns.

    The values lie in the middle of equal parts of a range (of its logarithm where it is declared so).
    """
    return _in_turns(objective, _Fixed)


def untried(study: optuna.Study, objective: Objective) -> Mapping[str, Any] | None:
    """A combination that no trial has made, None if there is none; a range of real numbers always has one."""
    made = {frozenset(chosen(each).items()) for each in study.get_trials(deepcopy=False)}
    draw = random.Random(len(made))

    def another(params: Mapping[str, Any]) -> _Every:
        return _Every(params, draw)

    return next((each for each in _in_turns(objective, another) if frozenset(each.items()) not in made), None)


def at_most(objective: Objective, most: int) -> bool:
    """Whether there are no more combinations than ``most``; never so where a range of real numbers is among them."""
    try:
        return sum(1 for _ in itertools.islice(_in_turns(objective, _Countable), most + 1)) <= most
    except _Endless:
        return False


def _in_turns(objective: Objective, answers: Callable[[Mapping[str, Any]], _Fixed]) -> Iterator[Mapping[str, Any]]:
    spaces = [_combinations(objective, name, answers) for name in objective.explainers]
    for turn in itertools.zip_longest(*spaces):
        yield from (each for each in turn if each is not None)


def _combinations(
    objective: Objective, name: str, answers: Callable[[Mapping[str, Any]], _Fixed]
) -> Iterator[Mapping[str, Any]]:
    """Depth first through a space that unfolds as it is chosen from."""
    stack: list[dict[str, Any]] = [{"explainer": name}]
    while stack:
        fixed = stack.pop()
        try:
            objective.build(cast(BaseTrial, answers(fixed)))
        except _Open as question:
            stack += [{**fixed, question.parameter: value} for value in reversed(question.values)]
        else:
            yield fixed


class _Open(Exception):
    """A parameter that is not fixed yet, and the values it is given in turn."""

    def __init__(self, parameter: str, values: Sequence[Any]) -> None:
        super().__init__(parameter)
        self.parameter = parameter
        self.values = values


class _Endless(Exception):
    """A range of real numbers."""


@dataclass(frozen=True)
class _Fixed:
    """A trial that answers with what is fixed."""

    params: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, choices)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._answer(name, levels(low, high, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        below = (low + math.floor((each - low) / step) * step for each in levels(low, high + step, log=log))
        return self._answer(name, list(dict.fromkeys(below)))

    def _answer(self, name: str, values: Sequence[Any]) -> Any:
        if name not in self.params:
            raise _Open(name, values)
        return self.params[name]


@dataclass(frozen=True)
class _Every(_Fixed):
    """Likewise, with every whole number, and one real number of a range."""

    draw: random.Random

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        steps = [low + i * step for i in range(round((high - low) / step) + 1)] if step else []
        return self._answer(name, steps or [self.draw.uniform(low, high)])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._answer(name, range(low, high + 1, step))


@dataclass(frozen=True)
class _Countable(_Every):
    """Likewise, with no range of real numbers."""

    draw: random.Random = field(default_factory=random.Random)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        if not step:
            raise _Endless
        return super().suggest_float(name, low, high, step=step, log=log)


def levels(low: float, high: float, *, log: bool) -> list[float]:
    """The middles of `LEVELS` equal parts of a range.

    Example:
        >>> levels(0.0, 6.0, log=False)
        [1.0, 3.0, 5.0]
    """
    shares = [(part + 0.5) / LEVELS for part in range(LEVELS)]
    if log:
        return [math.exp(math.log(low) + share * (math.log(high) - math.log(low))) for share in shares]
    return [low + share * (high - low) for share in shares]
