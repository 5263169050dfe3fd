"""Leaves a user's model, and the global random states, as they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def guard(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and leave it and the global random states bit for bit as they were.

    Training flags, ``requires_grad``, ``grad``, buffers, hooks and the attributes of every module are restored on
    every path, also when the block raises.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    members = [{k: v.copy() for k, v in kept.items() if isinstance(v, dict)} for kept in attributes]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # saved, not used
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        model.eval()
        yield
    finally:
        for module, kept, containers in zip(modules, attributes, members, strict=True):
            for name, before in containers.items():
                if _differs(kept[name], before):
                    kept[name].clear()
                    kept[name].update(before)
            if _differs(vars(module), kept):
                vars(module).clear()
                vars(module).update(kept)
        for parameter, requires_grad, grad in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # restored, not used
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _differs(now: Any, before: Any) -> bool:
    return list(now) != list(before) or any(now[key] is not before[key] for key in before)
