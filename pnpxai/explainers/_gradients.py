"""Gradients of the targets' scores, a chunk at a time, in whatever gradient mode the caller is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pnpxai.callables import Model, modules_in
from pnpxai.chunks import out_of_memory
from pnpxai.errors import ModelError, PnPXAIError, UnsupportedModelError
from pnpxai.forward import Request


def in_chunks(request: Request, n_items: int, run: Callable[[int, int], object], rounds: int = 1) -> None:
    """Call ``run(start, stop)`` over all items; a chunk that runs out of memory is halved and run again.

    Meanwhile no parameter asks for a gradient.

    Args:
        request: the batch being explained.
        n_items: how many rows there are in all.
        run: asks the model about the rows ``start`` to ``stop`` and goes backward.
        rounds: how often all of this is going to be done.

    Raises:
        ModelError: a single item does not fit in memory.
    """
    _ = request.targets  # where these are the predicted classes, the model is asked before any graph or hook is there

    def attempt(size: int) -> None:
        rows, index = request.first_sample(size)
        score_gradients(request, rows, index)[0].flatten()[0].item()

    with frozen(request.model):
        size = request.n_at_once(n_items, "gradient", attempt, rounds)
        for _ in request.portions(
            n_items, size, run, "Use smaller inputs or another device, or a method without gradients."
        ):
            pass


@contextlib.contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Let no parameter ask for a gradient inside the block, so that a forward pass keeps nothing for one."""
    learning = [each for root in modules_in(model) for each in root.parameters() if each.requires_grad]
    for each in learning:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in learning:
            with torch.inference_mode() if each.is_inference() else contextlib.nullcontext():
                each.requires_grad_()


@contextlib.contextmanager
def backward_errors(request: Request) -> Iterator[None]:
    """Give what torch raises while it goes backward through the model the context a user needs.

    Raises:
        ModelError: the backward pass failed.
    """
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error) or isinstance(error, PnPXAIError):
            raise
        raise ModelError(
            "a model that torch can go backward through",
            f"{type(error).__name__} from the backward pass of {type(request.model).__name__}: {error}",
            "Call backward on the model's outputs yourself to see where it fails.",
        ) from error


def differentiable(scores: Tensor, request: Request) -> Tensor:
    """The scores, if a gradient can be taken of them.

    Raises:
        UnsupportedModelError: they do not depend on the inputs through operations with gradients.
    """
    if scores.requires_grad:
        return scores
    raise UnsupportedModelError(
        f"a score that depends on the inputs of {type(request.model).__name__} by operations with gradients",
        "a score without a gradient",
        "Look for detach(), no_grad() or whole numbers in forward or in the target function, or use RISE.",
    )


def score_gradients(request: Request, rows: Sequence[Tensor], index: Tensor) -> tuple[Tensor, ...]:
    """The gradient of each row's score with respect to that row.

    Args:
        request: the batch being explained.
        rows: tensors ``(m, …)``, changed versions of the request's inputs.
        index: ``(m,)``, the sample each row comes from.

    Returns:
        One gradient for each of ``rows``, of its shape; zeros where the score does not depend on it.

    Raises:
        UnsupportedModelError: the scores have no gradient.
        ModelError: the model fails forward or backward.
    """
    leaves = [each.detach().requires_grad_() for each in rows]
    with torch.enable_grad():
        scores = differentiable(request.scores(leaves, index), request)
        with backward_errors(request):
            found = torch.autograd.grad(scores.sum(), leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if each is None else each for leaf, each in zip(leaves, found, strict=True))


def gradients(request: Request) -> tuple[Tensor, ...]:
    """The gradient of each sample's score at the inputs themselves, one ``(n, …)`` for each of ``request.inputs``."""
    kept: list[tuple[Tensor, ...]] = []
    device = request.inputs[0].device
    in_chunks(
        request,
        len(request),
        lambda start, stop: kept.append(
            score_gradients(request, request.rows(start, stop), torch.arange(start, stop, device=device))
        ),
    )
    return tuple(torch.cat(each) for each in zip(*kept, strict=True))
