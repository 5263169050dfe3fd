"""What is done with operations that have no rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnpxai.relevance._call import Call
from pnpxai.relevance._rule import Rule, unsupported

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


class Refused(Rule):
    """For operations without a rule: an error, but only if relevance reaches the result.

    Args:
        gate: as of `Rule`; what is multiplied with such a result gets all relevance.
    """

    def __init__(self, gate: int = 0) -> None:
        self.gate = gate

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call without gradients; the results raise when relevance reaches them."""
        error = unsupported(call)
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
            return propagation.know(Barrier.apply(error, (result.data,), *tensors), self.gate)


class Barrier(torch.autograd.Function):
    """What autograd sees of an operation without a rule; its backward raises if there is relevance."""

    @staticmethod
    def forward(ctx: Any, error: Exception, result: tuple[Tensor], *tensors: Tensor) -> Tensor:
        ctx.error, ctx.kinds = error, [(each.shape, each.dtype, each.device) for each in tensors]
        return result[0]

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        if relevance.any():
            raise ctx.error
        return None, None, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.kinds)
