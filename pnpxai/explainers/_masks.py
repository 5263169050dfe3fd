"""RISE's random masks, streamed: drawn a block at a time, applied a chunk at a time, summed as they pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.baselines import Baseline, BaselineFunction, baseline_for
from pnpxai.errors import ModelError, ParameterError
from pnpxai.explainers._seeds import generator_for
from pnpxai.forward import Request
from pnpxai.limits import Limit, OrNone, WholeWithin, Within
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
    portions = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        first = block * BLOCK
        chosen = slice(max(start - first, 0), stop - first)
        bits, shifts = _draw_block(seed, block, size, grid, p_keep)
        portion = bits[chosen].to(device)
        portions.append(portion if grid is None else upsample(portion, shifts[chosen], size))
    return torch.cat(portions)


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


@dataclass
class MaskSums:
    """What remains of the masks when they have passed: sums over ``m`` masks, at ``p`` positions, in float64.

    Attributes:
        n_masks: how many there were.
        masks: ``Σ M``, ``(p,)``.
        scores: ``Σ f^j`` for the powers ``j = 1, 2, …``, ``(powers, n)``.
        weighted: ``Σ f^j M``, ``(powers, n, p)``.
    """

    n_masks: int
    masks: Tensor
    scores: Tensor
    weighted: Tensor

    def mean(self, power: int = 1) -> Tensor:
        """The mean of ``f^power`` weighted by the masks, ``(n, p)``; unweighted at a position that no mask kept."""
        plain = self.scores[power - 1, :, None] / self.n_masks
        return torch.where(self.masks > 0, self.weighted[power - 1] / self.masks, plain)


def mask_sums(
    request: Request,
    score: Callable[[Tensor, Tensor], Tensor],
    *,
    n_masks: int,
    grid_size: int | Sequence[int],
    p_keep: float,
    baseline_fn: Baseline,
    seed: int,
    powers: int = 1,
    known: MaskSums | None = None,
) -> MaskSums:
    """Score every sample under every mask, ``x ⊙ M + baseline ⊙ (1 - M)``, and sum; all samples share the masks.

    Args:
        request: what is explained.
        score: from the model's outputs and the samples ``(m,)`` they belong to, to one number each ``(m,)``.
        n_masks: how many masks, those of ``known`` among them.
        grid_size: see `mask_grid`.
        p_keep: see `draw_masks`.
        baseline_fn: what stands for absence.
        seed: see `draw_masks`.
        powers: highest power of the scores to be summed.
        known: sums over the first masks of the same bank, which are not asked again; stay as they are.

    Raises:
        ModelError: a score that is not finite.
    """
    x, n = request.input, len(request)
    grid, baseline = mask_grid(x, grid_size), baseline_for(baseline_fn, x)
    size = x.shape[1:] if grid is None else x.shape[2:]
    exact = torch.device("cpu") if x.device.type == "mps" else x.device  # MPS has no float64
    p = size.numel()
    sums = MaskSums(
        n_masks,
        known.masks.clone() if known else torch.zeros(p, dtype=torch.float64, device=exact),
        known.scores.clone() if known else torch.zeros(powers, n, dtype=torch.float64, device=exact),
        known.weighted.clone() if known else torch.zeros(powers, n, p, dtype=torch.float64, device=exact),
    )
    first = known.n_masks if known else 0
    held = torch.empty(0)

    def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        nonlocal held
        held = draw_masks(first + start // n, first - (-stop // n), size, grid, p_keep, seed, x.device)
        rows = torch.arange(start, stop, device=x.device)
        masks = held[rows // n - start // n].to(x.dtype).reshape(len(rows), *(1,) * (grid is not None), *size)
        return [torch.lerp(baseline[rows % n], x[rows % n], masks)], rows % n

    def consume(start: int, stop: int, outputs: Tensor) -> None:
        rows = torch.arange(start, stop, device=x.device)
        scores = score(outputs, rows % n)
        if not torch.isfinite(scores).all():
            raise ModelError(
                "finite outputs on masked inputs", "NaN or infinity", "Try another baseline_fn, or a wider dtype."
            )
        masks = held.flatten(1).to(exact, torch.float64)
        table = masks.new_zeros(n, len(masks))  # zero where another chunk holds the score
        table[rows % n, rows // n - start // n] = scores.to(table)
        sums.masks += masks[(rows // n - start // n)[rows % n == 0]].sum(0)
        for power in range(powers):
            raised = table ** (power + 1)
            sums.scores[power] += raised.sum(1)
            sums.weighted[power] += raised @ masks

    request.stream((n_masks - first) * n, build, consume)
    return sums


def as_maps(values: Tensor, inputs: Tensor) -> Tensor:
    """Give values ``(n, p)`` the positions of their inputs: ``(n, 1, h, w)``, ``(n, 1, t)`` or ``(n, d)``."""
    return values.reshape(len(inputs), *((1,) if inputs.ndim > 2 else ()), *inputs.shape[min(2, inputs.ndim - 1) :])
