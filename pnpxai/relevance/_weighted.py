"""Linear maps with weights: zennit's rules, applied to the call rather than to a module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pnpxai.errors import UnsupportedOperationError
from pnpxai.relevance._call import Call, depends
from pnpxai.relevance._rule import Rule, Step, StepRule

if TYPE_CHECKING:
    from zennit.core import BasicHook

    from pnpxai.relevance._propagation import Propagation

STAND_INS: dict[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}
"""The module that does the same as a function; a composite is asked for it where no module of that kind is running."""


@dataclass
class Linear:
    """A linear map ``z = apply(x, weight, bias)``.

    Attributes:
        apply: the map.
        weight: any shape that ``apply`` takes.
        bias: broadcasts over ``z`` along dimension 1 of a convolution and the last of other maps; or None.
        merges: a scale and shift of the outputs, by channel, can be merged into weight and bias.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    merges: bool = False

    def scaled(self, scale: Tensor, shift: Tensor) -> Linear:
        """Followed by ``scale · z + shift``, by output channel, in one map."""
        weight = self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        return Linear(self.apply, weight, shift if self.bias is None else self.bias * scale + shift)


@dataclass
class WeightedStep(Step):
    """A linear map on the way forward.

    Attributes:
        linear: the map.
        rule: of zennit.
        n_uses: how many calls have taken its result.
        followed_by: the scale and shift by channel that are merged into it, as the step that makes them.
    """

    linear: Linear = None  # type: ignore[assignment]
    rule: BasicHook = None
    n_uses: int = 0
    followed_by: AffineStep | None = None

    def used(self, result: Tensor) -> None:
        """Note that a call takes the result; a second one undoes a merge."""
        self.n_uses += 1
        if self.n_uses > 1 and self.followed_by is not None:
            self.output = self.propagation.keeper.keep(result)
            self.followed_by.values, self.followed_by.merged = [self.output], False
            self.followed_by = None

    def merge(self, affine: AffineStep, result: Tensor) -> None:
        """Merge a scale and shift by channel that is applied to the result, if nothing else has used that."""
        if (
            self.linear.merges
            and self.n_uses == 0
            and self.followed_by is None
            and not (self.call.name == "linear" and result.ndim != 2)
        ):
            self.followed_by, self.output = affine, affine.output
            affine.values, affine.merged = [], True


@dataclass
class AffineStep(Step):
    """A scale and shift by channel on the way forward.

    Attributes:
        scale: ``(c,)``.
        shift: ``(c,)``.
        merged: it is part of the linear map before it.
    """

    scale: Tensor = None  # type: ignore[assignment]
    shift: Tensor = None  # type: ignore[assignment]
    merged: bool = False


class Weighted(StepRule):
    """By the rule that the composite gives to the module that is running, if it is of the operation's kind.

    Otherwise, for functional calls, by the rule that it gives to the module that does the same. The composite is asked
    in the order in which the operations run, so that "first" means the first that runs.

    Args:
        kind: key of `STAND_INS`.
        read: from a call to its linear map and the tensor that is mapped; None where the weights depend on the
            inputs too.
        otherwise: the rule where ``read`` gives None.
    """

    step_class = WeightedStep

    def __init__(
        self, kind: str, read: Callable[[Call], tuple[Linear, Tensor] | None], otherwise: Rule | None = None
    ) -> None:
        self.kind = kind
        self.read = read
        self.otherwise = otherwise

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Trace it if the weights are constant."""
        if self.read(call) is not None:
            return super().trace(call, propagation)
        if self.otherwise is None:
            raise UnsupportedOperationError(
                "weights that do not depend on the inputs",
                f"{call.name} in {call.place} with weights that do",
                "Use a method without rules, such as IntegratedGradients, GradCam or RISE.",
            )
        return self.otherwise.trace(call, propagation)

    def remember(self, step: WeightedStep, call: Call) -> None:
        """The linear map and its rule."""
        found = self.read(step.call)
        assert found is not None
        step.linear, step.rule = found[0], _rule(self.kind, step)

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Hand relevance down by the composite's rule."""
        assert isinstance(step, WeightedStep)
        linear, scale = step.linear, None
        x, z = step.values[0].tensor, step.output.tensor
        if step.followed_by is not None:
            scale = step.followed_by.scale
            linear = linear.scaled(scale, step.followed_by.shift)

        def transposed(upper: Tensor) -> Tensor:
            upper = upper.reshape(z.shape)
            return step.pulled_back(upper if scale is None else upper * by_channel(scale, upper))[0]

        if self.kind == "linear":
            rows = [each.reshape(-1, each.shape[-1]) for each in (z, relevance)]
            return [_hand_down(step, linear, x, rows[0], rows[1], transposed)]
        return [_hand_down(step, linear, x, z, relevance, transposed)]


