"""Ridge regression of scores on masks, from sums that do not grow with the number of masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pnpxai.explainers._mask_basis import MaskBasis, mask_basis
from pnpxai.explainers._mask_record import MaskRecord
from pnpxai.explainers._mask_sums import MaskSums
from pnpxai.explainers._masked_scores import exact_device
from pnpxai.explainers._masks import MaskBank, MaskChunk

PENALTIES = torch.logspace(-5, 2, 57, dtype=torch.float64)
"""What is tried as the penalty, for each mask and in units of the largest component's variance."""
ENOUGH = 10
"""Masks that have to keep a position, and not to, before an error is given for it."""
DIRECTIONS = 16
"""How many directions are looked at in all positions at once."""
PRUDENCE = 1.4
"""What a degree of freedom counts, so that few masks are not fitted too closely (Kim and Gu, 2004)."""


@dataclass(eq=False)
class MaskMoments:
    """What remains of ``m`` masks for a regression, by their coordinates ``z``; in float64.

    Attributes:
        n_masks: how many there were.
        basis: what the coordinates belong to.
        masks: ``Σ z``, ``(d,)``.
        products: ``Σ z zᵀ``, ``(d, d)``.
        origin: what is taken off the scores first, so that no digits cancel, ``(n,)``: the first score of each sample,
            unknown before; zero where there are several powers.
        scores: ``Σ f^j`` for the powers ``j = 1, 2, …``, ``(powers, n)``.
        squares: ``Σ f^2j``, ``(powers, n)``.
        mixed: ``Σ f^j z``, ``(powers, n, d)``.
        lower: see `Sums`.
        record: of the single masks, where errors are to be known; None where not.
    """

    n_masks: int
    basis: MaskBasis
    masks: Tensor
    products: Tensor
    origin: Tensor
    scores: Tensor
    squares: Tensor
    mixed: Tensor
    lower: Tensor | None = None
    record: MaskRecord | None = None

    @classmethod
    def none(cls, basis: MaskBasis, n: int, powers: int = 1, *, recorded: bool = False) -> MaskMoments:
        """Of no mask, for ``n`` scores a mask."""
        zeros, d = basis.spread.new_zeros, len(basis.spread)
        origin = torch.full_like(zeros(n), torch.nan if powers == 1 else 0.0)
        sums = zeros(powers, n), zeros(powers, n), zeros(powers, n, d)
        record = MaskRecord.none(n, basis.spread) if recorded else None
        return cls(0, basis, zeros(d), zeros(d, d), origin, *sums, record=record)

    def copied(self) -> MaskMoments:
        held = ("masks", "products", "origin", "scores", "squares", "mixed")
        record = self.record and self.record.copied()
        return replace(self, **{name: getattr(self, name).clone() for name in held}, record=record)

    def add(self, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        first = scores.gather(1, present.int().argmax(1, keepdim=True))[:, 0]
        self.origin = torch.where(self.origin.isnan() & present.any(1), first, self.origin)
        scores = torch.where(present, scores - self.origin[:, None], 0.0)
        coordinates = self.basis.coordinates(chunk.bits, chunk.shifts)
        if self.record is not None:
            self.record.add(chunk.first, coordinates, scores)
        new = coordinates[fresh]
        self.n_masks += len(new)
        self.masks += new.sum(0)
        self.products += new.T @ new
        for power in range(len(self.scores)):
            raised = scores ** (power + 1)
            self.scores[power] += raised.sum(1)
            self.squares[power] += (raised**2).sum(1)
            self.mixed[power] += raised @ coordinates

    def effects(self, fit: RidgeFit) -> Tensor:
        """``E[(f - E f) M] / p_keep`` at every position, ``(n, p)``, by a regression of these."""
        return self.basis.expand(fit.effects) / self.basis.p_keep

    def standard_error(self, fit: RidgeFit) -> Tensor:
        """Of `effects`, ``(n, p)``: what the masks that were not drawn leave open.

        Infinite where fewer than `ENOUGH` masks kept a position or fewer did not, and where too few masks are left over
        to tell how much the regression leaves unexplained.
        """
        kept = self.n_masks * self.basis.p_keep + self.basis.expand(self.masks[None])
        variance = kept.new_zeros(len(fit.effects), kept.shape[1])
        for start in range(0, len(fit.directions), DIRECTIONS):
            part = slice(start, start + DIRECTIONS)
            variance += fit.variances[:, part] @ self.basis.expand(fit.directions[part]) ** 2
        known = (torch.minimum(kept, self.n_masks - kept) >= ENOUGH) & fit.variances.isfinite().all(1, keepdim=True)
        return torch.where(known, variance.sqrt() / self.basis.p_keep, torch.inf)

    def mean(self, power: int = 1) -> Tensor:
        """The mean of ``f^power`` where a position is kept, ``(n, p)``."""
        return self.scores[power - 1, :, None] / self.n_masks + self.origin[:, None] + self.effects(ridge(self, power))


def no_masks(
    inputs: Tensor, bank: MaskBank, *, ridge: bool, powers: int = 1, recorded: bool = False
) -> MaskSums | MaskMoments:
    """What an estimator keeps, before the first mask: by position where there are too many features to regress on.

    Args:
        inputs: what is explained.
        bank: the masks.
        ridge: to regress on them.
        powers: of the scores.
        recorded: keep single masks, for a regression's errors.
    """
    basis = mask_basis(bank.size, bank.grid, bank.p_keep, exact_device(inputs)) if ridge else None
    if basis is None:
        return MaskSums.none(inputs, bank, powers)
    return MaskMoments.none(basis, len(inputs), powers, recorded=recorded)


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A regression of ``n`` scores on ``d`` coordinates.

    Attributes:
        effects: the coefficients, ``(n, d)``.
        directions: combinations of coefficients whose errors are independent, ``(d, d)``, one a row.
        variances: of those errors, ``(n, d)``.
    """

    effects: Tensor
    directions: Tensor
    variances: Tensor


def ridge(moments: MaskMoments, power: int = 1) -> RidgeFit:
    """``E[(f - E f) z]``, ``(n, d)``, by regression: ``f = a + γ·z + e`` has it as ``γ``, for the ``z`` are white.

    The penalty is that of ridge regression on the masks' values, ``λ Σ (γ_k / s_k)²``: components that vary little are
    trusted little. ``λ`` is chosen for each row by generalised cross-validation (Golub, Heath and Wahba, 1979), with
    `PRUDENCE`.

    Unlike the mean of ``(f - mean f) z``, this does not take the masks' accidental correlations for effects of the
    model. It is biased towards zero by the penalty, less the more masks there are. The errors are those of the Bayesian
    reading, with the penalty as a normal prior, which hold the bias, too (Wahba, 1983; Nychka, 1988); where single
    masks are recorded, times their `MaskRecord.design_effect`.

    Args:
        moments: of the masks and of powers of the scores.
        power: which of these is ``f``.
    """
    m, weights = moments.n_masks, moments.basis.spread / moments.basis.spread[0]
    mean = moments.masks / m
    products = (moments.products - m * torch.outer(mean, mean)) * weights * weights[:, None]
    scores, squares = moments.scores[power - 1], moments.squares[power - 1]
    mixed = (moments.mixed[power - 1] - scores[:, None] * mean) * weights
    total = (squares - scores**2 / m).clamp(min=0)
    values, vectors = torch.linalg.eigh(products)
    values = values.clamp(min=0)
    turned = mixed @ vectors
    penalties = (m * PENALTIES).to(values)[:, None]
    inverse = 1 / (values + penalties)  # (penalties, d)
    unexplained = (total[:, None] - turned**2 @ (2 * inverse - values * inverse**2).T).clamp(min=0)
    freedom = 1 + (values * inverse).sum(1)
    left = m - PRUDENCE * freedom
    criterion = torch.where(left > 0, unexplained / left**2, torch.inf)  # (n, penalties)
    chosen = criterion.argmin(1, keepdim=True)
    shrunk = inverse[chosen[:, 0]]  # (n, d)
    spare = (m - freedom)[chosen]
    noise = torch.where(spare > 1, unexplained.gather(1, chosen) / spare.clamp(min=1), torch.inf)
    effects = (turned * shrunk) @ vectors.T * weights
    if moments.record is not None:
        noise = noise * moments.record.design_effect(effects, moments.basis.spread)[:, None]
    return RidgeFit(effects, (vectors * weights[:, None]).T, noise * shrunk)
