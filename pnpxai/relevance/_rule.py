"""What a relevance rule is, and how autograd comes to carry relevance in place of gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pnpxai.errors import UnsupportedOperationError
from pnpxai.relevance._call import Account, Call, Kept, depends, mapped
from pnpxai.relevance._stabilizer import Stabilizer

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


NOTHING = Kept(torch.empty(0))
"""In the place of values that no rule reads."""


class Rule(ABC):
    """How relevance passes through one kind of operation; a rule keeps nothing between calls.

    Attributes:
        gate: how surely the operation's result only scales what it is multiplied with: 0 not at all, 1 it is bounded,
            2 it is a switch or a norm, 3 it is the weights of an attention, or computed from nothing else.
    """

    gate: int = 0

    @abstractmethod
    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call so that autograd, going backward, hands relevance down by this rule."""


def unsupported(call: Call) -> UnsupportedOperationError:
    """The error for an operation without a rule."""
    return UnsupportedOperationError(
        "only operations with a relevance rule",
        f"{call.name} in {call.place}",
        f"Register one with pnpxai.relevance.register_rule({call.name!r}, …), or use a method without rules, such as "
        "IntegratedGradients, GradCam or RISE.",
    )


@dataclass
class Step:
    """One call on the way forward, remembered for the way back.

    Attributes:
        call: what was called, with leaves of their own in place of the tensors that depend on the inputs.
        leaves: those leaves.
        shapes: their shapes.
        result: what came out, with the call's own graph back to the leaves.
        values: the leaves' values, kept against changes in place.
        output: the result's values, likewise.
        propagation: the pass it belongs to.
        account: where its relevance went.
        node: its node in autograd's graph, while relevance is handed down.
    """

    call: Call
    leaves: list[Tensor]
    shapes: list[torch.Size]
    result: Tensor
    values: list[Kept]
    output: Kept
    propagation: Propagation
    account: Account
    node: Any = None

    def pulled_back(self, upper: Tensor) -> list[Tensor]:
        """``Jᵀ upper`` for each leaf, J being the call's own Jacobian; zeros where there is none."""
        found = torch.autograd.grad(self.result, self.leaves, upper, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if each is None else each for leaf, each in zip(self.leaves, found, strict=True)]

    def divided(
        self, relevance: Tensor, stabilizer: Stabilizer, scale: Callable[[], Tensor], z: Tensor | None = None
    ) -> Tensor:
        """``R / (z ± ε)``, the head of the ε-rule; what ε absorbs is counted.

        Args:
            relevance: of the output.
            stabilizer: adds ε.
            scale: of a relative ε, asked for only then.
            z: the denominators, if not the output.
        """
        z = self.output.tensor if z is None else z
        upper = relevance / stabilizer.stabilized(z, scale() if stabilizer.relative else None)
        self.absorb(epsilon=relevance.sum() - (z * upper).sum())
        return upper

    def absorb(self, **amounts: Tensor) -> None:
        """Count what does not go down, by the names of `Account`; a tensor stands for its sum."""
        self.account.count(**amounts)


class StepRule(Rule):
    """Base of the rules that hand relevance down themselves; a subclass implements `share`."""

    keeps_values: bool = True
    """Whether `share` reads the values of the leaves and of the output."""
    keeps_graph: bool = True
    """Whether `share` reads the call, or pulls something back through it."""
    step_class: ClassVar[type[Step]] = Step
    """Of the steps, where a rule remembers more."""

    @abstractmethod
    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Hand relevance down.

        Args:
            step: the call, its leaves and values; what is absorbed is to be counted by ``step.absorb``.
            relevance: of the call's output, in its shape.

        Returns:
            The relevance of each of ``step.leaves``, in their shapes.
        """

    def prepare(self, call: Call, propagation: Propagation) -> Call:
        """The call as it is to be made, for instance with some arguments held constant."""
        return call

    def run(self, call: Call) -> Any:
        """Make the call; its graph is kept for `Step.pulled_back`."""
        return call.run()

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Run the call on leaves of its own and put a node in the graph that calls `share`."""
        target = call.target
        call = self.prepare(call.out_of_place(), propagation)
        tensors = call.tensors
        own, leaves = self._on_leaves(call) if self.keeps_graph else (call, [])
        with torch.set_grad_enabled(self.keeps_graph):
            result = self.run(own)
        if isinstance(result, Tensor) and result.is_complex():
            raise unsupported(call)
        if not tensors or not isinstance(result, Tensor) or not result.is_floating_point():
            return propagation.written(target, result if self.keeps_graph else mapped(result, _without_trail))
        keep = propagation.keeper.keep if self.keeps_values else _nothing
        step = self.step_class(
            own if self.keeps_graph else own.stripped(),
            leaves,
            [each.shape for each in tensors],
            result if self.keeps_graph else NOTHING.tensor,
            [keep(each) for each in tensors],
            keep(result),
            propagation,
            propagation.open_account(call),
        )
        self.remember(step, call)
        with torch.enable_grad():
            traced: Tensor = RelevanceNode.apply(self, step, (result.data,), *propagation.tapped(tensors, step.account))
        of_weights = all(propagation.trail(each).gate == 3 for each in tensors)
        propagation.know(traced, 3 if of_weights else self.gate, step)
        return propagation.written(target, traced)

    @staticmethod
    def _on_leaves(call: Call) -> tuple[Call, list[Tensor]]:
        """The call with leaves of its own in place of the tensors it depends on, and those leaves."""
        leaves = [each.detach().requires_grad_() for each in call.tensors]
        places = iter(leaves)
        return call.swapped(lambda _: next(places)), leaves

    def remember(self, step: Any, call: Call) -> None:
        """Keep more for the way back; ``call`` has the model's own tensors, of which ``step.leaves`` are copies."""


def _without_trail(value: Any) -> Any:
    """A value that is refused where it is used, if it depends on the inputs: no rule has looked at it."""
    return value.detach().requires_grad_() if depends(value) else value


def _nothing(_: Tensor) -> Kept:
    return NOTHING


class RelevanceNode(torch.autograd.Function):
    """What autograd sees of a step; its backward hands down relevance."""

    @staticmethod
    def forward(ctx: Any, rule: StepRule, step: Step, result: tuple[Tensor], *tensors: Tensor) -> Tensor:
        ctx.rule, ctx.step = rule, step
        return result[0]

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        step: Step = ctx.step
        step.propagation.received(step.account, relevance)
        step.node = ctx
        shared = ctx.rule.share(step, relevance)
        step.node = None
        if not step.propagation.again:
            ctx.step = None
        return (None, None, None, *shared)
