"""What is asked of tokenizers: which token ids there are, what each stands for, and which stand for no word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

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

ABSENCES = ("[MASK]", "<mask>", "[PAD]", "<pad>", "<|pad|>")
"""Pieces that stand for no word, a mask before padding."""
UNKNOWN = ("[UNK]", "<unk>")
"""Pieces that stand for words a tokenizer does not know."""


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


def ids_of(tokenizer: Tokenizer) -> Sequence[int] | None:
    """All ids that a tokenizer knows; None where it does not show them."""
    if isinstance(tokenizer, Mapping):
        return list(tokenizer)
    if isinstance(tokenizer, FastTokenizer):
        return range(tokenizer.get_vocab_size())
    return range(len(tokenizer)) if isinstance(tokenizer, TransformersTokenizer | Sequence) else None


def vocabulary_of(tokenizer: Tokenizer) -> dict[int, str] | None:
    """Every id with its piece, as a tokenizer marks it; None of a function, which does not show them.

    Example:
        >>> vocabulary_of(["good", "##ness"])
        {0: 'good', 1: '##ness'}
    """
    ids = ids_of(tokenizer)
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
