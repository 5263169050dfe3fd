"""From a raw map to one number a feature: channel pooling, then normalisation."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pnpxai.batches import all_finite
from pnpxai.errors import InputError, ParameterError
from pnpxai.tunable import Role, Tunable

Maps: TypeAlias = Tensor | tuple[Tensor, ...]
"""A map ``(n, …)``, or one of each of several inputs; likewise what they are maps of."""


def norms(values: Tensor, dim: int) -> Tensor:
    """Euclidean norms along a dimension, of numbers so small or large that their squares leave the dtype's range too.

    Example:
        >>> norms(torch.tensor([[3e-30, 4e-30]]), 1)
        tensor([5.0000e-30])
    """
    largest = values.abs().amax(dim, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    found: Tensor = torch.linalg.vector_norm(values / scale, dim=dim, keepdim=True)
    return (found * scale).squeeze(dim)


class PoolingFunction(Role):
    """Reduces the channels of a map to one number a position."""

    @abstractmethod
    def __call__(self, maps: Tensor, channel_dim: int) -> Tensor:
        """``maps`` without their dimension ``channel_dim``."""


class Sum(PoolingFunction):
    """The signed sum: the relevance of a position in an additive map."""

    NAME = "sum"

    def __call__(self, maps: Tensor, channel_dim: int) -> Tensor:
        """Sum over channels."""
        return maps.sum(channel_dim)


class SumOfAbsolutes(PoolingFunction):
    """The sum of magnitudes (L1): how much a position matters, either way."""

    NAME = "sum_abs"

    def __call__(self, maps: Tensor, channel_dim: int) -> Tensor:
        """Sum of absolutes over channels."""
        return maps.abs().sum(channel_dim)


class MaxOfAbsolutes(PoolingFunction):
    """The largest magnitude over channels (Simonyan et al., 2014)."""

    NAME = "max_abs"

    def __call__(self, maps: Tensor, channel_dim: int) -> Tensor:
        """Maximum of absolutes over channels."""
        return maps.abs().amax(channel_dim)


class L2(PoolingFunction):
    """The Euclidean norm over channels."""

    NAME = "l2"

    def __call__(self, maps: Tensor, channel_dim: int) -> Tensor:
        """Square root of the sum of squares over channels."""
        return norms(maps, channel_dim)


class PositivePart(PoolingFunction):
    """The signed sum with negative positions set to zero: evidence for the target only."""

    NAME = "positive"

    def __call__(self, maps: Tensor, channel_dim: int) -> Tensor:
        """Positive part of the sum over channels."""
        return maps.sum(channel_dim).clamp(min=0)


class NormalizationFunction(Role):
    """Rescales each sample's pooled map; none of them changes the order of its features."""

    @abstractmethod
    def __call__(self, maps: Tensor) -> Tensor:
        """``maps`` ``(n, …)``, rescaled sample by sample."""


class Identity(NormalizationFunction):
    """No rescaling."""

    NAME = "identity"

    def __call__(self, maps: Tensor) -> Tensor:
        """The maps themselves."""
        return maps


class MinMax(NormalizationFunction):
    """To [0, 1], least to greatest; a constant map becomes 0."""

    NAME = "min_max"

    def __call__(self, maps: Tensor) -> Tensor:
        """Rescaled to [0, 1]."""
        flat = maps.flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        spread = torch.where(high > low, high - low, torch.ones_like(high))
        return ((flat - low) / spread).reshape(maps.shape)


class MaxAbsolute(NormalizationFunction):
    """To [-1, 1] by the largest magnitude, with the sign kept; a zero map stays 0."""

    NAME = "max_abs"

    def __call__(self, maps: Tensor) -> Tensor:
        """Divided by the largest magnitude."""
        flat = maps.flatten(1)
        scale = flat.abs().amax(1, keepdim=True)
        return (flat / torch.where(scale > 0, scale, torch.ones_like(scale))).reshape(maps.shape)


