"""Leaves a user's model, and the global random states, as they were."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pnpxai.errors import ModelError

_HOLDERS: dict[tuple[int, int], list[int]] = {}
"""Process and model, to the thread inside a block with it and how many such blocks it is in."""


@contextlib.contextmanager
def guard(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and leave it and the global random states bit for bit as they were.

    Training flags, ``requires_grad``, ``grad``, buffers, hooks and the attributes of every module (with the contents
    of lists, sets, dicts and tensors among them) are restored on every path, also when the block raises. Inside the
    block no parameter has a ``grad``, so that none is added to.

    One thread at a time: whatever a method does in its block, the first thread to leave would restore training flags,
    gradients and buffers under the other's running forward, and take the other's hooks off. So every method is
    refused in a second thread, those that set no hooks included. Blocks of one thread may be nested.

    Raises:
        ModelError: another thread is in such a block with the same model.
    """
    key, thread = (os.getpid(), id(model)), threading.get_ident()
    holder = _HOLDERS.setdefault(key, [thread, 0])  # in one step, so that of two threads one comes first
    if holder[0] != thread:
        raise ModelError(
            "one thread at a time to explain with a model",
            f"{type(model).__name__}, which another thread is explaining with",
            "Use processes (tune(workers=…)), or a copy of the model for each thread.",
        )
    holder[1] += 1
    try:
        yield from _restored(model)
    finally:
        holder[1] -= 1
        if not holder[1]:
            del _HOLDERS[key]


def _restored(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    members = [
        {name: each.copy() if each else () for name, each in kept.items() if isinstance(each, (dict, list, set))}
        for kept in attributes
    ]
    training = [module.training for module in modules]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    held = {id(each): each for kept in attributes for each in kept.values() if isinstance(each, Tensor)}
    held |= {id(each): each for each in model.buffers()}
    values = [(each, each.detach().clone()) for each in held.values()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # saved, not used
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        model.eval()
        for parameter, _, _ in flags:
            parameter.grad = None
        yield
    finally:
        for module, kept, containers in zip(modules, attributes, members, strict=True):
            for name, before in containers.items():
                if before or kept[name]:  # most are empty and stay so
                    _restore(kept[name], before)
            if _differs(vars(module), kept):
                vars(module).clear()
                vars(module).update(kept)
        for module, flag in zip(modules, training, strict=True):
            if module.training != flag:
                module.training = flag
        for parameter, requires_grad, grad in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for each, value in values:
            if not torch.equal(each, value):
                each.data.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # restored, not used
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _restore(container: Any, before: Any) -> None:
    if isinstance(container, list):
        container[:] = before
    elif isinstance(container, set) or not before or _differs(container, before):
        container.clear()
        container.update(before)


def _differs(now: Any, before: Any) -> bool:
    return list(now) != list(before) or any(now[key] is not before[key] for key in before)
