from __future__ import annotations

import itertools
import math
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import qmc
from torch import Tensor

from pnpxai.errors import ParameterError
from pnpxai.explainers import _masks
from pnpxai.explainers._mask_sums import MaskSums, pass_masks
from pnpxai.explainers._masks import (
    BLOCK,
    SAMPLINGS,
    MaskBank,
    MaskChunk,
    SobolSequence,
    mask_grid,
    upsample,
)
from pnpxai.explainers._seeds import generator_for
from pnpxai.forward import Request
from pnpxai.outputs import select
from tests.explainers.masks import draw_masks
from tests.nets import MLP, VGGLike, batch, seeded

SIZES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((14, 14), (7, 7)),
    ((15, 11), (4, 3)),
    ((9, 16), (2, 5)),
    ((3, 5), (7, 4)),  # rows: fewer than cells
    ((1, 1), (3, 3)),
    ((12,), (5,)),
    ((4,), (7,)),
    ((5, 3, 4), (2, 3, 2)),
]


def linear_value(cells: Tensor, position: int, factor: int) -> float:
    """One value of a row of cells stretched by hand: cell centres at (i + 1/2)·length/s, constant beyond the ends."""
    s = len(cells)
    length = (s + 1) * factor
    at = min(max((position + 0.5) * s / length - 0.5, 0.0), s - 1.0)
    low = min(int(math.floor(at)), s - 1)
    high = min(low + 1, s - 1)
    return float(cells[low] * (1 - (at - low)) + cells[high] * (at - low))


@pytest.mark.parametrize(("size", "grid"), SIZES)
def test_a_mask_is_its_grid_stretched_and_cropped(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    bits, shifts = MaskBank(size, grid, 0.5, 3).draw_block(0)
    drawn = draw_masks(0, 4, size, grid, 0.5, seed=3)
    factors = [-(-length // s) for length, s in zip(size, grid, strict=True)]
    for mask, cells, shift in zip(drawn, bits, shifts.tolist(), strict=False):
        for position in itertools.product(*(range(length) for length in size)):
            values = cells.double()
            for axis in reversed(range(len(size))):
                at = position[axis] + shift[axis]
                rows = values.reshape(-1, grid[axis])
                values = torch.tensor([linear_value(row, at, factors[axis]) for row in rows])
                values = values.reshape(grid[:axis])
            assert mask[position].item() == pytest.approx(float(values), abs=1e-6)


def test_a_known_grid_matches_interpolate() -> None:
    grid = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    whole = F.interpolate(grid[None, None], (9, 9), mode="bilinear", align_corners=False)[0, 0]
    for shift in itertools.product(range(3), repeat=2):
        found = upsample(grid[None], torch.tensor([shift]), (6, 5))[0]
        torch.testing.assert_close(found, whole[shift[0] : shift[0] + 6, shift[1] : shift[1] + 5], rtol=0, atol=1e-7)


def test_a_known_block_matches_interpolate() -> None:
    grid = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.5], [1.0, 0.0]]])
    whole = F.interpolate(grid[None, None], (9, 6, 3), mode="trilinear", align_corners=False)[0, 0]
    found = upsample(grid[None], torch.tensor([[2, 1, 0]]), (5, 4, 2))[0]
    torch.testing.assert_close(found, whole[2:7, 1:5, 0:2], rtol=0, atol=1e-7)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("p_keep", [0.2, 0.5])
@pytest.mark.parametrize(
    ("size", "grid"), [((9, 7), (3, 2)), ((2, 3), (4, 4)), ((10,), (3,)), ((5, 4, 3), (2, 2, 3)), ((6,), None)], ids=str
)
def test_every_position_is_kept_with_p_keep(
    size: tuple[int, ...], grid: tuple[int, ...] | None, p_keep: float, sampling: str
) -> None:
    n = 4096
    masks = draw_masks(0, n, size, grid, p_keep, seed=0, sampling=sampling)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    error = math.sqrt(p_keep * (1 - p_keep) / n)  # a mask's variance is at most that of a bit
    assert (masks.mean(0) - p_keep).abs().max() < 4.5 * error
    if grid is None:
        assert set(masks.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("size", "grid"), [case for case in SIZES if len(case[0]) == 2])
