"""A model's scores where only some features of an input are present: what a linear surrogate is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.explainers._masked_scores import finite
from pnpxai.feature_masks import FeatureMask, feature_mask_for
from pnpxai.forward import Request
from pnpxai.outputs import Score, select

SCORES: tuple[Score, ...] = ("logit", "probability")


@dataclass(frozen=True, eq=False)
class CoalitionScores:
    """Scores of samples under coalitions of their features; samples with as many features share the coalitions.

    Attributes:
        request: the samples.
        features: which feature each position belongs to, ``(n, *positions)``.
        baseline: what stands for absence, of the samples' shape.
        score: what is asked of the model's outputs.
        known: number of features ``d`` to the scores of the samples that have as many, ``(k, m)``; float64, on the CPU.
    """

    request: Request
    features: Tensor
    baseline: Tensor
    score: Score
    known: Mapping[int, Tensor]

    @classmethod
    def none(
        cls, request: Request, feature_mask_fn: FeatureMask, baseline_fn: Baseline, score: Score
    ) -> CoalitionScores:
        """Of no coalition yet.

        Raises:
            PnPXAIError: a feature mask or a baseline that does not fit the inputs.
        """
        x = request.input
        features = feature_mask_for(feature_mask_fn, x)
        counts = (features.flatten(1).amax(1) + 1).tolist()
        known = {d: torch.empty(counts.count(d), 0, dtype=torch.float64) for d in sorted(set(counts))}
        return cls(request, features, baseline_for(baseline_fn, x), score, known)

    def samples(self, d: int) -> Tensor:
        """The numbers of the samples with ``d`` features, ``(k,)``."""
        return (self.features.flatten(1).amax(1) + 1 == d).nonzero()[:, 0]

    def under(self, coalitions: Mapping[int, Tensor]) -> CoalitionScores:
        """The scores under coalitions ``(m, d)`` for each ``d``, of which the first are those that are known.

        Raises:
            ModelError: a score that is not finite.
        """
        found = {
            d: torch.cat([each, self._ask(d, coalitions[d][each.shape[1] :])], 1) for d, each in self.known.items()
        }
        return replace(self, known=found)

    def _ask(self, d: int, coalitions: Tensor) -> Tensor:
        x, samples = self.request.input, self.samples(d)
        k, m = len(samples), len(coalitions)
        found = torch.empty(k, m, dtype=torch.float64)
        ids = self.features[samples].flatten(1)  # (k, p)

        def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
            rows = torch.arange(start, stop)
            present = coalitions[rows // k].to(x.device).gather(1, ids[(rows % k).to(x.device)])
            index = samples[(rows % k).to(x.device)]
            shape = (len(rows), *((1,) if x.ndim > 2 else ()), *self.features.shape[1:])
            return [torch.where(present.reshape(shape), x[index], self.baseline[index])], index

        def read(start: int, stop: int, outputs: Tensor) -> None:
            rows = torch.arange(start, stop)
            index = samples[(rows % k).to(x.device)]
            scores = finite(select(outputs, self.request.targets_for(index), self.score))
            found[rows % k, rows // k] = scores.cpu().double()

        self.request.stream(k * m, build, read)
        return found

    def maps(self, effects: Mapping[int, Tensor]) -> Tensor:
        """The effect of each position's feature: ``(n, 1, *positions)`` or ``(n, d)``, from ``(k, d)`` for each."""
        x = self.request.input
        made = torch.empty(self.features.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        for d, each in effects.items():
            samples = self.samples(d)
            values = each.to(made.dtype).to(made.device).gather(1, self.features[samples].flatten(1))
            made[samples] = values.reshape(len(samples), *self.features.shape[1:])
        return made if x.ndim == 2 else made[:, None]
