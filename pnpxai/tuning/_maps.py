"""Maps kept by explainer and sample, so that a post-processing trial costs no explanation."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards, take_samples
from pnpxai.outputs import TargetFunction
from pnpxai.recommender import check_maps


class MapCache:
    """Raw maps of a fixed set of samples, the least recently used dropped first.

    Args:
        inputs: all samples.
        targets: their targets ``(n,)``, or a function of the outputs.
        max_bytes: how much memory the maps may take.
    """

    def __init__(self, inputs: Any, targets: Tensor | TargetFunction, max_bytes: int = 2**29) -> None:
        self.inputs = inputs
        self.targets = targets
        self.max_bytes = max_bytes
        self.n_explained = 0
        self._maps: OrderedDict[tuple[Explainer, int], Tensor] = OrderedDict()
        self._costs: dict[tuple[Explainer, int], tuple[float, float]] = {}
        self._bytes = 0

    def maps(self, explainer: Explainer, index: Sequence[int]) -> Tensor:
        """Raw maps of some samples, ``(len(index), …)``, explained only where they are not kept.

        Raises:
            ExplanationError: the explainer returned something that is no map.
        """
        missing = [i for i in index if (explainer, i) not in self._maps]
        fresh: dict[int, Tensor] = {}
        if missing:
            start = time.perf_counter()
            with count_forwards() as counter:
                maps = explainer.attribute(take_samples(self.inputs, missing), take_targets(self.targets, missing))
            seconds = time.perf_counter() - start
            check_maps(maps)
            self.n_explained += len(missing)
            for i, each in zip(missing, maps, strict=True):
                fresh[i] = each.detach().cpu()
                self._costs[explainer, i] = counter.n_samples / len(missing), seconds / len(missing)
        found = torch.stack([fresh[i] if i in fresh else self._maps[explainer, i] for i in index])
        for i in index:
            self._keep((explainer, i), fresh.get(i))
        return found

    def cost(self, explainer: Explainer, index: Sequence[int]) -> tuple[int, float]:
        """Forwards and seconds that explaining these samples took, when it was last done."""
        costs = [self._costs.get((explainer, i), (0.0, 0.0)) for i in index]
        return round(sum(forwards for forwards, _ in costs)), sum(seconds for _, seconds in costs)

    def _keep(self, key: tuple[Explainer, int], fresh: Tensor | None) -> None:
        if fresh is not None:
            self._maps[key] = fresh
            self._bytes += fresh.numel() * fresh.element_size()
        if key in self._maps:
            self._maps.move_to_end(key)
        while self._bytes > self.max_bytes and self._maps:
            _, dropped = self._maps.popitem(last=False)
            self._bytes -= dropped.numel() * dropped.element_size()


def take_targets(targets: Tensor | TargetFunction, index: Sequence[int]) -> Tensor | TargetFunction:
    """The targets of some samples."""
    return targets[list(index)] if isinstance(targets, Tensor) else targets
