"""How pieces of text become words, by the marks that tokenizers have in common."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pnpxai.tokenizers import Tokenizer, ids_of, reader_of

CONTINUES, ENDS = "##", "</w>"
BEGINS = ("▁", "Ġ")
MARKERS = (CONTINUES, *BEGINS, ENDS)
"""WordPiece marks pieces that continue a word; SentencePiece and byte-level BPE those that begin one; CLIP's BPE those
that end one."""
N_PROBES = 512
"""Ids, evenly spread over the vocabulary, by which the convention of a tokenizer is told."""
CLOSING = frozenset(".,!?;:%)]}'’…")
"""Pieces before which no space is written, where a tokenizer does not say."""
_ADDED = re.compile(r"<(?!0x)[^<>\s]+>|\[[A-Z]+\d*\]")


@dataclass(frozen=True)
class Piece:
    """What one token stands for.

    Attributes:
        text: without marks of the tokenizer's.
        begins: it is the first of its word.
        spaced: there is a space before it.
    """

    text: str
    begins: bool
    spaced: bool


def marker_of(tokenizer: Tokenizer) -> str:
    """How a tokenizer marks words, one of `MARKERS`; empty where each token is a word.

    Told by the pieces of its vocabulary, and of a function, which shows none, taken to be WordPiece's.

    Example:
        >>> marker_of(["un", "##like", "film"]), marker_of({0: "▁film", 1: "s"}), marker_of(["good", "bad"])
        ('##', '▁', '')
    """
    ids = ids_of(tokenizer)
    if ids is None:
        return "" if tokenizer is None else CONTINUES
    step = max(1, len(ids) // N_PROBES)
    pieces = list(map(reader_of(tokenizer), ids[::step]))
    counts = {mark: sum(_marked(each, mark) for each in pieces) for mark in MARKERS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ""


def has_words(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer tells which tokens make a word together; a function, which shows no vocabulary, does not.

    Example:
        >>> has_words(["good", "bad"]), has_words(["good", "##ness"])
        (False, True)
    """
    return ids_of(tokenizer) is not None and bool(marker_of(tokenizer))


def words_of(tokenizer: Tokenizer, ids: Tensor) -> Tensor:
    """The number of the word that each token belongs to, ``(n, t)`` from ids ``(n, t)``.

    Words are runs of pieces that the tokenizer does not separate; marks of punctuation stand alone, and so does what
    it adds itself, such as ``[SEP]``.

    Example:
        >>> words_of(["un", "##like", "##ly", "."], torch.tensor([[0, 1, 2, 3, 0]])).tolist()
        [[0, 0, 0, 1, 2]]
    """
    marker = marker_of(tokenizer)
    different = sorted(set(ids.flatten().tolist()))
    place = torch.searchsorted(torch.tensor(different, device=ids.device), ids.long().contiguous())
    pieces = list(map(reader_of(tokenizer), different))
    opens = torch.tensor([_opens(each, marker) for each in pieces], device=ids.device)
    closes = torch.tensor([_closes(each, marker) for each in pieces], device=ids.device)
    begins = opens[place]
    begins[:, 1:] |= closes[place][:, :-1]
    begins[:, :1] = True
    return begins.long().cumsum(1) - 1


def pieces_of(tokenizer: Tokenizer, ids: Tensor, words: Tensor | None = None) -> list[Piece]:
    """What the tokens ``(t,)`` of a text stand for, to be shown.

    Args:
        tokenizer: None shows ids.
        ids: ``(t,)``.
        words: the words they belong to, ``(t,)``; None where the tokenizer says so.

    Example:
        >>> [(each.text, each.spaced) for each in pieces_of(["un", "##like", "."], torch.tensor([0, 1, 2]))]
        [('un', True), ('like', False), ('.', False)]
    """
    marker = marker_of(tokenizer)
    numbers = (words_of(tokenizer, ids[None])[0] if words is None else words).tolist()
    shown = []
    for i, raw in enumerate(map(reader_of(tokenizer), ids.tolist())):
        text = _text(raw, marker)
        begins = i == 0 or numbers[i] != numbers[i - 1]
        said = marker in BEGINS and _ADDED.fullmatch(raw) is None
        spaced = raw.startswith(marker) if said else begins and (tokenizer is None or text not in CLOSING)
        shown.append(Piece(text, begins, spaced))
    return shown


def _marked(piece: str, marker: str) -> bool:
    return len(piece) > len(marker) and (piece.endswith(marker) if marker == ENDS else piece.startswith(marker))


def _opens(piece: str, marker: str) -> bool:
    """Whether a piece begins a word, whatever is before it."""
    if not marker or _alone(piece, marker):
        return True
    if marker == CONTINUES:
        return not _marked(piece, marker)
    return marker in BEGINS and piece.startswith(marker)


def _closes(piece: str, marker: str) -> bool:
    """Whether what follows a piece begins a word, whatever it is."""
    return _alone(piece, marker) or (marker == ENDS and piece.endswith(ENDS))


def _alone(piece: str, marker: str) -> bool:
    """Whether a piece is a word for itself: punctuation, or what the tokenizer adds."""
    if _ADDED.fullmatch(piece):
        return True
    text = _text(piece, marker)
    return bool(text) and not any(each.isalnum() or each == "\N{REPLACEMENT CHARACTER}" for each in text)


def _text(piece: str, marker: str) -> str:
    """A piece without the tokenizer's marks."""
    if not marker or _ADDED.fullmatch(piece):
        return piece
    bare = piece
    if _marked(piece, marker) or (marker in BEGINS and piece == marker):
        bare = piece.removesuffix(marker) if marker == ENDS else piece.removeprefix(marker)
    return _decoded(bare) if marker == "Ġ" else bare


def _decoded(piece: str) -> str:
    """Byte-level BPE writes each byte as a character; this is the text of those bytes."""
    table = _bytes()
    if not all(each in table for each in piece):
        return piece
    return bytes(table[each] for each in piece).decode("utf-8", errors="replace")


@functools.cache
def _bytes() -> Mapping[str, int]:
    """Which byte a character stands for: itself where it can be seen, the rest in order from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [each for each in range(256) if each not in seen]
    return {chr(each): each for each in seen} | {chr(256 + i): each for i, each in enumerate(hidden)}
