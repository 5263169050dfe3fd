"""What a user gave, sorted: tensors and tokens to be explained, and the model's further arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import Extractor, all_finite, check_inputs, extracted, usable
from pnpxai.errors import InputError
from pnpxai.forward._tokens import ABOUT, TOKENS, Tokens, tokens_of

EXPLAINED = (TOKENS, "pixel_values", "input_values", "input_features", "inputs_embeds")
"""What is explained of a mapping, by the names that Hugging Face's processors use."""


@dataclass(frozen=True)
class Given:
    """What `Request.build` was given.

    Attributes:
        tensors: what is explained, each ``(n, …)``; ids where it is tokens.
        tokens: those of them that are tokens, by number.
        names: of the arguments that are explained, if they are passed by keywords.
        extra: further arguments, in a tuple or by keywords.
    """

    tensors: tuple[Tensor, ...]
    tokens: Mapping[int, Tokens]
    names: tuple[str, ...]
    extra: tuple[Any, ...] | Mapping[str, Any]

    def extra_on(self, device: torch.device) -> tuple[Any, ...] | Mapping[str, Any]:
        """The further arguments, tensors among them on a device."""
        if isinstance(self.extra, Mapping):
            return {name: _on(each, device) for name, each in self.extra.items()}
        return tuple(_on(each, device) for each in self.extra)


def given(
    inputs: Any,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
    allow_integers: bool = False,
) -> Given:
    """Sort what explainers are given.

    Raises:
        InputError: inputs that are no batch of finite floating-point tensors or token ids; an extractor that fails.
    """
    explained = extracted("forward_arg_extractor", forward_arg_extractor, inputs, inputs)
    rest: Any = ()
    if isinstance(inputs, Mapping) and (forward_arg_extractor is None or isinstance(explained, Tokens)):
        explained = {TOKENS: explained} if isinstance(explained, Tokens) else _explained_of(inputs)
        rest = {name: each for name, each in inputs.items() if name not in (*explained, *ABOUT)}
    extra = extracted("additional_forward_arg_extractor", additional_forward_arg_extractor, inputs, rest)
    names = tuple(explained) if isinstance(explained, Mapping) else ()
    several = _several(explained)
    tokens = {i: each for i, each in enumerate(several) if isinstance(each, Tokens)}
    tensors = [each.ids if isinstance(each, Tokens) else each for each in several]
    if not allow_integers:
        tokens |= {i: Tokens(each) for i, each in enumerate(tensors) if i not in tokens and _are_ids(each)}
    check_inputs(tensors, range(len(tensors)) if allow_integers else tokens)
    return Given(tuple(tensors), dict(sorted(tokens.items())), names, _further(extra))


def moved(explained: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """A copy on a device and, of floating-point numbers, in a dtype; None for their own.

    Raises:
        InputError: numbers that are not finite there.
    """
    found = explained.detach().to(device, dtype if explained.is_floating_point() else None, copy=True)
    if found.dtype != explained.dtype and not all_finite(found):
        raise InputError(
            f"inputs that are finite in the model's {found.dtype}",
            f"larger values in {explained.dtype}",
            "Scale the inputs, or convert the model with model.float().",
        )
    return found


def _explained_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What is explained of a mapping, by name.

    Raises:
        InputError: nothing in it says which of its entries that is.
    """
    found = {name: tokens_of(batch) if name == TOKENS else batch[name] for name in EXPLAINED if name in batch}
    floating = {name: each for name, each in batch.items() if isinstance(each, Tensor) and each.is_floating_point()}
    if not found and len(floating) != 1:
        raise InputError(
            f"a tensor, a tuple of tensors, or a mapping with one of {', '.join(EXPLAINED)}",
            f"a mapping with {', '.join(map(str, batch)) or 'nothing'}",
            "Pick what is explained with forward_arg_extractor.",
        )
    return found or floating


def _several(explained: Any) -> list[Any]:
    if isinstance(explained, Mapping):
        return list(explained.values())
    return list(explained) if isinstance(explained, tuple | list) else [explained]


def _further(extra: Any) -> tuple[Any, ...] | Mapping[str, Any]:
    return extra if isinstance(extra, tuple | Mapping) else (extra,)


def _are_ids(explained: Any) -> bool:
    whole = isinstance(explained, Tensor) and not explained.is_floating_point() and not explained.is_complex()
    return whole and explained.dtype != torch.bool and explained.ndim == 2


def _on(argument: Any, device: torch.device) -> Any:
    return usable(argument).to(device) if isinstance(argument, Tensor) else argument
