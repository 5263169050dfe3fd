"""Linear maps with weights: zennit's rules, applied to the call rather than to a module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pnpxai.errors import UnsupportedOperationError
from pnpxai.relevance._call import Call
from pnpxai.relevance._hand_down import hand_down
from pnpxai.relevance._linear_maps import Linear
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


class Weighted(Rule):
    """For an operation that is a linear map where its weights are constant; see `Mapped`.

    Args:
        kind: key of `STAND_INS`.
        read: from a call to its linear map; None where the weights depend on the inputs too.
        otherwise: the rule where ``read`` gives None.
    """

    def __init__(self, kind: str, read: Callable[[Call], Linear | None], otherwise: Rule | None = None) -> None:
        self.kind = kind
        self.read = read
        self.otherwise = otherwise

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Look at the weights."""
        linear = self.read(call)
        if linear is not None:
            return Mapped(self.kind, linear).trace(call, propagation)
        if self.otherwise is None:
            raise UnsupportedOperationError(
                "weights that do not depend on the inputs",
                f"{call.name} in {call.place} with weights that do",
                "Use a method without rules, such as IntegratedGradients, GradCam or RISE.",
            )
        return self.otherwise.trace(call, propagation)


class Mapped(StepRule):
    """By the rule that the composite gives to the module that is running, if it is of the operation's kind.

    Otherwise, for functional calls, by the rule that it gives to the module that does the same. The composite is asked
    in the order in which the operations run, so that "first" means the first that runs.

    Args:
        kind: key of `STAND_INS`.
        linear: the map.
    """

    step_class = WeightedStep

    def __init__(self, kind: str, linear: Linear) -> None:
        self.kind = kind
        self.linear = linear
        self.keeps_graph = linear.transposed is None

    def remember(self, step: WeightedStep, call: Call) -> None:
        """The linear map and its rule."""
        step.linear, step.rule = self.linear, _rule(self.kind, step)

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
            upper = upper if scale is None else upper * by_channel(scale, upper)
            product = self.linear.transposed
            return step.pulled_back(upper)[0] if product is None else product(upper)

        if self.kind == "linear":
            rows = [each.reshape(-1, each.shape[-1]) for each in (z, relevance)]
            return [hand_down(step.rule, step, linear, x, rows[0], rows[1], transposed)]
        return [hand_down(step.rule, step, linear, x, z, relevance, transposed)]


@cache
def _stand_in(kind: str) -> nn.Module:
    arguments = (1, 1) if kind == "linear" else (1, 1, 1)
    return STAND_INS[kind](*arguments, device="meta").requires_grad_(False)


def _rule(kind: str, step: WeightedStep) -> BasicHook:
    from zennit.core import BasicHook

    propagation, call = step.propagation, step.call
    module = call.module
    if not isinstance(module, nn.Linear if kind == "linear" else nn.modules.conv._ConvNd):
        module = _stand_in(kind)
    rule = propagation.settings.composite.module_map(propagation.composite_context, call.path, module)
    if not isinstance(rule, BasicHook):
        raise UnsupportedOperationError(
            "a composite with a rule of zennit (a BasicHook) for every linear and convolution layer",
            f"{'no rule' if rule is None else type(rule).__name__} for {call.name} in {call.place}",
            "Add one to the composite.",
        )
    return rule


def by_channel(values: Tensor, like: Tensor) -> Tensor:
    """``(c,)`` so that it broadcasts along dimension 1 of ``like``."""
    return values.reshape(1, -1, *[1] * (like.ndim - 2))
