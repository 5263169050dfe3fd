"""What a relevance rule is, and how autograd comes to carry relevance in place of gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pnpxai.errors import UnsupportedOperationError
from pnpxai.relevance._call import Account, Call, Kept, depends, flat

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


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

    def absorb(self, **amounts: Tensor) -> None:
        """Count what does not go down, by the names of `Account`; a tensor stands for its sum."""
        self.account.count(**amounts)


class StepRule(Rule):
    """Base of the rules that hand relevance down themselves; a subclass implements `share`."""

    keeps_values: ClassVar[bool] = True
    """Whether `share` reads the values of the leaves and of the output."""
    keeps_graph: ClassVar[bool] = True
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
        tensors, leaves = call.tensors, []
        for each in tensors:
            leaves.append(each.detach().requires_grad_())
        places = iter(leaves)
        with torch.set_grad_enabled(self.keeps_graph):
            own = call.swapped(lambda _: next(places))
            result = self.run(own)
        if isinstance(result, Tensor) and result.is_complex():
            return Refused().trace(call, propagation)
        if not tensors or not isinstance(result, Tensor) or not result.is_floating_point():
            return propagation.written(target, result)
        keep = propagation.keeper.keep if self.keeps_values else _nothing
        step = self.step_class(
            own if self.keeps_graph else own.stripped(),
            leaves if self.keeps_graph else [],
            [each.shape for each in leaves],
            result if self.keeps_graph else result.new_empty(0),
            [keep(each) for each in leaves],
            keep(result),
            propagation,
            propagation.open_account(call),
        )
        self.remember(step, call)
        with torch.enable_grad():
            traced: Tensor = _Node.apply(self, step, (result.data,), *propagation.tapped(tensors, step.account))
        of_weights = all(propagation.trail(each).gate == 3 for each in tensors)
        propagation.know(traced, 3 if of_weights else self.gate, step)
        return propagation.written(target, traced)

    def remember(self, step: Any, call: Call) -> None:
        """Keep more for the way back; ``call`` has the model's own tensors, of which ``step.leaves`` are copies."""


def _nothing(tensor: Tensor) -> Kept:
    return Kept(tensor.new_empty(0))


class _Node(torch.autograd.Function):
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


class Move(Rule):
    """For operations that only move, copy, join or select values: torch's gradient moves relevance the same way.

    What arrives at values that are no part of the input (padding, a class token that is joined on) ends there and is
    counted as absorbed by constants.
    """

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call as it is, with gradients."""
        target, call = call.target, self.prepare(call)
        account = propagation.open_account(call)
        trails = [propagation.trail(each) for each in call.tensors]
        blank = _Blank(call) if propagation.measured or _has_constants(call) else None
        taps = iter(propagation.tapped(call.tensors, account))
        with torch.enable_grad():
            call = call.swapped(lambda _: next(taps))
            if target is None or call.name in RESHAPING:
                result = call.run()
            else:
                result = call.args[0].clone()
                call.function(result, *call.args[1:], **call.kwargs)
        for each in flat(result):
            if depends(each):
                gate = min((trail.gate for trail in trails), default=0)
                propagation.know(each, gate, trails[0].step if call.name == "clone" else None)
                if blank is not None:
                    each.register_hook(_measure(each is result, blank, account, propagation))
        return result if call.name in RESHAPING else propagation.written(target, result)

    def prepare(self, call: Call) -> Call:
        """The call as it is to be made."""
        return call


class MoveFirst(Move):
    """For operations that take no more than the shape or kind of their second tensor, such as ``expand_as``."""

    def prepare(self, call: Call) -> Call:
        """Without the second tensor's dependence on the inputs."""
        first = call.args[0]
        return call.swapped(lambda each: each if each is first else each.detach())


