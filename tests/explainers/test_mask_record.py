"""The design effect, against errors that are simulated."""

from __future__ import annotations

import torch
from torch import Tensor

from pnpxai.explainers._mask_record import MaskRecord


def record_of(coordinates: Tensor, scores: Tensor) -> MaskRecord:
    record = MaskRecord.none(len(scores), torch.ones(coordinates.shape[1], dtype=torch.float64))
    for start in range(0, len(coordinates), 24):  # chunks, whose second sample comes later
        part = slice(start, start + 24)
        for sample in range(len(scores)):
            own = torch.zeros_like(scores[:, part])
            own[sample] = scores[sample, part]
            record.add(start, coordinates[part], own)
    return record


def simulated(kind: str, runs: int = 400) -> tuple[float, float]:
    """The variance of ``Σ e z`` over many runs by that of independent ``e`` and ``z``, and the mean design effect."""
    torch.manual_seed(0)
    d, n = 6, 256
    totals, effects = [], []
    for _ in range(runs):
        if kind == "clumped":
            z = torch.randn(n // 8, d, dtype=torch.float64).repeat_interleave(8, 0)
            e = torch.randn(n // 8, dtype=torch.float64).repeat_interleave(8)
        else:
            z, e = torch.randn(n, d, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
        if kind == "pairs":
            z[1::2], e[1::2] = -z[::2], e[::2]
        if kind == "uneven":
            e = e * z.norm(dim=1)
        totals.append((e @ z).square().sum() / (e.square().sum() * d))
        record = record_of(z, torch.stack([e, 0 * e]))
        effects.append(record.design_effect(torch.zeros(2, d, dtype=torch.float64), torch.ones(d, dtype=torch.float64)))
    found = torch.stack(effects).mean(0)
    assert found[1] == 1  # nothing left over
    return float(torch.stack(totals).mean()), float(found[0])


def test_independent_masks_have_none() -> None:
    _, found = simulated("independent")
    assert abs(found - 1) < 0.05


def test_masks_that_cancel_clump_or_err_unevenly_have_one() -> None:
    for kind, least, most in (("pairs", 0.0, 0.1), ("clumped", 6.0, 9.0), ("uneven", 1.1, 1.6)):
        expected, found = simulated(kind)
        assert least <= expected <= most
        assert abs(found - expected) < 0.15 * max(expected, 0.3)


def test_few_masks_tell_nothing() -> None:
    z = torch.randn(63, 3, dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    assert record_of(z, z[:, :1].T.clone()).design_effect(torch.zeros(1, 3, dtype=torch.float64), ones).item() == 1
