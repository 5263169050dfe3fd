"""What ``tune`` returns for series ranks the segment first that decides the class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.planted_segments import cases, page, planted, ranked_first, standardised, trained, tuned
from pnpxai.explainers import RISE, KernelShap


def waves(n: int = 60, steps: int = 60, seed: int = 0) -> Tensor:
    """Smooth series ``(n, 2, steps)``: a few slow sines each."""
    generator = torch.Generator().manual_seed(seed)
    frequencies, phases = (torch.rand(n, 2, 3, 1, generator=generator) for _ in range(2))
    angles = 2 * math.pi * (3 * frequencies * torch.arange(steps) / steps + phases)
    return standardised(angles.sin().sum(2))


def test_a_pattern_is_planted_where_it_is_said_to_be() -> None:
    backgrounds = waves(1)
    batch = planted(backgrounds, 40, seed=0)
    changes = (batch.inputs - backgrounds).reshape(40, 2, 10, 6)
    energy, turned = changes.square().sum((1, 3)), changes.sum((1, 3)).abs()
    for each, plateau, kind, segment in zip(energy, turned, batch.classes, batch.segments, strict=True):
        places = [int(number) for number in (each > 1e-6).nonzero()]
        assert len(places) == (2 if kind else 1)
        assert (segment in places) == bool(kind)
        torch.testing.assert_close(each[places], torch.full((len(places),), 48.0))  # 6 · 4² / 2
        assert [int(place) for place in (plateau > 1e-4).nonzero()] == [each for each in places if each != segment]
    up, down = (planted(backgrounds, 5, seed=1, classes=(kind,)) for kind in (1, 2))
    both = ((up.inputs + down.inputs) / 2 - backgrounds).reshape(5, 2, 10, 6)  # the decoys alone
    assert both[torch.arange(5), :, up.segments].abs().max() < 1e-5
    assert (up.inputs - down.inputs).abs().sum((1, 2)).min() > 1


def test_first_is_more_than_any_other() -> None:
    maps = torch.zeros(3, 40)
    maps[0, 8:12] = 1.0
    maps[1, 8:12], maps[1, 20] = 1.0, 4.0  # as much
    maps[2] = -1.0
    maps[2, 9] = 0.0
    assert ranked_first(maps, torch.tensor([2, 2, 2])).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["FCN", "BiLSTM"])
def test_the_planted_segment_is_ranked_first(kind: str) -> None:
    known, unseen = waves(), waves(40, seed=1)
    model = trained(kind, known, n_steps=150, width=12)
    sample, judged = cases(model, unseen, 16, seed=1), cases(model, unseen, 100, seed=2)
    assert len(judged.segments) == 100
    explainers = ["GradientXInput", "Occlusion", RISE(model, n_masks=64), KernelShap(model, n_samples=64)]
    assert ranked_first(judged.inputs.abs().sum(1), judged.segments).sum() < 60  # without asking the model
    result = tuned(model, sample, explainers, n_trials=10)
    assert ranked_first(result.explain(judged.inputs), judged.segments).sum() >= 95


def test_the_page_has_both_tables() -> None:
    line = ["GunPoint", "FCN", "1.00", "RISE", "96 of 100", "46", "reached"]
    made = page([line], [["GunPoint", "FCN", "RISE", "94", "96"]], 1.0)
    rows = [each for each in made if each.startswith("| GunPoint")]
    assert rows == [f"| {' | '.join(line)} |", "| GunPoint | FCN | RISE | 94 | 96 |"]
    assert any(each.startswith("A pattern is planted") for each in made)
