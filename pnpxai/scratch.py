"""Memory for changed inputs, which is written again once nobody holds what was in it."""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from torch import Tensor, nn

MAPPED_BYTES = 2**17
"""Smaller tensors are made anew, which costs nothing: their memory is in the hands of the C library."""
WASTED = 2
"""How many times as much as is needed may be held."""
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
            >>> scratch, image = Scratch(), torch.zeros(1, 3, 224, 224)
            >>> rows = scratch.rows(image, 2)
            >>> place, rows = rows.data_ptr(), None
            >>> rows = scratch.rows(image, 2)
            >>> rows.data_ptr() == place, scratch.rows(image, 2).data_ptr() == place
            (True, False)
        """
        shape, order = (n, *inputs.shape[1:]), _order(inputs)
        back = tuple(order.index(axis) for axis in range(inputs.ndim))
        laid = [shape[axis] for axis in order]
        n_bytes = inputs.element_size() * math.prod(shape)
        if n_bytes < MAPPED_BYTES or inputs.device.type != "cpu" or type(inputs) not in (Tensor, nn.Parameter):
            return inputs.new_empty(laid).permute(back).detach()
        if not n_bytes <= len(self._array) <= WASTED * n_bytes or sys.getrefcount(self._array) > self._alone:
            self._hold(n_bytes)
        return torch.from_numpy(self._array)[:n_bytes].view(inputs.dtype).view(laid).permute(back).detach()

    def _hold(self, n_bytes: int) -> None:
        """Take an array of so many bytes, which nobody else refers to."""
        self._array = np.empty(0, np.uint8)  # the last one is given back first
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
