"""Cooperative games by their definitions, the slow way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def every_coalition(d: int) -> Tensor:
    """``(2^d, d)``, true where a feature is present."""
    return torch.tensor(list(itertools.product((False, True), repeat=d)))


def marginal_contributions(values: Callable[[Tensor], Tensor], d: int, weight: Callable[[int], float]) -> Tensor:
    """``Σ_S weight(|S|) (v(S ∪ i) - v(S))`` over the coalitions without ``i``, for each ``i``: ``(d,)``."""
    table = {tuple(z.tolist()): float(v) for z, v in zip(every_coalition(d), values(every_coalition(d)), strict=True)}
    found = []
    for i in range(d):
        without = [z for z in table if not z[i]]
        found.append(sum(weight(sum(z)) * (table[(*z[:i], True, *z[i + 1 :])] - table[z]) for z in without))
    return torch.tensor(found, dtype=torch.float64)


def shapley(values: Callable[[Tensor], Tensor], d: int) -> Tensor:
    """Shapley (1953), from ``v`` of coalitions ``(m, d)`` to ``(m,)``."""
    return marginal_contributions(
        values, d, lambda s: math.factorial(s) * math.factorial(d - s - 1) / math.factorial(d)
    )


def banzhaf(values: Callable[[Tensor], Tensor], d: int) -> Tensor:
    """Banzhaf (1965), likewise."""
    return marginal_contributions(values, d, lambda _: 2.0 ** (1 - d))


def game(net: nn.Module, x: Tensor, baseline: Tensor, ids: Tensor, target: int) -> Callable[[Tensor], Tensor]:
    """``v`` of coalitions of the features ``ids`` of one sample ``x``, one forward pass each."""

    def values(coalitions: Tensor) -> Tensor:
        with torch.no_grad():
            rows = [net(torch.where(z[ids], x, baseline)[None])[0, target] for z in coalitions]
        return torch.stack(rows).double()

    return values


class Rough(nn.Module):
    """``d`` features to two outputs with interactions of every order."""

    def __init__(self, d: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(d)
        self.a = nn.Parameter(torch.randn(d, 8, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(8, 2, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        inner = x @ self.a
        return torch.sin(2 * inner) @ self.b + (inner.tanh() @ self.b).exp() + x.prod(1, keepdim=True)
