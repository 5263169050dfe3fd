"""Asserts that a model, inputs and the global random states are bit for bit as they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    data = tensor.detach().cpu().contiguous()
    return data.dtype, tuple(data.shape), data.flatten().view(torch.uint8).numpy().tobytes()


def _held(value: Any) -> Any:
    if isinstance(value, Tensor):
        return id(value), _bits(value)
    if isinstance(value, Mapping):
        return id(value), [(key, _held(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return id(value), [_held(each) for each in value]
    if isinstance(value, set):
        return id(value), sorted(map(str, value))
    return id(value)


def describe(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a call must leave alone."""
    described: dict[str, Any] = {
        f"state_dict[{name}]": _bits(each) for name, each in model.state_dict().items() if isinstance(each, Tensor)
    }
    for path, module in model.named_modules():
        where = path or "model"
        described[f"{where}: class and forward"] = type(module), type(module).forward, type(module).__call__
        described[f"{where}: training"] = module.training
        described[f"{where}: attribute names"] = list(vars(module))
        for name, value in vars(module).items():
            described[f"{where}.{name}"] = _held(value)
    for name, parameter in model.named_parameters():
        described[f"{name}.requires_grad"] = parameter.requires_grad
        described[f"{name}.grad"] = None if parameter.grad is None else _held(parameter.grad)
        described[f"{name} hooks"] = parameter._backward_hooks
    return described


def random_states() -> dict[str, Any]:
    """The three global random states."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # compared, not used
    return {
        "python's random state": random.getstate(),
        "NumPy's random state": [each.tobytes() if isinstance(each, np.ndarray) else each for each in numpy_state],
        "torch's random state": _bits(torch.get_rng_state()),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


@contextlib.contextmanager
def untouched(model: nn.Module | None, *inputs: Any) -> Iterator[None]:
    """Fail if the block changes the model, the inputs or a global random state, also when the block raises."""

    def now() -> dict[str, Any]:
        held = {f"input {i}": (_held(each), _grad_of(each)) for i, each in enumerate(inputs)}
        return {**({} if model is None else describe(model)), **held, **random_states()}

    before = now()
    try:
        yield
    finally:
        after = now()
        changed = [key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent")]
        assert not changed, f"changed: {changed}"


def _grad_of(value: Any) -> Any:
    return (value.requires_grad, value.grad is None) if isinstance(value, Tensor) else None
