"""What comes back from an explainer: checked against the inputs, and in their form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pnpxai.batches import all_finite
from pnpxai.errors import ExplanationError
from pnpxai.forward import Part, Request, in_place


def joined(maps: Sequence[Tensor | Sequence[Tensor]], parts: Sequence[Part], request: Request) -> Any:
    """The maps of a whole request from those of its parts."""
    if parts[0].places is None:
        return maps[0]
    single = [each[0] if isinstance(each, tuple | list) and len(each) == 1 else each for each in maps]
    if not all(isinstance(each, Tensor) and each.ndim == 3 for each in single):
        return maps[0]  # which is then found to be no map
    return in_place(parts, [each for each in single if isinstance(each, Tensor)], request.input.shape[-1])


def like_inputs(maps: Tensor | Sequence[Tensor], inputs: Any, request: Request) -> Any:
    """Check the maps against the inputs and give them the device, dtype and structure of what came in."""
    several = tuple(maps) if isinstance(maps, tuple | list) else (maps,)
    if len(several) != len(request.inputs) or not all(isinstance(each, Tensor) for each in several):
        raise ExplanationError(
            f"a map for each of {len(request.inputs)} inputs",
            ", ".join(type(each).__name__ for each in several) or "none",
            "This is a fault of the explainer.",
        )
    for each, explained in zip(several, request.inputs, strict=True):
        one_channel = (len(explained), 1, *explained.shape[2:])
        if each.shape != explained.shape and (explained.ndim < 3 or tuple(each.shape) != one_channel):
            raise ExplanationError(
                f"a map of the inputs' shape {tuple(explained.shape)}",
                f"{tuple(each.shape)}",
                "This is a fault of the explainer.",
            )
        if not all_finite(each):
            raise ExplanationError(
                "a finite map",
                "NaN or infinity in it",
                "Check that the model's outputs and gradients are finite on these inputs, or try model.double().",
            )
    return as_given(tuple(map(request.without_fixed, several, range(len(several)))), inputs, request)


def as_given(maps: tuple[Tensor, ...], inputs: Any, request: Request) -> Any:
    """Give maps the device, dtype and structure of what came in."""
    origin = inputs if isinstance(inputs, Tensor) else inputs[0] if isinstance(inputs, tuple | list) else None
    like = origin if isinstance(origin, Tensor) and origin.is_floating_point() else request.inputs[0]
    several = tuple(each.detach().to(like.device, like.dtype) for each in maps)
    listed = isinstance(inputs, tuple | list) and len(several) == len(inputs)
    return several if listed or len(several) > 1 else several[0]
