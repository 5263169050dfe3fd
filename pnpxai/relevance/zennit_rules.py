"""Rules of zennit with a faster way to the same relevance; zennit is imported when one is made."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnpxai.relevance._hand_down import Pull, Shortcut
from pnpxai.relevance._linear_maps import Linear
from pnpxai.relevance._rule import Step
from pnpxai.relevance._stabilizer import Stabilizer

if TYPE_CHECKING:
    from zennit.core import BasicHook


def gamma_rule(gamma: float, stabilizer: Stabilizer) -> BasicHook:
    """Zennit's generalised γ-rule, which is a hook of zennit and works as one, with two maps in place of five.

    For an output z with positive contributions P and negative ones N, ``R_i`` is shared by ``z + γ P`` where z is
    positive and by ``z + γ N`` where it is negative. Both come from one more map, ``A = |w| |x|``, as
    ``P = (z + A) / 2`` and ``N = (z - A) / 2``, biases apart.

    Args:
        gamma: γ.
        stabilizer: of the denominators.
    """
    return _gamma_class()(gamma, stabilizer)


@cache
def _gamma_class() -> Any:
    from zennit.rules import Gamma as ZennitGamma

    class Gamma(ZennitGamma, Shortcut):  # type: ignore[misc]
        def __init__(self, gamma: float, stabilizer: Stabilizer) -> None:
            super().__init__(gamma, stabilizer)
            self.gamma, self.stabilizer = gamma, stabilizer

        def copy(self) -> Gamma:
            return Gamma(self.gamma, self.stabilizer)

        def hand_down(
            self, step: Step, linear: Linear, x: Tensor, z: Tensor, relevance: Tensor, transposed: Pull
        ) -> Tensor:
            return _gamma_share(self.gamma, self.stabilizer, step, linear, x, z, relevance, transposed)

    return Gamma


def _gamma_share(
    gamma: float,
    stabilizer: Stabilizer,
    step: Step,
    linear: Linear,
    x: Tensor,
    z: Tensor,
    relevance: Tensor,
    transposed: Pull,
) -> Tensor:
    sign, half = z.sign(), gamma / 2
    with torch.enable_grad():
        leaf = x.abs().requires_grad_()
        absolute = linear.apply(leaf, linear.weight.abs(), None).reshape(z.shape)
    bias = z.new_zeros(1) if linear.bias is None else linear.bias
    bias = bias.reshape(1, -1, *[1] * (z.ndim - 2))
    biases = bias + gamma * bias.clamp(min=0), bias + gamma * bias.clamp(max=0)
    both = (z - bias) * (1 + half)
    shared = [both + absolute.detach() * way + each for way, each in zip((half, -half), biases, strict=True)]
    positive = sign > 0
    upper = relevance * sign.abs() / torch.where(positive, stabilizer(shared[0]), stabilizer(shared[1]))
    (down,) = torch.autograd.grad(absolute, leaf, upper * sign * half)
    step.absorb(
        bias=torch.where(positive, biases[0], biases[1]) * upper,
        epsilon=relevance.sum() - (torch.where(positive, shared[0], shared[1]) * upper).sum(),
    )
    return x * transposed(upper * (1 + half)) + leaf.detach() * down
