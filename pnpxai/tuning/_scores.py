"""Scores of maps, with what can be shared asked once: answers that no map changes, and orders scored before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pnpxai.errors import ExplanationError
from pnpxai.explainers import Explainer
from pnpxai.metrics import Metric
from pnpxai.metrics._base import Answers
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._maps import Samples

Judged: TypeAlias = tuple[Explainer | None, PostProcessor | None, Tensor]
"""An explainer, a post-processing, and the maps ``(m, …)`` the two made; None where no explainer did."""

LARGEST_ANSWER = 4096
"""Numbers in an answer about one sample that is kept; a baseline as large as the sample is made again."""


def content(values: Tensor, order_only: bool) -> bytes:
    """A digest of what a metric reads of one map: its values, or just their order (with its ties).

    Example:
        >>> content(torch.tensor([1.0, 3.0]), True) == content(torch.tensor([2.0, 9.0]), True)
        True
    """
    flat = (values.detach().cpu().double().flatten() + 0.0).numpy()  # -0.0 is 0.0
    seen = np.unique(flat, return_inverse=True)[1].astype(np.int32) if order_only else flat
    return hashlib.sha256(np.ascontiguousarray(seen).tobytes()).digest()


@dataclass
class ScoreBook:
    """Scores by one metric of maps of a fixed set of samples.

    Attributes:
        metric: scores maps.
        samples: what is explained.
    """

    metric: Metric
    samples: Samples
    _answers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)

    def scores(self, judged: Sequence[Judged], index: Sequence[int]) -> list[list[float]]:
        """The scores of several maps of the samples ``index``, one list each; what is known already is not asked again.

        Raises:
            ExplanationError: a score is not finite.
        """
        keys = [[self._key(each, i, row) for row, i in enumerate(index)] for each in judged]
        missing: dict[tuple[object, ...], tuple[int, int]] = {}
        for place, own in enumerate(keys):
            for row, key in enumerate(own):
                if key not in self._known:
                    missing.setdefault(key, (place, row))
        for group in self._groups(list(missing.items())):
            found = self._ask(judged, index, [where for _, where in group])
            self._known.update(zip((key for key, _ in group), found, strict=True))
        return [[self._known[key] for key in own] for own in keys]

    def _groups(
        self, missing: list[tuple[tuple[object, ...], tuple[int, int]]]
    ) -> list[list[tuple[tuple[object, ...], tuple[int, int]]]]:
        """All in one, or one for each explanation where the metric has to explain again."""
        if not missing or not type(self.metric).EXPLAINS_AGAIN:
            return [missing] if missing else []
        places = sorted({place for _, (place, _) in missing})
        return [[each for each in missing if each[1][0] == place] for place in places]

    def _key(self, judged: Judged, sample: int, row: int) -> tuple[object, ...]:
        explainer, postprocessor, maps = judged
        digest = content(maps[row], type(self.metric).ORDER_ONLY)
        return (sample, digest, explainer, postprocessor) if type(self.metric).EXPLAINS_AGAIN else (sample, digest)

    def _ask(self, judged: Sequence[Judged], index: Sequence[int], where: Sequence[tuple[int, int]]) -> list[float]:
        explainer, postprocessor, _ = judged[where[0][0]]
        rows = [index[row] for _, row in where]
        metric = self.metric.for_samples(rows)
        if explainer is not None and postprocessor is not None:
            metric = metric.judging(explainer, postprocessor)
        maps = torch.stack([judged[place][2][row] for place, row in where])
        scores = metric.evaluate(*self.samples.take(rows), maps, answers=self.answers(rows))
        if not torch.isfinite(scores).all():
            raise ExplanationError(
                f"a finite {type(self.metric).__name__}", "NaN or infinity", "The metric is not defined for this map."
            )
        return [float(each) for each in scores]

    def answers(self, index: Sequence[int]) -> Answers:
        """What the metric asks of the model about some samples whatever the map, each sample asked once."""
        missing = list(dict.fromkeys(i for i in index if i not in self._answers))
        if missing:
            found = self.metric.for_samples(missing).answers(*self.samples.take(missing))
            for row, i in enumerate(missing):
                self._answers[i] = {
                    name: each[row] for name, each in found.items() if each[row].numel() <= LARGEST_ANSWER
                }
        names = self._answers[index[0]]
        return {name: torch.stack([self._answers[i][name] for i in index]) for name in names}
