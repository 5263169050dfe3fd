"""Rules of zennit with a faster way to the same relevance; imports zennit."""

from __future__ import annotations

import torch
from torch import Tensor
from zennit.rules import Gamma as ZennitGamma

from pnpxai.relevance._hand_down import Pull, Shortcut
from pnpxai.relevance._linear_maps import Linear
from pnpxai.relevance._rule import Step
from pnpxai.relevance._stabilizer import Stabilizer


class Gamma(ZennitGamma, Shortcut):  # type: ignore[misc]
    """zennit's generalised γ-rule, which is a hook of zennit and works as one, with two maps in place of five.

    For an output z with positive contributions P and negative ones N, ``R_i`` is shared by ``z + γ P`` where z is
    positive and by ``z + γ N`` where it is negative. Both come from one more map, ``A = |w| |x|``, as
    ``P = (z + A) / 2`` and ``N = (z - A) / 2``, biases apart.

    Args:
        gamma: γ.
        stabilizer: of the denominators.
    """

    def __init__(self, gamma: float, stabilizer: Stabilizer) -> None:
        super().__init__(gamma, stabilizer)
        self.gamma = gamma
        self.stabilizer = stabilizer

    def hand_down(
        self,
        step: Step,
        linear: Linear,
        x: Tensor,
        z: Tensor,
        relevance: Tensor,
        transposed: Pull,
    ) -> Tensor:
        """Relevance of ``x``."""
        sign, half = z.sign(), self.gamma / 2
        with torch.enable_grad():
            leaf = x.abs().requires_grad_()
            absolute = linear.apply(leaf, linear.weight.abs(), None).reshape(z.shape)
        bias = z.new_zeros(1) if linear.bias is None else linear.bias
        bias = bias.reshape(1, -1, *[1] * (z.ndim - 2))
        biases = bias + self.gamma * bias.clamp(min=0), bias + self.gamma * bias.clamp(max=0)
        both = (z - bias) * (1 + half)
        shared = [both + absolute.detach() * way + each for way, each in zip((half, -half), biases, strict=True)]
        positive = sign > 0
        upper = relevance * sign.abs() / torch.where(positive, self.stabilizer(shared[0]), self.stabilizer(shared[1]))
        (down,) = torch.autograd.grad(absolute, leaf, upper * sign * half)
        step.absorb(
            bias=torch.where(positive, biases[0], biases[1]) * upper,
            epsilon=relevance.sum() - (torch.where(positive, shared[0], shared[1]) * upper).sum(),
        )
        return x * transposed(upper * (1 + half)) + leaf.detach() * down

    def copy(self) -> Gamma:
        """A hook of one's own for another module, as zennit asks for."""
        return Gamma(self.gamma, self.stabilizer)