class _Blank:
    """A call that moves values, on ones: where relevance comes from the inputs and where from constants."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.ones = call.swapped(lambda each: each.new_ones(()).expand(each.shape))
        self.zeros = call.swapped(lambda each: each.new_zeros(()).expand(each.shape))

    def covered(self) -> Tensor:
        """1 where a value comes from the inputs, 0 where it is constant."""
        with torch.no_grad():
            return torch.nan_to_num(self._run(self.ones) - self._run(self.zeros))

    def _run(self, call: Call) -> Tensor:
        if call.target is None:
            found: Tensor = call.run()
            return found
        written: Tensor = call.args[0].clone()
        call.function(written, *call.args[1:], **call.kwargs)
        return written


def _measure(whole: bool, blank: _Blank, account: Account, propagation: Propagation) -> Any:
    def hook(relevance: Tensor | None) -> None:
        if relevance is None:
            return
        propagation.received(account, relevance)
        if whole:
            account.count(constants=relevance * (1 - blank.covered()))

    return hook


def _has_constants(call: Call) -> bool:
    given = (*call.args, *call.kwargs.values())
    first = call.args[0] if call.args and isinstance(call.args[0], tuple | list) else ()
    return call.name in FILLING or any(
        isinstance(each, Tensor) and each.is_floating_point() and not each.requires_grad for each in (*given, *first)
    )


RESHAPING = frozenset({"transpose", "squeeze", "unsqueeze", "t", "swapaxes", "swapdims"})
"""Moving operations that, in place, change a tensor's shape and none of its memory."""
FILLING = frozenset(
    {"pad", "constant_pad_nd", "masked_fill", "where", "__setitem__", "index_fill", "fill", "zero", "tril", "triu"}
)
"""Moving operations that can put numbers in."""


class Identity(Rule):
    """For ``detach`` and ``data``, which give the same values: relevance is no gradient and goes through them."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Give the tensor itself under another name."""
        tensor: Tensor = call.args[0]
        if call.target is not None:
            return tensor
        with torch.enable_grad():
            return propagation.know(tensor.view_as(tensor), propagation.trail(tensor).gate)


class Aside(Rule):
    """For what a model does with a tensor besides computing, such as registering a hook; the hook sees relevance."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call as it is."""
        return call.run()


class Constant(Rule):
    """For operations that take no more than the shape and kind of a tensor, such as ``new_zeros``."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call without gradients."""
        with torch.no_grad():
            return call.run()


class Refused(Rule):
    """For operations without a rule: an error, but only if relevance reaches the result.

    Args:
        gate: as of `Rule`; what is multiplied with such a result gets all relevance.
    """

    def __init__(self, gate: int = 0) -> None:
        self.gate = gate

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call without gradients; the results raise when relevance reaches them."""
        error = UnsupportedOperationError(
            "only operations with a relevance rule",
            f"{call.name} in {call.place}",
            f"Register one with pnpxai.relevance.register_rule({call.name!r}, …), or use a method without rules, such "
            "as IntegratedGradients, GradCam or RISE.",
        )
        if call.target is not None:
            raise error
        with torch.no_grad():
            result = call.swapped(Tensor.detach).run()
        return self._barred(result, call.tensors, error, propagation)

    def _barred(self, result: Any, tensors: Sequence[Tensor], error: Exception, propagation: Propagation) -> Any:
        if type(result) in (tuple, list):
            return type(result)(self._barred(each, tensors, error, propagation) for each in result)
        if type(result).__module__ == "numpy":
            raise error
        if not isinstance(result, Tensor) or not (result.is_floating_point() or result.is_complex()):
            return result
        with torch.enable_grad():
            return propagation.know(_Barrier.apply(error, (result.data,), *tensors), self.gate)


class _Barrier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error: Exception, result: tuple[Tensor], *tensors: Tensor) -> Tensor:
        ctx.error = error
        return result[0]

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        raise ctx.error


OWN_FUNCTIONS = (_Node, _Barrier)
"""The autograd functions whose nodes carry relevance."""
