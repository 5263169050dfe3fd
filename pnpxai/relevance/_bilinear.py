"""Products of matrices that both depend on the inputs, as in attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pnpxai.relevance._call import Call, held
from pnpxai.relevance._proportional import Contributions
from pnpxai.relevance._rule import Step, StepRule

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


class Bilinear(StepRule):
    """``z = a b`` in any arrangement (``matmul``, ``bmm``, ``einsum`` …).

    Where one operand is a gate, such as the weights of an attention held constant, the other gets all relevance in
    proportion to its contributions. Otherwise each gets half: AttnLRP (arXiv 2402.05602), equation 14.
    """

    _one_sided = Contributions()

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Decide which operand, if any, is the gate."""
        tensors = call.tensors
        if len(tensors) == 2:
            first, second = (propagation.trail(each).gate for each in tensors)
            if first == second:
                return super().trace(call, propagation)
            call = held(call, tensors[0 if first > second else 1])
        return self._one_sided.trace(call, propagation)

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Half to each operand, in proportion to the contributions."""
        upper = step.divided(relevance, step.propagation.settings.epsilon, lambda: self._one_sided.scale(step))
        return [kept.tensor * each / 2 for kept, each in zip(step.values, step.pulled_back(upper), strict=True)]
