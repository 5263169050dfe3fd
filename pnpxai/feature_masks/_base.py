"""What every feature mask is."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from pnpxai.forward import Lookup
from pnpxai.tunable import Role


class FeatureMaskFunction(Role):
    """Groups the positions of inputs into features; the channels of a position share one unless it says otherwise."""

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """Feature ids ``(n, *positions)`` of ``inputs`` ``(n, c, *positions)``: whole numbers from 0, none left out.

        Of features that differ between channels, ids ``(n, c, *positions)``.

        Ids of each sample from itself alone.

        Raises:
            InputError: inputs of a kind this function cannot group.
        """

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """Feature ids ``(n, t)`` of the embeddings ``(n, d, t)`` of tokens, whose ids are known."""
        return self(inputs)
