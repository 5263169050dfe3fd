from __future__ import annotations

import pytest
import torch

from benchmarks.grid_game import assemble, shares, spread


def test_shares_count_what_is_positive_in_the_right_quadrant() -> None:
    maps = torch.zeros(4, 4, 6)
    maps[0, :2, 3:] = 1.0
    maps[0, 0, 0] = -9.0
    maps[1] = 2.0
    maps[2, 3, 0], maps[2, 0, 0] = 3.0, 1.0
    assert shares(maps, torch.tensor([1, 2, 2, 0])).tolist() == pytest.approx([1.0, 0.25, 0.75, 0.0])


def test_tiles_are_laid_in_reading_order() -> None:
    tiles = torch.arange(4.0)[:, None, None, None].expand(4, 1, 1, 2)
    assert assemble(tiles).tolist() == [[[0, 0, 1, 1], [2, 2, 3, 3]]]


def test_grids_are_spread_over_all_there_are() -> None:
    assert spread([(i,) for i in range(5)], 3) == [(0,), (2,), (4,)]
    assert spread([(1,), (2,)], 3) == [(1,), (2,)]
    assert spread([(1,), (2,)], 1) == [(1,)]
