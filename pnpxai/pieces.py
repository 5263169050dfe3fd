"""How token ids become pieces of text, and pieces words, by what tokenizers have in common."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from pnpxai.errors import ParameterError


@runtime_checkable
class TransformersTokenizer(Protocol):
    """What is asked of a tokenizer of Hugging Face's ``transformers``."""

    all_special_ids: list[int]

    def __len__(self) -> int:
        """How many ids there are."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Pieces of ids."""

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Ids of pieces."""


@runtime_checkable
class FastTokenizer(Protocol):
    """What is asked of a ``tokenizers.Tokenizer``."""

    def get_vocab_size(self) -> int:
        """How many ids there are."""

    def id_to_token(self, id: int) -> str | None:
        """The piece of an id."""

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece."""

    def get_added_tokens_decoder(self) -> Mapping[int, Any]:
        """What was added to the vocabulary, by id."""


Tokenizer: TypeAlias = (
    TransformersTokenizer | FastTokenizer | Sequence[str] | Mapping[int, str] | Callable[[int], str] | None
)
"""What says how ids become pieces: a tokenizer of ``transformers`` or ``tokenizers``, a list by id, a mapping from ids
or a function of an id."""

CONTINUES, ENDS = "##", "</w>"
BEGINS = ("▁", "Ġ")
MARKERS = (CONTINUES, *BEGINS, ENDS)
"""WordPiece marks pieces that continue a word; SentencePiece and byte-level BPE those that begin one; CLIP's BPE those
that end one."""
ABSENCES = ("[MASK]", "<mask>", "[PAD]", "<pad>", "<|pad|>")
"""Pieces that stand for no word, a mask before padding."""
UNKNOWN = ("[UNK]", "<unk>")
"""Pieces that stand for words a tokenizer does not know."""
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


def reader_of(tokenizer: Tokenizer) -> Callable[[int], str]:
    """From an id to its piece, with the tokenizer's marks; ids without one are shown as they are.

    Raises:
        ParameterError: nothing that makes pieces of ids.

    Example:
        >>> reader_of(["good", "##ness"])(1), reader_of(None)(7)
        ('##ness', '7')
    """
    found: Callable[[int], Any]
    if tokenizer is None:
        return str
    if isinstance(tokenizer, TransformersTokenizer):
        found = tokenizer.convert_ids_to_tokens
    elif isinstance(tokenizer, FastTokenizer):
        found = tokenizer.id_to_token
    elif isinstance(tokenizer, Mapping):
        found = tokenizer.get
    elif isinstance(tokenizer, Sequence) and not isinstance(tokenizer, str):
        found = dict(enumerate(tokenizer)).get
    elif callable(tokenizer):
        found = tokenizer
    else:
        raise ParameterError(
            "a tokenizer, or a list, a mapping or a function from ids to pieces",
            f"{tokenizer!r:.60}",
            "Pass a tokenizer of transformers or tokenizers, or a list with the piece of each id.",
        )

    def read(token_id: int) -> str:
        piece = found(token_id)
        return str(token_id) if piece is None else str(piece)

    return read


def marker_of(tokenizer: Tokenizer) -> str:
    """How a tokenizer marks words, one of `MARKERS`; empty where each token is a word.

    Told by the pieces of its vocabulary, and of a function, which shows none, taken to be WordPiece's.

    Example:
        >>> marker_of(["un", "##like", "film"]), marker_of({0: "▁film", 1: "s"}), marker_of(["good", "bad"])
        ('##', '▁', '')
    """
    ids = _ids(tokenizer)
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
    return _ids(tokenizer) is not None and bool(marker_of(tokenizer))


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


def vocabulary_of(tokenizer: Tokenizer) -> dict[int, str] | None:
    """Every id with its piece, as a tokenizer marks it; None of a function, which does not show them.

    Example:
        >>> vocabulary_of(["good", "##ness"])
        {0: 'good', 1: '##ness'}
    """
    ids = _ids(tokenizer)
    return None if ids is None else dict(zip(ids, map(reader_of(tokenizer), ids), strict=True))


def special_ids_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that a tokenizer adds itself, such as those of ``[CLS]`` and ``[SEP]``; none of a list or function.

    That of unknown words is none of them: they are part of a text.
    """
    found: Iterable[int] = ()
    if isinstance(tokenizer, TransformersTokenizer):
        found = tokenizer.all_special_ids
    elif isinstance(tokenizer, FastTokenizer):
        found = (i for i, added in tokenizer.get_added_tokens_decoder().items() if added.special)
    read = reader_of(tokenizer)
    return tuple(sorted(each for each in found if read(each) not in UNKNOWN))


def absent_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for no word: of the tokenizer's mask, or of its padding; None where it has neither.

    Example:
        >>> absent_id(["[PAD]", "good", "[MASK]"]), absent_id(["good"])
        (2, None)
    """
    for name in ABSENCES:
        found: Any = None
        if isinstance(tokenizer, TransformersTokenizer):
            found = tokenizer.convert_tokens_to_ids(name)
            found = found if found is not None and reader_of(tokenizer)(found) == name else None
        elif isinstance(tokenizer, FastTokenizer):
            found = tokenizer.token_to_id(name)
        elif isinstance(tokenizer, Mapping):
            found = next((i for i, piece in tokenizer.items() if piece == name), None)
        elif isinstance(tokenizer, Sequence):
            found = tokenizer.index(name) if name in tokenizer else None
        if found is not None:
            return int(found)
    return None


def _ids(tokenizer: Tokenizer) -> Sequence[int] | None:
    """The ids that a tokenizer knows; None where it does not show them."""
    if isinstance(tokenizer, Mapping):
        return list(tokenizer)
    if isinstance(tokenizer, FastTokenizer):
        return range(tokenizer.get_vocab_size())
    return range(len(tokenizer)) if isinstance(tokenizer, TransformersTokenizer | Sequence) else None


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
