"""Samples in hand, and what is taken out of a batch where nothing else is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from pnpxai.outputs import TargetFunction

LABELS = ("labels", "label", "label_ids")
"""Names of labels in a mapping; the model is not given them."""


@dataclass(frozen=True)
class Part:
    """Some samples of a data set.

    Attributes:
        ids: of the samples.
        inputs: of the model.
        targets: class indices ``(n,)`` or a named target on the CPU, or a function of the outputs.
    """

    ids: tuple[int, ...]
    inputs: Any
    targets: Tensor | TargetFunction


Loader: TypeAlias = Callable[[Sequence[int]], Part]


def default_inputs(batch: Any) -> Any:
    """The first element of a tuple or list; of a mapping all but the labels."""
    first = batch[0] if isinstance(batch, tuple | list) else batch
    return {name: each for name, each in first.items() if name not in LABELS} if isinstance(first, Mapping) else first


def first_two(batch: Any) -> Any:
    """The first two elements of a tuple or list; of a mapping all but the labels."""
    return tuple(batch[:2]) if isinstance(batch, tuple | list) else default_inputs(batch)


def default_labels(batch: Any) -> Any:
    """The last element of a tuple or list, or what a mapping calls labels; None where there are none."""
    last = batch[-1] if isinstance(batch, tuple | list) else batch
    if isinstance(last, Mapping):
        return next((last[name] for name in LABELS if name in last), None)
    return last if isinstance(batch, tuple | list) and len(batch) > 1 else None


def portions(ids: Sequence[int], size: int) -> list[list[int]]:
    """Ids, ``size`` at a time.

    Example:
        >>> portions([4, 5, 6], 2)
        [[4, 5], [6]]
    """
    return [list(ids[start : start + size]) for start in range(0, len(ids), size)]
