"""Multipliers of maxima and minima: over a dimension, and of pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnpxai.explainers._pairs import Pairs
from pnpxai.relevance._call import Call

Pick = Callable[[Tensor, Tensor], Tensor]


def winner(
    call: Call, pairs: Pairs, x: Tensor, own: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], pick: Pick
) -> Tensor:
    """All of ``Δy`` goes to one element: the sample's winner if it beats the reference's, else the reference's.

    That element's ``Δx`` is at least ``Δy``, so its multiplier lies between 0 and 1.

    Args:
        call: what chooses.
        pairs: the pass.
        x: what is chosen from.
        own: the samples' extremes and where they are.
        other: the references'.
        pick: from a tensor like ``x`` and places to the elements there.
    """
    (y, place), (reference, beside) = own, other
    ahead = y <= reference if "min" in call.name else y >= reference
    place = torch.where(ahead, place, beside)
    picked = pick(x, place)
    step = picked.detach() - pick(pairs.reference(x), place)
    return pairs.carried(call, y, reference, picked * torch.where(step == 0, 1, (y - reference) / step))


def extreme(call: Call, pairs: Pairs) -> Any:
    """``max`` and ``min``: of two tensors, over a dimension, or of everything."""
    x, second = call.argument(0, "input"), call.argument(1, "other", call.kwargs.get("dim"))
    if isinstance(second, Tensor):
        with pairs:
            return larger(x, second) if call.name == "max" else smaller(x, second)
    if second is None:
        with pairs:
            flat = x.flatten()
            return (flat.max(0) if call.name == "max" else flat.min(0)).values
    keep = call.argument(2, "keepdim", False)

    def pick(values: Tensor, place: Tensor) -> Tensor:
        found = values.gather(second, place if keep else place.unsqueeze(second))
        return found if keep else found.squeeze(second)

    with torch.no_grad():
        result = call.run()
    reference = pairs.of_references(call)
    value = winner(call, pairs, x, result, reference, pick)
    return type(result)((value, pairs.know(result.indices, reference.indices)))


def pooled(call: Call, pairs: Pairs) -> Any:
    """``max_pool1d`` to ``3d``, adaptive ones too, with or without indices."""
    name = call.name.removesuffix("_with_indices")
    n_dims = int(name[-2])
    names = POOLING["adaptive" in name]
    given = {each: call.argument(place + 1, each) for place, each in enumerate(names)}
    given = {each: value for each, value in given.items() if value is not None and value != []}
    x = call.argument(0, "input")
    function = getattr(F, f"{name}_with_indices")

    def pick(values: Tensor, place: Tensor) -> Tensor:
        return values.flatten(-n_dims).gather(-1, place.flatten(-n_dims)).reshape(place.shape)

    with torch.no_grad():
        own, other = function(x, **given), function(pairs.reference(x), **given)
    value = winner(call, pairs, x, own, other, pick)
    if name == call.name and not call.argument(len(names) + 1, "return_indices", False):
        return value
    return value, pairs.know(own[1], other[1])


POOLING = (("kernel_size", "stride", "padding", "dilation", "ceil_mode"), ("output_size",))
"""What pooling takes after its input: the plain one, the adaptive one."""


def larger(input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    """``maximum``."""
    return other + (input - other).relu()


def smaller(input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    """``minimum``."""
    return other - (other - input).relu()


def along(input: Tensor, dim: Any = (), keepdim: bool = False, *, least: bool = False) -> Tensor:  # noqa: A002
    """``amax``, or ``amin``, over some dimensions; over all where none is named."""
    dims = [dim] if isinstance(dim, int) else list(dim) or list(range(input.ndim))
    for each in sorted((each % input.ndim for each in dims), reverse=True):
        input = (input.min(each, keepdim) if least else input.max(each, keepdim)).values  # noqa: A001
    return input
