"""Rules and composites of zennit, some with a faster way to the same relevance; zennit is imported when one is made."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pnpxai.relevance._hand_down import Pull, Shortcut, bias_part, inner
from pnpxai.relevance._linear_maps import Linear
from pnpxai.relevance._rule import Step
from pnpxai.relevance._stabilizer import Stabilizer

if TYPE_CHECKING:
    from zennit.core import BasicHook, Composite


def composite_of(convolution: BasicHook, linear: BasicHook, first: BasicHook | None = None) -> Composite:
    """A composite of zennit for convolutions, linear layers and perhaps another rule for the first convolution.

    Other modules get what they get in zennit's own composites.
    """
    from zennit.core import Composite

    others = _other_rules()

    def rule_of(context: dict[str, Any], name: str, module: nn.Module) -> BasicHook | None:
        if isinstance(module, nn.modules.conv._ConvNd):
            is_first, context["visited"] = not context.get("visited"), True
            return first if first is not None and is_first else convolution
        return linear if isinstance(module, nn.Linear) else others.mapping(context, name, module)

    return Composite(rule_of)


@cache
def _other_rules() -> Composite:
    from zennit.composites import LayerMapComposite, layer_map_base

    return LayerMapComposite(layer_map_base())


def epsilon_rule(stabilizer: Stabilizer) -> BasicHook:
    """Zennit's ε-rule, which is a hook of zennit and works as one, with fewer passes over the memory."""
    return _epsilon_class()(stabilizer)


def box_rule(low: Tensor, high: Tensor, stabilizer: Stabilizer) -> BasicHook:
    """Zennit's zB-rule."""
    from zennit.rules import ZBox

    return ZBox(low, high, stabilizer)


def gamma_rule(gamma: float, stabilizer: Stabilizer) -> BasicHook:
    """Zennit's generalised γ-rule, which is a hook of zennit and works as one, with two maps in place of five.

    For an output z with positive contributions P and negative ones N, the bias among them, relevance is shared by
    ``z + γ P`` where z is positive and by ``z + γ N`` where it is negative. Both come from one more map,
    ``A = |w| |x| + |b|``, as ``P = (z + A) / 2`` and ``N = (z - A) / 2``.

    Args:
        gamma: γ.
        stabilizer: of the denominators.
    """
    return _gamma_class()(gamma, stabilizer)


def alpha_beta_rule(alpha: float, beta: float, stabilizer: Stabilizer, zero_params: str | None = None) -> BasicHook:
    """Zennit's αβ-rule, which is a hook of zennit and works as one; negative parts of inputs are left out if none are.

    Args:
        alpha: of positive contributions; 1 with β = 0 for the z⁺-rule.
        beta: of negative contributions, α - 1.
        stabilizer: of the denominators.
        zero_params: ``"bias"`` to leave biases out of the denominators, so that they absorb nothing.
    """
    return _alpha_beta_class()(alpha, beta, stabilizer, zero_params)


@cache
def _epsilon_class() -> Any:
    from zennit.rules import Epsilon as ZennitEpsilon

    class Epsilon(ZennitEpsilon, Shortcut):  # type: ignore[misc]
        def __init__(self, stabilizer: Stabilizer) -> None:
            super().__init__(stabilizer)
            self.stabilizer = stabilizer

        def copy(self) -> Epsilon:
            return Epsilon(self.stabilizer)

        def hand_down(
            self, step: Step, linear: Linear, x: Tensor, z: Tensor, relevance: Tensor, transposed: Pull
        ) -> Tensor:
            upper = relevance / self.stabilizer(z)
            step.absorb(bias=bias_part(linear.bias, upper), epsilon=relevance.sum() - inner(z, upper))
            return x * transposed(upper)

    return Epsilon


@cache
def _alpha_beta_class() -> Any:
    from zennit.rules import AlphaBeta as ZennitAlphaBeta

    class AlphaBeta(ZennitAlphaBeta, Shortcut):  # type: ignore[misc]
        def __init__(self, alpha: float, beta: float, stabilizer: Stabilizer, zero_params: str | None) -> None:
            super().__init__(alpha, beta, stabilizer, zero_params)
            self.alpha, self.beta, self.stabilizer, self.zero_params = alpha, beta, stabilizer, zero_params

        def copy(self) -> AlphaBeta:
            return AlphaBeta(self.alpha, self.beta, self.stabilizer, self.zero_params)

        def hand_down(
            self, step: Step, linear: Linear, x: Tensor, z: Tensor, relevance: Tensor, transposed: Pull
        ) -> Tensor:
            bare = Linear(linear.apply, linear.weight, None) if self.zero_params == "bias" else linear
            return _alpha_beta_share(self.alpha, self.beta, self.stabilizer, step, bare, x, relevance)

    return AlphaBeta


def _alpha_beta_share(
    alpha: float, beta: float, stabilizer: Stabilizer, step: Step, linear: Linear, x: Tensor, relevance: Tensor
) -> Tensor:
    signed = x.numel() > 0 and bool(x.amin() < 0)
    parts = [x.clamp(min=0), x.clamp(max=0)] if signed else [x.detach()]
    signs = ({"min": 0}, {"max": 0}) if signed or beta else ({"min": 0},)
    weights = [linear.weight.clamp(**sign) for sign in signs]
    biases = [None if linear.bias is None else linear.bias.clamp(**sign) for sign in signs]
    with torch.enable_grad():
        leaves = [each.requires_grad_() for each in parts]
        sums = []
        for sign in (0, 1) if beta else (0,):
            total = linear.apply(leaves[0], weights[sign], biases[sign])
            total = total + linear.apply(leaves[1], weights[1 - sign], None) if len(leaves) == 2 else total
            sums.append(total.reshape(relevance.shape))
    uppers = [relevance / stabilizer(total.detach()) for total in sums]
    for upper, weight in zip(uppers, (alpha, -beta), strict=False):
        if weight != 1:
            upper.mul_(weight)
    found = torch.autograd.grad(sums, leaves, uppers)
    explained = [inner(total.detach(), upper) for total, upper in zip(sums, uppers, strict=True)]
    absorbed = [bias_part(bias, upper) for bias, upper in zip(biases, uppers, strict=False)]
    step.absorb(bias=torch.stack(absorbed), epsilon=relevance.sum() - torch.stack(explained).sum())
    shared = leaves[0].detach() * found[0]
    return shared.addcmul_(leaves[1].detach(), found[1]) if len(leaves) == 2 else shared


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
    signs, half = z.sign(), gamma / 2
    bias = None if linear.bias is None else linear.bias.abs()
    with torch.enable_grad():
        leaf = x.abs().requires_grad_()
        absolute = linear.apply(leaf, linear.weight.abs(), bias).reshape(z.shape)
    denominators = (z * (1 + half)).addcmul_(absolute.detach(), signs, value=half)
    upper = (relevance / stabilizer(denominators)).masked_fill_(signs == 0, 0)
    explained = inner(denominators, upper)
    signed = signs.mul_(upper).mul_(half)
    (down,) = torch.autograd.grad(absolute, leaf, signed)
    upper.mul_(1 + half)
    step.absorb(bias=bias_part(linear.bias, upper) + bias_part(bias, signed), epsilon=relevance.sum() - explained)
    return (x.detach() * transposed(upper)).addcmul_(leaf.detach(), down)