def test_the_expectation_is_exactly_p_keep(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    _, shifts = MaskBank(size, grid, 0.5, 0).draw_block(0)
    assert torch.allclose(upsample(torch.full((BLOCK, *grid), 0.3), shifts, size), torch.tensor(0.3), atol=1e-6)


@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_shifts_cover_the_whole_cell_evenly(sampling: str) -> None:
    size, grid = (14, 9), (3, 3)  # cells of 5 and 3
    bank = MaskBank(size, grid, 0.5, 0, sampling)
    shifts = torch.cat([bank.draw_block(block)[1] for block in range(100)]).tolist()
    counts = {pair: 0 for pair in itertools.product(range(5), range(3))}
    for each in shifts:
        counts[tuple(each)] += 1
    expected = len(shifts) / 15
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 36.1  # .999 quantile with 14 degrees of freedom


def test_bits_are_independent_within_and_between_blocks() -> None:
    bits = torch.cat([MaskBank((8, 8), (4, 4), 0.5, 5).draw_block(block)[0] for block in range(128)]).flatten(1)
    correlations = torch.corrcoef(bits.T) - torch.eye(16)
    assert correlations.abs().max() < 4.5 / math.sqrt(len(bits))
    assert len(bits.unique(dim=0)) > 0.9 * len(bits)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("grid", [(3, 2), None])
def test_banks_nest_and_portions_do_not_matter(grid: tuple[int, int] | None, sampling: str) -> None:
    def drawn(start: int, stop: int, seed: int = 1) -> Tensor:
        return draw_masks(start, stop, (8, 7) if grid else (9,), grid, 0.4, seed, sampling=sampling)

    bank = drawn(0, 1000)
    assert torch.equal(bank[:100], drawn(0, 100))
    for start, stop in [(0, 1), (31, 33), (37, 45), (64, 96), (990, 1000)]:
        assert torch.equal(bank[start:stop], drawn(start, stop))
    assert not torch.equal(bank[:32], bank[32:64])
    assert not torch.equal(bank[:32], drawn(0, 32, seed=2))


@pytest.mark.parametrize(("size", "grid"), [((9, 7), (3, 2)), ((6,), None)])
def test_antithetic_masks_come_in_pairs(size: tuple[int, ...], grid: tuple[int, ...] | None) -> None:
    even = draw_masks(0, 320, size, grid, 0.5, seed=0, sampling="antithetic")
    assert torch.allclose(even[::2] + even[1::2], torch.ones(()), atol=1e-6)
    rare = draw_masks(0, 320, size, None if grid is None else (3, 2), 0.2, seed=0, sampling="antithetic")
    both = (rare[::2] > 0.99) & (rare[1::2] > 0.99)
    assert not both.any()


@pytest.mark.parametrize("p_keep", [0.25, 0.5])
def test_sobol_masks_keep_every_cell_equally_often(p_keep: float) -> None:
    for n in (64, 128, 256):
        kept = draw_masks(0, n, (49,), None, p_keep, seed=0, sampling="sobol").sum(0)
        assert torch.equal(kept, torch.full((49,), n * p_keep))


def test_more_cells_than_the_sobol_sequence_has_dimensions() -> None:
    both = [draw_masks(0, 3, (21202,), None, 0.5, seed=0, sampling=each) for each in ("sobol", "independent")]
    assert torch.equal(*both)


def test_seeds_differ_in_which_cells_go_together() -> None:
    """In 64 masks of 49 cells some pairs of cells are always kept alike, or never: other pairs for each seed."""
    together = []
    for seed in range(4):
        bits = MaskBank((49,), None, 0.5, seed, "sobol").draw_bits(0, 64)[0]
        together.append((torch.corrcoef(bits.T).abs() > 0.99) & ~torch.eye(49, dtype=torch.bool))
    for one, other in itertools.combinations(together, 2):
        assert one.sum() == other.sum() > 0
        assert (one & other).sum() < one.sum() / 2


@pytest.mark.parametrize("d", [5, 49, 20_000])
def test_sobol_points_are_those_of_one_sequence(d: int) -> None:
    n = 3 * BLOCK
    expected = shuffled_sobol_points(4, d, n)
    bits = MaskBank((d,), None, 0.3, 4, "sobol").draw_bits(0, n)[0]
    assert np.array_equal(bits.numpy(), expected < 0.3)


def test_blocks_of_a_sobol_sequence_are_read_in_any_order() -> None:
    expected, sequence = shuffled_sobol_points(4, 7, 8 * BLOCK), SobolSequence(4, 7)
    for number in (2, 3, 3, 0, 1, 7, 0):
        assert np.array_equal(sequence.block(number).numpy(), expected[number * BLOCK : (number + 1) * BLOCK])


@pytest.mark.parametrize("what", ["random", "fast_forward"])
def test_a_sobol_sequence_whose_reading_was_interrupted_begins_anew(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, sequence = shuffled_sobol_points(4, 7, 4 * BLOCK), SobolSequence(4, 7)
    sequence.block(0)
    engine = sequence._sequence
    done = getattr(engine, what)

    def interrupted(n: int) -> None:
        done(n)
        engine.num_generated -= n  # as between what SciPy does and where it writes that down
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine, what, interrupted)
        with pytest.raises(KeyboardInterrupt):
            sequence.block(2)
    assert np.array_equal(sequence.block(3).numpy(), expected[3 * BLOCK :])


def test_threads_do_not_read_on_from_each_others_place(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, draw = MaskBank((49,), None, 0.5, 11, "sobol"), qmc.Sobol.random
    alone = bank.draw_bits(0, 8 * BLOCK)[0]

    def slowly(sequence: Any, n: int) -> Any:
        time.sleep(0.001)  # others go on meanwhile
        return draw(sequence, n)

    monkeypatch.setattr(qmc.Sobol, "random", slowly)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: torch.cat([bank.draw_block(i)[0] for i in range(8)]), range(8)))
    assert all(torch.equal(each, alone) for each in together)


