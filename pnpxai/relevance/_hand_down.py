"""Relevance of a linear map's input by a rule of zennit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pnpxai.relevance._linear_maps import Linear
from pnpxai.relevance._rule import Step

if TYPE_CHECKING:
    from zennit.core import BasicHook

Pull = Callable[[Tensor], Tensor]


class Shortcut(ABC):
    """Mixed into a rule of zennit that has a faster way to the same relevance."""

    @abstractmethod
    def hand_down(
        self, step: Step, linear: Linear, x: Tensor, z: Tensor, relevance: Tensor, transposed: Pull
    ) -> Tensor:
        """Relevance of ``x``; the arguments are those of `hand_down`."""


def hand_down(
    rule: BasicHook, step: Step, linear: Linear, x: Tensor, z: Tensor, relevance: Tensor, transposed: Pull
) -> Tensor:
    """Relevance of ``x`` by a rule, which is a list of modified maps, their weighing and their sum.

    Args:
        rule: of zennit.
        step: counts what is absorbed.
        linear: the map.
        x: its input.
        z: its output, already computed; in two dimensions for a linear layer.
        relevance: of ``z``.
        transposed: ``Jᵀ ·`` of the unmodified map.
    """
    if isinstance(rule, Shortcut):
        return rule.hand_down(step, linear, x, z, relevance, transposed)
    inputs, outputs, biases, pulls = [], [], [], []
    for modify_input, modify, modify_output in zip(
        rule.input_modifiers, rule.param_modifiers, rule.output_modifiers, strict=True
    ):
        value = modify_input(x)
        unmodified = _changes_nothing(modify)
        if value is x and unmodified and modify_output(z) is z:
            output, bias, pull = z, linear.bias, transposed
        elif not value.any():
            bias = linear.bias if unmodified else _modified(modify, x.new_zeros(1), linear.bias)[1]
            output, pull = modify_output(_broadcast(bias, z)), _no_pull(x)
        else:
            weight, bias = (linear.weight, linear.bias) if unmodified else _modified(modify, linear.weight, linear.bias)
            with torch.enable_grad():
                leaf = value.detach().requires_grad_()
                graph = modify_output(linear.apply(leaf, weight, bias).reshape(z.shape))
            output, pull = graph.detach(), _pull(graph, leaf)
        inputs.append(value)
        outputs.append(output)
        biases.append(bias)
        pulls.append(pull)
    mapped = rule.gradient_mapper(relevance, outputs)
    uppers = [each.expand_as(z) for each in ((mapped,) if isinstance(mapped, Tensor) else mapped)]
    gradients = [pull(upper) for pull, upper in zip(pulls, uppers, strict=True)]
    ones = [x.new_ones(())] * len(inputs)
    explained = rule.reducer(ones, [inner(each, upper) for each, upper in zip(outputs, uppers, strict=True)])
    absorbed = rule.reducer(ones, [bias_part(bias, upper) for bias, upper in zip(biases, uppers, strict=True)])
    step.absorb(bias=absorbed, epsilon=relevance.sum() - explained)
    found: Tensor = rule.reducer(inputs, gradients)
    return found.detach()


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Σ of products, in one pass over the memory where there is a kernel for it."""
    if first.dtype in (torch.float32, torch.float64):
        return torch.dot(first.flatten(), second.flatten())
    return (first.float() * second.float()).sum()


def bias_part(bias: Tensor | None, upper: Tensor) -> Tensor:
    """Σ of bias times upper, the bias along dimension 1."""
    if bias is None:
        return upper.new_zeros(())
    return (bias * upper.sum([dim for dim in range(upper.ndim) if dim != 1])).sum()


def _pull(graph: Tensor, leaf: Tensor) -> Pull:
    return lambda upper: torch.autograd.grad(graph, leaf, upper)[0]


def _no_pull(x: Tensor) -> Pull:
    return lambda upper: x.new_zeros(()).expand_as(x)


def _broadcast(bias: Tensor | None, z: Tensor) -> Tensor:
    return (z.new_zeros(()) if bias is None else bias.reshape(1, -1, *[1] * (z.ndim - 2))).expand_as(z)


def _changes_nothing(modify: Any) -> bool:
    from zennit.core import BasicHook
    from zennit.rules import NoMod

    if modify is BasicHook._default_modifier:
        return True
    return type(modify) is NoMod and not modify.zero_params


def _modified(modify: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias after a rule's modifier; no bias where it is zero."""
    from zennit.core import ParamMod

    holder = nn.Module()
    holder.weight = nn.Parameter(weight, requires_grad=False)
    holder.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    with ParamMod.ensure(modify)(holder) as modified:
        weight = modified.weight.detach()
        bias = None if bias is None else modified.bias.detach()
    return weight, None if bias is None or not bias.any() else bias
