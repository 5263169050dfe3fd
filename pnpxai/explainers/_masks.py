"""RISE's random masks: each a function of a seed and of its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.baselines import BaselineFunction
from pnpxai.errors import ParameterError
from pnpxai.explainers._seeds import generator_for
from pnpxai.limits import Limit, OneOf, OrNone, WholeWithin, Within
from pnpxai.precision import PRECISIONS
from pnpxai.tunable import Tunable

MASK_TUNABLES: Mapping[str, BaseDistribution | type[Tunable]] = {
    "n_masks": IntDistribution(100, 8000, log=True),
    "grid_size": IntDistribution(3, 16),
    "p_keep": FloatDistribution(0.1, 0.9),
    "baseline_fn": BaselineFunction,
}
MASK_LIMITS: Mapping[str, Limit] = {
    "n_masks": WholeWithin(1),
    "grid_size": WholeWithin(1),
    "p_keep": Within(0.0, 1.0, low_open=True, high_open=True),
    "batch_size": OrNone(WholeWithin(1)),
    "seed": WholeWithin(0),
    "precision": OneOf(PRECISIONS),
}
BLOCK = 32
"""Masks drawn from one generator; a mask is a function of the seed and of its number alone."""


def mask_grid(inputs: Tensor, grid_size: int | Sequence[int]) -> tuple[int, ...] | None:
    """Cells an axis for ``(n, c, h, w)`` or ``(n, c, t)``; None for ``(n, d)``, whose features are masked one by one.

    Raises:
        ParameterError: a tuple whose length is not the number of axes.
    """
    axes = inputs.ndim - 2
    if axes == 0:
        return None
    grid = (grid_size,) * axes if isinstance(grid_size, int) else tuple(grid_size)
    if len(grid) != axes:
        raise ParameterError(
            f"grid_size to be a whole number or {axes} of them, for inputs of shape {tuple(inputs.shape)}",
            f"{grid_size!r}",
            "Give one number of cells for each axis after the channels.",
        )
    return grid


def draw_masks(
    start: int,
    stop: int,
    size: Sequence[int],
    grid: Sequence[int] | None,
    p_keep: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Masks number ``start`` to ``stop`` of an endless bank (Petsiuk et al., 2018, section 3.2).

    Each is a grid of independent bits, one with probability ``p_keep``, upsampled linearly to ``(s + 1)·C`` with
    ``C = ceil(size / s)`` along each axis and cropped to ``size`` at a random shift in ``[0, C)``; its expectation is
    ``p_keep`` everywhere. An axis shorter than the grid has ``C = 1``: no shift, and about one cell a position.

    Args:
        start: number of the first mask.
        stop: one past the number of the last.
        size: ``(h, w)``, ``(t,)`` or ``(d,)``.
        grid: cells ``s`` along each axis; None for one bit a position.
        p_keep: probability that a cell is kept.
        seed: names the bank; the first masks of a bank are the same however many are drawn, and in what portions.
        device: where the masks are built.

    Returns:
        ``(stop - start, *size)``, values in [0, 1], float32.

    Example:
        >>> draw_masks(0, 2, (5,), None, 0.5, seed=0).shape
        torch.Size([2, 5])
    """
    bank = MaskBank(tuple(size), None if grid is None else tuple(grid), p_keep, seed)
    return bank.draw(start, stop, device).masks


def draw_bits(
    start: int, stop: int, size: Sequence[int], grid: Sequence[int] | None, p_keep: float, seed: int
) -> tuple[Tensor, Tensor]:
    """What `draw_masks` makes its masks of: cells ``(stop - start, *s)``, ones and zeros, and shifts ``(…, axes)``."""
    bits, shifts = list[Tensor](), list[Tensor]()
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        first = block * BLOCK
        chosen = slice(max(start - first, 0), stop - first)
        for drawn, kept in zip(_draw_block(seed, block, size, grid, p_keep), (bits, shifts), strict=True):
            kept.append(drawn[chosen])
    return torch.cat(bits), torch.cat(shifts)


def _draw_block(
    seed: int, block: int, size: Sequence[int], grid: Sequence[int] | None, p_keep: float
) -> tuple[Tensor, Tensor]:
    generator = generator_for(seed, block)
    bits = (torch.rand((BLOCK, *(size if grid is None else grid)), generator=generator) < p_keep).float()
    cells = [-(-length // s) for length, s in zip(size, grid or size, strict=True)]
    return bits, torch.stack([torch.randint(cell, (BLOCK,), generator=generator) for cell in cells], 1)


def upsample(grids: Tensor, shifts: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample grids ``(m, *s)`` to ``(s + 1)·C`` and crop each at its shift ``(m, axes)``: ``(m, *size)``."""
    whole = F.interpolate(
        grids[:, None],
        [(s + 1) * -(-length // s) for length, s in zip(size, grids.shape[1:], strict=True)],
        mode="bilinear" if len(size) == 2 else "linear",
        align_corners=False,
    )[:, 0]
    windows = [[slice(a, a + length) for a, length in zip(each, size, strict=True)] for each in shifts.tolist()]
    return torch.stack([each[tuple(window)] for each, window in zip(whole, windows, strict=True)])


@dataclass(frozen=True, eq=False)
class MaskBank:
    """Masks by their number; see `draw_masks`.

    Attributes:
        size: ``(h, w)``, ``(t,)`` or ``(d,)``.
        grid: cells along each axis; None for one bit a position.
        p_keep: probability that a cell is kept.
        seed: names the bank.
    """

    size: tuple[int, ...]
    grid: tuple[int, ...] | None
    p_keep: float
    seed: int

    @classmethod
    def for_inputs(cls, inputs: Tensor, grid_size: int | Sequence[int], p_keep: float, seed: int) -> MaskBank:
        """The bank for inputs ``(n, …)``.

        Raises:
            ParameterError: see `mask_grid`.
        """
        grid = mask_grid(inputs, grid_size)
        return cls(tuple(inputs.shape[1:] if grid is None else inputs.shape[2:]), grid, p_keep, seed)

    def draw(self, start: int, stop: int, device: torch.device | str = "cpu") -> MaskChunk:
        """Masks number ``start`` to ``stop``."""
        bits, shifts = draw_bits(start, stop, self.size, self.grid, self.p_keep, self.seed)
        bits = bits.to(device)
        return MaskChunk(bits, shifts, bits if self.grid is None else upsample(bits, shifts, self.size))


@dataclass(frozen=True, eq=False)
class MaskChunk:
    """Some masks: their cells ``(m, *s)``, their shifts ``(m, axes)`` and their values ``(m, *size)``."""

    bits: Tensor
    shifts: Tensor
    masks: Tensor

    @classmethod
    def none(cls) -> MaskChunk:
        """No mask."""
        return cls(torch.empty(0), torch.empty(0), torch.empty(0))
