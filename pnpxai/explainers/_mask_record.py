"""Single masks and their scores: whether what they leave over adds up as that of independent masks would."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

PORTION = 16
"""Masks in a row that are taken together."""
FEWEST_PORTIONS = 4


@dataclass(eq=False)
class MaskRecord:
    """Masks by their numbers.

    Attributes:
        coordinates: of each, ``(m, d)``, in single precision.
        scores: of each sample under each, ``(n, m)``, in float64; zero where it was not asked for.
    """

    coordinates: Tensor
    scores: Tensor

    @classmethod
    def none(cls, n: int, spread: Tensor) -> MaskRecord:
        """Of no mask, for ``n`` samples and coordinates of ``spread`` ``(d,)``."""
        return cls(spread.new_zeros(0, len(spread), dtype=torch.float32), spread.new_zeros(n, 0))

    def copied(self) -> MaskRecord:
        """The same, to be added to."""
        return replace(self, coordinates=self.coordinates.clone(), scores=self.scores.clone())

    def add(self, first: int, coordinates: Tensor, scores: Tensor) -> None:
        """Note masks from number ``first`` on: coordinates ``(k, d)`` and scores ``(n, k)``, zero for those to come."""
        known, last = len(self.coordinates), first + len(coordinates)
        if last > known:
            self.coordinates = F.pad(self.coordinates, (0, 0, 0, last - known))
            self.scores = F.pad(self.scores, (0, last - known))
        self.coordinates[first:last] = coordinates.to(self.coordinates)
        self.scores[:, first:last] += scores

    def design_effect(self, effects: Tensor, spread: Tensor) -> Tensor:
        """How many times the variance of independent masks the masks' errors have, ``(n,)`` (Kish, 1965).

        A mask's error is what the regression leaves over of its score, times its coordinates. The sums of these over
        `PORTION` masks in a row vary less than those of independent masks where a sequence fills space evenly, and more
        where large errors go with large coordinates. One number for all coordinates, weighted by their spread: a single
        one would take far more masks. 1 while there are fewer than `FEWEST_PORTIONS`.

        Args:
            effects: the regression's coefficients, ``(n, d)``.
            spread: the coordinates' weights, ``(d,)``.
        """
        k = len(self.coordinates) // PORTION
        if k < FEWEST_PORTIONS:
            return effects.new_ones(len(effects))
        centred = self.coordinates.to(effects)
        centred = centred - centred.mean(0)
        left = (self.scores - self.scores.mean(1, keepdim=True) - effects @ centred.T)[:, : k * PORTION]
        weighted = (centred[: k * PORTION] * spread).reshape(k, PORTION, -1)
        sums = (torch.einsum("kp,kpd->kd", each.reshape(k, PORTION), weighted) for each in left)
        together = torch.stack([each.var(0).sum() * k for each in sums])
        alone = left.square().sum(1) * spread.square().sum()
        return torch.where(alone > 0, together / alone, 1.0)
