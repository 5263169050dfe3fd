"""Memory for changed inputs, which is written again once nobody holds what was in it."""

from __future__ import annotations

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
        shape = (n, *inputs.shape[1:])
        order = _memory_format(inputs)
        if inputs.device.type != "cpu":
            return torch.empty(shape, dtype=inputs.dtype, device=inputs.device, memory_format=order)
        n_bytes = inputs.element_size() * torch.Size(shape).numel()
        if n_bytes > len(self._array) or sys.getrefcount(self._array) > self._alone:
            self._hold(n_bytes)
        strides = torch.empty(shape, device="meta", memory_format=order).stride()
        return torch.from_numpy(self._array)[:n_bytes].view(inputs.dtype).as_strided(shape, strides).detach()

    def picked(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Copies of the samples numbered ``index`` ``(n,)``, with repetitions: ``(n, …)``."""
        return torch.index_select(inputs, 0, index, out=self.rows(inputs, len(index)))

    def _hold(self, n_bytes: int) -> None:
        """Take an array of so many bytes, which nobody else refers to."""
        memory = np.empty(n_bytes + ALIGNED, np.uint8)
        first = -memory.ctypes.data % ALIGNED
        self._array = memory[first : first + n_bytes]
        self._alone = sys.getrefcount(self._array)


def _memory_format(inputs: Tensor) -> torch.memory_format:
    """The order in which inputs lie."""
    for ndim, channels_last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if inputs.ndim == ndim and not inputs.is_contiguous() and inputs.is_contiguous(memory_format=channels_last):
            return channels_last
    return torch.contiguous_format
