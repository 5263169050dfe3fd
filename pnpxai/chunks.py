"""How much goes through a model at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnpxai.errors import PnPXAIError

ACTIVATION_BYTES = 320 * 2**20
"""What one chunk's activations may take by the rule of `default_chunk_size`."""
ACTIVATIONS_PER_INPUT = 64
"""How many times an input's size its activations are taken to be."""
LARGEST_CHUNK = 256


def default_chunk_size(inputs: Sequence[Tensor]) -> int:
    """How many samples go through the model at once: as many as fit `ACTIVATION_BYTES` by rule of thumb."""
    size = sum(each[0].numel() * each.element_size() for each in inputs)
    return max(1, min(LARGEST_CHUNK, round(ACTIVATION_BYTES / (ACTIVATIONS_PER_INPUT * max(size, 1)))))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, PnPXAIError):
        return False
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )
