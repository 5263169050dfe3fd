"""Scores under random masks, streamed: masks drawn and applied a chunk at a time, summed as they pass."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.errors import ModelError
from pnpxai.explainers._masks import MaskBank, MaskChunk
from pnpxai.forward import Request

S = TypeVar("S", bound="Sums")


class Sums(Protocol):
    """What is kept of masks and scores that have passed."""

    @property
    def n_masks(self) -> int:
        """How many masks there were."""

    def add(self, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        """Let some masks pass.

        Args:
            chunk: them.
            fresh: which of them pass for the first time, ``(m,)``.
            scores: of each sample, ``(n, m)``, float64; zero where one passes with another chunk …
            present: … and false here, ``(n, m)``.
        """


@dataclass(eq=False)
class MaskSums:
    """Sums at every position, ``p``, in float64.

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

    @classmethod
    def none(cls, inputs: Tensor, bank: MaskBank, powers: int = 1) -> MaskSums:
        """Of no mask yet."""
        n, p, device = len(inputs), math.prod(bank.size), exact_device(inputs)
        zeros = functools.partial(torch.zeros, dtype=torch.float64, device=device)
        return cls(0, zeros(p), zeros(powers, n), zeros(powers, n, p))

    def add(self, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        masks = chunk.masks.flatten(1).to(scores)
        self.n_masks += int(fresh.sum())
        self.masks += masks[fresh].sum(0)
        for power in range(len(self.scores)):
            raised = scores ** (power + 1)
            self.scores[power] += raised.sum(1)
            self.weighted[power] += raised @ masks

    def mean(self, power: int = 1) -> Tensor:
        """The mean of ``f^power`` weighted by the masks, ``(n, p)``; unweighted at a position that no mask kept."""
        plain = self.scores[power - 1, :, None] / self.n_masks
        return torch.where(self.masks > 0, self.weighted[power - 1] / self.masks, plain)


def exact_device(inputs: Tensor) -> torch.device:
    """Where sums are kept: beside the inputs, but MPS has no float64."""
    return torch.device("cpu") if inputs.device.type == "mps" else inputs.device


def pass_masks(
    request: Request,
    score: Callable[[Tensor, Tensor], Tensor],
    known: S,
    bank: MaskBank,
    n_masks: int,
    baseline_fn: Baseline,
) -> S:
    """Score every sample under every mask, ``x ⊙ M + baseline ⊙ (1 - M)``, and sum; all samples share the masks.

    Args:
        request: what is explained.
        score: from the model's outputs and the samples ``(m,)`` they belong to, to one number each ``(m,)``.
        known: sums over the first masks of the bank, which are not asked again; stay as they are.
        bank: the masks.
        n_masks: how many masks, those that are known among them.
        baseline_fn: what stands for absence.

    Returns:
        The sums over ``n_masks`` masks.

    Raises:
        ModelError: a score that is not finite.
    """
    x, n, first = request.input, len(request), known.n_masks
    sums, baseline, exact = copy.deepcopy(known), baseline_for(baseline_fn, x), exact_device(x)
    held: MaskChunk | None = None

    def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        nonlocal held
        held = bank.draw(first + start // n, first - (-stop // n), x.device)
        rows = torch.arange(start, stop, device=x.device)
        masks = held.masks[rows // n - start // n].to(x.dtype)
        masks = masks if bank.grid is None else masks[:, None]
        return [torch.lerp(baseline[rows % n], x[rows % n], masks)], rows % n

    def consume(start: int, stop: int, outputs: Tensor) -> None:
        rows = torch.arange(start, stop, device=x.device)
        scores = score(outputs, rows % n)
        if not torch.isfinite(scores).all():
            raise ModelError(
                "finite outputs on masked inputs", "NaN or infinity", "Try another baseline_fn, or a wider dtype."
            )
        assert held is not None
        column, row = (rows // n - start // n).to(exact), (rows % n).to(exact)
        table = torch.zeros(n, len(held.masks), dtype=torch.float64, device=exact)
        table[row, column] = scores.to(table)
        fresh = torch.zeros(len(held.masks), dtype=torch.bool, device=exact)
        fresh[column[row == 0]] = True
        present = torch.zeros_like(table, dtype=torch.bool)
        present[row, column] = True
        sums.add(held, fresh, table, present)

    request.stream((n_masks - first) * n, build, consume)
    return sums


def as_maps(values: Tensor, inputs: Tensor) -> Tensor:
    """Give values ``(n, p)`` the positions of their inputs: ``(n, 1, h, w)``, ``(n, 1, t)`` or ``(n, d)``."""
    return values.reshape(len(inputs), *((1,) if inputs.ndim > 2 else ()), *inputs.shape[min(2, inputs.ndim - 1) :])
