"""Models whose scores are known in closed form, and the curves re-derived one feature at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pnpxai.outputs import probabilities


def linear_model(*rows: list[float], dtype: torch.dtype = torch.float64) -> nn.Module:
    """A linear model without bias: one row of weights for each class, over the flattened inputs."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False, dtype=dtype).requires_grad_(False)
    layer.weight.copy_(torch.tensor(rows, dtype=dtype))
    return nn.Sequential(nn.Flatten(), layer)


def tie_order(n_features: int, seed: int) -> list[int]:
    """The order of features that are all alike."""
    return torch.randperm(n_features, generator=torch.Generator().manual_seed(seed)).tolist()


def slow_curve(
    model: nn.Module,
    x: Tensor,
    target: int,
    order: list[int],
    baseline: Tensor,
    n_steps: int,
    *,
    channel_dim: int | None = None,
    logit: bool = False,
) -> tuple[list[float], list[float]]:
    """Fractions and scores of one input ``(…)`` whose features are replaced one by one in ``order``."""
    channels_last = x.movedim(channel_dim, -1) if channel_dim is not None else x.unsqueeze(-1)
    absent = baseline.movedim(channel_dim, -1) if channel_dim is not None else baseline.unsqueeze(-1)
    shape = channels_last.shape
    now, absent = channels_last.reshape(-1, shape[-1]).clone(), absent.reshape(-1, shape[-1])
    f = len(now)
    stops = sorted({math.floor(i * f / n_steps + 0.5) for i in range(n_steps + 1)})
    scores = []
    for gone in range(f + 1):
        if gone:
            now[order[gone - 1]] = absent[order[gone - 1]]
        if gone in stops:
            whole = now.reshape(shape)
            whole = whole.movedim(-1, channel_dim) if channel_dim is not None else whole.squeeze(-1)
            with torch.no_grad():
                outputs = model(whole[None])
            scores.append((outputs if logit else probabilities(outputs))[0, target].item())
    return [gone / f for gone in stops], scores


def trapezoid(x: list[float], y: list[float]) -> float:
    """Area under a polygon."""
    return sum((x[i + 1] - x[i]) * (y[i + 1] + y[i]) / 2 for i in range(len(x) - 1))