def _rule(kind: str, step: WeightedStep) -> BasicHook:
    from zennit import types
    from zennit.core import BasicHook

    propagation, call = step.propagation, step.call
    of_kind = types.Convolution if kind.startswith("conv") else types.Linear
    module = call.module
    if not isinstance(module, of_kind) or (kind == "linear" and isinstance(module, types.Convolution)):
        arguments = (1, 1) if kind == "linear" else (1, 1, 1)
        module = STAND_INS[kind](*arguments, device="meta")
    rule = propagation.settings.composite.module_map(propagation.composite_context, call.path, module)
    if not isinstance(rule, BasicHook):
        raise UnsupportedOperationError(
            "a composite with a rule of zennit (a BasicHook) for every linear and convolution layer",
            f"{'no rule' if rule is None else type(rule).__name__} for {call.name} in {call.place}",
            "Add one to the composite.",
        )
    return rule


def _hand_down(
    step: WeightedStep,
    linear: Linear,
    x: Tensor,
    z: Tensor,
    relevance: Tensor,
    transposed: Callable[[Tensor], Tensor],
) -> Tensor:
    """Relevance of ``x`` by a rule of zennit, which is a list of modified maps, their weighing and their sum.

    Args:
        step: holds the rule, and the account.
        linear: the map.
        x: its input.
        z: its output, already computed; in two dimensions for a linear layer.
        relevance: of ``z``.
        transposed: ``Jᵀ ·`` of the unmodified map.
    """
    rule = step.rule
    if isinstance(rule, Shortcut):
        return rule.hand_down(step, linear, x, z, relevance, transposed)
    inputs, outputs, biases, pulls = [], [], [], []
    for modify_input, modify, modify_output in zip(
        rule.input_modifiers, rule.param_modifiers, rule.output_modifiers, strict=True
    ):
        value = modify_input(x)
        weight, bias = _modified(modify, linear)
        if value is x and weight is linear.weight and bias is linear.bias and modify_output(z) is z:
            output, pull = z, transposed
        elif bias is None and not value.any():
            output, pull = z.new_zeros(()).expand_as(z), None
        else:
            with torch.enable_grad():
                leaf = value.detach().requires_grad_()
                graph = modify_output(linear.apply(leaf, weight, bias).reshape(z.shape))
            output, pull = graph.detach(), _Pull(graph, leaf)
        inputs.append(value)
        outputs.append(output)
        biases.append(bias)
        pulls.append(pull)
    mapped = rule.gradient_mapper(relevance, outputs)
    uppers = [each.expand_as(z) for each in ((mapped,) if isinstance(mapped, Tensor) else mapped)]
    nothing = x.new_zeros(()).expand_as(x)
    gradients = [
        nothing if pull is None or not upper.any() else pull(upper) for pull, upper in zip(pulls, uppers, strict=True)
    ]
    one = x.new_ones(())
    ones = [one] * len(inputs)
    explained = rule.reducer(ones, [(each * upper).sum() for each, upper in zip(outputs, uppers, strict=True)])
    absorbed = rule.reducer(ones, [bias_part(bias, upper) for bias, upper in zip(biases, uppers, strict=True)])
    step.absorb(bias=absorbed, epsilon=relevance.sum() - explained)
    found: Tensor = rule.reducer(inputs, gradients)
    return found.detach()


