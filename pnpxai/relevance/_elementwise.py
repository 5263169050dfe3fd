"""Rules for what is done element by element: activations, products, quotients, powers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnpxai.relevance._call import Call, depends, held
from pnpxai.relevance._refused import Refused
from pnpxai.relevance._rule import Rule, Step, StepRule

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


class Pass(StepRule):
    """For activations and scalings by constants: relevance passes through unchanged, element by element.

    Args:
        gate: as of `Rule`.
    """

    keeps_values = keeps_graph = False

    def __init__(self, gate: int = 0) -> None:
        self.gate = gate

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call; where it changes its one argument in place, no node is needed."""
        if call.target is None or propagation.measured or [*map(id, call.tensors)] != [id(call.target)]:
            return super().trace(call, propagation)
        propagation.keeper.before_change(call.target)
        with torch.no_grad():
            result = call.run()
        propagation.know(call.target, self.gate)
        return result

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """The same relevance, summed where the value was broadcast."""
        return [relevance.sum_to_size(shape) for shape in step.shapes]


class Scaled(Pass):
    """As `Pass`; what is done to a gate leaves it one."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call; the result is a gate if what it scales is."""
        gate = max(propagation.trail(each).gate for each in call.tensors)
        result = super().trace(call, propagation)
        return propagation.know(result, gate) if depends(result) else result


class Product(StepRule):
    """``a · b``: a constant or a gate only scales, all relevance goes to the other; otherwise half to each.

    A gate is what was bounded by a sigmoid, softmax, tanh … (squeeze-excitation, GLU), or the smaller of two
    operands that broadcast (layer scale). Equal halves: AttnLRP (arXiv 2402.05602), equation 14.
    """

    keeps_values = keeps_graph = False
    _scaled = Scaled()

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Decide which operand, if any, is the gate."""
        operands = call.args[:2] if len(call.args) > 1 else (call.args[0], *call.kwargs.values())
        if sum(map(depends, operands)) < 2:
            return self._scaled.trace(call, propagation)
        first, second = operands
        gates = propagation.trail(first).gate, propagation.trail(second).gate
        weights = (gates[0], -first.numel()), (gates[1], -second.numel())
        if weights[0] == weights[1]:
            return super().trace(call, propagation)
        gate = first if weights[0] > weights[1] else second
        return Pass().trace(held(call, gate), propagation)

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Half to each."""
        return [relevance.sum_to_size(shape) / 2 for shape in step.shapes]


class Quotient(Rule):
    """``a / b``: the denominator is held constant, and a constant over something is as good as a gate."""

    _refused = Refused(gate=2)
    _scaled = Scaled()

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Hold the denominator."""
        reflected = getattr(call.function, "__name__", "") in ("__rdiv__", "__rtruediv__")
        over, under = (call.args[1], call.args[0]) if reflected else (call.args[0], call.argument(1, "other"))
        if not depends(over):
            return self._refused.trace(call, propagation)
        return self._scaled.trace(held(call, under) if depends(under) else call, propagation)


class Power(Pass):
    """``x ** p`` is ``x`` times something, for a positive number p; any other power is as good as a gate."""

    _refused = Refused(gate=2)

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Look at the exponent."""
        exponent = call.argument(1, "exponent")
        reflected = getattr(call.function, "__name__", "") == "__rpow__"
        if reflected or isinstance(exponent, Tensor) or exponent <= 0:
            return self._refused.trace(call, propagation)
        return super().trace(call, propagation)
