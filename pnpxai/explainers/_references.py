"""The inputs that a sample is compared with: a distribution of baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, BaselineFunction, Marginal, baseline_for
from pnpxai.errors import ParameterError
from pnpxai.forward import Lookup

Background: TypeAlias = (
    Tensor | tuple[Tensor, ...] | list[Tensor] | str | float | BaselineFunction | Callable[[Tensor], Tensor] | None
)

OF_POSITIONS: tuple[str, ...] = ("zeros", "mean", "blur")
"""The baselines that stand for a background where none is given, of inputs with positions …"""
OF_FEATURES: tuple[str, ...] = ("zeros", "mean")
"""… and of inputs ``(n, d)``, which have nothing to blur over."""


@dataclass(frozen=True)
class References:
    """The inputs that each sample is compared with, all of them equally likely.

    Attributes:
        inputs: what is explained, each ``(n, …)``.
        values: for each of them ``(m, …)``, the same for all samples; or ``(n, m, …)``, for each sample its own.
        shared: which of the two.
    """

    inputs: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    shared: bool

    def __len__(self) -> int:
        return self.values[0].shape[0 if self.shared else 1]

    def rows(self, samples: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        """Reference number ``which`` ``(b,)`` of each of ``samples`` ``(b,)``: one ``(b, …)`` for each input."""
        found = []
        for each, explained in zip(self.values, self.inputs, strict=True):
            places = [which] if self.shared else [samples, which]
            found.append(each[tuple(place.to(each.device) for place in places)].to(explained))
        return tuple(found)


def references_for(
    background: Background, inputs: tuple[Tensor, ...], lookups: tuple[Lookup | None, ...] = ()
) -> References:
    """The references of inputs.

    Args:
        background: tensors ``(m, …)``, one for each input, row ``i`` of all of them being reference ``i``; the rows of
            `Marginal`; a baseline, its name, a number or a function, which make one reference of each sample; or None
            for what each sample makes of itself by `OF_POSITIONS` or `OF_FEATURES`.
        inputs: what is explained, each ``(n, …)``.
        lookups: of inputs that are the embeddings of tokens, where the model looks them up.

    Raises:
        ParameterError: a background that does not fit the inputs.

    Example:
        >>> found = references_for(None, (torch.tensor([[1.0, 5.0]]),))
        >>> found.rows(torch.tensor([0, 0]), torch.tensor([0, 1]))[0].tolist()
        [[0.0, 0.0], [3.0, 3.0]]
    """
    if isinstance(background, Marginal):
        background = background.background
    if isinstance(background, Tensor | tuple | list):
        return References(inputs, _checked(background, inputs), shared=True)
    own = []
    for each, lookup in zip(inputs, lookups or (None,) * len(inputs), strict=True):
        names: tuple[Baseline, ...] = OF_POSITIONS if each.ndim > 2 else OF_FEATURES
        chosen = names if background is None else (background,)
        own.append(torch.stack([baseline_for(baseline, each, lookup=lookup) for baseline in chosen], 1))
    least = min(each.shape[1] for each in own)
    return References(inputs, tuple(each[:, :least] for each in own), shared=False)


def _checked(background: Tensor | tuple[Tensor, ...] | list[Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors of a background, detached and in the inputs' dtypes, on the device they are on."""
    given = (background,) if isinstance(background, Tensor) else tuple(background)
    wanted = ", ".join("(m, " + ", ".join(map(str, each.shape[1:])) + ")" for each in inputs)
    advice = "Pass some inputs as a batch, such as training samples, or the name of a baseline."
    if len(given) != len(inputs) or not all(isinstance(each, Tensor) for each in given):
        received = ", ".join(
            f"shape {tuple(each.shape)}" if isinstance(each, Tensor) else type(each).__name__ for each in given
        )
        raise ParameterError(f"a background of shape {wanted}, one tensor for each input", received or "none", advice)
    shapes = [tuple(each.shape) for each in given]
    fits = all(a.ndim == b.ndim and a.shape[1:] == b.shape[1:] for a, b in zip(given, inputs, strict=True))
    if not fits or len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        raise ParameterError(
            f"a background of shape {wanted} with one m ≥ 1", f"shape {', '.join(map(str, shapes))}", advice
        )
    made = tuple(each.detach().to(like.dtype) for each, like in zip(given, inputs, strict=True))
    if not all(torch.isfinite(each).all() for each in made):
        raise ParameterError(
            f"a background that is finite in the model's {made[0].dtype}",
            "NaN or infinity",
            "Leave out the references with missing or too large values.",
        )
    return made
