"""Random numbers that are a function of a key and of nothing else."""

from __future__ import annotations

import functools

import numpy as np
import torch


def generator_for(*key: int) -> torch.Generator:
    """A generator of its own for each key, such as ``(seed, block)``; neighbouring keys are unrelated.

    Args:
        key: whole numbers from 0.

    Example:
        >>> a, b, c = (torch.rand(1, generator=generator_for(*key)).item() for key in [(0, 1), (0, 1), (1, 0)])
        >>> a == b, a == c
        (True, False)
    """
    return torch.Generator().manual_seed(_state(key))


@functools.lru_cache(maxsize=1024)  # the same few keys are asked for at every call of an explainer
def _state(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
