"""Adam on one mask a sample, in steps that can be continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pnpxai.errors import ModelError
from pnpxai.explainers._gradients import backward_errors, frozen, in_chunks
from pnpxai.forward import Request


@dataclass(frozen=True)
class Descent:
    """How far Adam has come, with all that a further step depends on.

    Attributes:
        masks: ``(n, …)``.
        first: the running mean of their gradients.
        second: that of the gradients' squares.
        losses: each mask's loss before each step so far, ``(s, n)``.
    """

    masks: Tensor
    first: Tensor
    second: Tensor
    losses: Tensor

    @classmethod
    def of(cls, masks: Tensor) -> Descent:
        """Before the first step."""
        zeros = torch.zeros_like(masks)
        return cls(masks, zeros, zeros, masks.new_empty(0, len(masks)))


def optimise_masks(
    request: Request, loss: Callable[[Tensor, int, int, int], Tensor], start: Descent, lr: float, max_iter: int
) -> Descent:
    """Minimise each mask's loss by Adam (Kingma and Ba, 2015, algorithm 1), projected to [0, 1] after each step.

    Args:
        request: the samples, whose chunk size is kept to.
        loss: from some masks ``(m, …)``, the samples ``start`` to ``stop`` they belong to and the number of the step,
            to one loss each ``(m,)``.
        start: where to go on from.
        lr: step size.
        max_iter: number of steps, those made already among them.

    Raises:
        ModelError: a loss that is not finite, or one sample does not fit in memory.
    """
    masks, first, second = start.masks, start.first, start.second
    made, gradient = len(start.losses), torch.empty_like(masks)
    history = torch.cat([start.losses, start.losses.new_empty(max_iter - made, len(masks))])

    def differentiate(begin: int, end: int) -> None:
        with torch.enable_grad(), frozen(request.model):
            part = masks[begin:end].detach().requires_grad_()
            losses = loss(part, begin, end, step)
            with backward_errors(request):
                (gradient[begin:end],) = torch.autograd.grad(losses.sum(), part)
        history[step, begin:end] = losses.detach()

    for step in range(made, max_iter):
        in_chunks(request, len(masks), differentiate, rounds=max_iter - step)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        deviation = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        masks = (masks - lr * first / (1 - 0.9 ** (step + 1)) / deviation).clamp(0, 1)
    if not torch.isfinite(history).all():
        raise ModelError("finite outputs on blurred inputs", "NaN or infinity", "Use a wider dtype or a smaller sigma.")
    return Descent(masks, first, second, history)
