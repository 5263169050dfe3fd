"""Relative attributing propagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.explainers._lrp import LRPBase
from pnpxai.modules import Convolution, Linear
from pnpxai.relevance import AttentionRule, Step
from pnpxai.relevance._hand_down import Pull, Shortcut
from pnpxai.relevance._linear_maps import Linear as LinearMap
from pnpxai.relevance._weighted import WeightedStep

if TYPE_CHECKING:
    from zennit.canonizers import Canonizer
    from zennit.core import Composite

Apply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class RAP(LRPBase):
    """Relative attributing propagation: relevance goes first by influence of either sign, then is shifted apart.

    Nam et al., AAAI 2020 (arXiv 1904.00605), by the steps of its authors' code. With ``z_ij = x_i w_ij``, its
    positive part ``z⁺``, and ``P_j = Σ_i z⁺_ij``, ``N_j = Σ_i |z⁻_ij|``, from the target's output down:

    1. Output layers (no layer with weights comes after), absolute influence: ``R_i = Σ_j |z_ij| / (P_j + N_j) · R_j``.
    2. Layers below, relative prioritising and uniform shifting:
       ``R'_i = Σ_j (z⁺_ij / P_j + |z⁻_ij| / (P_j + N_j)) · R_j``, ``R_i = R'_i - (Σ R' - Σ R) / a`` over the a active
       neurons, those with ``R'_i ≠ 0``: of the whole input of a convolution, of each row of a linear layer's.
    3. The first convolution that runs: the zB-rule between the sample's own lowest and highest input value.

    What came down along negative weights is so taken from all neurons alike, and the least important ones turn
    negative. Each layer keeps the sum: biases absorb nothing, save where no input of a layer is active. Signs of
    contributions stand for those of weights, so inputs may be negative. As step 1 drops the signs of the output
    layer, the maps of two classes differ little in deep networks: RAP shows what counts more than for which class.
    Zeros that the model itself pads the image with get relevance in step 3, counted as constants. Everything without
    weights goes by `pnpxai.relevance.OPERATIONS`: sums in proportion, activations, gates, norms and attention as in
    `LRPBase`; batch norm is merged into the layer before it, its shift being one more bias.

    The arguments are those of `LRPBase`, without ``epsilon``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[2.0, -1.0]])), model[0].bias.data.zero_()
        >>> _ = model[2].weight.data.fill_(1.0)
        >>> [round(each, 3) for each in RAP(model).attribute(torch.tensor([[3.0, 4.0]])).flatten().tolist()]
        [1.6, 0.4]
    """

    SUPPORTED_MODULES = (Linear, Convolution)
    TUNABLES = {name: each for name, each in LRPBase.TUNABLES.items() if name != "epsilon"}
    LIMITS = {name: each for name, each in LRPBase.LIMITS.items() if name != "epsilon"}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        stabilizer: float = 1e-6,
        zennit_canonizers: Sequence[Canonizer] | None = None,
        layer: str | nn.Module | None = None,
        n_classes: int | None = None,
        attention: AttentionRule = "constant",
        relative_epsilon: bool = False,
    ) -> None:
        super().__init__(
            model,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            stabilizer=stabilizer,
            zennit_canonizers=zennit_canonizers,
            layer=layer,
            n_classes=n_classes,
            attention=attention,
            relative_epsilon=relative_epsilon,
        )

    @property
    def zennit_composite(self) -> Composite:
        """A rule of its own for each call of a layer, since its place is only known on the way back."""
        from zennit.core import Composite
        from zennit.types import Convolution as AnyConvolution

        def module_map(context: dict[str, Any], _name: str, module: nn.Module) -> Any:
            first = isinstance(module, AnyConvolution) and not context.get("a convolution has run", False)
            context["a convolution has run"] = first or context.get("a convolution has run", False)
            return _rule_class()(first)

        return Composite(module_map=module_map)


def absolute(apply: Apply, x: Tensor, weight: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Step 1: ``R_i = Σ_j |z_ij| / (P_j + N_j) · R_j``.

    Args:
        apply: the linear map, of an input, a weight and a bias or None.
        x: its input.
        weight: any shape that ``apply`` takes.
        relevance: of its output, in any shape.

    Returns:
        The relevance of ``x``, and that of outputs without contributions, which is lost.
    """
    whole, pulled = _contributions(apply, [(x.abs(), weight.abs())])
    upper, lost = _over(relevance.reshape(whole.shape), whole)
    return pulled(upper), lost


