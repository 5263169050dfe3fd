"""What is left to be done, in samples through the model and seconds: as measured, or as tried on one sample."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from pnpxai.experiment._choices import names
from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards
from pnpxai.kept import Cost

if TYPE_CHECKING:
    import pandas as pd

Kind: TypeAlias = Literal["answers", "maps", "scores"]
Step: TypeAlias = tuple[Kind, Explainer | None]
"""Asking what no map changes, explaining, or judging the maps of an explainer."""


@dataclass
class Costs:
    """What steps cost for one sample, or one map that is judged by all metrics.

    Attributes:
        tried: what a trial says, which counts until the step has been measured.
        failed: why a trial failed.
    """

    tried: dict[Step, Cost] = field(default_factory=dict)
    failed: dict[Step, str] = field(default_factory=dict)
    _measured: dict[Step, tuple[int, float, float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def measured(self, step: Step, n: int) -> Iterator[None]:
        """Note what the block took for ``n`` of a step; what raises is not noted."""
        start = time.perf_counter()
        with count_forwards() as counter:
            yield
        self.add(step, n, Cost(counter.n_samples, time.perf_counter() - start))

    def add(self, step: Step, n: int, cost: Cost) -> None:
        """Note what ``n`` of a step took together."""
        before = self._measured.get(step, (0, 0.0, 0.0))
        self._measured[step] = before[0] + n, before[1] + cost.forwards, before[2] + cost.seconds

    def of_one(self, step: Step) -> Cost | None:
        """What one of a step costs; None where that is not known."""
        n, forwards, seconds = self._measured.get(step, (0, 0.0, 0.0))
        return Cost(forwards / n, seconds / n) if n else self.tried.get(step)

    def in_words(self, left: Counter[Step]) -> str:
        """What so many of some steps will take, as far as it is known."""
        costs = [(n, self.of_one(step), step) for step, n in left.items() if n > 0]
        known = [(n, cost) for n, cost, step in costs if cost or step not in self.failed]
        forwards = sum(n * cost.forwards for n, cost in known if cost)
        seconds = sum(n * cost.seconds for n, cost in known if cost)
        bound = "" if all(cost for _, cost in known) else "at least "
        return f"{bound}{forwards:,.0f} forwards, {_duration(seconds)} left"

    def table(self, left: Counter[Step], explainers: Sequence[Explainer]) -> pd.DataFrame:
        """One row a step; see `Experiment.estimate`."""
        import pandas as pd

        called = dict(zip(explainers, names(explainers), strict=True))
        rows = []
        for (kind, explainer), n in left.items():
            step: Step = (kind, explainer)
            cost = self.of_one(step)
            rows.append(
                {
                    "step": kind,
                    "explainer": called[explainer] if explainer else "",
                    "n": n,
                    "forwards": n * cost.forwards if cost else math.nan,
                    "seconds": n * cost.seconds if cost else math.nan,
                    "failure": "" if cost else self.failed.get(step, ""),
                }
            )
        return pd.DataFrame(rows, columns=["step", "explainer", "n", "forwards", "seconds", "failure"])


def _duration(seconds: float) -> str:
    """Example: ``_duration(4000)`` is ``'1 h 7 min'``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
