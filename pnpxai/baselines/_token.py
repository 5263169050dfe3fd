"""The embedding of a token as a baseline."""

from __future__ import annotations

from torch import Tensor

from pnpxai.baselines._base import BaselineFunction
from pnpxai.errors import InputError, ParameterError
from pnpxai.forward import Lookup
from pnpxai.limits import WholeWithin


class Token(BaselineFunction):
    """The embedding of one token at every place, such as a mask's or padding's: absence in the model's own words.

    Positions are told apart as ever: models add what stands for them to this embedding, too.

    Args:
        token_id: of the token, such as ``tokenizer.mask_token_id``.
    """

    NAME = "token"
    LIMITS = {"token_id": WholeWithin(0)}

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id

    def __call__(self, inputs: Tensor) -> Tensor:
        """Nothing: inputs that are no tokens have no table of embeddings.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"token ids (n, t) for the baseline Token({self.token_id})",
            f"inputs of shape {tuple(inputs.shape)}",
            "Explain token ids, or pass the embedding itself as baseline_fn.",
        )

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """The row of the model's table at every position.

        Raises:
            ParameterError: the table has no such row.
        """
        if self.token_id >= len(lookup.table):
            raise ParameterError(
                f"the id of a token, below the {len(lookup.table)} rows of the model's embedding",
                f"{self.token_id}",
                "Take the id from the tokenizer of this model.",
            )
        return lookup.table[self.token_id].to(inputs)[:, None].expand_as(inputs).clone()
