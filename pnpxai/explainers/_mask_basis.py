"""The few directions in which random masks vary: their principal components, known before a mask is drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

COVERED = 0.999
"""Of the masks' variance, what the components that are kept make up …"""
LARGEST_BASIS = 512
"""… with at most so many of them."""
LONGEST_AXIS = 256
"""Positions of an axis that its components are computed at; between them they are interpolated."""


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

    @property
    @abstractmethod
    def products(self) -> Tensor:
        """Means over the positions of ``s_k v_k s_l v_l``, ``(d, d)``."""

    @property
    @abstractmethod
    def means(self) -> Tensor:
        """Means over the positions of ``s_k v_k``, ``(d,)``."""

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

    @property
    def products(self) -> Tensor:
        return (self.spread**2).diag() / len(self.spread)

    @property
    def means(self) -> Tensor:
        return self.spread / len(self.spread)

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
        first, *second = (each[a] for each, a in zip(self.projections, shifts.T, strict=True))
        if not second:
            found = torch.einsum("mrs,ms->mr", first, cells)[:, self.chosen[0]]
        else:
            found = (first @ cells @ second[0].mT)[:, self.chosen[0], self.chosen[1]]
        return found / self.spread

    @property
    def products(self) -> Tensor:
        found = torch.outer(self.spread, self.spread)
        for own, vectors in zip(self.chosen, self.vectors, strict=True):
            found = found * (vectors.T @ vectors / len(vectors))[own[:, None], own]
        return found

    @property
    def means(self) -> Tensor:
        found = self.spread
        for own, vectors in zip(self.chosen, self.vectors, strict=True):
            found = found * vectors.mean(0)[own]
        return found

    def expand(self, values: Tensor) -> Tensor:
        scaled = values * self.spread
        table = scaled.new_zeros(len(values), *(each.shape[1] for each in self.vectors))
        table[(slice(None), *self.chosen)] = scaled
        if len(self.vectors) == 1:
            return table @ self.vectors[0].T
        return (self.vectors[0] @ table @ self.vectors[1].T).flatten(1)


@lru_cache(maxsize=16)
def mask_basis(
    size: tuple[int, ...], grid: tuple[int, ...] | None, p_keep: float, device: torch.device
) -> MaskBasis | None:
    """The components of RISE's masks of one kind; None for features that are more than `LARGEST_BASIS`.

    Args:
        size: ``(h, w)``, ``(t,)`` or ``(d,)``.
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


def _axis(length: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues ``(q,)``, falling, eigenvectors ``(length, q)``, and their products with ``U_a``, ``(C, q, s)``."""
    step = -(-length // LONGEST_AXIS)
    cell = -(-length // cells)
    whole = F.interpolate(
        torch.eye(cells, dtype=torch.float64)[:, None], (cells + 1) * cell, mode="linear", align_corners=False
    )[:, 0]
    upsampled = torch.stack([whole[:, a : a + length : step].T for a in range(cell)])  # (C, q, s)
    values, vectors = torch.linalg.eigh((upsampled @ upsampled.mT).mean(0))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    projected = vectors.T @ upsampled
    if step == 1:
        return values, vectors, projected
    places = torch.arange(length, dtype=torch.float64) / step
    left = places.floor().long().clamp(max=len(vectors) - 1)
    right = (left + 1).clamp(max=len(vectors) - 1)
    return values, torch.lerp(vectors[left], vectors[right], (places - left)[:, None]), projected
