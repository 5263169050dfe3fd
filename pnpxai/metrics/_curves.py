"""Both perturbation curves of a map, from one order of its features and one baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.forward import Request
from pnpxai.metrics._removal import clean_scores, removal_scores
from pnpxai.outputs import Score


@dataclass(frozen=True, eq=False)
class Curves:
    """The model's scores while features are removed; the first point is the input, the last the baseline.

    Attributes:
        fractions: ``(s + 1,)``, the fraction of features removed, from 0 to 1.
        morf: ``(n, s + 1)``, scores with the most relevant features removed first.
        lerf: ``(n, s + 1)``, scores with the least relevant removed first; read backwards, the scores while the most
            relevant features are inserted into the baseline.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor

    @property
    def morf_area(self) -> Tensor:
        """Area under ``morf`` by the trapezoidal rule, ``(n,)``."""
        return torch.trapezoid(self.morf, self.fractions)

    @property
    def lerf_area(self) -> Tensor:
        """Area under ``lerf`` by the trapezoidal rule, ``(n,)``."""
        return torch.trapezoid(self.lerf, self.fractions)


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


def perturbation_curves(
    request: Request,
    values: Tensor,
    *,
    baseline_fn: Baseline = "zeros",
    n_steps: int = 10,
    score: Score = "probability",
    seed: int = 0,
    channel_dim: int | None = 1,
) -> Curves:
    """Remove features by relevance, most relevant first and least relevant first, and ask the model at each step.

    Asks the model ``2 + 2 (s - 1)`` times a sample: once for the input, once for the baseline, and twice for each
    point between, where s is ``n_steps``, or the number of features if that is less.

    Args:
        request: what was explained.
        values: ``(n, f)``, signed relevance of each feature.
        baseline_fn: what stands in for removed features.
        n_steps: equal shares the features are removed in.
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the order of equally relevant features.
        channel_dim: the inputs' channels, which are removed together; None for none.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> x = torch.ones(1, 2)
        >>> curves = perturbation_curves(Request.build(model, x), model.weight * x)
        >>> curves.fractions.tolist(), curves.morf.tolist(), curves.lerf.tolist()
        ([0.0, 0.5, 1.0], [[4.0, 1.0, 0.0]], [[4.0, 3.0, 0.0]])
    """
    f = values.shape[1]
    counts = removal_counts(f, n_steps).to(values.device)
    within = counts[1:-1]
    first = torch.cat([torch.zeros_like(counts[1:]), f - within])  # removed: first <= rank < last
    last = torch.cat([counts[1:], torch.full_like(within, f)])
    rank = ranks(values, seed)

    def removed(sample: Tensor, removal: Tensor) -> Tensor:
        places = rank[sample]
        return (places >= first[removal, None]) & (places < last[removal, None])

    baseline = baseline_for(baseline_fn, request.input, channel_dim)
    start = clean_scores(request, score)[:, None]
    scores = removal_scores(request, baseline, len(first), removed, channel_dim, score)
    s = len(counts) - 1
    morf, end, lerf = scores[:, : s - 1], scores[:, s - 1 : s], scores[:, s:]
    return Curves((counts.double() / f).to(scores), torch.cat([start, morf, end], 1), torch.cat([start, lerf, end], 1))
