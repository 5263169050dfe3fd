"""A text with its map: words in the colours of their values, on a page where they can be read and pointed at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pnpxai.forward import Lookup
from pnpxai.modality import Text
from pnpxai.pieces import Piece
from pnpxai.report._colour import Array, Scale, colours
from pnpxai.report._numbers import tick

DARK, LIGHT = "#000000", "#ffffff"
"""The two colours of letters; one of them has a contrast of 4.5 or more on any ground."""
FEWEST_FOLDED = 3
"""So many equal tokens in a row that are never changed, such as padding, are written once."""


@dataclass(frozen=True)
class Word:
    """One token as it is written.

    Attributes:
        text: its letters.
        spaced: there is a space before it.
        style: its colours, as CSS; none for those of the page.
        title: what is said of it on pointing at it.
        fixed: it is never changed, and has no value.
    """

    text: str
    spaced: bool
    style: str
    title: str
    fixed: bool


@dataclass(frozen=True)
class Reading:
    """One sample's text.

    Attributes:
        pieces: what its tokens stand for.
        fixed: which of them are never changed, ``(t,)``.
        known: words are known, not ids alone.
    """

    pieces: tuple[Piece, ...]
    fixed: tuple[bool, ...]
    known: bool

    @classmethod
    def of(cls, modality: Text, lookup: Lookup, row: int) -> Reading:
        """The text of a sample, by where the model looks tokens up."""
        ids = lookup.ids[row].cpu()
        words = None if lookup.words is None else lookup.words[row].cpu()
        fixed = [False] * len(ids) if lookup.fixed is None else lookup.fixed[row].tolist()
        return cls(tuple(modality.pieces(ids, words)), tuple(fixed), modality.tokenizer is not None)

    def free(self, values: Array) -> Array:
        """The values ``(t,)`` of tokens that may change; of all, where none may."""
        chosen = ~np.array(self.fixed, dtype=bool)
        return values[chosen] if chosen.any() else values

    def words(self, values: Array | None = None, scale: Scale | None = None) -> tuple[Word, ...]:
        """The text, in the colours of a map ``(t,)`` if there is one."""
        if values is None or scale is None:
            styles, titles = [""] * len(self.pieces), [""] * len(self.pieces)
        else:
            styles = [style(each) for each in colours(values, scale)]
            titles = [signed(float(each)) for each in values]
        found = [
            Word(piece.text, piece.spaced, "" if fixed else how, "" if fixed else title, fixed)
            for piece, fixed, how, title in zip(self.pieces, self.fixed, styles, titles, strict=True)
        ]
        return folded(found)


def folded(words: list[Word]) -> tuple[Word, ...]:
    """The words, with what is never changed and written over and over written once."""
    made: list[Word] = []
    for first, run in groupby(words):
        same = list(run)
        if first.fixed and len(same) >= FEWEST_FOLDED:
            made.append(Word(f"{first.text} × {len(same)}", first.spaced, "", "", True))
        else:
            made += same
    return tuple(made)


def style(ground: Array) -> str:
    """A ground ``(3,)`` in [0, 1] and the letters that are read on it best, as CSS.

    Example:
        >>> style(np.array([1.0, 1.0, 1.0])), style(np.array([0.77, 0.11, 0.16]))
        ('background: #ffffff; color: #000000', 'background: #c41c29; color: #ffffff')
    """
    light = luminance(ground)
    letters = DARK if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else LIGHT
    painted = "".join(f"{round(255 * float(each)):02x}" for each in ground)
    return f"background: #{painted}; color: {letters}"


def luminance(colour: Array) -> float:
    """The relative luminance of a colour ``(3,)`` in [0, 1] (WCAG 2, sRGB): 0 for black, 1 for white."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def signed(value: float) -> str:
    """A value with its sign, to three digits.

    Example:
        >>> signed(0.03125), signed(-2.0), signed(0.0)
        ('+0.0312', '−2', '0')
    """
    return f"{value:+.3g}".replace("-", "−") if value else tick(0.0)
