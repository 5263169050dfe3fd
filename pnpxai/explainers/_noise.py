"""Mean and variance of gradients under Gaussian noise on the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class GradientMoments:
    """What remains of the gradients of some noise samples; each field one ``(n, …)`` for each of the inputs.

    Attributes:
        n_samples: how many there were, for each image.
        means: their mean.
        squares: the sum of their squared distances from it.
    """

    n_samples: int
    means: tuple[Tensor, ...]
    squares: tuple[Tensor, ...]

    @property
    def variances(self) -> tuple[Tensor, ...]:
        """Over the noise, divided by ``n_samples``."""
        return tuple(each / self.n_samples for each in self.squares)


def noisy_gradient_moments(
    request: Request, n_samples: int, noise_level: float, seed: int, known: GradientMoments | None = None
) -> GradientMoments:
    """Mean and variance of the gradient at the noisy inputs.

    Both are updated one sample after the other (Welford, 1962), which loses no digits to cancellation and gives the
    same numbers for every chunk size, and for every portion of the samples.

    Args:
        request: what is explained.
        n_samples: noises for each image, those of ``known`` among them.
        noise_level: their standard deviation, as a share of each image's range.
        seed: of the noises.
        known: the moments over the first of the same noises, which are not asked again; stay as they are.
    """
    inputs = request.inputs
    scales = [noise_level * ranges(each) for each in inputs]
    if known is None:
        kinds = [torch.promote_types(each.dtype, torch.float32) for each in inputs]
        zeros = tuple(torch.zeros_like(each, dtype=kind) for each, kind in zip(inputs, kinds, strict=True))
        known = GradientMoments(0, zeros, zeros)
    means, squares = (tuple(each.clone() for each in kept) for kept in (known.means, known.squares))
    first, added = known.n_samples, n_samples - known.n_samples

    def run(start: int, stop: int) -> None:
        index = (torch.arange(start, stop) // added).to(inputs[0].device)
        drawn = [standard_noise(inputs, seed, first + item % added) for item in range(start, stop)]
        rows = [
            each[index] + scale[index] * torch.stack(noise)
            for each, scale, noise in zip(inputs, scales, zip(*drawn, strict=True), strict=True)
        ]
        found = score_gradients(request, rows, index)
        for position, item in enumerate(range(start, stop)):
            image, count = item // added, first + item % added + 1
            for kept, square, slopes in zip(means, squares, found, strict=True):
                mean, slope = kept[image], slopes[position].to(kept.dtype)  # a view, and so the mean itself
                away = slope - mean
                mean += away / count
                square[image].addcmul_(away, slope - mean)

    in_chunks(request, len(request) * added, run)
    return GradientMoments(n_samples, means, squares)
