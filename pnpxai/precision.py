"""The precision in which a model is asked about perturbed inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16", "auto"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "auto")


def fast_in_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by its own instructions; False where torch cannot tell."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = getattr(torch.cpu, "get_capabilities", None) if device.type == "cpu" else None
    return known is not None and any(has for name, has in known().items() if str(name).endswith("bf16"))


@contextlib.contextmanager
def lowered(device: torch.device, lower: bool = True) -> Iterator[None]:
    """Let matrix products and convolutions of float32 be computed in bfloat16 inside the block.

    By ``torch.autocast``: the model is neither changed nor copied, and its operations that need the digits keep them.
    Models in other dtypes compute as they do outside.
    """
    with torch.autocast(device.type, dtype=torch.bfloat16) if lower else contextlib.nullcontext():
        yield
