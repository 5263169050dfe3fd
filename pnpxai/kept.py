"""What is kept for later: named by digests of all that it depends on, in files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pnpxai.tunable import Tunable

MODEL = frozenset({"model"})
"""Arguments that say what an object works on, which is named apart."""


@dataclass(frozen=True)
class Cost:
    """What explaining one sample took: samples through the model, and seconds."""

    forwards: float = 0.0
    seconds: float = 0.0


def digest(value: Any, length: int = 16) -> str:
    """A short name for a JSON value.

    Example:
        >>> digest({"a": 1}) == digest({"a": 1}), len(digest(None))
        (True, 16)
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def plain(value: Any, known: Collection[str] = MODEL) -> bool:
    """Whether `to_json` says all there is to say about a parameter: no functions, no objects of unknown kinds.

    Args:
        value: a parameter, or the object whose parameters are asked about.
        known: names of its own parameters that need not be said.
    """
    if isinstance(value, Tunable):
        return all(plain(each) for name, each in value.get_params().items() if name not in known)
    if isinstance(value, tuple | list):
        return all(map(plain, value))
    if isinstance(value, Mapping):
        return all(map(plain, value.values()))
    if is_dataclass(value) and not isinstance(value, type):
        return all(plain(getattr(value, each.name)) for each in fields(value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)


class KeptMaps:
    """Maps by key: in memory, the least recently used dropped first, and in files.

    Args:
        max_bytes: how much memory the maps may take; None for as much as there is.
    """

    def __init__(self, max_bytes: int | None = 2**30) -> None:
        self.max_bytes = max_bytes
        self.costs: dict[tuple[int, int], Cost] = {}
        self._maps: OrderedDict[tuple[int, int], tuple[Tensor, ...]] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        self._maps.move_to_end(key)
        return self._maps[key]

    def recall(self, key: tuple[int, int], path: Path | None) -> bool:
        """Whether maps are there, read from their file if they are not in memory."""
        if key in self._maps:
            return True
        found = _read(path) if path is not None else None
        if found is None:
            return False
        self._store(key, found[0])
        self.costs[key] = found[1]
        return True

    def keep(self, key: tuple[int, int], maps: tuple[Tensor, ...], path: Path | None) -> None:
        """Keep new maps of one sample, in a file, too, if there is a path."""
        self._store(key, maps)
        if path is not None:
            _write(path, maps, self.costs.get(key, Cost()))

    def shrink(self) -> None:
        """Drop what has not been used for longest from memory, until the rest fits."""
        while self.max_bytes is not None and self._bytes > self.max_bytes and self._maps:
            self._bytes -= _size(self._maps.popitem(last=False)[1])

    def _store(self, key: tuple[int, int], maps: tuple[Tensor, ...]) -> None:
        self._bytes += _size(maps) - _size(self._maps.get(key, ()))
        self._maps[key] = maps


def _size(maps: tuple[Tensor, ...]) -> int:
    return sum(each.numel() * each.element_size() for each in maps)


def _read(path: Path) -> tuple[tuple[Tensor, ...], Cost] | None:
    try:
        kept = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    cost = Cost(*kept.pop("cost").tolist())
    return tuple(kept[f"map{i or ''}"] for i in range(len(kept))), cost


def _write(path: Path, maps: tuple[Tensor, ...], cost: Cost) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    costs = torch.tensor([cost.forwards, cost.seconds], dtype=torch.float64)
    save_file({**{f"map{i or ''}": each.contiguous() for i, each in enumerate(maps)}, "cost": costs}, partial)
    partial.replace(path)
