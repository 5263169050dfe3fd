"""Memory for changed inputs, which is written again once nobody holds what was in it."""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from torch import Tensor

ALIGNED = 64
"""Bytes, of which PyTorch has its own tensors begin at a multiple."""


class Scratch:
    """Memory for one portion of changed inputs after another.

    A tensor of some megabytes may have its memory mapped anew, page by page, which takes longer than to fill it; so on
    the CPU that of the last portion is written again. A model, or somebody listening to it, may keep its inputs, or a
    view of them: under them all lies an array, and where anybody still refers to it the next portion has another one.
    """

    def __init__(self) -> None:
        self._hold(0)

    def rows(self, inputs: Tensor, n: int) -> Tensor:
        """Memory for so many samples like those of ``inputs`` ``(k, …)``, in the order of theirs: ``(n, …)``.

        Example:
            >>> scratch = Scratch()
            >>> first = scratch.rows(torch.zeros(1, 3), 2)
            >>> kept, place = first[0], first.data_ptr()
            >>> del first
            >>> scratch.rows(torch.zeros(1, 3), 2).data_ptr() == place
            False
        """
        shape, order = (n, *inputs.shape[1:]), _order(inputs)
        back = tuple(order.index(axis) for axis in range(inputs.ndim))
        laid = [shape[axis] for axis in order]
        if inputs.device.type != "cpu":
            return inputs.new_empty(laid).permute(back)
        n_bytes = inputs.element_size() * math.prod(shape)
        if n_bytes > len(self._array) or sys.getrefcount(self._array) > self._alone:
            self._hold(n_bytes)
        return torch.from_numpy(self._array)[:n_bytes].view(inputs.dtype).view(laid).permute(back).detach()

    def picked(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Copies of the samples numbered ``index`` ``(n,)``, with repetitions: ``(n, …)``."""
        return torch.index_select(inputs, 0, index, out=self.rows(inputs, len(index)))

    def _hold(self, n_bytes: int) -> None:
        """Take an array of so many bytes, which nobody else refers to."""
        memory = np.empty(n_bytes + ALIGNED, np.uint8)
        first = -memory.ctypes.data % ALIGNED
        self._array = memory[first : first + n_bytes]
        self._alone = sys.getrefcount(self._array)


def _order(inputs: Tensor) -> list[int]:
    """The axes from the one whose neighbours lie farthest apart to the one whose lie closest."""
    axes = list(range(inputs.ndim))
    if inputs.is_contiguous() or 0 in inputs.stride():
        return axes
    steps = inputs.stride()
    return sorted(axes, key=lambda axis: -steps[axis])
