"""Coalitions, sets of features that are present: rows that grow with a budget and never repeat where they are few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pnpxai.explainers._seeds import generator_for

FEW = 16
"""Features of which all coalitions are listed and put in order; of more they are drawn."""
MOST = 2**FEW
"""The largest number that is asked for, so that what is drawn from more features leaves most of them out."""
BLOCK = 256
"""Coalitions drawn from one generator."""


@dataclass(frozen=True, eq=False)
class ShapleyPairs:
    """Coalitions by the Shapley kernel, each with its complement.

    Attributes:
        chosen: one of each pair, ``(m, d)``, true where a feature is present.
        weights: of the pairs in a regression, ``(m,)``, float64.
    """

    chosen: Tensor
    weights: Tensor

    @property
    def coalitions(self) -> Tensor:
        """All features, none, and then each pair's two in turn, ``(2 + 2m, d)``."""
        d = self.chosen.shape[1]
        ends = torch.tensor([[True], [False]]).expand(2, d)
        return torch.cat([ends, torch.stack([self.chosen, ~self.chosen], 1).reshape(-1, d)])


def shapley_pairs(d: int, n_pairs: int, seed: int) -> ShapleyPairs:
    """The first pairs of an order that the seed names, ``n_pairs`` or all there are.

    A pair of a coalition of ``s`` features and its complement has the mass ``μ ∝ 1 / (s (d - s) binom(d, s))``, the
    Shapley kernel. Pairs arrive at times ``E / μ`` with ``E ~ Exp(1)``, which is drawing from the kernel and leaving
    out what came before. With ``τ`` the time of the first pair that was left out, a pair was in time with the
    probability ``π = 1 - exp(-μ τ)``, and its weight is ``μ / π`` (Cohen and Kaplan, 2007; for KernelSHAP much the same
    by Olsen and Jullum, 2025, arXiv 2410.04883): where pairs are many, equal weights for draws from the kernel; where
    all are there, the kernel itself.

    Args:
        d: how many features.
        n_pairs: how many pairs, at most `MOST` / 2; fewer are the first of these.
        seed: of the order.

    Example:
        >>> shapley_pairs(3, 8, seed=0).chosen.int().sum(1).tolist(), shapley_pairs(3, 8, seed=0).weights.tolist()
        ([1, 1, 2], [0.333..., 0.333..., 0.333...])
    """
    if d <= FEW:
        chosen, horizon = _listed(d, n_pairs, seed)
    else:
        chosen, horizon = _arrived(d, n_pairs, seed)
    masses = pair_masses(chosen)
    if math.isinf(horizon):
        return ShapleyPairs(chosen, masses)
    share = masses * horizon
    return ShapleyPairs(chosen, torch.where(share > 1e-12, share / -torch.expm1(-share), 1.0) / horizon)


def pair_masses(coalitions: Tensor) -> Tensor:
    """The probability of each coalition ``(m, d)`` and its complement, together, by the Shapley kernel: ``(m,)``."""
    d = coalitions.shape[1]
    sizes = coalitions.sum(1).double()
    d_, left = torch.tensor(d, dtype=torch.float64), d - sizes
    binomial = torch.lgamma(d_ + 1) - torch.lgamma(sizes + 1) - torch.lgamma(left + 1)
    total = sum(1 / (s * (d - s)) for s in range(1, d))
    return 2 * torch.exp(-binomial) / (sizes * left * total)


def _listed(d: int, n_pairs: int, seed: int) -> tuple[Tensor, float]:
    """The pairs ``(m, d)`` that arrive first, and when the next one does."""
    pairs = _bits(torch.arange(1, 2 ** (d - 1)), d)  # of each pair the one without the last feature
    waits = _exponential(len(pairs), generator_for(seed, d))
    arrivals, order = (waits / pair_masses(pairs)).sort()
    horizon = float(arrivals[n_pairs]) if n_pairs < len(pairs) else math.inf
    return pairs[order[:n_pairs]], horizon


def _arrived(d: int, n_pairs: int, seed: int) -> tuple[Tensor, float]:
    """The same, drawn one after the other, for more features than can be listed."""
    sizes = torch.arange(1, d, dtype=torch.float64)
    law, now, block = 1 / (sizes * (d - sizes)), 0.0, 0
    seen, kept = set[bytes](), list[Tensor]()
    while True:
        generator = generator_for(seed, d, block)
        size = torch.multinomial(law, BLOCK, replacement=True, generator=generator) + 1
        places = torch.rand(BLOCK, d, generator=generator, dtype=torch.float64).argsort(1).argsort(1)
        drawn = places < size[:, None]
        drawn = drawn ^ drawn[:, -1:]
        arrivals = now + _exponential(BLOCK, generator).cumsum(0)
        for row, packed, arrival in zip(drawn, np.packbits(drawn.numpy(), 1), arrivals.tolist(), strict=True):
            if packed.tobytes() in seen:
                continue
            if len(kept) == n_pairs:
                return torch.stack(kept) if kept else drawn[:0], arrival
            seen.add(packed.tobytes())
            kept.append(row)
        now, block = float(arrivals[-1]), block + 1


def random_coalitions(d: int, n_coalitions: int, seed: int) -> Tensor:
    """All features, and then coalitions of which each is as likely: ``(m, d)``, true where a feature is present.

    Of up to `FEW` features none comes twice, and there are no more than ``2^d``.

    Args:
        d: how many features.
        n_coalitions: how many coalitions; fewer are the first of these.
        seed: of all but the first.

    Example:
        >>> sorted(random_coalitions(2, 8, seed=0).int().tolist())
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    whole = torch.ones(1, d, dtype=torch.bool)
    if d <= FEW:
        others = torch.randperm(2**d - 1, generator=generator_for(seed, d))
        return torch.cat([whole, _bits(others[: n_coalitions - 1], d)])
    blocks = [
        torch.rand(BLOCK, d, generator=generator_for(seed, d, block)) < 0.5
        for block in range(-(-(n_coalitions - 1) // BLOCK))
    ]
    return torch.cat([whole, *blocks])[:n_coalitions]


def _bits(codes: Tensor, d: int) -> Tensor:
    """Whole numbers ``(m,)`` in binary, ``(m, d)``."""
    return (codes[:, None] >> torch.arange(d)) % 2 == 1


def _exponential(n: int, generator: torch.Generator) -> Tensor:
    return -torch.log1p(-torch.rand(n, generator=generator, dtype=torch.float64))
