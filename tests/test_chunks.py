"""How much goes through a model at once, and what says that it was too much."""

from __future__ import annotations

import pytest
import torch

from pnpxai.chunks import ACTIVATION_BYTES, ACTIVATIONS_PER_INPUT, LARGEST_CHUNK, default_chunk_size, out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_chunks_are_bounded_by_memory() -> None:
    assert default_chunk_size([torch.zeros(2, 3)]) == LARGEST_CHUNK
    photo = torch.zeros(1, 3, 224, 224)
    size = default_chunk_size([photo])
    bytes_taken = photo.numel() * 4 * ACTIVATIONS_PER_INPUT
    assert abs(size * bytes_taken - ACTIVATION_BYTES) <= bytes_taken
    assert default_chunk_size([torch.zeros(1, 3, 1, 1).expand(1, 3, 8192, 8192)]) == 1
