"""Leaves a user's model, and the global random states, as they were."""

from __future__ import annotations

import contextlib
import operator
import os
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnpxai.callables import Model, model_name, modules_in
from pnpxai.errors import ModelError

_HOLDERS: dict[tuple[int, int], list[int]] = {}
"""Process and model, to the thread inside a block with it and how many such blocks it is in."""


@contextlib.contextmanager
def guard(model: Model) -> Iterator[None]:
    """Put the model in eval mode, and leave it and the global random states bit for bit as they were.

    Training flags, ``requires_grad``, ``grad``, buffers, hooks and the attributes of every module (with the contents
    of lists, sets, dicts and tensors among them) are restored on every path, also when the block raises. Inside the
    block no parameter has a ``grad``, so that none is added to. Of a function, all this holds for the modules that
    `modules_in` sees in it.

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
            f"{model_name(model)}, which another thread is explaining with",
            "Use processes (tune(workers=…)), or a copy of the model for each thread.",
        )
    holder[1] += 1
    try:
        yield from _restored(model)
    finally:
        holder[1] -= 1
        if not holder[1]:
            del _HOLDERS[key]


def _restored(model: Model) -> Iterator[None]:
    roots = modules_in(model)
    modules = list(dict.fromkeys(each for root in roots for each in root.modules()))
    attributes = [dict(vars(module)) for module in modules]
    filled, empty, held = _contents(attributes)
    training = [module.training for module in modules]
    parameters = {id(each): each for module in modules for each in module._parameters.values() if each is not None}
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters.values()]
    held |= {id(each): each for module in modules for each in module._buffers.values() if each is not None}
    values = [(each, each.detach().clone()) for each in held.values()]
    drawn_from = np.random.get_bit_generator()  # type: ignore[attr-defined]
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002  # saved
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        for root in roots if any(training) else ():
            if any(each.training for each in root.modules()):
                root.eval()
        for parameter, _, grad in flags:
            if grad is not None:
                parameter.grad = None
        yield
    finally:
        for container in empty:
            if container:
                container.clear()
        for container, before in filled:
            _restore(container, before)
        for module, kept in zip(modules, attributes, strict=True):
            if _differs(vars(module), kept):
                vars(module).clear()
                vars(module).update(kept)
        for module, flag in zip(modules, training, strict=True):
            if module.training != flag:
                module.training = flag
        for parameter, requires_grad, grad in flags:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad
        for each, value in values:
            if not torch.equal(each, value):
                each.data.copy_(value)
        random.setstate(states[0])
        if np.random.get_bit_generator() is not drawn_from:  # type: ignore[attr-defined]
            np.random.set_bit_generator(drawn_from)  # type: ignore[attr-defined]
        np.random.set_state(states[1])  # noqa: NPY002  # restored
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _contents(attributes: Sequence[dict[str, Any]]) -> tuple[list[tuple[Any, Any]], list[Any], dict[int, Tensor]]:
    """Lists, sets and dicts among modules' attributes, those with something in them with a copy; and the tensors."""
    filled: list[tuple[Any, Any]] = []
    empty: list[Any] = []
    tensors: dict[int, Tensor] = {}
    for kept in attributes:
        for each in kept.values():
            if isinstance(each, (dict, list, set)):
                if each:
                    filled.append((each, each.copy()))
                else:
                    empty.append(each)
            elif isinstance(each, Tensor):
                tensors[id(each)] = each
    return filled, empty, tensors


def _restore(container: Any, before: Any) -> None:
    if isinstance(container, list):
        container[:] = before
    elif isinstance(container, set) or _differs(container, before):
        container.clear()
        container.update(before)


def _differs(now: Any, before: Any) -> bool:
    return list(now) != list(before) or not all(map(operator.is_, now.values(), before.values()))
