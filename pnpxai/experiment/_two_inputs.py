"""Models of an image and a text: which of the two is explained, and how the model is given the other."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from pnpxai.callables import Model
from pnpxai.errors import InputError
from pnpxai.forward import TokenIds
from pnpxai.forward._given import EXPLAINED
from pnpxai.forward._tokens import ABOUT

Kind: TypeAlias = Literal["image", "text"]


@dataclass(frozen=True)
class OneOfTwo:
    """An extractor of the image or the text, for ``forward_arg_extractor=``.

    Takes a mapping by the names of the model's arguments, or a tuple in their order. The text is its token ids, whole
    numbers ``(n, t)``; the image its floating-point tensor with four dimensions.

    Args:
        kind: which is explained.
        arguments: names of the model's arguments, in their order.
        special_ids: of tokens that are never perturbed, as for `TokenIds`.
    """

    kind: Kind
    arguments: tuple[str, ...] = ()
    special_ids: tuple[int, ...] = ()

    def __call__(self, inputs: Any) -> dict[str, Any]:
        """What is explained, by its name."""
        named = by_name(inputs, self.arguments)
        name = _find(named, self.kind)
        if self.kind == "image":
            return {name: named[name]}
        renamed = {"input_ids": named[name], **{each: named[each] for each in named if each in MARKS}}
        return {name: TokenIds(self.special_ids)(renamed)}


@dataclass(frozen=True)
class TheOther:
    """An extractor of all inputs but the one that is explained, for ``additional_forward_arg_extractor=``.

    Args:
        kind: which is explained.
        arguments: names of the model's arguments, in their order.
    """

    kind: Kind
    arguments: tuple[str, ...] = ()

    def __call__(self, inputs: Any) -> dict[str, Any]:
        """The model's further arguments by name; what is said about ids is none."""
        named = by_name(inputs, self.arguments)
        explained = _find(named, self.kind)
        return {name: each for name, each in named.items() if name not in (explained, *ABOUT)}


MARKS = ("attention_mask", *ABOUT)
"""What a tokenizer says about the ids beside them."""


def arguments_of(model: Model) -> tuple[str, ...]:
    """The names of a model's arguments that may be passed by position, in their order.

    Example:
        >>> arguments_of(nn.Bilinear(2, 2, 1))
        ('input1', 'input2')
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return ()
    return tuple(each.name for each in parameters if each.kind in positional)


def by_name(inputs: Any, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Inputs by the names of the model's arguments.

    Raises:
        InputError: neither a mapping nor a tuple of as many as the model has names for.
    """
    if isinstance(inputs, Mapping):
        return inputs
    if not isinstance(inputs, tuple | list) or not 2 <= len(inputs) <= len(arguments):
        received = f"{len(inputs)} inputs" if isinstance(inputs, tuple | list) else type(inputs).__name__
        raise InputError(
            "an image and token ids, in a mapping by the names of the model's arguments or in a tuple in their order",
            f"{received}, for a model with arguments {', '.join(arguments) or 'without names'}",
            "Choose them with input_extractor.",
        )
    return dict(zip(arguments, inputs, strict=False))


def _find(named: Mapping[str, Any], kind: Kind) -> str:
    found = [name for name, each in named.items() if isinstance(each, Tensor) and _is(kind, each)]
    usual = [name for name in EXPLAINED if name in found]
    if not found or (len(found) > 1 and not usual):
        raise InputError(
            f"one {'image (n, c, h, w), floating-point' if kind == 'image' else 'text (n, t), whole numbers'}",
            ", ".join(found) or f"none among {', '.join(named)}",
            "Choose it with forward_arg_extractor, and the others with additional_forward_arg_extractor.",
        )
    return usual[0] if usual else found[0]


def _is(kind: Kind, tensor: Tensor) -> bool:
    if kind == "image":
        return tensor.is_floating_point() and tensor.ndim == 4
    return not (tensor.is_floating_point() or tensor.is_complex()) and tensor.ndim == 2
