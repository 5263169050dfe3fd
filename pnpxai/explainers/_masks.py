"""RISE's random masks: each a function of a seed and of its number."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
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

SAMPLINGS = ("independent", "antithetic", "sobol")
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
    "sampling": OneOf(SAMPLINGS),
    "precision": OneOf(PRECISIONS),
    "compile": OneOf((False, True)),
}
BLOCK = 32
"""Masks drawn from one generator; a mask is a function of the seed and of its number alone."""


def mask_grid(inputs: Tensor, grid_size: int | Sequence[int]) -> tuple[int, ...] | None:
    """Cells along each axis behind the channels; None for ``(n, d)``, whose features are masked one by one.

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


class SobolSequence:
    """A scrambled Sobol sequence in ``d`` dimensions, read block by block; one that is not the next costs more.

    The scrambling leaves which cells go together as it is, at ``p_keep`` of .5; which cell is which is shuffled, too.
    """

    def __init__(self, seed: int, d: int) -> None:
        from scipy.stats import qmc

        random = np.random.default_rng(np.random.SeedSequence(seed))
        self._order, self._sequence = random.permutation(d), qmc.Sobol(d, rng=random)
        self._next: int | None = 0

    def block(self, number: int) -> Tensor:
        """The points of one block: ``(BLOCK, d)``, float64."""
        at, self._next = self._next, None  # whatever an interruption leaves begins anew
        if at is None or number < at:
            self._sequence.reset()
            at = 0
        if number > at:
            self._sequence.fast_forward((number - at) * BLOCK)
        points = self._sequence.random(BLOCK)
        self._next = number + 1
        return torch.from_numpy(points[:, self._order])


@functools.lru_cache(maxsize=4)
def _sequence(seed: int, d: int, thread: int) -> SobolSequence:
    """A thread's own, for reading moves it; to begin one takes longer than to draw from it."""
    return SobolSequence(seed, d)


@functools.lru_cache(maxsize=2)
def sobol_block(seed: int, number: int, d: int) -> Tensor:
    """The points of one block of a seed's sequence: ``(BLOCK, d)``, float64; not to be changed."""
    return _sequence(seed, d, threading.get_ident()).block(number)


@functools.cache
def most_sobol_dimensions() -> int:
    """How many dimensions SciPy's Sobol sequence has at most."""
    from scipy.stats import qmc

    return int(qmc.Sobol.MAXDIM)