def relative(apply: Apply, x: Tensor, weight: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Step 2; the arguments are those of `absolute`.

    Returns:
        The relevance of ``x``, and that of samples (rows of a linear layer) without an active neuron, which is lost.
    """
    same_signs = [(x.clamp(min=0), weight.clamp(min=0))]
    if (x < 0).any():
        same_signs.append((x.clamp(max=0), weight.clamp(max=0)))
    positive, pulled = _contributions(apply, same_signs)
    whole, all_pulled = _contributions(apply, [(x.abs(), weight.abs())])
    relevance = relevance.reshape(whole.shape)
    upper, all_upper = _over(relevance, positive)[0], _over(relevance, whole)[0]
    found = pulled(upper - all_upper) + all_pulled(all_upper)
    active, dims = found != 0, _layer_dims(weight)
    n_active, total = active.sum(dims, keepdim=True), relevance.sum(dims, keepdim=True)
    shift = (found.sum(dims, keepdim=True) - total) / n_active.clamp(min=1)
    return found - active * shift, total * (n_active == 0)


def boxed(apply: Apply, x: Tensor, weight: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Step 3: ``R_i = Σ_j (x_i w_ij - low w⁺_ij - high w⁻_ij) / (the sum of these over i) · R_j``.

    The arguments and what is returned are those of `absolute`.
    """
    low, high = x.amin(_layer_dims(weight), keepdim=True), x.amax(_layer_dims(weight), keepdim=True)
    within, pulled = _contributions(apply, [(x - low, weight.clamp(min=0)), (x - high, weight.clamp(max=0))])
    upper, lost = _over(relevance.reshape(within.shape), within)
    return pulled(upper), lost


def _contributions(apply: Apply, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Pull]:
    """Σ of maps of inputs and weights of the same sign, and what it hands down, once: ``x ⊙ (Jᵀ upper)``."""
    leaves = [x.detach().requires_grad_() for x, _ in pairs]
    with torch.enable_grad():
        mapped = [apply(leaf, weight, None) for leaf, (_, weight) in zip(leaves, pairs, strict=True)]
        total = mapped[0] if len(mapped) == 1 else mapped[0] + mapped[1]

    def pulled(upper: Tensor) -> Tensor:
        slopes = torch.autograd.grad(total, leaves, upper)
        found = [leaf.detach() * slope for leaf, slope in zip(leaves, slopes, strict=True)]
        return found[0] if len(found) == 1 else found[0] + found[1]

    return total.detach(), pulled


def _over(relevance: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance over a sum of contributions, and the relevance where there are none (or none to speak of)."""
    limits = torch.finfo(denominator.dtype)
    none = denominator <= limits.tiny / limits.eps
    return torch.where(none, 0, relevance / denominator), relevance * none


def _layer_dims(weight: Tensor) -> tuple[int, ...]:
    """The dimensions of the neurons of one layer: channels and places of a convolution, the last of a linear layer."""
    return tuple(range(1 - weight.ndim, 0))


def _next_below(node: Any) -> Iterator[WeightedStep]:
    """The layers that get relevance from the one with this node in autograd's graph, with none in between."""
    nodes, seen = [node], set()
    while nodes:
        for node, _ in nodes.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            step = getattr(node, "step", None)
            if isinstance(step, WeightedStep):
                yield step
            else:
                nodes.append(node)


@cache
def _rule_class() -> Callable[[bool], Any]:
    """The rule, as a class that zennit's composites may hold; made late, for importing zennit takes its time."""
    from zennit.core import BasicHook

    class Relative(BasicHook, Shortcut):  # type: ignore[misc]
        """Steps 1 to 3 for one call of a layer."""

        def __init__(self, first: bool) -> None:
            super().__init__()
            self.first = first
            self.last = True

        def hand_down(
            self,
            step: Step,
            linear: LinearMap,
            x: Tensor,
            z: Tensor,
            relevance: Tensor,
            transposed: Pull,
        ) -> Tensor:
            """Relevance of ``x``; tell the layers below that they are not the last."""
            for each in _next_below(step.node):
                if isinstance(each.rule, Relative):
                    each.rule.last = False
            rule = absolute if self.last else boxed if self.first else relative
            precise = torch.promote_types(x.dtype, torch.float32)
            found, lost = rule(linear.apply, x.to(precise), linear.weight.to(precise), relevance.to(precise))
            step.absorb(bias=lost)
            return found.to(x.dtype)

    return Relative
