"""Masks of a bank named by what makes it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pnpxai.explainers._masks import MaskBank


def draw_masks(
    start: int,
    stop: int,
    size: Sequence[int],
    grid: Sequence[int] | None,
    p_keep: float,
    seed: int,
    sampling: str = "sobol",
) -> Tensor:
    """Masks number ``start`` to ``stop``, ``(stop - start, *size)``."""
    bank = MaskBank(tuple(size), None if grid is None else tuple(grid), p_keep, seed, sampling)
    return bank.draw(start, stop).masks
