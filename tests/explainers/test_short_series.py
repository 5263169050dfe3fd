"""Series with fewer steps than the defaults have cells, and with few more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pnpxai.explainers import RISE, Explainer, KernelShap, Lime, Occlusion, SobolAttribution
from pnpxai.feature_masks import Grid

CHANNELS = 2


@pytest.mark.parametrize("cls", [RISE, KernelShap, Lime, Occlusion, SobolAttribution])
@pytest.mark.parametrize("steps", [2, 5, 24])
def test_the_one_step_that_is_read_is_found(cls: type[Explainer], steps: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * steps, 2))
    weights = torch.zeros(2, CHANNELS, steps)
    weights[1, :, 1] = 1.0
    with torch.no_grad():
        net[1].weight.copy_(weights.flatten(1))
        net[1].bias.zero_()
    x = torch.ones(1, CHANNELS, steps)
    options = {"grid_size": steps} if cls in (RISE, SobolAttribution) and steps == 24 else {}
    options |= {"feature_mask_fn": Grid(steps)} if cls in (KernelShap, Lime) and steps == 24 else {}
    options |= {"window": 1} if cls is Occlusion else {}
    options |= {"n_designs": 8} if cls is SobolAttribution else {}
    maps = cls(net, **options).attribute(x, 1)
    assert maps.shape == (1, 1, steps)
    assert maps[0, 0].argmax() == 1
    if cls is KernelShap:
        torch.testing.assert_close(maps[0, 0], 2.0 * (torch.arange(steps) == 1), rtol=0, atol=1e-5)


def test_the_cells_of_short_series_are_whole_steps_of_nearly_equal_number() -> None:
    for steps, lengths in ((24, [4, 3, 4, 3, 4, 3, 3]), (150, [22, 21, 22, 21, 22, 21, 21]), (5, [1] * 5)):
        assert Grid()(torch.zeros(1, 1, steps))[0].bincount().tolist() == lengths
