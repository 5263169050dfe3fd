"""A model's scores where only some features of an input are present: what a linear surrogate is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, FromBackground, baseline_for
from pnpxai.explainers._masked_scores import finite
from pnpxai.feature_masks import FeatureMask, by_number, feature_mask_for, on_positions
from pnpxai.forward import Request
from pnpxai.outputs import Score, select
from pnpxai.replacing import blocks, replaced
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
        samples, r = by_number(self.features)[d], self._n_rows
        x, features = self.request.input[samples], self.features[samples]
        n_each, room = len(coalitions) * r, Scratch()
        found = torch.zeros(len(samples) * len(coalitions), dtype=torch.float64)

        def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
            made = room.rows(x, stop - start)
            for own, items, (out,) in blocks([made], start, stop, n_each):
                numbers = torch.arange(items.start, items.stop)
                asked, cells = coalitions[numbers // r].to(x.device), features[own].flatten(1)
                present = asked.expand(len(cells), -1, -1).gather(2, cells[:, None].expand(-1, len(asked), -1))
                present = present.reshape(*present.shape[:2], *(1,) * (x.ndim - features.ndim), *features.shape[1:])
                replaced(x[own, None], self._absent(samples[own], present, numbers), ~present, out)
            return [made], samples[torch.arange(start, stop, device=samples.device) // n_each]

        def read(start: int, stop: int, outputs: Tensor) -> None:
            items = torch.arange(start, stop)
            index = samples[(items // n_each).to(samples.device)]
            scores = finite(select(outputs, self.request.targets_for(index), self.score))
            found.index_add_(0, items // r, scores.cpu().double() / r)

        self.request.stream(len(found) * r, build, read, fresh=True)
        return found.reshape(len(samples), len(coalitions))

    @property
    def _n_rows(self) -> int:
        """How many versions of a sample without some features there are."""
        return self.baseline.n_rows if isinstance(self.baseline, FromBackground) else 1

    def _absent(self, samples: Tensor, present: Tensor, numbers: Tensor) -> Tensor:
        """What stands in for what is not ``present`` ``(k, m, …)`` of samples, by the numbers of their items ``(m,)``.

        Returns:
            ``(k, m, …)``, or ``(k, 1, …)`` where it is the same for all.
        """
        if isinstance(self.baseline, Tensor):
            return self.baseline[samples, None]
        r, x = self._n_rows, self.request.input
        pairs, turns = numbers // r, numbers % r
        first = torch.cat([torch.tensor([True]), pairs[1:] > pairs[:-1]]).to(x.device)  # a pair's rows are found once
        asked = present[:, first]
        rows = self.baseline.rows(x[samples].repeat_interleave(asked.shape[1], 0), asked.flatten(0, 1))
        rows = rows.reshape(*asked.shape[:2], r)[:, first.cumsum(0) - 1, turns.to(x.device)]
        return self.baseline.background[rows]

    def maps(self, effects: Mapping[int, Tensor]) -> Tensor:
        """The effect of each position's feature, from ``(k, d)`` for each: ``(n, d)``, or with channels, or one."""
        x = self.request.input
        dtype = torch.promote_types(x.dtype, torch.float32)
        made = on_positions(self.features, {d: each.to(dtype) for d, each in effects.items()})
        return made if made.ndim == x.ndim else made[:, None]
