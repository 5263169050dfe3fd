"""The few directions in which random masks vary: their principal components, known before a mask is drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pnpxai.explainers._masks import along_axes, stretching

COVERED = 0.999
"""Of the masks' variance, what the components that are kept make up …"""
LARGEST_BASIS = 512
"""… with at most so many of them."""
LONGEST_AXIS = 256
"""Positions of an axis that its components are computed at, more where cells are small; between them they are
interpolated."""
MOST_PLACES = 1024
"""Longer axes of small cells than that have no basis."""


class MaskBasis(ABC):
    """Components of masks: ``M = p_keep + Σ_k z_k s_k v_k`` with ``E z = 0`` and ``E z zᵀ = 1`` over bits and shifts.

    Attributes:
        p_keep: the masks' expectation.
        spread: ``s``, the components' standard deviations, ``(d,)``, falling.
    """

    p_keep: float
    spread: Tensor

    @abstractmethod
    def coordinates(self, bits: Tensor, shifts: Tensor) -> Tensor:
        """``z`` of masks by their grids ``(m, *s)`` and shifts ``(m, axes)``: ``(m, d)``, in float64."""

    @abstractmethod
    def expand(self, values: Tensor) -> Tensor:
        """``Σ_k values_k s_k v_k`` at every position: ``(n, d)`` to ``(n, p)``."""


@dataclass(frozen=True, eq=False)
class FeatureBasis(MaskBasis):
    """Independent bits, one a feature: each feature is a component.

    Attributes:
        p_keep: probability of a bit.
        spread: see `MaskBasis`.
    """

    p_keep: float
    spread: Tensor

    def coordinates(self, bits: Tensor, shifts: Tensor) -> Tensor:
        return (bits.to(self.spread) - self.p_keep) / self.spread

    def expand(self, values: Tensor) -> Tensor:
        return values * self.spread


@dataclass(frozen=True, eq=False)
class GridBasis(MaskBasis):
    """Upsampled grids at random shifts, whose covariance is a product of one matrix for each axis.

    With ``U_a`` the upsampling of an axis at shift ``a``, that matrix is ``E_a U_a U_aᵀ``; the components are products
    of its eigenvectors, those with the largest variance.

    Attributes:
        p_keep: probability of a cell.
        spread: see `MaskBasis`.
        chosen: which eigenvector of each axis makes a component, ``(axes, d)``.
        projections: from cells to eigenvectors at each shift, ``(shifts, r, s)`` an axis.
        vectors: the eigenvectors at each position, ``(length, r)`` an axis.
    """

    p_keep: float
    spread: Tensor
    chosen: Tensor
    projections: Sequence[Tensor]
    vectors: Sequence[Tensor]

    def coordinates(self, bits: Tensor, shifts: Tensor) -> Tensor:
        cells = bits.to(self.spread) - self.p_keep
        matrices = [each[a] for each, a in zip(self.projections, shifts.T, strict=True)]
        found = along_axes(cells, matrices)[(slice(None), *self.chosen)]
        return found / self.spread

    def expand(self, values: Tensor) -> Tensor:
        scaled = values * self.spread
        table = scaled.new_zeros(len(values), *(each.shape[1] for each in self.vectors))
        table[(slice(None), *self.chosen)] = scaled
        return along_axes(table, self.vectors).flatten(1)


@lru_cache(maxsize=16)
def mask_basis(
    size: tuple[int, ...], grid: tuple[int, ...] | None, p_keep: float, device: torch.device
) -> MaskBasis | None:
    """The components of RISE's masks of one kind; None for more features than `LARGEST_BASIS`, or cells too fine.

    Args:
        size: ``(d, h, w)``, ``(h, w)``, ``(t,)`` or ``(d,)``.
        grid: cells along each axis; None for one bit a position.
        p_keep: probability that a cell is kept.
        device: where the basis is kept.

    Example:
        >>> basis = mask_basis((224, 224), (7, 7), 0.5, torch.device("cpu"))
        >>> len(basis.spread)
        223
    """
    variance = p_keep * (1 - p_keep)
    if grid is None:
        if math.prod(size) > LARGEST_BASIS:
            return None
        return FeatureBasis(p_keep, torch.full(size, math.sqrt(variance), dtype=torch.float64, device=device))
    if any(-(-length // _step(length, cells)) > MOST_PLACES for length, cells in zip(size, grid, strict=True)):
        return None
    axes = [_axis(length, cells) for length, cells in zip(size, grid, strict=True)]
    table = variance * axes[0][0]
    for values, _, _ in axes[1:]:
        table = table[..., None] * values
    falling = table.flatten().sort(descending=True)
    n = min(int((falling.values.cumsum(0) < COVERED * table.sum()).sum()) + 1, LARGEST_BASIS)
    chosen = torch.stack(torch.unravel_index(falling.indices[:n], table.shape))
    ranks = [int(each.max()) + 1 for each in chosen]
    return GridBasis(
        p_keep,
        falling.values[:n].sqrt().to(device),
        chosen.to(device),
        [projected[:, :r].to(device) for (_, _, projected), r in zip(axes, ranks, strict=True)],
        [vectors[:, :r].to(device) for (_, vectors, _), r in zip(axes, ranks, strict=True)],
    )


def _step(length: int, cells: int) -> int:
    """Of how many positions one is computed: at least four for each cell, over which masks vary."""
    return min(-(-length // LONGEST_AXIS), max(1, length // cells // 4))


def _axis(length: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues ``(q,)``, falling, eigenvectors ``(length, q)``, and their products with ``U_a``, ``(C, q, s)``."""
    step, cell = _step(length, cells), -(-length // cells)
    whole = stretching(length, cells)
    upsampled = torch.stack([whole[a : a + length : step] for a in range(cell)])  # (C, q, s)
    together = upsampled.transpose(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(together @ together.T / cell)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    projected = vectors.T @ upsampled
    if step == 1:
        return values, vectors, projected
    places = torch.arange(length, dtype=torch.float64) / step
    left = places.floor().long().clamp(max=len(vectors) - 1)
    right = (left + 1).clamp(max=len(vectors) - 1)
    return values, torch.lerp(vectors[left], vectors[right], (places - left)[:, None]), projected
