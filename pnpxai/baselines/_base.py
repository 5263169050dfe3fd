"""What every baseline is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from pnpxai.forward import Lookup
from pnpxai.tunable import Role


class BaselineFunction(Role):
    """Makes a baseline from inputs: same shape, the values that stand for absence.

    Attributes:
        CHANNELS_FIRST: it takes dimension 1 for channels and the dimensions after it for positions.
    """

    CHANNELS_FIRST: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """The baseline of ``inputs`` ``(n, …)``, of the same shape, each sample from itself alone."""

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """The baseline of the embeddings ``(n, d, t)`` of tokens, of which it is known where they were looked up."""
        return self(inputs)
