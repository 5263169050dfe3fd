"""Text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pnpxai.baselines import BaselineFunction, Token, Zeros
from pnpxai.feature_masks import Each, FeatureMaskFunction, sums_by_feature
from pnpxai.limits import OrNone, WholeWithin
from pnpxai.modality._base import NORMALIZATIONS, POOLINGS, Modality
from pnpxai.pieces import Piece, has_words, pieces_of, words_of
from pnpxai.postprocess import NormalizationFunction, PoolingFunction
from pnpxai.tokenizers import Tokenizer, absent_id
from pnpxai.tunable import Tunable
from pnpxai.words import Words


class Text(Modality):
    """Text: token ids ``(n, t)``, explained by their embeddings ``(n, d, t)``, or embeddings of your own ``(n, t, d)``.

    Features are single tokens, or whole words (the usual ones) where it is known which tokens make a word: by
    ``word_ids`` or by the tokenizer (see `Words`). What stands for absence is zero, or the embedding of a mask.

    Args:
        channel_dim: where the embeddings' dimensions are: 1 for token ids, 2 for embeddings of your own.
        tokenizer: how ids become words: a tokenizer of ``transformers`` or ``tokenizers``, or only what its pieces
            are: a list, a mapping or a function from ids. Reports show these words; None shows ids.
        mask_id: the token that stands for absence; None for the tokenizer's mask, or padding if it has none.
        word_ids: the inputs say themselves which tokens make a word.

    Example:
        >>> import torch
        >>> text = Text(channel_dim=1, tokenizer=["[MASK]", "un", "##kind", "words"])
        >>> text.by_word(torch.tensor([[3, 1, 2]]), torch.tensor([[0.5, 2.0, 1.0]]))
        [[('words', 0.5), ('unkind', 3.0)]]
    """

    NDIM = 3
    CANDIDATES = {
        BaselineFunction: (Zeros(),),
        FeatureMaskFunction: (Each(),),
        PoolingFunction: POOLINGS,
        NormalizationFunction: NORMALIZATIONS,
    }
    LIMITS = {"mask_id": OrNone(WholeWithin(0))}

    def __init__(
        self,
        channel_dim: int | None = 2,
        tokenizer: Tokenizer = None,
        mask_id: int | None = None,
        word_ids: bool = False,
    ) -> None:
        super().__init__(channel_dim)
        self.tokenizer = tokenizer
        self.mask_id = mask_id
        self.word_ids = word_ids

    @property
    def of_tokens(self) -> bool:
        """Whether embeddings are those of token ids, so that more is known than the embeddings alone."""
        return self.channel_dim == 1

    @property
    def candidates(self) -> dict[type[Tunable], Sequence[Tunable]]:
        """With a mask's embedding and whole words where they are known."""
        found = {role: list(objects) for role, objects in super().candidates.items()}
        mask = absent_id(self.tokenizer) if self.mask_id is None else self.mask_id
        if self.of_tokens and mask is not None:
            found[BaselineFunction].append(Token(mask))
        if self.of_tokens and (self.word_ids or has_words(self.tokenizer)):
            found[FeatureMaskFunction].insert(0, Words(None if self.word_ids else self.tokenizer))
        return dict(found)

    @property
    def usual(self) -> dict[str, Any]:
        """Words as features, or tokens, where a grid would be laid over them."""
        return {"feature_mask_fn": self.candidates[FeatureMaskFunction][0]} if self.of_tokens else {}

    def pieces(self, ids: Tensor, words: Tensor | None = None) -> list[Piece]:
        """What the tokens ``(t,)`` of one text stand for."""
        return pieces_of(self.tokenizer, ids, words)

    def by_word(self, ids: Tensor, maps: Tensor, words: Tensor | None = None) -> list[list[tuple[str, float]]]:
        """Maps summed to words, which are in the order of the text.

        Where an explainer took words for features, each token has the value of its whole word (see `KernelShap`), and
        a word's is that times its number of tokens; the maps of gradients and relevance add up over tokens.

        Args:
            ids: ``(n, t)``.
            maps: ``(n, t)``.
            words: numbers of the tokens' words, ``(n, t)``; None where the tokenizer says so.
        """
        numbers = words_of(self.tokenizer, ids) if words is None else words
        numbers = torch.stack([each.unique_consecutive(return_inverse=True)[1] for each in numbers])
        sums = sums_by_feature(maps, numbers)
        found = []
        for own, which, values in zip(ids, numbers, sums.tolist(), strict=True):
            texts = [""] * (int(which.max()) + 1)
            for number, piece in zip(which.tolist(), self.pieces(own, which), strict=True):
                texts[number] += piece.text
            found.append(list(zip(texts, values, strict=False)))
        return found
