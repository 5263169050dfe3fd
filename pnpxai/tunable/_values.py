"""Values of parameters: whether two are equal, how they look in a line, and as JSON."""

from __future__ import annotations

import hashlib
import reprlib
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from pnpxai.callables import same_model

FEW = 6
"""Numbers of a tensor or an array that are shown; of more, the shape is."""


class Described(metaclass=ABCMeta):
    """An object that parameters say all about."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Those parameters, by name."""


class _Short(reprlib.Repr):
    """As ``repr``, but for long values."""

    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = self.maxdict = 2 * FEW
        self.maxlevel = self.maxstring = self.maxlong = self.maxother = sys.maxsize

    def repr_Tensor(self, value: torch.Tensor, _level: int) -> str:  # noqa: N802  # the class's name
        """A tensor."""
        if value.numel() <= FEW:
            return " ".join(repr(value).split())
        return f"<tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}>"

    def repr_ndarray(self, value: np.ndarray, _level: int) -> str:
        """An array."""
        return " ".join(repr(value).split()) if value.size <= FEW else f"<array of shape {value.shape}, {value.dtype}>"


shown = _Short().repr
"""``repr`` in one line, of tensors and arrays with more than `FEW` numbers their shape, of sequences the beginning."""


def to_json(value: Any) -> Any:
    """A JSON-compatible description that is equal for equal parameters; models appear by class, tensors by digest."""
    if isinstance(value, Described):
        params = {name: to_json(each) for name, each in value.described().items()}
        return {"class": type(value).__name__, "params": params}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        digest = hashlib.sha256(data.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"tensor": digest, "shape": list(data.shape), "dtype": str(data.dtype)}
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [to_json(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"class": kind, "fields": {each.name: to_json(getattr(value, each.name)) for each in fields(value)}}
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def same(mine: Any, other: Any) -> bool:
    """Whether two values are equal, number by number; models and functions are if they are one."""
    if mine is other:
        return True
    if type(mine) is not type(other):
        return False
    if callable(mine) and not isinstance(mine, Described):
        return same_model(mine, other)
    if isinstance(mine, torch.Tensor):
        return mine.dtype == other.dtype and torch.equal(mine, other)
    if isinstance(mine, np.ndarray):
        return mine.dtype == other.dtype and np.array_equal(mine, other)
    if isinstance(mine, tuple | list):
        return len(mine) == len(other) and all(map(same, mine, other))
    if isinstance(mine, Mapping):
        return list(mine) == list(other) and all(same(mine[key], other[key]) for key in mine)
    return bool(mine == other)
