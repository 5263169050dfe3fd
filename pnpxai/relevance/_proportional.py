"""Rules that share relevance by contributions: sums, averages and what is expanded to first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnpxai.relevance._call import Call, depends
from pnpxai.relevance._moves import Move
from pnpxai.relevance._rule import Rule, Step, StepRule
from pnpxai.relevance._stabilizer import Stabilizer

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


class Proportional(StepRule):
    """``R_i = Σ_j x_i J_ji / (z_j ± ε) · R_j`` for an operation ``z = J x + constant``: each input by its contribution.

    Args:
        held: names and positions of arguments that are held constant, such as a sampling grid.
    """

    def __init__(self, held: Sequence[tuple[int, str]] = ()) -> None:
        self.held = held

    def stabilizer(self, step: Step) -> Stabilizer:
        """What is added to the denominators."""
        return step.propagation.settings.stabilizer

    def prepare(self, call: Call, propagation: Propagation) -> Call:
        """Hold what is to be held."""
        kept = {id(each) for place, name in self.held if depends(each := call.argument(place, name))}
        return call.swapped(lambda each: each.detach() if id(each) in kept else each) if kept else call

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Make the call; sums and averages of gates, and of gates and constants, are gates."""
        gate = min((propagation.trail(each).gate for each in call.tensors), default=0)
        result = super().trace(call, propagation)
        return propagation.know(result, gate) if depends(result) else result

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Hand relevance down in proportion to the contributions."""
        z = step.output.tensor
        constant = self.constant(step)
        if constant is not None:  # a mask of -inf
            z, constant = (torch.where(each.isfinite(), each, 0) for each in (z, constant))
        upper = step.divided(relevance, self.stabilizer(step), lambda: self.scale(step), z)
        shared = [kept.tensor * each for kept, each in zip(step.values, step.pulled_back(upper), strict=True)]
        if constant is not None:
            step.absorb(constants=constant * upper)
        return shared

    def scale(self, step: Step) -> Tensor:
        """Σ|contribution| for each output element."""
        values = iter(step.values)
        with torch.no_grad():
            found: Tensor = step.call.swapped(lambda _: next(values).tensor.abs()).run()
        return found.abs()

    def constant(self, step: Step) -> Tensor | None:
        """What is added that does not depend on the inputs, in the output's shape."""
        return None


class Contributions(Proportional):
    """As `Proportional`, with the ε of the ε-rule."""

    def stabilizer(self, step: Step) -> Stabilizer:
        """What is added to the denominators."""
        return step.propagation.settings.epsilon


class Added(Contributions):
    """What is added in any arrangement, such as ``scatter_add``; one of the two may be constant."""

    def constant(self, step: Step) -> Tensor | None:
        """The constant term, if there is one."""
        if len(step.leaves) == 2:
            return None
        with torch.no_grad():
            found: Tensor = step.call.swapped(torch.zeros_like).run()
        return found


class Sum(Added):
    """Sums and differences of two terms, either of which may be constant."""

    def scale(self, step: Step) -> Tensor:
        """The sum of the terms' absolute values."""
        total = torch.zeros_like(step.output.tensor)
        for each in (*step.call.args, *step.call.kwargs.values()):
            if isinstance(each, Tensor | int | float):
                total += torch.as_tensor(each).abs()
        return total


class Taylor(StepRule):
    """First order: ``R_i = Σ_j x_i J_ji R_j / f_j``, the rest being absorbed as a bias.

    For softmax it is AttnLRP's rule (arXiv 2402.05602, proposition 3.1): ``R_i = x_i (R_i - s_i Σ_j R_j)``.

    Args:
        gate: as of `Rule`.
    """

    def __init__(self, gate: int = 0) -> None:
        self.gate = gate

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Hand down what the first-order contributions explain."""
        output = step.output.tensor
        upper = torch.where(output == 0, 0, relevance / output)
        shared = [
            torch.where(kept.tensor.isfinite(), kept.tensor * each, 0)
            for kept, each in zip(step.values, step.pulled_back(upper), strict=True)
        ]
        lost = relevance.sum() - (output * upper).sum()
        step.absorb(bias=(output * upper).sum() - sum(each.sum() for each in shared), epsilon=lost)
        return shared


class Softmax(Taylor):
    """Softmax: with AttnLRP its first-order expansion; otherwise what it weights gets all relevance."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Let it be a gate unless AttnLRP's rules are asked for."""
        result = super().trace(call, propagation)
        if propagation.settings.attention == "constant" and depends(result):
            propagation.know(result, 3)
        return result


class Winner(StepRule):
    """The larger or smaller of two tensors: relevance goes to the one that was taken, if it depends on the inputs."""

    keeps_values = False

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Hand down to what was taken."""
        shared = step.pulled_back(relevance)
        step.absorb(constants=relevance.sum() - sum(each.sum() for each in shared))
        return shared


class Extreme(Rule):
    """``max`` and ``min``: of two tensors as `Winner`, over a dimension as `Move`."""

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Choose."""
        rule = Winner() if isinstance(call.argument(1, "other"), Tensor) else Move()
        return rule.trace(call, propagation)
