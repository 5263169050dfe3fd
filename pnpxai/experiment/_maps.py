"""Maps of explainers by sample, each made once; those that cost nothing beside one another are made together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pnpxai.errors import ExplanationError
from pnpxai.experiment._costs import Costs
from pnpxai.experiment._disk import Disk
from pnpxai.experiment._parts import Loader, Part, portions
from pnpxai.explainers import Explainer, attribute_together, shares_work
from pnpxai.forward import count_forwards
from pnpxai.kept import Cost, KeptMaps


@dataclass
class Maps:
    """Raw maps, kept by explainer and sample.

    Attributes:
        explainers: of the experiment.
        load: samples by id.
        kept: maps in memory and, where there is a disk, in files.
        disk: says which files.
        costs: where what explaining took is noted.
    """

    explainers: Sequence[Explainer]
    load: Loader
    kept: KeptMaps
    disk: Disk | None
    costs: Costs
    _numbers: dict[Explainer, int] = field(default_factory=dict)
    _on_disk: set[tuple[int, int]] = field(default_factory=set)

    def of(self, explainer: Explainer, part: Part) -> tuple[Tensor, ...]:
        """Maps of each of the inputs that are explained, ``(n, …)``; made where they are not kept."""
        missing = self.missing(explainer, part)
        if missing:
            self._make(explainer, part if len(missing) == len(part.ids) else self.load(missing))
        found = [self.kept[self._number(explainer), i] for i in part.ids]
        self.kept.shrink()
        return tuple(torch.stack(each) for each in zip(*found, strict=True))

    def of_samples(self, explainer: Explainer, ids: Sequence[int], size: int) -> tuple[Tensor, ...]:
        """The same by ids, ``size`` at a time; samples whose maps are in memory are not loaded."""
        found: dict[int, tuple[Tensor, ...]] = {}
        number = self._number(explainer)
        found |= {i: self.kept[number, i] for i in ids if self.kept.recall((number, i), None)}
        for each in portions([i for i in dict.fromkeys(ids) if i not in found], size):
            found |= zip(each, zip(*self.of(explainer, self.load(each)), strict=True), strict=True)
        return tuple(torch.stack(each) for each in zip(*(found[i] for i in ids), strict=True))

    def known(self, explainer: Explainer, i: int) -> bool:
        """Whether the map of a sample is in memory, or was found on disk."""
        key = self._number(explainer), i
        return key in self._on_disk or self.kept.recall(key, None)

    def look(self, explainer: Explainer, part: Part) -> None:
        """Find out which maps are on disk."""
        number = self._number(explainer)
        files = zip(part.ids, self._files(explainer, part), strict=True)
        self._on_disk |= {(number, i) for i, file in files if file is not None and file.is_file()}

    def missing(self, explainer: Explainer, part: Part) -> list[int]:
        """Samples whose map would have to be made."""
        number, missing = self._number(explainer), []
        for i, file in zip(part.ids, self._files(explainer, part), strict=True):
            in_memory = self.kept.recall((number, i), None)
            if not in_memory and self.kept.recall((number, i), file):
                self.costs.add(("maps", explainer), 1, self.kept.costs[number, i])
            elif not in_memory:
                missing.append(i)
        return missing

    def _make(self, chosen: Explainer, part: Part) -> None:
        sharing = [chosen, *self._sharing(chosen)]
        start = time.perf_counter()
        with count_forwards() as counter:
            made = attribute_together(sharing, part.inputs, part.targets)
        cost, n = Cost(counter.n_samples, time.perf_counter() - start), len(part.ids)
        for explainer, maps in zip(sharing, made, strict=True):
            several = _several(maps, explainer, n)
            own = cost if explainer is chosen else Cost()
            self.costs.add(("maps", explainer), n, own)
            number = self._number(explainer)
            for row, (i, file) in enumerate(zip(part.ids, self._files(explainer, part), strict=True)):
                self.kept.costs[number, i] = Cost(own.forwards / n, own.seconds / n)
                self.kept.keep((number, i), tuple(each[row].detach().cpu() for each in several), file)

    def _sharing(self, chosen: Explainer) -> list[Explainer]:
        """The other explainers whose maps take nothing that ``chosen`` does not ask of the model."""
        return [
            each
            for each in self.explainers
            if each != chosen and shares_work(each, chosen) and each.budget <= chosen.budget
        ]

    def _files(self, explainer: Explainer, part: Part) -> Sequence[Path | None]:
        return self.disk.map_files(explainer, part) if self.disk else [None] * len(part.ids)

    def _number(self, explainer: Explainer) -> int:
        return self._numbers.setdefault(explainer, len(self._numbers))


def _several(maps: object, explainer: Explainer, n: int) -> tuple[Tensor, ...]:
    several = tuple(maps) if isinstance(maps, tuple | list) else (maps,)
    if not all(isinstance(each, Tensor) and len(each) == n for each in several):
        raise ExplanationError(
            f"maps of {n} samples", f"{type(maps).__name__} from {type(explainer).__name__}", "attribute returns maps."
        )
    return several