def shuffled_sobol_points(seed: int, d: int, n: int) -> Any:
    """By SciPy alone, in one draw."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    order, sequence = random.permutation(d), qmc.Sobol(d, rng=random)
    return sequence.random_base2(math.ceil(math.log2(n)))[:n, order]


def test_keys_name_unrelated_streams() -> None:
    streams = torch.stack([torch.rand(1000, generator=generator_for(a, b)) for a in range(4) for b in range(4)])
    assert (torch.corrcoef(streams) - torch.eye(16)).abs().max() < 4.5 / math.sqrt(1000)


def test_grids_follow_the_axes() -> None:
    assert mask_grid(torch.zeros(1, 3, 8, 8), 7) == (7, 7)
    assert mask_grid(torch.zeros(1, 3, 8, 8), [2, 5]) == (2, 5)
    assert mask_grid(torch.zeros(1, 3, 8), 4) == (4,)
    assert mask_grid(torch.zeros(1, 3), 4) is None
    with pytest.raises(ParameterError, match=r"grid_size to be a whole number or 2 of them.*\(7, 7, 7\)"):
        mask_grid(torch.zeros(1, 3, 8, 8), (7, 7, 7))


def _sums(model: torch.nn.Module, inputs: Tensor, chunk: int, n_masks: int) -> MaskSums:
    request = Request.build(model, inputs, 0, chunk_size=chunk)
    bank = MaskBank.for_inputs(request.input, 3, 0.5, seed=0)
    return pass_masks(
        request,
        lambda outputs, index: select(outputs, request.targets_for(index)),
        MaskSums.none(request.input, bank, powers=2),
        bank,
        n_masks,
        "zeros",
    )


@pytest.mark.parametrize("n", [1, 3])
def test_memory_does_not_grow_with_the_number_of_masks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal most
        masks = upsample(*args, **kwargs)
        alive.append(weakref.ref(masks))
        most = max(most, sum(len(each) for each in (ref() for ref in alive) if each is not None))
        return masks

    monkeypatch.setattr(_masks, "upsample", counting)
    inputs = batch(n, 3, 16, 16)
    found = []
    for n_masks in (100, 400):
        alive.clear()
        most = 0
        _sums(seeded(VGGLike()), inputs, 6, n_masks)
        found.append(most)
    assert found[0] == found[1] <= 2 * (BLOCK + 6)  # the masks in hand, and the next ones while they are drawn


def test_masks_are_drawn_and_summed_once_whatever_the_batch_and_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, summed = [], []

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(len(args[0]))
        return upsample(*args, **kwargs)

    def noting(sums: MaskSums, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        summed.append(len(chunk.masks))
        add(sums, chunk, fresh, scores, present)

    add = MaskSums.add
    monkeypatch.setattr(_masks, "upsample", counting)
    monkeypatch.setattr(MaskSums, "add", noting)
    _sums(seeded(VGGLike()), batch(5, 3, 16, 16), 3, 4 * BLOCK)  # a chunk has three of a mask's five samples
    assert drawn == summed
    assert len(drawn) <= 5
    assert sum(drawn) <= 4 * BLOCK + len(drawn)  # a mask that two portions share is drawn twice


@pytest.mark.parametrize("n", [1, 4])
def test_sums_are_the_sums(n: int) -> None:
    model, inputs = seeded(MLP()).double(), batch(n, 6)
    sums = _sums(model, inputs, 7, 50)
    masks = draw_masks(0, 50, (6,), None, 0.5, seed=0).double()
    scores = torch.stack([model(inputs.double() * mask)[:, 0].detach() for mask in masks])  # (m, n)
    assert torch.allclose(sums.masks, masks.sum(0))
    assert torch.allclose(sums.scores, torch.stack([scores.sum(0), scores.square().sum(0)]))
    for power in (1, 2):
        expected = torch.einsum("mn,mp->np", scores**power, masks)
        assert torch.allclose(sums.weighted[power - 1], expected)
        assert torch.allclose(sums.mean(power), expected / masks.sum(0))
