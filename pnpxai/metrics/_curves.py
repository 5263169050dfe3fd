"""Both perturbation curves of a map, from one order of its features and one baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pnpxai.forward import Request
from pnpxai.metrics._removal import removal_scores
from pnpxai.outputs import Score


@dataclass(frozen=True, eq=False)
class Curves:
    """The model's scores while features are removed; the first point is the input, the last the baseline.

    Attributes:
        fractions: ``(s + 1,)``, the fraction of features removed at the points of ``morf``, from 0 to 1.
        morf: ``(n, s + 1)``, scores with the most relevant features removed first.
        lerf: ``(n, s + 1)``, scores with the least relevant removed first; read backwards, the scores while the most
            relevant features are inserted into the baseline.
        lerf_fractions: as ``fractions``, of ``lerf``: the same where the features are removed in equal shares.
        n_features: how many features there are.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor
    lerf_fractions: Tensor
    n_features: int

    @property
    def morf_area(self) -> Tensor:
        """Area under ``morf`` by the trapezoidal rule, ``(n,)``."""
        return torch.trapezoid(self.morf, self.fractions)

    @property
    def lerf_area(self) -> Tensor:
        """Area under ``lerf`` by the trapezoidal rule, ``(n,)``."""
        return torch.trapezoid(self.lerf, self.lerf_fractions)


def ranks(values: Tensor, seed: int) -> Tensor:
    """The place of each feature in the order of removal, 0 for the most relevant.

    Equal values follow a random order that depends on ``seed`` and the number of features alone: it is the same for
    every sample, and counted backwards it is the order of the other direction.

    Args:
        values: ``(n, f)``, signed relevance.
        seed: of the order of equal values.

    Example:
        >>> ranks(torch.tensor([[0.1, -2.0, 3.0]]), seed=0).tolist()
        [[1, 2, 0]]
    """
    key: Tensor = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).to(values.device)
    by_value = (values[:, key] + 0.0).argsort(dim=1, descending=True, stable=True)  # -0.0 ties with 0.0
    places = torch.arange(values.shape[1], device=values.device).expand(values.shape)
    return torch.empty_like(places).scatter_(1, key[by_value], places)


def removal_counts(n_features: int, n_steps: int) -> Tensor:
    """How many features are gone at each point: from 0 to all in equal shares, no number twice.

    Example:
        >>> removal_counts(10, 4).tolist(), removal_counts(2, 4).tolist()
        ([0, 3, 5, 8, 10], [0, 1, 2])
    """
    counts: Tensor = torch.unique((2 * n_features * torch.arange(n_steps + 1) + n_steps) // (2 * n_steps))
    return counts


def top_counts(n_features: int, fractions: Sequence[float]) -> Tensor:
    """How many features each top fraction is, rounded, at least one.

    Example:
        >>> top_counts(10, (0.01, 0.2, 0.25)).tolist()
        [1, 2, 3]
    """
    shares = torch.as_tensor(fractions, dtype=torch.float64)
    return (shares * n_features + 0.5).floor().long().clamp(1, n_features)


def curve_counts(n_features: int, n_steps: int, fractions: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """How many features are gone at each point, most relevant first, and least relevant first.

    Args:
        n_features: how many there are.
        n_steps: equal shares they are removed in.
        fractions: in place of equal shares, the top fractions to be removed, or to be kept alone.

    Example:
        >>> [each.tolist() for each in curve_counts(10, 4, (0.1, 0.2))]
        [[0, 1, 2, 10], [0, 8, 9, 10]]
    """
    if fractions is None:
        counts = removal_counts(n_features, n_steps)
        return counts, counts
    counts = torch.unique(torch.cat([torch.tensor([0, n_features]), top_counts(n_features, fractions)]))
    return counts, (n_features - counts).flip(0)


def perturbation_curves(
    request: Request,
    values: Tensor,
    counts: tuple[Tensor, Tensor],
    baseline: Tensor,
    ends: tuple[Tensor, Tensor],
    *,
    score: Score = "probability",
    seed: int = 0,
    channel_dim: int | None = 1,
) -> Curves:
    """Remove features by relevance, most relevant first and least relevant first, and ask the model at each step.

    Asks the model once a sample for each point between the ends, which no map changes.

    Args:
        request: what was explained.
        values: ``(n, f)``, signed relevance of each feature.
        counts: how many features are gone at each point of the two curves, both from 0 to f.
        baseline: what stands in for removed features, as of `baselines`.
        ends: the scores of the inputs and of the whole baselines, both ``(n,)``.
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the order of equally relevant features.
        channel_dim: the inputs' channels, which are removed together; None for none.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> x, counts, ends = torch.ones(1, 2), removal_counts(2, 2), (torch.tensor([4.0]), torch.tensor([0.0]))
        >>> curves = perturbation_curves(Request.build(model, x), model.weight * x, (counts, counts), 0 * x, ends)
        >>> curves.fractions.tolist(), curves.morf.tolist(), curves.lerf.tolist()
        ([0.0, 0.5, 1.0], [[4.0, 1.0, 0.0]], [[4.0, 3.0, 0.0]])
    """
    f = values.shape[1]
    morf_counts, lerf_counts = (each.to(values.device) for each in counts)
    top, bottom = morf_counts[1:-1], lerf_counts[1:-1]
    first = torch.cat([torch.zeros_like(top), f - bottom])  # removed: first <= rank < last
    last = torch.cat([top, torch.full_like(bottom, f)])
    rank = ranks(values, seed)

    def removed(rows: slice | Tensor, removals: Tensor) -> Tensor:
        places = rank[rows][:, None]
        return (places >= first[removals, None]) & (places < last[removals, None])

    start, end = (each[:, None] for each in ends)
    scores = start[:, :0]
    if len(first):
        scores = removal_scores(request, baseline, len(first), removed, channel_dim, score)
    morf, lerf = scores[:, : len(top)], scores[:, len(top) :]
    return Curves(
        fractions=(morf_counts.double() / f).to(start),
        morf=torch.cat([start, morf, end], 1),
        lerf=torch.cat([start, lerf, end], 1),
        lerf_fractions=(lerf_counts.double() / f).to(start),
        n_features=f,
    )
