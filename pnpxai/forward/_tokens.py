"""Token ids are explained by their embeddings: found by running the model, and put in the place of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pnpxai.errors import InputError, ModelError

LOOKUPS = frozenset({"embedding", "__getitem__", "index_select"})
"""Functions that look rows of a table up."""
TOKENS, SPECIAL, WORDS = "input_ids", "special_tokens_mask", "word_ids"
"""What a tokenizer calls the ids, which of them it added, and which word each belongs to."""
ABOUT = (SPECIAL, WORDS)
"""What a mapping says about its ids that a model does not take."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """What an extractor returns for tokens that are to be explained: they are, by their embeddings.

    Attributes:
        ids: ``(n, t)``, whole numbers, as the model takes them.
        fixed: ``(n, t)``, true where a token is never perturbed, such as special tokens and padding; None for nowhere.
        embeddings: ``(n, d, t)``, in the place of the model's own for these ids; None for those.
        words: ``(n, t)``, the number of the word that a token belongs to; None where that is not known.
    """

    ids: Tensor
    fixed: Tensor | None = None
    embeddings: Tensor | None = None
    words: Tensor | None = None

    def on(self, device: torch.device) -> Tokens:
        """The same on a device."""
        rest = (self.fixed, self.embeddings, self.words)
        return Tokens(self.ids.to(device), *(None if each is None else each.to(device) for each in rest))


@dataclass(frozen=True)
class TokenIds:
    """An extractor of `Tokens`, for ``forward_arg_extractor=``.

    Takes ids ``(n, t)`` alone, first in a tuple or list, or under ``"input_ids"`` in a mapping. Padding is fixed where
    a mapping has an ``"attention_mask"``, special tokens where it has a ``"special_tokens_mask"``. Words are known
    where it has ``"word_ids"`` ``(n, t)``, the numbers that ``encoding.word_ids(i)`` of a fast tokenizer lists, and any
    other number where that has None.

    Args:
        special_ids: ids that are never perturbed, such as those of a tokenizer's ``[CLS]``, ``[SEP]`` and ``[PAD]``.

    Example:
        >>> TokenIds(special_ids=(0, 1))(torch.tensor([[0, 7, 8, 1]])).fixed.tolist()
        [[True, False, False, True]]
    """

    special_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_ids", tuple(map(int, self.special_ids)))

    def __call__(self, inputs: Any) -> Tokens:
        """The ids, and which of them are fixed."""
        if isinstance(inputs, Mapping):
            return tokens_of(inputs, self.special_ids)
        ids = inputs[0] if isinstance(inputs, tuple | list) else inputs
        return Tokens(ids, special(ids, self.special_ids))


def tokens_of(batch: Mapping[str, Any], special_ids: Sequence[int] = ()) -> Tokens:
    """The tokens of what a tokenizer returned."""
    ids: Tensor = batch[TOKENS]
    fixed = special(ids, special_ids)
    if isinstance(batch.get("attention_mask"), Tensor) and batch["attention_mask"].shape == ids.shape:
        fixed = fixed | (batch["attention_mask"] == 0)
    if isinstance(batch.get(SPECIAL), Tensor):
        fixed = fixed | batch[SPECIAL].bool()
    words = batch.get(WORDS)
    if words is not None and not (isinstance(words, Tensor) and words.shape == ids.shape):
        raise InputError(
            f"{WORDS!r} of the shape of the ids, {tuple(ids.shape)}",
            f"shape {tuple(words.shape)}" if isinstance(words, Tensor) else type(words).__name__,
            "Number each token's word, -1 where there is none.",
        )
    return Tokens(ids, fixed, words=words)


def special(ids: Tensor, special_ids: Sequence[int]) -> Tensor:
    """Which ids are among the special ones, ``(n, t)``."""
    return torch.isin(ids, torch.tensor(list(special_ids), dtype=ids.dtype, device=ids.device))


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table in a model, the ids that are looked up in it, and what it holds for them.

    Attributes:
        table: the model's own, ``(v, d)``; where it begins in memory tells it from the model's other tables.
        ids: ``(n, t)``.
        fixed: ``(n, t)``, or None.
        embeddings: ``(n, d, t)``, the model's own.
        places: which of the positions are explained, ``(n, f)``; None for all.
        words: ``(n, t)``, which word each token belongs to; None where that is not known.
    """

    table: Tensor
    ids: Tensor
    fixed: Tensor | None
    embeddings: Tensor
    places: Tensor | None = None
    words: Tensor | None = None

    def of(self, index: Tensor, embeddings: Tensor, places: Tensor) -> Lookup:
        """Of samples ``index`` ``(m,)`` with their embeddings, of which those at some places alone are explained."""
        words = None if self.words is None else self.words[index]
        return Lookup(self.table, self.ids[index], None, embeddings, places, words)

    def explained(self, values: Tensor) -> Tensor:
        """Values ``(n, t)`` at the positions that are explained, ``(n, f)``."""
        return values if self.places is None else values.gather(1, self.places)

    def perturbed(self, values: Tensor, index: Tensor) -> Tensor:
        """All embeddings ``(m, d, t)`` of samples ``index`` ``(m,)``, from the changed ones of what is explained."""
        index = index.to(self.ids.device)
        if self.places is not None:
            whole = self.embeddings[index].to(values.dtype)
            return whole.scatter(-1, along(self.places[index], values), values)
        if self.fixed is None:
            return values
        return torch.where(self.fixed[index][:, None], self.embeddings[index].to(values.dtype), values)

    def changed(self, values: Tensor, index: Tensor) -> Tokens:
        """Samples ``index`` ``(m,)`` with changed embeddings of what is explained, to be explained."""
        index = index.to(self.ids.device)
        fixed = None if self.fixed is None else self.fixed[index]
        if self.places is not None:
            fixed = torch.ones_like(self.ids[index], dtype=torch.bool).scatter(-1, self.places[index], False)
        words = None if self.words is None else self.words[index]
        return Tokens(self.ids[index], fixed, self.perturbed(values, index), words)


