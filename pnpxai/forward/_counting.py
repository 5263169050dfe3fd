"""How many samples go through models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class ForwardCounter:
    """What was asked of models while it was open.

    Attributes:
        n_samples: samples passed through a model (a batch of 8 counts 8).
        n_calls: calls of a model.
    """

    n_samples: int = 0
    n_calls: int = 0


_counters: ContextVar[tuple[ForwardCounter, ...]] = ContextVar("pnpxai_forward_counters", default=())


@contextlib.contextmanager
def count_forwards() -> Iterator[ForwardCounter]:
    """Count the model forwards inside the block; blocks may be nested.

    What is asked once for a model to find out how to ask it (see `pnpxai.chunks`) does not count.

    Example:
        >>> import torch
        >>> from pnpxai.forward import Request
        >>> model = torch.nn.Linear(3, 2)
        >>> with count_forwards() as counter:
        ...     _ = Request.build(model, torch.zeros(5, 3)).outputs
        >>> counter.n_samples
        5
    """
    counter = ForwardCounter()
    token = _counters.set((*_counters.get(), counter))
    try:
        yield counter
    finally:
        _counters.reset(token)


def count(n_samples: int) -> None:
    """Count one call of a model in all blocks that are open."""
    for counter in _counters.get():
        counter.n_samples += n_samples
        counter.n_calls += 1


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Let what the model is asked inside the block not count."""
    token = _counters.set(())
    try:
        yield
    finally:
        _counters.reset(token)
