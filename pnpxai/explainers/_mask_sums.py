"""Scores under random masks, streamed: masks drawn and applied a chunk at a time, summed as they pass."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.explainers._masked_scores import MaskedScorer, ScoreFunction, agreeing, exact_device
from pnpxai.explainers._masks import MaskBank, MaskChunk
from pnpxai.forward import Request
from pnpxai.precision import Precision

S = TypeVar("S", bound="Sums")

COLUMNS = 2**15
"""Positions at which masks are added up at once: in float64, all of a large image's would need new memory each time."""


class Sums(Protocol):
    """What is kept of masks and scores that have passed.

    Attributes:
        lower: which samples were asked in bfloat16, ``(n,)``; None before the first mask.
    """

    lower: Tensor | None

    @property
    def n_masks(self) -> int:
        """How many masks there were."""

    def copied(self: S) -> S:
        """The same sums, to be added to."""

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
        lower: see `Sums`.
    """

    n_masks: int
    masks: Tensor
    scores: Tensor
    weighted: Tensor
    lower: Tensor | None = None

    @classmethod
    def none(cls, inputs: Tensor, bank: MaskBank, powers: int = 1) -> MaskSums:
        """Of no mask yet."""
        n, p, device = len(inputs), math.prod(bank.size), exact_device(inputs)
        zeros = functools.partial(torch.zeros, dtype=torch.float64, device=device)
        return cls(0, zeros(p), zeros(powers, n), zeros(powers, n, p))

    def copied(self) -> MaskSums:
        return replace(self, masks=self.masks.clone(), scores=self.scores.clone(), weighted=self.weighted.clone())

    def add(self, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        raised = torch.stack([scores ** (power + 1) for power in range(len(self.scores))])
        factors = torch.cat([fresh[None].to(scores), raised.flatten(0, 1)])
        parts = torch.split(chunk.masks.flatten(1), COLUMNS, 1)
        products = torch.cat([factors @ part.to(scores) for part in parts], 1)  # which reads the masks once
        self.n_masks += int(fresh.sum())
        self.masks += products[0]
        self.scores += raised.sum(2)
        self.weighted += products[1:].reshape(self.weighted.shape)

    def mean(self, power: int = 1) -> Tensor:
        """The mean of ``f^power`` weighted by the masks, ``(n, p)``; unweighted at a position that no mask kept."""
        plain = self.scores[power - 1, :, None] / self.n_masks
        return torch.where(self.masks > 0, self.weighted[power - 1] / self.masks, plain)


def pass_masks(
    request: Request,
    score: ScoreFunction,
    known: S,
    bank: MaskBank,
    n_masks: int,
    baseline_fn: Baseline,
    precision: Precision = "float32",
    among: Tensor | None = None,
) -> S:
    """Score every sample under every mask, ``x ⊙ M + baseline ⊙ (1 - M)``, and sum; all samples share the masks.

    Args:
        request: what is explained.
        score: from the model's outputs and the samples ``(m,)`` they belong to, to one number each ``(m,)``.
        known: sums over the first masks of the bank, which are not asked again; stay as they are.
        bank: the masks.
        n_masks: how many masks, those that are known among them.
        baseline_fn: what stands for absence.
        precision: what the model is asked in; ``"auto"`` decides for each sample, by `agreeing`.
        among: the samples that are asked about, ``(n,)``, at least one; the sums over the others' scores then lack
            these masks. None for all.

    Returns:
        The sums over ``n_masks`` masks.

    Raises:
        ModelError: a score that is not finite.
    """
    n, first, sums = len(request), known.n_masks, known.copied()
    asked = torch.arange(n) if among is None else among.nonzero()[:, 0].cpu()
    scorer = MaskedScorer(request, score, bank, baseline_for(baseline_fn, request.input, lookup=request.lookup()))

    if sums.lower is None:
        sums.lower = agreeing(scorer) if precision == "auto" else torch.full((n,), precision == "bfloat16")
    for way in (False, True):
        samples = asked[sums.lower[asked] == way]
        if len(samples):
            gathering = _Gathering(sums, n, int(asked[0]), exact_device(request.input))
            scorer.stream(first, n_masks, samples, gathering.take, lower=way)
            gathering.hand_on()
    return sums


@dataclass(eq=False)
class _Gathering:
    """Scores of the masks in hand, added to sums when others are taken in hand: one matrix product for all of them.

    Attributes:
        sums: what is added to.
        n: how many samples there are.
        always: a sample that every mask is asked about.
        device: where the sums are.
        chunk: the masks in hand.
        scores: of each sample under each, ``(n, m)``, float64.
        present: those that are known, ``(n, m)``.
    """

    sums: Sums
    n: int
    always: int
    device: torch.device
    chunk: MaskChunk = field(default_factory=MaskChunk.none)
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    present: Tensor = field(default_factory=lambda: torch.empty(0))

    def take(self, chunk: MaskChunk, column: Tensor, row: Tensor, scores: Tensor) -> None:
        """As `MaskedScorer.stream` has it."""
        if chunk is not self.chunk:
            self.hand_on()
            self.chunk = chunk
            self.scores = torch.zeros(self.n, len(chunk.masks), dtype=torch.float64, device=self.device)
            self.present = torch.zeros_like(self.scores, dtype=torch.bool)
        self.scores[row, column] = scores.to(self.scores)
        self.present[row, column] = True

    def hand_on(self) -> None:
        """Add what has been gathered."""
        if len(self.chunk.masks):
            self.sums.add(self.chunk, self.present[self.always], self.scores, self.present)


def as_maps(values: Tensor, inputs: Tensor) -> Tensor:
    """Give values ``(n, p)`` the positions of their inputs: ``(n, 1, h, w)``, ``(n, 1, t)`` or ``(n, d)``."""
    return values.reshape(len(inputs), *((1,) if inputs.ndim > 2 else ()), *inputs.shape[min(2, inputs.ndim - 1) :])
