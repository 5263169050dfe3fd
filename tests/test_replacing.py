"""Features are replaced bit for bit."""

from __future__ import annotations

import math

import pytest
import torch

from pnpxai.explainers import KernelShap, Lime, Occlusion
from pnpxai.replacing import replaced
from tests.nets import batch

EVERY = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-45, 65504.0, 3e38, -3e38, 1e300)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_each_value_by_each(dtype: torch.dtype) -> None:
    values = torch.tensor(EVERY, dtype=torch.float64).to(dtype)
    inputs, absent = values[:, None, None], values[None, :, None]
    gone = torch.tensor([False, True])
    found = replaced(inputs, absent, gone, torch.empty(len(EVERY), len(EVERY), 2, dtype=dtype))
    wanted = torch.stack([inputs.expand(-1, len(EVERY), 1)[..., 0], absent.expand(len(EVERY), -1, 1)[..., 0]], 2)
    bits = torch.uint8
    assert torch.equal(found.contiguous().view(bits), wanted.contiguous().view(bits))


@pytest.mark.parametrize("back", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 0, 1, 2)])
def test_in_whatever_order_they_lie(back: tuple[int, ...]) -> None:
    inputs, absent = batch(4, 5, 6, 7).permute(back), batch(4, 5, 6, 7, seed=2).permute(back)
    gone = batch(*inputs.shape, seed=3)[:, :1] > 0
    assert torch.equal(replaced(inputs, absent, gone, torch.empty_like(inputs)), torch.where(gone, absent, inputs))


@pytest.mark.parametrize("cls", [Occlusion, Lime, KernelShap])
def test_a_zero_keeps_its_sign(cls: type[Occlusion | Lime | KernelShap]) -> None:
    """The angle of a point on the negative axis is π or -π by it."""
    explainer = cls(lambda x: torch.atan2(x[:, :1], -x[:, 1:2]), baseline_fn=1.0, score="logit")
    found, close, other = (explainer.attribute(torch.tensor([[y, 2.0, 3.0]]), 0)[0] for y in (-0.0, -1e-30, 0.0))
    torch.testing.assert_close(found, close)
    assert (found - other).abs().max() > 1
    if cls is Occlusion:
        whole = -math.pi
        changed = (math.atan2(1, -2), math.atan2(-0.0, -1), whole)
        torch.testing.assert_close(found, torch.tensor([whole - each for each in changed]))
