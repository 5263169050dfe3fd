"""Mean and variance of gradients under Gaussian noise on the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnpxai.explainers._gradients import in_chunks, score_gradients
from pnpxai.explainers._seeds import generator_for
from pnpxai.forward import Request


def standard_noise(inputs: Sequence[Tensor], seed: int, sample: int) -> tuple[Tensor, ...]:
    """Noise sample number ``sample`` of a seed: standard normal, one ``(…)`` for each of ``inputs`` ``(n, …)``.

    It depends on nothing else: every image, device and chunk gets the same.
    """
    generator = generator_for(seed, sample)
    return tuple(torch.randn(each.shape[1:], generator=generator).to(each) for each in inputs)


def ranges(inputs: Tensor) -> Tensor:
    """Greatest minus least element of each sample, ``(n, 1, …)``."""
    flat = inputs.flatten(1)
    return (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (inputs.ndim - 1))


def noisy_gradient_moments(
    request: Request, n_samples: int, noise_level: float, seed: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Mean and variance (over the noise, divided by ``n_samples``) of the gradient at the noisy inputs.

    Both are updated one sample after the other (Welford, 1962), which loses no digits to cancellation and gives the
    same numbers for every chunk size.

    Returns:
        Means and variances, each one ``(n, …)`` for each of ``request.inputs``.
    """
    inputs = request.inputs
    scales = [noise_level * ranges(each) for each in inputs]
    kinds = [torch.promote_types(each.dtype, torch.float32) for each in inputs]
    means = [torch.zeros_like(each, dtype=kind) for each, kind in zip(inputs, kinds, strict=True)]
    squares = [torch.zeros_like(each) for each in means]

    def run(start: int, stop: int) -> None:
        items = torch.arange(start, stop)
        index = (items // n_samples).to(inputs[0].device)
        drawn = [standard_noise(inputs, seed, int(item) % n_samples) for item in items]
        rows = [
            each[index] + scale[index] * torch.stack(noise)
            for each, scale, noise in zip(inputs, scales, zip(*drawn, strict=True), strict=True)
        ]
        found = score_gradients(request, rows, index)
        for position, item in enumerate(items.tolist()):
            image, count = item // n_samples, item % n_samples + 1
            for mean, square, slope in zip(means, squares, found, strict=True):
                away = slope[position].to(mean.dtype) - mean[image]
                mean[image] += away / count
                square[image] += away * (slope[position].to(mean.dtype) - mean[image])

    in_chunks(request, len(request) * n_samples, run)
    return tuple(means), tuple(each / n_samples for each in squares)
