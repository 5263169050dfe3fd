"""Whole words as features: the tokens of a word move together."""

from __future__ import annotations

from torch import Tensor

from pnpxai.errors import InputError
from pnpxai.feature_masks import FeatureMaskFunction
from pnpxai.forward import Lookup
from pnpxai.pieces import has_words, words_of
from pnpxai.tokenizers import Tokenizer


class Words(FeatureMaskFunction):
    """Whole words: the tokens that a tokenizer made of one word move together; marks of punctuation stand alone.

    Which tokens these are is read from the inputs where these are a mapping with ``"word_ids"`` (see `TokenIds`), which
    holds for every tokenizer; else from how the tokenizer marks its pieces (``##ing``, ``▁film``, ``Ġfilm``,
    ``film</w>``), which needs the ids alone. That cannot find words that are not written apart, such as Chinese ones.

    Args:
        tokenizer: of ``transformers`` or ``tokenizers``, or a list, a mapping or a function from ids to pieces. None
            where the inputs say it.
    """

    NAME = "words"

    def __init__(self, tokenizer: Tokenizer = None) -> None:
        self.tokenizer = tokenizer

    def __call__(self, inputs: Tensor) -> Tensor:
        """Nothing: inputs that are no tokens have no words.

        Raises:
            InputError: always.
        """
        raise InputError(
            "token ids (n, t), to make features of words",
            f"inputs of shape {tuple(inputs.shape)}",
            "Explain token ids, or use Each for features of single positions.",
        )

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """The number of each token's word.

        Raises:
            InputError: neither the inputs nor a tokenizer say what the words are.
        """
        words = lookup.words
        if words is None:
            if self.tokenizer is None or not has_words(self.tokenizer):
                raise InputError(
                    "inputs with word_ids, or a tokenizer that marks its words",
                    "neither" if self.tokenizer is None else f"pieces without marks from {self.tokenizer!r:.60}",
                    "Pass Words(tokenizer), or a mapping with 'word_ids' (n, t) beside 'input_ids'.",
                )
            words = words_of(self.tokenizer, lookup.ids)
        return lookup.explained(words)
