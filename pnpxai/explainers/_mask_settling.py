"""Masks until a map is settled: looks at growing numbers of masks, and samples that are left where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pnpxai.explainers._mask_ridge import MaskMoments, ridge

FIRST_LOOK = 128
LOOKS_PER_DOUBLING = 8
LOOKS_IN_A_ROW = 2
"""So many looks have to find a map settled, that one lucky look does not."""


def looks(above: int, last: int) -> Iterator[int]:
    """Numbers of masks to look at, each an eighth root of 2 times the one before: those above one number, to another.

    Example:
        >>> list(looks(0, 256)), list(looks(152, 200))
        ([128, 140, 152, 166, 181, 197, 215, 235, 256], [166, 181, 197])
    """
    k = 0
    while (n := round(FIRST_LOOK * 2 ** (k / LOOKS_PER_DOUBLING))) <= last:
        if n > above:
            yield n
        k += 1


@dataclass(frozen=True, eq=False)
class Settling:
    """How far each sample's map has come.

    Attributes:
        sums: over all masks so far; of use for samples that are still open.
        relevance: the map of each sample at its last look, ``(n, p)``.
        standard_error: of it, ``(n, p)``.
        relative_error: the root mean square of the error by the deviation of the map, ``(n,)``.
        n_masks: how many the map is made of, ``(n,)``.
        in_a_row: how many looks in a row have found it settled, ``(n,)``.
    """

    sums: MaskMoments
    relevance: Tensor
    standard_error: Tensor
    relative_error: Tensor
    n_masks: Tensor
    in_a_row: Tensor

    @classmethod
    def begin(cls, sums: MaskMoments) -> Settling:
        """Before the first look."""
        n = sums.scores.shape[1]
        zeros = torch.zeros(n, dtype=torch.long, device=sums.scores.device)
        blank = sums.basis.expand(sums.mixed[0])
        return cls(sums, blank, blank, blank.new_full((n,), torch.inf), zeros, zeros)

    @property
    def open(self) -> Tensor:
        """The samples that more masks are asked for, ``(n,)``."""
        return self.in_a_row < LOOKS_IN_A_ROW

    def look(self, sums: MaskMoments, tol: float | None) -> Settling:
        """The maps of open samples from more masks; ``tol`` is the relative error at which a map is settled, if any."""
        fit = ridge(sums)
        effects, error = sums.effects(fit), sums.standard_error(fit)
        relative = relative_error(effects, error)

        def where_open(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(self.open.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        settled = self.in_a_row if tol is None else torch.where(relative <= tol, self.in_a_row + 1, 0)
        return Settling(
            sums,
            where_open(effects, self.relevance),
            where_open(error, self.standard_error),
            where_open(relative, self.relative_error),
            where_open(torch.full_like(self.n_masks, sums.n_masks), self.n_masks),
            where_open(settled, self.in_a_row),
        )


def settle(
    more: Callable[[MaskMoments, int, Tensor], MaskMoments], state: Settling, n_masks: int, tol: float | None
) -> Settling:
    """Ask for masks until every map is settled, or there are ``n_masks``.

    Args:
        more: from sums to sums over so many masks, for the open samples ``(n,)``.
        state: where to go on from.
        n_masks: at most so many.
        tol: the relative error that is aimed at; None for all masks.
    """
    for n in looks(state.sums.n_masks, n_masks) if tol is not None else ():
        if state.open.any():
            state = state.look(more(state.sums, n, state.open), tol)
    if state.open.any() and state.sums.n_masks < n_masks:
        state = state.look(more(state.sums, n_masks, state.open), None)
    return state


def relative_error(effects: Tensor, error: Tensor) -> Tensor:
    """The root mean square of the error over the positions by the deviation of the map over them, ``(n,)``.

    Infinite where nothing has been found to vary, for that is not known yet.
    """
    spread, unknown = effects.var(1, correction=0), error.square().mean(1)
    return torch.where(spread > 0, unknown / spread, torch.inf).sqrt()