@functools.lru_cache(maxsize=16)
def stretching(length: int, cells: int) -> Tensor:
    """How ``s`` cells are upsampled along an axis, before it is cropped to ``length``: ``((s + 1)·C, s)``, float64."""
    return F.interpolate(
        torch.eye(cells, dtype=torch.float64)[:, None],
        (cells + 1) * -(-length // cells),
        mode="linear",
        align_corners=False,
    )[:, 0].T.contiguous()


def upsample(grids: Tensor, shifts: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample grids ``(m, *s)`` to ``(s + 1)·C`` and crop each at its shift ``(m, axes)``: ``(m, *size)``."""
    windows = []
    for length, cells, own in zip(size, grids.shape[1:], shifts.T.tolist(), strict=True):
        whole = stretching(length, cells).to(grids)
        windows.append(torch.stack([whole[a : a + length] for a in own]))
    return along_axes(grids, windows)


def along_axes(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """``(m, *s)`` times one matrix along each axis, ``(r, s)``, or ``(m, r, s)`` for one of each row: ``(m, *r)``.

    Example:
        >>> along_axes(torch.ones(1, 2, 3), [torch.ones(1, 2), torch.eye(3)]).tolist()
        [[[2.0, 2.0, 2.0]]]
    """
    if len(matrices) == 2:  # two products without a copy between them
        return matrices[0] @ values @ matrices[1].mT
    for matrix in matrices:
        values = values.movedim(1, -1)  # once for each axis, which brings them back into their order
        shape = values.shape
        product = values.reshape(shape[0], -1, shape[-1]) @ matrix.mT
        values = product.reshape(*shape[:-1], product.shape[-1])
    return values


@dataclass(frozen=True, eq=False)
class MaskBank:
    """RISE's masks, an endless row (Petsiuk et al., 2018, section 3.2).

    Each is a grid of bits, one with probability ``p_keep``, upsampled linearly to ``(s + 1)·C`` with ``C = ceil(size /
    s)`` along each axis and cropped to ``size`` at a random shift in ``[0, C)``; its expectation is ``p_keep``
    everywhere. An axis shorter than the grid has ``C = 1``: no shift, and about one cell a position. The first masks
    are the same however many are drawn, and in what portions.

    Attributes:
        size: ``(d, h, w)``, ``(h, w)``, ``(t,)`` or ``(d,)``.
        grid: cells along each axis; None for one bit a position.
        p_keep: probability that a cell is kept.
        seed: names the bank.
        sampling: how masks depend on one another; however that is, each alone is as random as any, so that means over
            masks have no bias. ``"independent"``; ``"antithetic"`` for pairs, a cell being kept below ``p_keep`` of
            ``u`` and of ``1 - u`` and the shift the same, so that what an even number of cells does together hardly
            disturbs the effects of one (Hammersley and Morton, 1956); ``"sobol"`` for the points of a scrambled Sobol
            sequence (Owen, 1998), which fill the space of cells evenly, best where the masks are a power of two (for
            more than 21,201 cells, independent masks).

    Example:
        >>> MaskBank((5,), None, 0.5, seed=0).draw(0, 2).masks.shape
        torch.Size([2, 5])
    """

    size: tuple[int, ...]
    grid: tuple[int, ...] | None
    p_keep: float
    seed: int
    sampling: str = "sobol"

    @classmethod
    def for_inputs(
        cls, inputs: Tensor, grid_size: int | Sequence[int], p_keep: float, seed: int, sampling: str = "sobol"
    ) -> MaskBank:
        """The bank for inputs ``(n, …)``.

        Raises:
            ParameterError: see `mask_grid`.
        """
        grid = mask_grid(inputs, grid_size)
        return cls(tuple(inputs.shape[1:] if grid is None else inputs.shape[2:]), grid, p_keep, seed, sampling)

    def draw(self, start: int, stop: int, device: torch.device | str = "cpu") -> MaskChunk:
        """Masks number ``start`` to ``stop``."""
        bits, shifts = self.draw_bits(start, stop)
        bits = bits.to(device)
        return MaskChunk(start, bits, shifts, bits if self.grid is None else upsample(bits, shifts, self.size))

    def draw_bits(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """What masks are made of: cells ``(stop - start, *s)``, ones and zeros, and shifts ``(stop - start, axes)``."""
        bits, shifts = list[Tensor](), list[Tensor]()
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            first = block * BLOCK
            chosen = slice(max(start - first, 0), stop - first)
            for drawn, kept in zip(self.draw_block(block), (bits, shifts), strict=True):
                kept.append(drawn[chosen])
        return torch.cat(bits), torch.cat(shifts)

    def draw_block(self, block: int) -> tuple[Tensor, Tensor]:
        """The same of one whole block: ``(BLOCK, *s)`` and ``(BLOCK, axes)``."""
        generator = generator_for(self.seed, block)
        cells = self.size if self.grid is None else self.grid
        pairs, d = self.sampling == "antithetic", math.prod(cells)
        if self.sampling == "sobol" and d <= most_sobol_dimensions():
            drawn = sobol_block(self.seed, block, d)
        else:
            drawn = torch.rand((BLOCK // 2 if pairs else BLOCK, d), generator=generator)
        reaches = [-(-length // s) for length, s in zip(self.size, cells, strict=True)]
        shifts = torch.stack([torch.randint(each, (len(drawn),), generator=generator) for each in reaches], 1)
        if pairs:
            drawn, shifts = torch.stack([drawn, 1 - drawn], 1).flatten(0, 1), shifts.repeat_interleave(2, 0)
        return (drawn < self.p_keep).float().reshape(BLOCK, *cells), shifts


@dataclass(frozen=True, eq=False)
class MaskChunk:
    """Some masks in a row.

    Attributes:
        first: the number of the first.
        bits: their cells, ``(m, *s)``.
        shifts: ``(m, axes)``.
        masks: their values, ``(m, *size)``.
    """

    first: int
    bits: Tensor
    shifts: Tensor
    masks: Tensor

    @property
    def last(self) -> int:
        """One past the number of the last."""
        return self.first + len(self.bits)

    @classmethod
    def none(cls) -> MaskChunk:
        """No mask."""
        return cls(0, torch.empty(0), torch.empty(0), torch.empty(0))
