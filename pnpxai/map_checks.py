"""Whether maps say something: finite, not the same everywhere, with positions where the data have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pnpxai.errors import ExplanationError
from pnpxai.postprocess import channel_axis


def check_maps(maps: Any) -> None:
    """Refuse maps that are not finite, or say nothing because all of them are the same everywhere.

    Raises:
        ExplanationError: says which.
    """
    for each in _several(maps):
        if not isinstance(each, Tensor):
            raise ExplanationError("a tensor of attributions", type(each).__name__, "attribute() has to return maps.")
        if not torch.isfinite(each).all():
            raise ExplanationError("a finite map", "NaN or infinity", "The method breaks down on this model.")
    if not tells_features_apart(maps):
        raise ExplanationError(
            "a map that tells features apart", "the same value everywhere", "It says nothing about these inputs."
        )


def tells_features_apart(maps: Any) -> bool:
    """Whether one of the maps, of several inputs, has more than one value, or is of a single feature.

    Example:
        >>> tells_features_apart(torch.zeros(1, 2)), tells_features_apart((torch.zeros(1, 2), torch.eye(2)[:1]))
        (False, True)
    """
    for each in _several(maps):
        flat = each.flatten(1) if isinstance(each, Tensor) else torch.zeros(1, 1)
        if flat.shape[1] < 2 or bool((flat != flat[:, :1]).any()):
            return True
    return False


def misread(maps: Any, inputs: Tensor | None, channel_dim: int | None) -> str | None:
    """Why maps do not fit the kind of data, in a sentence: they have no channels where the data have positions.

    Args:
        maps: of some samples, of several inputs one each.
        inputs: the first of what is explained.
        channel_dim: where its channels are.

    Example:
        >>> misread(torch.zeros(1, 1, 8), torch.zeros(1, 5, 8), 1) is None
        True
        >>> misread(torch.zeros(1, 1, 8), torch.zeros(1, 5, 8), 2)
        'it takes dimension 1 for channels and gives one number for all 5 entries; these data have channels elsewhere.'
    """
    (first, *_) = _several(maps)
    if inputs is None or first.ndim != inputs.ndim:
        return None
    axis = channel_axis(channel_dim, inputs.ndim)
    for dim in range(1, inputs.ndim):
        if dim != axis and first.shape[dim] < inputs.shape[dim]:
            return (
                f"it takes dimension {dim} for channels and gives one number for all {inputs.shape[dim]} entries; "
                "these data have channels elsewhere."
            )
    return None


def _several(maps: Any) -> Sequence[Any]:
    return maps if isinstance(maps, tuple | list) else (maps,)
