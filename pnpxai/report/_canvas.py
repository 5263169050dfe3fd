"""One sample's input and its maps as pictures or as coloured words, in the way of its kind of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pnpxai.modality import Image, Modality, Spectrum, Tabular, Text, Volume
from pnpxai.postprocess import channel_axis
from pnpxai.report._colour import Array, as_photograph, overlay, scale_of, stretched
from pnpxai.report._pictures import bars_png, photograph_png, series_png
from pnpxai.report._words import Reading, Word

COARSE = 96
"""The longest side in pixels of a picture whose pixels are shown as squares."""


@dataclass(frozen=True)
class Tile:
    """One picture.

    Attributes:
        title: what it shows.
        note: with which settings.
        src: the picture itself, as an address; none of a text.
        scale: what its colours stand for.
        score: what the metric gave the map, None where there is no score.
        words: a text in the place of a picture.
    """

    title: str
    note: str
    src: str
    scale: str = ""
    score: float | None = None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Canvas:
    """One sample's input, and how maps of it are drawn.

    Attributes:
        modality: decides between overlay, series and bars.
        ground: a photograph ``(h, w, 3)``, the middle plane of a volume, a spectrum's amplitudes, a series ``(t, c)``
            or features ``(d,)``.
        note: how the ground was made.
        reading: the text, where it is known what the tokens are.
    """

    modality: Modality
    ground: Array
    note: str
    reading: Reading | None = None

    @classmethod
    def build(cls, inputs: Tensor, modality: Modality, image: Any, reading: Reading | None = None) -> Canvas:
        """From one sample ``(c, h, w)``, ``(c, t)``, ``(d,)`` …, channels where the modality says, and its picture."""
        axis = channel_axis(modality.channel_dim, inputs.ndim + 1)
        last = inputs.detach().cpu().double()
        array: Array = (last if axis is None else last.movedim(axis - 1, -1)).numpy()
        if isinstance(modality, Volume):
            plane = (array[..., None] if axis is None else array)[len(array) // 2]
            return cls(
                modality, stretched(plane), f"the plane in the middle of {len(array)}, stretched to the full range"
            )
        if isinstance(modality, Image):
            array = array[..., None] if axis is None else array
            if image is None:
                return cls(modality, stretched(array), "as the model sees it, stretched to the full range")
            return cls(modality, as_photograph(image, array.shape[:2]), "as the model sees it")
        if isinstance(modality, Spectrum):
            amplitudes = _tall((array**2).sum(-1) ** 0.5)[..., None]
            return cls(modality, stretched(amplitudes), "amplitudes, frequencies from left to right, a row a channel")
        if reading is not None:
            note = "" if reading.known else "token ids; a tokenizer on the modality (Text) shows words"
            return cls(modality, np.zeros(len(reading.pieces)), note, reading)
        if isinstance(modality, Text):
            return cls(modality, (array**2).sum(-1) ** 0.5, "length of each token's vector")
        return cls(modality, array[:, None] if array.ndim == 1 and axis is None and not _flat(modality) else array, "")

    def draw(self, values: Array | None = None) -> str:
        """The input, or a map of it."""
        scale = None if values is None else scale_of(values)
        if isinstance(self.modality, Image | Volume | Spectrum):
            if values is None or scale is None:
                return photograph_png(self.ground)
            plane = values[len(values) // 2] if isinstance(self.modality, Volume) else values
            plane = _tall(plane) if isinstance(self.modality, Spectrum) else plane
            return photograph_png(overlay(plane, self.ground, scale))
        if _flat(self.modality):
            names = self.modality.names if isinstance(self.modality, Tabular) else ()
            fit = len(names) == len(self.ground)
            return bars_png(self.ground if values is None else values, scale, names if fit else None)
        return series_png(self.ground, values, scale)

    @property
    def coarse(self) -> bool:
        """Whether this is a picture of few pixels."""
        return isinstance(self.modality, Image | Volume | Spectrum) and max(self.ground.shape[:2]) <= COARSE

    def input(self) -> Tile:
        """The input by itself."""
        if self.reading is not None:
            return Tile("Input", self.note, "", words=self.reading.words())
        return Tile("Input", self.note, self.draw())

    def tile(self, title: str, note: str, values: Tensor, score: float | None) -> Tile:
        """A map of the input, with its scale in words."""
        array: Array = values.detach().cpu().double().numpy()
        if self.reading is not None:
            scale = scale_of(self.reading.free(array))
            return Tile(title, note, "", str(scale), score, self.reading.words(array, scale))
        return Tile(title, note, self.draw(array), str(scale_of(array)), score)


def _tall(values: Array) -> Array:
    """Rows ``(c, f)`` repeated until a picture of them can be read."""
    channels, frequencies = values.shape
    return values.repeat(max(1, frequencies // (4 * channels)), 0)


def _flat(modality: Modality) -> bool:
    return isinstance(modality, Tabular | Text)
