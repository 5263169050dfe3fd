"""Samples of which some tokens are fixed, taken apart by how many are free: methods see the free ones alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pnpxai.errors import InputError
from pnpxai.forward._request import Request
from pnpxai.forward._tokens import along


@dataclass(frozen=True, eq=False)
class Part:
    """Samples of a request with as many free tokens.

    Attributes:
        request: about these samples alone, its input ``(m, d, f)``.
        index: which they are, ``(m,)``.
        places: their free tokens, ``(m, f)``; None where every position of every sample is free.
    """

    request: Request
    index: Tensor
    places: Tensor | None

    def rows(self, values: Tensor) -> Tensor:
        """Those of these samples, of ``(n, …)``."""
        return values if self.places is None else values[self.index.to(values.device)]

    def free(self, values: Tensor) -> Tensor:
        """Those of these samples at their free tokens, ``(m, …, f)`` of ``(n, …, t)``."""
        rows = self.rows(values)
        return rows if self.places is None else rows.gather(-1, along(self.places, rows))


def parts_of(request: Request) -> list[Part]:
    """The parts of a request: one, the request itself, where no token is fixed or several inputs are explained.

    Raises:
        InputError: a sample without a token that is free.
    """
    n = len(request)
    lookup = request.lookups[0] if len(request.lookups) == 1 else None
    if lookup is None or lookup.fixed is None:
        return [Part(request, torch.arange(n), None)]
    counts = (~lookup.fixed).sum(1)
    if not counts.all():
        raise InputError(
            "at least one token of each text that is neither special nor padding",
            f"none in sample {int(counts.argmin())}",
            "Leave empty texts out.",
        )
    made = []
    for count in sorted(set(counts.tolist())):
        index = (counts == count).nonzero()[:, 0]
        places = (~lookup.fixed[index]).nonzero()[:, 1].reshape(len(index), count)
        targets = request.targets_for(index)
        inputs = request.input[index]
        part = replace(
            request,
            inputs=(inputs.gather(-1, along(places, inputs)),),
            extra=request.extra_for(index),
            requested=targets,
            lookups=(lookup.of(index, inputs, places),),
        )
        made.append(Part(part, index, places))
    return made


def in_order(parts: Sequence[Part], values: Sequence[Tensor]) -> Tensor:
    """Rows of all samples ``(n, …)`` from those of the parts."""
    if parts[0].places is None:
        return values[0]
    order = torch.cat([each.index for each in parts]).argsort()
    return torch.cat(list(values))[order.to(values[0].device)]


def in_place(parts: Sequence[Part], values: Sequence[Tensor], length: int) -> Tensor:
    """Maps of all samples ``(n, …, t)`` from those of the parts, zero at fixed tokens."""
    if parts[0].places is None:
        return values[0]
    whole = []
    for part, each in zip(parts, values, strict=True):
        assert part.places is not None
        zeros = each.new_zeros(*each.shape[:-1], length)
        whole.append(zeros.scatter(-1, along(part.places, each).to(each.device), each))
    return in_order(parts, whole)
