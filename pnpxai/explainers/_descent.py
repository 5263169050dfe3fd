"""Adam on one mask a sample, in steps that can be continued, until a mask's loss falls no further."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pnpxai.errors import ModelError
from pnpxai.explainers._gradients import backward_errors, in_chunks
from pnpxai.forward import Request

Loss: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
PLATEAU = 10
"""Steps whose mean loss is set against that of as many steps before them."""


@dataclass(frozen=True)
class Descent:
    """How far Adam has come, with all that a further step depends on.

    Attributes:
        masks: ``(n, …)``.
        first: the running mean of their gradients.
        second: that of the gradients' squares.
        losses: each mask's loss before each step so far, ``(s, n)``; its last one again where it was left.
        settled: whether a mask is left as it is, ``(n,)``.
    """

    masks: Tensor
    first: Tensor
    second: Tensor
    losses: Tensor
    settled: Tensor

    @classmethod
    def of(cls, masks: Tensor) -> Descent:
        """Before the first step."""
        zeros = torch.zeros_like(masks)
        settled = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
        return cls(masks, zeros, zeros, masks.new_empty(0, len(masks)), settled)


def optimise_masks(
    request: Request,
    loss: Loss,
    start: Descent,
    lr: float,
    max_iter: int,
    tol: float | None = None,
) -> Descent:
    """Minimise each mask's loss by Adam (Kingma and Ba, 2015, algorithm 1), projected to [0, 1] after each step.

    Args:
        request: the samples, whose chunk size is kept to.
        loss: from some masks ``(m, …)``, the samples ``(m,)`` they belong to and the number of the step, to one loss
            each ``(m,)``.
        start: where to go on from.
        lr: step size.
        max_iter: number of steps, those made already among them.
        tol: a mask is left as it is once the mean loss of `PLATEAU` steps is less than this below that of as many
            before them; None to make all steps.

    Raises:
        ModelError: a loss that is not finite, or one sample does not fit in memory.
    """
    masks, first, second, settled = start.masks.clone(), start.first.clone(), start.second.clone(), start.settled
    made = len(start.losses)
    history = torch.cat([start.losses, start.losses.new_empty(max_iter - made, len(masks))])
    for step in range(made, max_iter):
        settled = settled | _on_a_plateau(history[:step], tol)
        index = (~settled).nonzero()[:, 0]
        history[step] = history[step - 1] if step else torch.inf
        gradient, history[step, index] = _slopes(request, loss, masks[index], index, step, max_iter - step)
        first[index] = 0.9 * first[index] + 0.1 * gradient
        second[index] = 0.999 * second[index] + 0.001 * gradient**2
        deviation = (second[index] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        masks[index] = (masks[index] - lr * first[index] / (1 - 0.9 ** (step + 1)) / deviation).clamp(0, 1)
    if not torch.isfinite(history).all():
        raise ModelError("finite outputs on blurred inputs", "NaN or infinity", "Use a wider dtype or a smaller sigma.")
    return Descent(masks, first, second, history, settled)


def _slopes(
    request: Request, loss: Loss, masks: Tensor, index: Tensor, step: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """The gradients of some masks' losses, and the losses ``(m,)``; ``rounds`` as of `in_chunks`."""
    gradient, found = torch.empty_like(masks), masks.new_empty(len(masks))

    def differentiate(start: int, stop: int) -> None:
        with torch.enable_grad():
            part = masks[start:stop].detach().requires_grad_()
            losses = loss(part, index[start:stop], step)
            with backward_errors(request):
                (gradient[start:stop],) = torch.autograd.grad(losses.sum(), part)
        found[start:stop] = losses.detach()

    in_chunks(request, len(masks), differentiate, rounds)
    return gradient, found


def _on_a_plateau(losses: Tensor, tol: float | None) -> Tensor:
    """Which masks' losses ``(s, n)`` fall no further, ``(n,)``."""
    if tol is None or len(losses) < 2 * PLATEAU:
        return torch.zeros(losses.shape[1], dtype=torch.bool, device=losses.device)
    before, after = losses[-2 * PLATEAU : -PLATEAU].mean(0), losses[-PLATEAU:].mean(0)
    return before - after < tol