class PostProcessor(Tunable):
    """Pooling over channels, then normalisation; of several inputs together, so that their features can be compared.

    Args:
        pooling_fn: a `PoolingFunction` or its name.
        normalization_fn: a `NormalizationFunction` or its name.
        channel_dim: the channels' dimension in ``(n, c, …)``; None where maps have none.

    Example:
        >>> PostProcessor("sum_abs")(torch.tensor([[[[1.0]], [[-2.0]]]])).tolist()
        [[[3.0]]]
    """

    TUNABLES = {"pooling_fn": PoolingFunction, "normalization_fn": NormalizationFunction}

    def __init__(
        self,
        pooling_fn: str | PoolingFunction = "sum",
        normalization_fn: str | NormalizationFunction = "identity",
        channel_dim: int | None = 1,
    ) -> None:
        self.pooling_fn = pooling_fn
        self.normalization_fn = normalization_fn
        self.channel_dim = channel_dim

    def __call__(self, maps: Maps) -> Tensor:
        """One number a feature: ``(n, h, w)``, ``(n, t)``, ``(n, d)``; of several maps ``(n, f)``, side by side."""
        return NormalizationFunction.resolve(self.normalization_fn)(self._pooled(maps))

    def _pooled(self, maps: Maps) -> Tensor:
        if isinstance(maps, tuple):
            return torch.cat([self._pooled(each).flatten(1) for each in maps], 1)
        axis = channel_axis(self.channel_dim, maps.ndim)
        return maps if axis is None else PoolingFunction.resolve(self.pooling_fn)(maps, axis)


def channel_axis(channel_dim: int | None, ndim: int) -> int | None:
    """The channels' dimension counted from the front, or None: ``(n, d)`` has no channels.

    Raises:
        ParameterError: the batch dimension, or one that is not there.

    Example:
        >>> channel_axis(-1, 4), channel_axis(1, 2)
        (3, None)
    """
    if channel_dim is None or ndim < 3:
        return None
    axis = channel_dim + ndim if channel_dim < 0 else channel_dim
    if not 0 < axis < ndim:
        raise ParameterError(
            f"channel_dim to be a dimension of inputs with {ndim} dimensions, and not the batch's",
            f"{channel_dim}",
            "Use 1 for (n, c, h, w) and (n, c, t), -1 for channels last, None for no channels.",
        )
    return axis


def feature_values(attributions: Any, inputs: Maps, channel_dim: int | None) -> Tensor:
    """Check attributions against the inputs they explain and flatten them to one number a feature, ``(n, f)``.

    Maps that still have channels (the inputs' own or a single one) are summed over them. Single precision at least.
    Several inputs have as many maps, or one ``(n, f)`` of all their features side by side.

    Raises:
        InputError: wrong type, wrong shape, or not finite.
        ParameterError: inputs without a dimension ``channel_dim``.
    """
    if isinstance(inputs, tuple):
        return _side_by_side(attributions, inputs, channel_dim)
    axis = channel_axis(channel_dim, inputs.ndim)
    positions = list(inputs.shape)
    allowed = [positions]
    if axis is not None:
        allowed.append([1 if each == axis else size for each, size in enumerate(positions)])
        positions = positions[:axis] + positions[axis + 1 :]
        allowed.append(positions)
    shape = list(attributions.shape) if isinstance(attributions, Tensor) else None
    if not isinstance(attributions, Tensor) or shape not in allowed:
        raise InputError(
            f"attributions of shape {tuple(positions)} (or the inputs' {tuple(inputs.shape)})",
            type(attributions).__name__ if shape is None else f"shape {tuple(shape)}",
            "Pass what attribute() returned for these inputs, or what a PostProcessor made of it.",
        )
    if not all_finite(attributions):
        raise InputError("finite attributions", "NaN or infinity", "The explainer failed on these inputs.")
    dtype = torch.promote_types(torch.promote_types(attributions.dtype, inputs.dtype), torch.float32)
    values = attributions.detach().to(inputs.device, dtype)
    return (values.sum(axis) if axis is not None and shape != positions else values).flatten(1)


def n_features(inputs: Tensor, channel_dim: int | None) -> int:
    """How many features there are in inputs ``(n, …)``, whose channels belong to one.

    Example:
        >>> n_features(torch.zeros(2, 3, 4, 5), 1)
        20
    """
    axis = channel_axis(channel_dim, inputs.ndim)
    return math.prod(size for each, size in enumerate(inputs.shape) if each not in (0, axis))


def _side_by_side(attributions: Any, inputs: tuple[Tensor, ...], channel_dim: int | None) -> Tensor:
    whole = inputs[0].new_zeros(len(inputs[0]), sum(n_features(each, channel_dim) for each in inputs))
    if isinstance(attributions, Tensor) and attributions.shape == whole.shape:
        return feature_values(attributions, whole, None)
    if isinstance(attributions, tuple | list) and len(attributions) == len(inputs):
        pairs = zip(attributions, inputs, strict=True)
        return torch.cat([feature_values(own, each, channel_dim) for own, each in pairs], 1)
    received = f"{len(attributions)} attributions" if isinstance(attributions, tuple | list) else "one"
    raise InputError(
        f"attributions of each of {len(inputs)} inputs, or {tuple(whole.shape)} of all their features",
        f"shape {tuple(attributions.shape)}" if isinstance(attributions, Tensor) else received,
        "Pass what attribute() returned for these inputs, or what a PostProcessor made of it.",
    )
