"""Rules for operations that move values, and for those that only look at a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnpxai.relevance._call import Account, Call, all_held_but, depends, flat
from pnpxai.relevance._rule import Rule

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


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
        if propagation.measured:
            taps = iter(propagation.tapped(call.tensors, account))
            call = call.swapped(lambda _: next(taps))
        with torch.enable_grad():
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
        return all_held_but(call, call.args[0])


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
