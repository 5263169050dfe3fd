"""Several aims at once: the trials that no other beats in all of them, and a choice among them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pnpxai.errors import ParameterError, unknown_name
from pnpxai.explainers import Explainer
from pnpxai.metrics import METRICS, Metric
from pnpxai.postprocess import PostProcessor

if TYPE_CHECKING:
    import pandas as pd

DIRECTIONS: Mapping[str, bool] = {
    "complexity": False,
    "stability": False,
    "localisation": True,
    "forwards": False,
    "runtime": False,
}
"""Aim to whether more of it is better; ``stability`` is the sensitivity, of which less is steadier."""
COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Choice:
    """One trial with everything that was measured of it.

    Attributes:
        number: the trial's number in the study.
        name: the explainer's name in the study.
        explainer: on the user's own model.
        postprocessor: the best found for its maps.
        values: ``score`` (the metric, estimated where the race stopped it), ``forwards`` and ``runtime`` (samples
            through the model, seconds: to explain one sample) and the other aims that are defined for it.
        complete: whether it ran the whole race.
    """

    number: int
    name: str
    explainer: Explainer
    postprocessor: PostProcessor
    values: Mapping[str, float]
    complete: bool


@dataclass(frozen=True)
class Pareto:
    """The front of some trials: those that no other beats in one aim without losing in another.

    Attributes:
        front: best score first.
        dominated: the other trials.
        aims: name to whether more of it is better.
    """

    front: tuple[Choice, ...]
    dominated: tuple[Choice, ...]
    aims: Mapping[str, bool]

    @staticmethod
    def of(trials: Sequence[Choice], aims: Sequence[str], *, metric: Metric | type[Metric]) -> Pareto:
        """The front of ``trials``; ``score`` is one of ``metric``.

        Raises:
            UnknownNameError: an aim that was measured of no trial.
        """
        known = list(dict.fromkeys(name for each in trials for name in each.values))
        for each in aims:
            if each not in known:
                raise unknown_name("aim", each, known)
        names = list(aims) or [name for name in known if all(name in each.values for each in trials)]
        directions = {name: _higher_is_better(name, metric) for name in names}
        compared = [each for each in trials if all(name in each.values for name in names)]
        signs = np.array([1.0 if directions[name] else -1.0 for name in names])
        values = signs * np.array([[each.values[name] for name in names] for each in compared])
        best = undominated(values.reshape(len(compared), len(names)))
        front = [each for each, kept in zip(compared, best, strict=True) if kept]
        first = names[0] if "score" not in names else "score"
        front.sort(key=lambda each: each.values[first], reverse=directions[first])
        others = tuple(each for each, kept in zip(compared, best, strict=True) if not kept)
        return Pareto(tuple(front), others, directions)

    @property
    def table(self) -> pd.DataFrame:
        """The front, one row a trial: ``trial, explainer, settings, postprocessor`` and the aims."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "trial": each.number,
                    "explainer": each.name,
                    "settings": repr(each.explainer),
                    "postprocessor": repr(each.postprocessor),
                    **{name: each.values[name] for name in self.aims},
                }
                for each in self.front
            ]
        )

    def where(self, *constraints: str) -> Pareto:
        """The part of the front that keeps to constraints such as ``"runtime <= 1 s"`` or ``"score > 0.1"``.

        Raises:
            ParameterError: a constraint that cannot be read, or that nothing keeps to.
        """
        kept = self.front
        for each in constraints:
            name, compare, bound = self._read(each)
            left = tuple(choice for choice in kept if compare(choice.values[name], bound))
            if not left:
                values = ", ".join(f"{choice.values[name]:.3g}" for choice in kept)
                raise ParameterError(
                    f"a constraint that a trial of the front keeps to ({name}: {values})", each, "Ask for less."
                )
            kept = left
        return Pareto(kept, self.dominated, self.aims)

    def choose(self, weights: Mapping[str, float] | None = None) -> Choice:
        """The trial of the front with the greatest weighted sum; without weights the one with the best score.

        Args:
            weights: aim to its weight, 0 or more. Each aim counts by its place between the front's worst (0) and best
                (1).

        Raises:
            UnknownNameError: a weight for something that is no aim of this front.
            ParameterError: a negative weight.
        """
        if weights is None:
            return self.front[0]
        total = np.zeros(len(self.front))
        for name, weight in weights.items():
            if name not in self.aims:
                raise unknown_name("aim", name, self.aims)
            if weight < 0:
                raise ParameterError(f"a weight of {name} from 0", f"{weight}", "Every aim knows its direction.")
            total += weight * self._places(name)
        return self.front[int(total.argmax())]

    def plot(self, path: str | Path, x: str = "runtime", y: str = "score") -> Path:
        """Draw two aims of all trials, the front's named and joined, to a picture file.

        Raises:
            UnknownNameError: something that is no aim of this front.
        """
        from pnpxai.tuning._draw import draw_front

        for name in (x, y):
            if name not in self.aims:
                raise unknown_name("aim", name, self.aims)
        return draw_front(self, Path(path), x, y)

    def _places(self, name: str) -> NDArray[np.float64]:
        values = np.array([each.values[name] for each in self.front]) * (1 if self.aims[name] else -1)
        spread = float(np.ptp(values))
        return (values - values.min()) / spread if spread else np.ones(len(values))

    def _read(self, constraint: str) -> tuple[str, Callable[[Any, Any], Any], float]:
        found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*s?\s*", constraint)
        if found is None or found[1] not in self.aims:
            raise ParameterError(
                f"a constraint on one of {', '.join(self.aims)}", repr(constraint), "Write it like 'runtime <= 1'."
            )
        return found[1], COMPARISONS[found[2]], float(found[3])


def undominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other row is at least as good as everywhere and better than somewhere; more is better.

    Example:
        >>> undominated(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])).tolist()
        [True, True, False]
    """
    as_good = np.all(values[None] >= values[:, None], axis=2)
    better = np.any(values[None] > values[:, None], axis=2)
    found: NDArray[np.bool_] = ~np.any(as_good & better, axis=1)
    return found


def _higher_is_better(name: str, metric: Metric | type[Metric]) -> bool:
    if name == "score":
        return metric.HIGHER_IS_BETTER
    return DIRECTIONS[name] if name in DIRECTIONS else METRICS[name].HIGHER_IS_BETTER
