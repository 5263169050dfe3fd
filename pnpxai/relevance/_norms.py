"""Normalisation: affine maps once the statistics are held constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnpxai.relevance._call import Call, all_held_but
from pnpxai.relevance._rule import Rule, Step, StepRule
from pnpxai.relevance._weighted import AffineStep, WeightedStep, by_channel

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


class _Norm(StepRule):
    """Only the input is explained; a weight or bias that depends on it is held constant."""

    keeps_graph = False

    def prepare(self, call: Call, propagation: Propagation) -> Call:
        """Hold everything but the input."""
        return all_held_but(call, call.argument(0, "input"))


class BatchNorm(_Norm):
    """``y = scale · x + shift`` by channel; merged with the linear map before it where there is one.

    Merged, it lets relevance pass, and the map before it hands it down with merged weights. Otherwise
    ``R_x = scale · x / (y ± ε) · R``. In training mode, or without running statistics, those of the batch are held
    constant.
    """

    step_class = AffineStep

    def remember(self, step: AffineStep, call: Call) -> None:
        """The scale and shift, merged if possible."""
        (x,) = call.tensors
        step.scale, step.shift = _affine(call, x)
        before = step.propagation.trail(x).step
        if isinstance(before, WeightedStep):
            before.merge(step, x)

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Pass on, or share with the shift."""
        assert isinstance(step, AffineStep)
        if step.merged:
            return [relevance]
        scaled = step.values[0].tensor * by_channel(step.scale, relevance)
        shift = by_channel(step.shift, relevance)
        upper = step.divided(relevance, step.propagation.settings.epsilon, lambda: scaled.abs() + shift.abs())
        step.absorb(bias=shift * upper)
        return [scaled * upper]


def _affine(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift ``(c,)`` of a call of ``batch_norm``."""
    mean, var = call.argument(1, "running_mean"), call.argument(2, "running_var")
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    if call.argument(5, "training", False) or mean is None:
        var, mean = torch.var_mean(x.detach(), [dim for dim in range(x.ndim) if dim != 1], correction=0)
    scale = (var + call.argument(7, "eps", 1e-5)).rsqrt().to(x.dtype)
    scale = scale if weight is None else scale * weight.detach()
    shift = -mean.to(x.dtype) * scale
    return scale, shift if bias is None else shift + bias.detach()


class InstanceNorm(Rule):
    """Instance norm: by its own statistics as `Normalised`, by running ones as `BatchNorm`."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Choose."""
        rule = Normalised() if call.argument(5, "use_input_stats", True) else BatchNorm()
        return rule.trace(call, propagation)


@dataclass
class NormStep(Step):
    """A normalisation on the way forward, with its call, from which the parameters are read."""

    original: Call = None  # type: ignore[assignment]


class Normalised(_Norm):
    """Layer, group and instance norm: ``y = w (x - mean x) / σ + b`` with σ held constant, which is linear in x."""

    step_class = NormStep

    def remember(self, step: NormStep, call: Call) -> None:
        """The call, without the memory of its input."""
        step.original = call.swapped(lambda each: each.new_empty(0))

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """In proportion to what each input adds to each output."""
        assert isinstance(step, NormStep)
        call = step.original
        x, y = step.values[0].tensor, step.output.tensor
        weight, bias, dims, shape, eps = _READ[call.name](call, x)

        def scale() -> Tensor:
            grouped = y.abs().reshape(shape)
            return grouped.mean(dims, keepdim=True).expand_as(grouped).reshape(y.shape)

        upper = step.divided(relevance, step.propagation.settings.epsilon, scale)
        deviation = (x.reshape(shape).var(dims, correction=0, keepdim=True) + eps).sqrt()
        inner = (upper if weight is None else upper * weight).reshape(shape) / deviation
        if bias is not None:
            step.absorb(bias=bias * upper)
        return [x * (inner - inner.mean(dims, keepdim=True)).reshape(x.shape)]


def _layer(call: Call, x: Tensor) -> tuple[Any, ...]:
    dims = tuple(range(-len(call.argument(1, "normalized_shape")), 0))
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    return weight, bias, dims, x.shape, call.argument(4, "eps", 1e-5)


def _group(call: Call, x: Tensor) -> tuple[Any, ...]:
    groups = call.argument(1, "num_groups")
    return *_channels(call, x, 2), (2,), (len(x), groups, -1), call.argument(4, "eps", 1e-5)


def _instance(call: Call, x: Tensor) -> tuple[Any, ...]:
    return *_channels(call, x, 3), (2,), (len(x), x.shape[1], -1), call.argument(7, "eps", 1e-5)


def _channels(call: Call, x: Tensor, place: int) -> tuple[Any, Any]:
    shape = (1, -1, *[1] * (x.ndim - 2))
    found = call.argument(place, "weight"), call.argument(place + 1, "bias")
    weight, bias = (None if each is None else each.reshape(shape) for each in found)
    return weight, bias


_READ = {"layer_norm": _layer, "group_norm": _group, "instance_norm": _instance}
