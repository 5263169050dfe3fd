"""Maps kept by explainer and sample, so that nothing is explained twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import take_samples
from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards
from pnpxai.kept import Cost, KeptMaps, digest, plain
from pnpxai.map_checks import check_maps
from pnpxai.outputs import TargetFunction
from pnpxai.postprocess import Maps
from pnpxai.targets import take_targets
from pnpxai.tunable import to_json


@dataclass(frozen=True)
class Samples:
    """What is explained.

    Attributes:
        inputs: a batch, as explainers take it.
        targets: class indices ``(n,)``, a named target, or a function of the outputs.
    """

    inputs: Any
    targets: Tensor | TargetFunction

    def take(self, index: Sequence[int]) -> tuple[Any, Tensor | TargetFunction]:
        """Inputs and targets of some samples, with repetitions."""
        return take_samples(self.inputs, index), take_targets(self.targets, index)


class MapCache:
    """Raw maps of a fixed set of samples, the least recently used dropped first.

    Args:
        samples: all samples.
        max_bytes: how much memory the maps may take.
        folder: where maps are kept beyond that and for later runs, as safetensors; None for nowhere. Maps of an
            explainer with a function or another object without a JSON form among its parameters are not kept there,
            nor are those for a function as targets.
        identity: what the maps there depend on besides the explainer's parameters: model and data, as JSON.
    """

    def __init__(
        self,
        samples: Samples,
        max_bytes: int = 2**30,
        folder: str | Path | None = None,
        identity: Any = None,
    ) -> None:
        self.samples = samples
        self.folder = Path(folder) if folder is not None else None
        self.identity = identity
        self.n_explained = 0
        self._numbers: dict[Explainer, int] = {}
        self._folders: dict[int, Path] = {}
        self._kept = KeptMaps(max_bytes)

    def maps(self, explainer: Explainer, index: Sequence[int]) -> Maps:
        """Raw maps of some samples, ``(len(index), …)`` of each input, explained only where they are not kept.

        Raises:
            ExplanationError: the explainer returned something that is no map.
        """
        return next(iter(self.refine(explainer, index, ())))

    def refine(self, explainer: Explainer, index: Sequence[int], budgets: Sequence[int]) -> Iterator[Maps]:
        """Raw maps of some samples, first at growing smaller ``budgets``, last at the explainer's own, which are kept.

        Maps that are kept come at once, without the earlier ones. Stop iterating and the rest is never asked.
        """
        number, own = self._place(explainer)
        missing = [i for i in index if not self._recall(own, number, i)]
        fresh: dict[int, tuple[Tensor, ...]] = {}
        if missing:
            for maps, last in self._explained(explainer, number, missing, budgets if missing == list(index) else ()):
                if not last:
                    yield maps
            several = maps if isinstance(maps, tuple) else (maps,)
            for row, i in enumerate(missing):
                fresh[i] = tuple(each[row].detach().cpu() for each in several)
                self._kept.keep((number, i), fresh[i], _file(own, i))
        rows = [fresh[i] if i in fresh else self._kept[number, i] for i in index]
        found = tuple(torch.stack(each) for each in zip(*rows, strict=True))
        self._kept.shrink()
        yield found if len(found) > 1 else found[0]

    def missing(self, explainer: Explainer, index: Sequence[int]) -> list[int]:
        """The samples among these that would have to be explained."""
        number, own = self._place(explainer)
        return [i for i in index if not self._recall(own, number, i)]

    def cost(self, explainer: Explainer) -> Cost:
        """What explaining one sample took on average, when it was last done; zero if it never was."""
        number = self._numbers.get(explainer, -1)
        costs = [each for (own, _), each in self._kept.costs.items() if own == number]
        n = max(len(costs), 1)
        return Cost(sum(each.forwards for each in costs) / n, sum(each.seconds for each in costs) / n)

    def _explained(
        self, explainer: Explainer, number: int, index: Sequence[int], budgets: Sequence[int]
    ) -> Iterator[tuple[Maps, bool]]:
        """Maps at each budget and then at the explainer's own, with whether they are the last."""
        inputs, targets = self.samples.take(index)
        seconds, n_forwards = 0.0, 0.0
        steps = iter(explainer.refine(inputs, targets, [*budgets, explainer.budget])) if budgets else None
        for step in range(len(budgets) + 1):
            start = time.perf_counter()
            with count_forwards() as counter:
                maps = next(steps) if steps is not None else explainer.attribute(inputs, targets)
            seconds += time.perf_counter() - start
            n_forwards += counter.n_samples
            check_maps(maps)
            maps = maps[0] if isinstance(maps, tuple) and len(maps) == 1 else maps
            share = explainer.budget / budgets[step] if step < len(budgets) else 1.0  # as if it had gone on
            cost = Cost(share * n_forwards / len(index), share * seconds / len(index))
            self._kept.costs |= dict.fromkeys([(number, i) for i in index], cost)
            yield maps, step == len(budgets)
        self.n_explained += len(index)

    def _recall(self, folder: Path | None, number: int, sample: int) -> bool:
        return self._kept.recall((number, sample), _file(folder, sample))

    def _place(self, explainer: Explainer) -> tuple[int, Path | None]:
        """An explainer's number, and where its maps are kept."""
        number = self._numbers.setdefault(explainer, len(self._numbers))
        if self.folder is None or not plain(explainer) or not plain(self.samples.targets):
            return number, None
        if number not in self._folders:
            self._folders[number] = self.folder / digest([self.identity, to_json(explainer)], 32)
        return number, self._folders[number]


def budget_name(explainer: Explainer) -> str:
    """The name of a nested explainer's one budget."""
    (name,) = type(explainer).BUDGET
    return name


def _file(folder: Path | None, sample: int) -> Path | None:
    return None if folder is None else folder / f"{sample}.safetensors"


def first_rows(maps: Maps, n: int) -> Maps:
    """The maps of the first ``n`` samples."""
    return tuple(each[:n] for each in maps) if isinstance(maps, tuple) else maps[:n]
