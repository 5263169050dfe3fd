"""Maps that know nothing of the model: what any explanation has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnpxai.batches import take_samples
from pnpxai.metrics import Metric
from pnpxai.postprocess import Maps
from pnpxai.tuning._scores import ScoreBook


def random_map(inputs: Tensor, channel_dim: int | None = 1, seed: int = 0) -> Tensor:
    """Independent uniform noise, the same for each sample: ``(n, …)`` without channels."""
    shape = _positions(inputs, channel_dim)
    noise = torch.rand(shape[1:], generator=torch.Generator().manual_seed(seed))
    return noise.expand(shape).to(inputs)


def edge_map(inputs: Tensor, channel_dim: int | None = 1, seed: int = 0) -> Tensor:
    """How much the input itself changes around each position: the magnitude of its gradient in space or time."""
    pooled = inputs if channel_dim is None or inputs.ndim < 3 else inputs.float().mean(channel_dim)
    total = torch.zeros_like(pooled)
    for dim in range(1, pooled.ndim):
        if pooled.shape[dim] > 1:
            total = total + torch.gradient(pooled, dim=dim)[0] ** 2
    return total.sqrt().to(inputs)


def centre_map(inputs: Tensor, channel_dim: int | None = 1, seed: int = 0) -> Tensor:
    """Minus the distance from the middle: photographers put the object there."""
    shape = _positions(inputs, channel_dim)
    squared = torch.zeros(shape[1:])
    for dim, size in enumerate(shape[1:]):
        offset = torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
        squared = squared + offset.reshape([-1 if each == dim else 1 for each in range(len(shape) - 1)]) ** 2
    return (-squared.sqrt()).expand(shape).to(inputs)


CONTROLS: dict[str, Callable[[Tensor, int | None, int], Tensor]] = {
    "random": random_map,
    "edge": edge_map,
    "centre": centre_map,
}
"""Name to a function of inputs ``(n, …)``, channel dimension and seed."""


def control_scores(
    metric: Metric, book: ScoreBook, index: Sequence[int], explained: Maps, seed: int
) -> dict[str, tuple[float, ...]]:
    """Scores of random, edge and centre maps; none for a metric that has to explain again.

    Args:
        metric: scores maps.
        book: keeps its scores.
        index: samples.
        explained: what is explained, of all samples ``(n, …)``.
        seed: of the random map.
    """
    if type(metric).EXPLAINS_AGAIN:
        return {}
    rows: Maps = take_samples(explained, index)
    maps = [control_map(name, rows, metric.channel_dim, seed) for name in CONTROLS]
    scores = book.scores([(None, None, each) for each in maps], index)
    return {name: tuple(own) for name, own in zip(CONTROLS, scores, strict=True)}


def control_map(name: str, explained: Maps, channel_dim: int | None, seed: int) -> Tensor:
    """A control of what is explained, ``(n, …)`` without channels; of several inputs ``(n, f)``, side by side."""
    if isinstance(explained, Tensor):
        return CONTROLS[name](explained, channel_dim, seed)
    made = (CONTROLS[name](each, channel_dim, seed + i) for i, each in enumerate(explained))
    return torch.cat([each.flatten(1) for each in made], 1)


def _positions(inputs: Tensor, channel_dim: int | None) -> list[int]:
    shape = list(inputs.shape)
    if channel_dim is not None and inputs.ndim > 2:
        del shape[channel_dim]
    return shape
