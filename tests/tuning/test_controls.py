from __future__ import annotations

import torch

from pnpxai.tuning import CONTROLS


def test_edges_are_where_the_input_changes() -> None:
    inputs = torch.zeros(1, 2, 6, 6)
    inputs[..., 3:] = 1.0
    maps = CONTROLS["edge"](inputs, 1, 0)
    assert maps.shape == (1, 6, 6)
    assert torch.equal(maps[0, 0] > 0, torch.tensor([False, False, True, True, False, False]))


def test_centre_falls_off_from_the_middle() -> None:
    maps = CONTROLS["centre"](torch.zeros(2, 3, 5, 7), 1, 0)
    assert maps.shape == (2, 5, 7)
    assert maps[0].argmax() == 2 * 7 + 3
    assert torch.allclose(maps[0, 0, 0], torch.tensor(-(2**0.5)))
    assert torch.equal(maps, maps.flip(1))
    assert torch.equal(maps, maps.flip(2))


def test_random_is_seeded_and_shared_by_samples() -> None:
    inputs = torch.zeros(2, 3, 4, 4)
    first, second = (CONTROLS["random"](inputs, 1, seed) for seed in (0, 1))
    assert torch.equal(first, CONTROLS["random"](inputs, 1, 0))
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_every_kind_of_data() -> None:
    for shape, channel_dim, expected in (((2, 3, 9), 1, (2, 9)), ((2, 5), None, (2, 5)), ((2, 7, 4), 2, (2, 7))):
        for control in CONTROLS.values():
            assert control(torch.rand(shape), channel_dim, 0).shape == expected