def along(places: Tensor, values: Tensor) -> Tensor:
    """Places ``(m, f)`` for values ``(m, …, ·)``: ``(m, …, f)``, on their device."""
    m, f = places.shape
    return places.reshape(m, *[1] * (values.ndim - 2), f).expand(*values.shape[:-1], f).to(values.device)


class Substitution(TorchFunctionMode):
    """Inside the block, looking these ids up gives these embeddings.

    Args:
        given: ids ``(m, t)`` as the model is given them, the table, and embeddings ``(m, d, t)``, for each input.
    """

    def __init__(self, given: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        super().__init__()
        self._given = given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Another answer where one of the tables is asked for the ids that are explained."""
        looked_up = _looked_up(func, args, kwargs or {})
        if looked_up is not None:
            table, ids = looked_up
            for own, wanted, values in self._given:
                if table.data_ptr() == wanted.data_ptr() and _same(ids, own):
                    return values.transpose(1, 2).clone().reshape(*ids.shape, values.shape[1])
        return func(*args, **(kwargs or {}))


class _Search(TorchFunctionMode):
    """Keeps the first table in which ids are looked up, for each of several ids."""

    def __init__(self, ids: Sequence[Tensor]) -> None:
        super().__init__()
        self._ids = ids
        self.found: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looked_up = _looked_up(func, args, kwargs or {})
        if looked_up is not None:
            table, ids = looked_up
            for i, own in enumerate(self._ids):
                if i not in self.found and _same(ids, own):
                    self.found[i] = table
                    break
        return func(*args, **(kwargs or {}))


def lookups(run: Callable[[Sequence[Tensor]], object], tokens: Sequence[Tokens]) -> list[Lookup]:
    """Where a model looks tokens up, found by running it once.

    Args:
        run: asks the model about the first sample, given its ids ``(1, t)`` for each of ``tokens``.
        tokens: what is looked up.

    Raises:
        InputError: ids that are no whole numbers ``(n, t)``, or that the model looks up nowhere.
    """
    for each in tokens:
        if each.ids.ndim != 2 or each.ids.is_floating_point() or each.ids.dtype == torch.bool:
            raise InputError(
                "token ids (n, t), whole numbers",
                f"{each.ids.dtype}, shape {tuple(each.ids.shape)}",
                "Pass inputs that are no tokens as floating-point tensors.",
            )
    first = [each.ids[:1].clone() for each in tokens]
    try:
        with torch.no_grad(), _Search(first) as search:
            run(first)
    except ModelError as error:
        raise _no_tokens(tokens[0], f"which it fails on ({error.received})") from error
    made = []
    for i, each in enumerate(tokens):
        if i not in search.found:
            raise _no_tokens(each, "which it looks up nowhere")
        table = search.found[i].detach()
        own = table[each.ids].transpose(1, 2).contiguous()
        made.append(Lookup(table, each.ids, each.fixed, own, words=each.words))
    return made


def _no_tokens(tokens: Tokens, why: str) -> InputError:
    return InputError(
        "floating-point inputs, or token ids (n, t) that the model looks up in an embedding",
        f"{tokens.ids.dtype}, {why}",
        "Convert with inputs.float(), or explain embeddings of your own.",
    )


def _looked_up(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The table and the ids of a call that looks rows up; None of any other call."""
    if getattr(func, "__name__", "") not in LOOKUPS:
        return None
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    if len(tensors) != 2:
        return None
    tensors.sort(key=lambda each: each.is_floating_point())
    ids, table = tensors
    whole = not ids.is_floating_point() and ids.dtype != torch.bool
    return (table, ids) if whole and table.is_floating_point() and table.ndim == 2 else None


def _same(ids: Tensor, own: Tensor) -> bool:
    """Whether ids, perhaps in another shape, are those that were given."""
    if ids.numel() != own.numel() or ids.device != own.device:
        return False
    return ids.data_ptr() == own.data_ptr() or torch.equal(ids.reshape(own.shape).to(own.dtype), own)
