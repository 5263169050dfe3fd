"""Which place of the inputs each element of a tensor belongs to, and how feature maps are read by it.

A place is a point of the frame of the inputs, from 0 to 1 along each of its axes. Tokens, windows and layouts with the
channels last are read by the places of their elements, not by what their shapes suggest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TOLERANCE = 2e-6
"""Of the frame: below it two places are the same."""


@dataclass(frozen=True)
class Places:
    """Where the elements of a tensor belong.

    Attributes:
        axes: for each axis of the frame a tensor of the same shape, NaN for elements of no place, such as class tokens.
        regular: they are the even grid of a tensor ``(1, k, …)``, as `even` makes them.
    """

    axes: tuple[Tensor, ...]
    regular: bool = False

    @classmethod
    def even(cls, tensor: Tensor) -> Places:
        """Even grids over the whole frame, for a tensor ``(1, k, …)``."""
        axes = []
        for dim in range(2, tensor.ndim):
            size = tensor.shape[dim]
            centres = (torch.arange(size, device=tensor.device, dtype=torch.float32) + 0.5) / size
            axes.append(centres.reshape(-1, *[1] * (tensor.ndim - 1 - dim)).expand(tensor.shape))
        return cls(tuple(axes), regular=True)

    @property
    def upright(self) -> bool:
        """Whether the tensor is ``(1, k, …)``, its channels taken together, with the frame's axes as its others."""
        if self.regular:
            return True
        if self.axes[0].ndim != 2 + len(self.axes) or len(self.axes[0]) != 1:
            return False
        means = self.mean(1, self.axes[0].shape).axes
        own = [{dim} if self.axes[0].shape[dim] > 1 else set() for dim in range(2, 2 + len(means))]
        return all(_varies(each) == dims for each, dims in zip(means, own, strict=True))

    @property
    def single(self) -> bool:
        """Whether every element belongs to the same place."""
        return all(bool(each.isfinite().all()) and not _varies(each) for each in self.axes)

    def mean(self, dim: int, shape: torch.Size) -> Places:
        """The mean places along a dimension, for a tensor of another size of it."""
        return Places(tuple(each.nanmean(dim, keepdim=True).expand(shape) for each in self.axes))

    def agree(self, other: Places) -> bool:
        """Whether two tensors of one shape hold the same places in the same order."""
        if self is other or (self.regular and other.regular):
            return True
        pairs = list(zip(self.axes, other.axes, strict=True))
        if all(torch.allclose(a, b, rtol=0, atol=_TOLERANCE, equal_nan=True) for a, b in pairs):
            return True
        mine, theirs = Layout.of(self), Layout.of(other)
        return mine is not None and theirs is not None and mine.grid == theirs.grid and mine.order == theirs.order


@dataclass(frozen=True)
class Layout:
    """How to read a tensor as feature maps.

    Attributes:
        shape: of the tensor for one sample.
        batch: its dimension of samples.
        channels: its dimension of channels.
        grid: how many places there are along each axis of the frame.
        order: where among the other dimensions, flattened, the places are, row by row.
    """

    shape: tuple[int, ...]
    batch: int
    channels: int
    grid: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, places: Places) -> Layout | None:
        """The layout, if the places are those of one grid with more than one place, each once.

        Example:
            >>> tokens = Places((torch.tensor([[[torch.nan], [0.75], [0.25]]]),))  # (1, t, k), a class token first
            >>> layout = Layout.of(tokens)
            >>> layout.grid, layout.read(torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]])).tolist()
            ((2,), [[[3.0, 1.0], [4.0, 2.0]]])
        """
        shape = tuple(places.axes[0].shape)
        located = {dim for each in places.axes for dim in _varies(each)}
        others = [dim for dim in range(len(shape)) if dim not in located]
        single = [dim for dim in others if shape[dim] == 1]
        wide = [dim for dim in others if shape[dim] > 1]
        if not located or not single or len(wide) > 1 or len(others) < 2:
            return None
        batch, channels = single[0], (wide or single[1:])[0]
        rest = [dim for dim in range(len(shape)) if dim not in (batch, channels)]
        flat = [each.permute(batch, *rest, channels).nanmean(-1).flatten() for each in places.axes]
        found = torch.stack(flat).isfinite().all(0).nonzero().flatten()
        grid, index = [], torch.zeros_like(found)
        for each in flat:
            number, size = _numbered(each[found])
            grid.append(size)
            index = index * size + number
        ranked, order = index.sort()
        if len(found) < 2 or ranked.tolist() != list(range(torch.Size(grid).numel())):
            return None
        return cls(shape, batch, channels, tuple(grid), tuple(found[order].tolist()))

    @property
    def plain(self) -> bool:
        """Whether it is ``(n, k, …)`` with the frame's axes as its others."""
        in_order = self.grid == self.shape[2:] and self.order == tuple(range(len(self.order)))
        return (self.batch, self.channels) == (0, 1) and in_order

    def fits(self, tensor: Tensor, n: int) -> bool:
        """Whether a tensor has the shape of this layout for ``n`` samples."""
        return tuple(tensor.shape) == (*self.shape[: self.batch], n, *self.shape[self.batch + 1 :])

    def read(self, tensor: Tensor) -> Tensor:
        """The feature maps ``(n, k, *grid)``."""
        maps = tensor.movedim((self.batch, self.channels), (0, 1)).flatten(2)
        if self.order != tuple(range(maps.shape[2])):
            maps = maps[..., torch.tensor(self.order, device=maps.device)]
        return maps.reshape(*maps.shape[:2], *self.grid)


def _varies(axis: Tensor) -> set[int]:
    """The dimensions along which the places differ."""
    wide = [dim for dim in range(axis.ndim) if axis.shape[dim] > 1 and axis.stride(dim) != 0]
    for dim in set(range(axis.ndim)) - set(wide):
        axis = axis.narrow(dim, 0, 1)
    high, low = (axis.nan_to_num(nan=end) for end in (-torch.inf, torch.inf))
    return {dim for dim in wide if bool((high.amax(dim) - low.amin(dim) > _TOLERANCE).any())}


def _numbered(values: Tensor) -> tuple[Tensor, int]:
    """The rank of each of some values among the different ones, and how many different ones there are."""
    ranked, order = values.sort()
    steps = torch.cat([ranked.new_zeros(1), (ranked.diff() > _TOLERANCE).to(ranked.dtype)]).cumsum(0).long()
    return torch.empty_like(order).scatter_(0, order, steps), int(steps[-1]) + 1 if len(steps) else 0
