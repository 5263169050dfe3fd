"""Maps kept by explainer and sample, so that nothing is explained twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pnpxai.batches import take_samples
from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards
from pnpxai.outputs import TargetFunction
from pnpxai.recommender import check_maps
from pnpxai.tunable import Tunable, to_json


@dataclass(frozen=True)
class Samples:
    """What is explained.

    Attributes:
        inputs: a batch, as explainers take it.
        targets: class indices ``(n,)``, or a function of the outputs.
    """

    inputs: Any
    targets: Tensor | TargetFunction

    def take(self, index: Sequence[int]) -> tuple[Any, Tensor | TargetFunction]:
        """Inputs and targets of some samples, with repetitions."""
        return take_samples(self.inputs, index), take_targets(self.targets, index)


@dataclass(frozen=True)
class Cost:
    """What explaining one sample took: samples through the model, and seconds."""

    forwards: float = 0.0
    seconds: float = 0.0


class MapCache:
    """Raw maps of a fixed set of samples, the least recently used dropped first.

    Args:
        samples: all samples.
        max_bytes: how much memory the maps may take.
        folder: where maps are kept beyond that and for later runs, as safetensors; None for nowhere. Maps of an
            explainer with a function or another object without a JSON form among its parameters are not kept there.
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
        self.max_bytes = max_bytes
        self.folder = Path(folder) if folder is not None else None
        self.identity = identity
        self.n_explained = 0
        self._numbers: dict[Explainer, int] = {}
        self._folders: dict[int, Path] = {}
        self._maps: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._costs: dict[tuple[int, int], Cost] = {}
        self._bytes = 0

    def maps(self, explainer: Explainer, index: Sequence[int]) -> Tensor:
        """Raw maps of some samples, ``(len(index), …)``, explained only where they are not kept.

        Raises:
            ExplanationError: the explainer returned something that is no map.
        """
        return next(iter(self.refine(explainer, index, ())))

    def refine(self, explainer: Explainer, index: Sequence[int], budgets: Sequence[int]) -> Iterator[Tensor]:
        """Raw maps of some samples, first at growing smaller ``budgets``, last at the explainer's own, which are kept.

        Maps that are kept come at once, without the earlier ones. Stop iterating and the rest is never asked.
        """
        number, own = self._place(explainer)
        missing = [i for i in index if not self._recall(own, number, i)]
        fresh: dict[int, Tensor] = {}
        if missing:
            for maps, last in self._explained(explainer, number, missing, budgets if missing == list(index) else ()):
                if not last:
                    yield maps
            for i, each in zip(missing, maps, strict=True):
                fresh[i] = each.detach().cpu()
        found = torch.stack([fresh[i] if i in fresh else self._maps[number, i] for i in index])
        for i in index:
            self._keep(own, (number, i), fresh.get(i))
        self._shrink()
        yield found

    def missing(self, explainer: Explainer, index: Sequence[int]) -> list[int]:
        """The samples among these that would have to be explained."""
        number, own = self._place(explainer)
        return [i for i in index if not self._recall(own, number, i)]

    def cost(self, explainer: Explainer) -> Cost:
        """What explaining one sample took on average, when it was last done; zero if it never was."""
        number = self._numbers.get(explainer, -1)
        costs = [each for (own, _), each in self._costs.items() if own == number]
        n = max(len(costs), 1)
        return Cost(sum(each.forwards for each in costs) / n, sum(each.seconds for each in costs) / n)

    def _explained(
        self, explainer: Explainer, number: int, index: Sequence[int], budgets: Sequence[int]
    ) -> Iterator[tuple[Tensor, bool]]:
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
            share = explainer.budget / budgets[step] if step < len(budgets) else 1.0  # as if it had gone on
            cost = Cost(share * n_forwards / len(index), share * seconds / len(index))
            self._costs |= dict.fromkeys([(number, i) for i in index], cost)
            yield maps, step == len(budgets)
        self.n_explained += len(index)

    def _recall(self, folder: Path | None, number: int, sample: int) -> bool:
        if (number, sample) in self._maps:
            return True
        if folder is None or not (path := folder / f"{sample}.safetensors").is_file():
            return False
        kept = load_file(path)
        self._store((number, sample), kept["map"])
        self._costs[number, sample] = Cost(*kept["cost"].tolist())
        return True

    def _keep(self, folder: Path | None, key: tuple[int, int], fresh: Tensor | None) -> None:
        if fresh is not None:
            self._store(key, fresh)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{key[1]}.safetensors"
                partial = path.with_suffix(f".{os.getpid()}")
                cost = self._costs.get(key, Cost())
                costs = torch.tensor([cost.forwards, cost.seconds], dtype=torch.float64)
                save_file({"map": fresh.contiguous(), "cost": costs}, partial)
                partial.replace(path)
        if key in self._maps:
            self._maps.move_to_end(key)

    def _store(self, key: tuple[int, int], maps: Tensor) -> None:
        self._maps[key] = maps
        self._bytes += maps.numel() * maps.element_size()

    def _shrink(self) -> None:
        while self._bytes > self.max_bytes and self._maps:
            _, dropped = self._maps.popitem(last=False)
            self._bytes -= dropped.numel() * dropped.element_size()

    def _place(self, explainer: Explainer) -> tuple[int, Path | None]:
        """An explainer's number, and where its maps are kept."""
        number = self._numbers.setdefault(explainer, len(self._numbers))
        if self.folder is None or not plain(explainer):
            return number, None
        if number not in self._folders:
            name = hashlib.sha256(json.dumps([self.identity, to_json(explainer)], sort_keys=True).encode()).hexdigest()
            self._folders[number] = self.folder / name[:32]
        return number, self._folders[number]


def budget_name(explainer: Explainer) -> str:
    """The name of a nested explainer's one budget."""
    (name,) = type(explainer).BUDGET
    return name


def plain(value: Any) -> bool:
    """Whether `to_json` says all there is to say about a parameter: no functions, no objects of unknown kinds."""
    if isinstance(value, Tunable):
        return all(plain(each) for name, each in value.get_params().items() if name != "model")
    if isinstance(value, tuple | list):
        return all(map(plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)


def take_targets(targets: Tensor | TargetFunction, index: Sequence[int]) -> Tensor | TargetFunction:
    """The targets of some samples."""
    return targets[list(index)] if isinstance(targets, Tensor) else targets
