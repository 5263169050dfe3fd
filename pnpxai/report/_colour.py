"""From the numbers of a map to colours: one scale a map, said in words, and the map laid over its photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pnpxai.errors import ParameterError

Array: TypeAlias = NDArray[np.floating[Any]]

PERCENTILE = 99.5
"""Magnitudes above this percentile of a map share the strongest colour."""
DIVERGING, SEQUENTIAL = ("#1a5aa6", "#ffffff", "#c51d28"), ("#ffffff", "#c51d28")
"""The two colour maps by their stops; red is for the target, white is nothing, blue is against it."""
FADED = 0.55
"""How bright the black of a photograph is under a map."""


@dataclass(frozen=True)
class Scale:
    """What the ends of a colour map stand for.

    Attributes:
        low: the value of the first colour.
        high: the value of the last colour.
        signed: zero is the centre of a diverging map; otherwise a sequential one.
        clipped: share of positions beyond the ends, drawn in the colour of the end.
    """

    low: float
    high: float
    signed: bool
    clipped: float

    def __str__(self) -> str:
        ends = f"±{self.high:.2g}" if self.signed else f"{self.low:.2g} to {self.high:.2g}"
        return f"{ends}, {100 * self.clipped:.2g} % clipped" if self.clipped else ends


def scale_of(values: Array) -> Scale:
    """The scale of one map.

    A map with values below zero is signed: its scale runs from ``-v`` to ``v``, where v is the 99.5th percentile of
    the magnitudes. Any other map runs from its 0.5th to its 99.5th percentile. Where these fall together (a map that
    is zero nearly everywhere), the extremes take their place.

    Example:
        >>> print(scale_of(np.linspace(-1.0, 3.0, 1001)))
        ±3, 0.5 % clipped
        >>> print(scale_of(np.array([0.25, 0.5])))
        0.25 to 0.5
    """
    signed = bool(values.min() < 0)
    magnitudes = np.abs(values)
    high = float(np.percentile(magnitudes, PERCENTILE, method="higher")) or float(magnitudes.max())
    low = -high if signed else float(np.percentile(values, 100 - PERCENTILE, method="lower"))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return Scale(low, high, signed, float(((values < low) | (values > high)).mean()))


def colours(values: Array, scale: Scale) -> Array:
    """The colour of each value, ``(…, 3)`` in [0, 1]; a map that is the same everywhere gets the weakest colour.

    Example:
        >>> colours(np.array([-9.0, 0.0, 9.0]), Scale(-1.0, 1.0, True, 0.0)).round(2).tolist()
        [[0.1, 0.35, 0.65], [1.0, 1.0, 1.0], [0.77, 0.11, 0.16]]
    """
    stops = np.array([_rgb(each) for each in (DIVERGING if scale.signed else SEQUENTIAL)])
    width = scale.high - scale.low
    place = (values - scale.low) / width if width > 0 else np.full(values.shape, 0.5 if scale.signed else 0.0)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(place, at, channel) for channel in stops.T], -1)


def overlay(values: Array, photograph: Array, scale: Scale) -> Array:
    """A map ``(h, w)`` multiplied onto the faded grey photograph ``(h, w, 3)``: white colours leave it as it is.

    Returns:
        ``(h, w, 3)`` in [0, 1].
    """
    grey = photograph @ np.array([0.299, 0.587, 0.114])
    shaded: Array = colours(values, scale) * (FADED + (1 - FADED) * grey)[..., None]
    return shaded


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))


def as_photograph(image: Any, positions: tuple[int, ...]) -> Array:
    """A picture a person gave, as ``(h, w, 3)`` in [0, 1].

    Args:
        image: anything NumPy reads: ``(h, w)``, ``(h, w, 3)`` or ``(3, h, w)``, whole numbers to 255 or reals to 1.
        positions: ``(h, w)`` of the map it lies under.

    Raises:
        ParameterError: another shape, or values outside the range.
    """
    array = np.asarray(image)
    bytes_given = np.issubdtype(array.dtype, np.integer)
    array = array.astype(float) / (255 if bytes_given else 1)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[1:] == positions:
        array = np.moveaxis(array, 0, -1)
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[:2] != positions or array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ParameterError(
            f"pictures of shape {positions}, alone or with 3 colours",
            f"shape {np.asarray(image).shape}",
            "Give each picture the size at which the model sees it.",
        )
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ParameterError(
            "pictures in whole numbers from 0 to 255 or real numbers from 0 to 1",
            f"values from {array.min():.3g} to {array.max():.3g}",
            "Undo the model's standardisation before showing a picture.",
        )
    return np.broadcast_to(array, (*positions, 3))


def stretched(inputs: Array) -> Array:
    """An input as the model sees it, ``(h, w, c)``, stretched from its least to its greatest value to [0, 1].

    One channel, or any number but three, is averaged to grey.
    """
    shown = inputs if inputs.shape[-1] == 3 else inputs.mean(-1, keepdims=True)
    low, high = float(shown.min()), float(shown.max())
    return np.broadcast_to((shown - low) / (high - low if high > low else 1.0), (*inputs.shape[:2], 3))