class Shortcut(ABC):
    """Mixed into a rule of zennit that has a faster way to the same relevance."""

    @abstractmethod
    def hand_down(
        self,
        step: WeightedStep,
        linear: Linear,
        x: Tensor,
        z: Tensor,
        relevance: Tensor,
        transposed: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Relevance of ``x``; the arguments are those of the way that fits every rule."""


class _Pull:
    """``Jᵀ ·`` of a graph that is used once."""

    def __init__(self, graph: Tensor, leaf: Tensor) -> None:
        self.graph, self.leaf = graph, leaf

    def __call__(self, upper: Tensor) -> Tensor:
        return torch.autograd.grad(self.graph, self.leaf, upper)[0]


def _modified(modify: Any, linear: Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias after a rule's modifier; the same objects where it changes nothing, no bias where it is zero."""
    from zennit.core import ParamMod

    holder = nn.Module()
    holder.weight = nn.Parameter(linear.weight, requires_grad=False)
    holder.register_parameter("bias", None if linear.bias is None else nn.Parameter(linear.bias, requires_grad=False))
    with ParamMod.ensure(modify)(holder) as modified:
        weight, bias = modified.weight.detach(), None if linear.bias is None else modified.bias.detach()
    if weight.data_ptr() == linear.weight.data_ptr():
        weight = linear.weight
    if bias is not None and linear.bias is not None and bias.data_ptr() == linear.bias.data_ptr():
        bias = linear.bias
    elif bias is not None and not bias.any():
        bias = None
    return weight, bias


def bias_part(bias: Tensor | None, upper: Tensor) -> Tensor:
    """Σ of bias times upper, the bias along dimension 1."""
    if bias is None:
        return upper.new_zeros(())
    return (bias * upper.sum([dim for dim in range(upper.ndim) if dim != 1])).sum()


def by_channel(values: Tensor, like: Tensor) -> Tensor:
    """``(c,)`` so that it broadcasts along dimension 1 of ``like``."""
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


def read_layer(call: Call) -> tuple[Linear, Tensor] | None:
    """``linear`` and ``conv…``: input, weight, bias, the rest."""
    x, weight, bias = call.argument(0, "input"), call.argument(1, "weight"), call.argument(2, "bias")
    if not depends(x) or depends(weight) or depends(bias):
        return None
    rest, named = call.args[3:], {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
    function = call.function
    return Linear(
        lambda x, weight, bias: function(x, weight, bias, *rest, **named),
        weight.detach(),
        None if bias is None else bias.detach(),
        merges="transpose" not in call.name,
    ), x


def read_addmm(call: Call) -> tuple[Linear, Tensor] | None:
    """``addmm(bias, x, weight)`` with a bias by column."""
    bias, x, weight = call.argument(0, "input"), call.argument(1, "mat1"), call.argument(2, "mat2")
    scaled = call.kwargs.get("beta", 1) != 1 or call.kwargs.get("alpha", 1) != 1
    if not depends(x) or depends(weight) or depends(bias) or scaled or bias.numel() != weight.shape[1]:
        return None
    return Linear(
        lambda x, weight, bias: x @ weight if bias is None else torch.addmm(bias, x, weight),
        weight.detach(),
        bias.detach().reshape(-1),
    ), x


def read_product(call: Call) -> tuple[Linear, Tensor] | None:
    """``x @ weight`` with a constant matrix."""
    x, weight = call.argument(0, "input"), call.argument(1, "other", call.argument(1, "mat2"))
    if getattr(call.function, "__name__", "") == "__rmatmul__":
        x, weight = weight, x
    if not depends(x) or not isinstance(weight, Tensor) or depends(weight) or weight.ndim != 2 or x.ndim < 2:
        return None
    return Linear(lambda x, weight, bias: x @ weight, weight.detach(), None), x
