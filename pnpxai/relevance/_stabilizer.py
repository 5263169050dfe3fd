"""Keeps denominators away from zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stabilizer:
    """Adds ``ε · sign z``, or ``ε · scale · sign z``, to a denominator z; the sign of zero is plus.

    An object of this class can be given to zennit's rules as their ``epsilon`` or ``stabilizer``.

    Attributes:
        epsilon: ε.
        relative: multiply ε with the scale of the layer's activation: the mean of |z| over one sample of a
            convolution's output, over one row of a linear layer's; Σ|contribution| for other operations.

    Example:
        >>> Stabilizer(0.5)(torch.tensor([[1.0, -3.0]])).tolist()
        [[1.5, -3.5]]
        >>> Stabilizer(0.5, relative=True)(torch.tensor([[1.0, -3.0]])).tolist()
        [[2.0, -4.0]]
    """

    epsilon: float
    relative: bool = False

    def __call__(self, z: Tensor) -> Tensor:
        """The stabilized denominator for ``z`` ``(n, …)``; infinite where a relative one is still zero."""
        scale = None
        if self.relative:
            scale = z.abs().flatten(1).mean(1).reshape(-1, *[1] * (z.ndim - 1)) if z.ndim > 1 else z.abs()
        return self.stabilized(z, scale)

    def stabilized(self, z: Tensor, scale: Tensor | None) -> Tensor:
        """``z`` with ε times the scale added; ``scale`` is read only if ε is relative, and broadcasts with ``z``."""
        if scale is None or not self.relative:
            return torch.copysign(z.new_full((), self.epsilon), z).add_(z)
        found = torch.copysign(self.epsilon * scale, z).add_(z)
        return found.masked_fill_(found == 0, torch.inf)
