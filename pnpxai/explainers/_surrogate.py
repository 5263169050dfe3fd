"""A model's scores where only some features of an input are present: what a linear surrogate is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, FromBackground, baseline_for
from pnpxai.explainers._masked_scores import finite, remove_absent
from pnpxai.feature_masks import FeatureMask, by_number, feature_mask_for, on_positions
from pnpxai.forward import Request
from pnpxai.outputs import Score, select
from pnpxai.scratch import Scratch

SCORES: tuple[Score, ...] = ("logit", "probability")


@dataclass(frozen=True, eq=False)
class CoalitionScores:
    """Scores of samples under coalitions of their features; samples with as many features share the coalitions.

    Attributes:
        request: the samples.
        features: which feature each position belongs to, ``(n, *positions)``, or of the samples' shape where it
            differs between channels.
        baseline: what stands for absence, of the samples' shape; or the rows it comes from, whose mean score counts.
        score: what is asked of the model's outputs.
        known: number of features ``d`` to the scores of the samples that have as many, ``(k, m)``; float64, on the CPU.
    """

    request: Request
    features: Tensor
    baseline: Tensor | FromBackground
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
        features = feature_mask_for(feature_mask_fn, x, request.lookup())
        known = {d: torch.empty(len(each), 0, dtype=torch.float64) for d, each in by_number(features).items()}
        if isinstance(baseline_fn, FromBackground):
            fitting = baseline_fn.set_kwargs(background=baseline_fn.checked(x))
            return cls(request, features, fitting, score, known)
        baseline = baseline_for(baseline_fn, x, lookup=request.lookup())
        return cls(request, features, baseline, score, known)

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
        x, samples = self.request.input, by_number(self.features)[d]
        k, r = len(samples), self.baseline.n_rows if isinstance(self.baseline, FromBackground) else 1
        found, room, replacing = torch.zeros(k * len(coalitions), dtype=torch.float64), Scratch(), Scratch()

        def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
            items = torch.arange(start, stop)
            pairs = items // r  # of a coalition and a sample
            index = samples[(pairs % k).to(x.device)]
            present = coalitions[pairs // k].to(x.device).gather(1, self.features[index].flatten(1))
            shape = (len(items), *(1,) * (x.ndim - self.features.ndim), *self.features.shape[1:])
            present, rows = present.reshape(shape), room.picked(x, index)
            return [remove_absent(rows, self._absent(index, present, pairs, items % r, replacing), present)], index

        def read(start: int, stop: int, outputs: Tensor) -> None:
            pairs = torch.arange(start, stop) // r
            index = samples[(pairs % k).to(x.device)]
            scores = finite(select(outputs, self.request.targets_for(index), self.score))
            found.index_add_(0, pairs, scores.cpu().double() / r)

        self.request.stream(len(found) * r, build, read, fresh=True)
        return found.reshape(-1, k).T

    def _absent(self, index: Tensor, present: Tensor, pairs: Tensor, turns: Tensor, room: Scratch) -> Tensor:
        """What stands in for what is not ``present`` of samples ``index``, the rows of a pair found once."""
        if isinstance(self.baseline, Tensor):
            return room.picked(self.baseline, index)
        x = self.request.input
        fresh = torch.cat([torch.tensor([True]), pairs[1:] > pairs[:-1]]).to(x.device)
        rows = self.baseline.rows(x[index[fresh]], present[fresh])
        return self.baseline.background[rows[fresh.cumsum(0) - 1, turns.to(x.device)]]

    def maps(self, effects: Mapping[int, Tensor]) -> Tensor:
        """The effect of each position's feature, from ``(k, d)`` for each: ``(n, d)``, or with channels, or one."""
        x = self.request.input
        dtype = torch.promote_types(x.dtype, torch.float32)
        made = on_positions(self.features, {d: each.to(dtype) for d, each in effects.items()})
        return made if made.ndim == x.ndim else made[:, None]
