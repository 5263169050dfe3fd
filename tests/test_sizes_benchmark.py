"""The benchmarks of cost against size, and of what a call takes beside the model: their arithmetic, and their peers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import overhead, sizes
from pnpxai.forward import count_forwards


def cost(seconds: float, memory: float, bare: float = 1.0) -> sizes.Cost:
    return sizes.Cost(seconds, bare, seconds / bare, 100, memory, 2 * memory)


@pytest.mark.parametrize(("scale", "exponent"), [(3.0, 1.0), (0.01, 2.0), (7.0, 0.0), (2.0, -0.5)])
def test_the_slope_of_a_power_is_its_exponent(scale: float, exponent: float) -> None:
    at = [1, 4, 16, 100]
    assert sizes.slope(at, [scale * each**exponent for each in at]) == pytest.approx(exponent, abs=1e-12)


def test_the_slope_is_that_of_least_squares() -> None:
    # logarithms (base 2): x = 0, 1, 2 and y = 0, 3, 3; Σ(x - 1)(y - 2) / Σ(x - 1)² = (2 + 1) / 2
    assert sizes.slope([1, 2, 4], [1, 8, 8]) == pytest.approx(1.5)


def test_growth_counts_pixels_and_no_less_than_a_megabyte() -> None:
    linear = {side: cost(2.0 * side**2, 0.25, 5.0 * side) for side in (64, 112, 224)}
    found = sizes.growth("side", linear)
    assert (found.time, found.bare, found.over, found.end) == pytest.approx((1.0, 0.5, 0.5, 0.5))
    assert (found.memory, found.memory_spread) == pytest.approx((0.0, 1.0))
    assert sizes.growth("batch", linear).time == pytest.approx(2.0)


def test_the_end_is_steeper_where_a_square_takes_over() -> None:
    found = sizes.growth("batch", {n: cost(n + n**2 / 1000, 1.0) for n in (1, 1000, 10000)})
    assert found.end == pytest.approx(torch.log10(torch.tensor(110000 / 2000)).item())  # log(110000/2000) / log(10)
    assert found.over < found.end


@pytest.mark.parametrize(
    ("exponent", "spread", "word"),
    [(1.0, 16.0, "at most linear"), (0.0, 1.0, "flat"), (3.0, 1.05, "flat"), (1.4, 16.0, "steeper")],
)
def test_growth_in_a_word(exponent: float, spread: float, word: str) -> None:
    assert sizes.manner(exponent, spread) == word


def test_spread_is_the_largest_by_the_smallest() -> None:
    assert sizes.flatness([4.0, 2.0, 8.0]) == 4.0
    assert sizes.counted([0.2, 3.0]) == [1.0, 3.0]


FOUND = {
    ("RISE", "n_masks"): {100: cost(0.5, 10.0, 0.4), 1000: cost(5.0, 10.5, 4.0)},
    ("AbPC", "side"): {64: cost(1.0, 2.0), 128: cost(8.0, 8.0)},
}


def test_the_tables_say_what_was_measured() -> None:
    lines = sizes.page(FOUND, sizes.FULL, 1.0)
    rows = [line for line in lines if line.startswith(("| RISE", "| AbPC"))]
    assert rows == [
        "| RISE | masks | 1.00 | 1.00 | 0.00 | 0.00 | as passes | 10.0 | 10.5 | 1.05 | 0.02 | flat |",
        "| AbPC | pixels | 1.50 | 0.00 | 1.50 | 1.50 | steeper | 2.0 | 8.0 | 4.00 | 1.00 | at most linear |",
        "| RISE | masks | 100 | 100 | 0.500 | 5.000 | 1.25 | 10.0 | 20.0 |",
        "| RISE | masks | 1,000 | 100 | 5.000 | 50.000 | 1.25 | 10.5 | 21.0 |",
        "| AbPC | pixels a side | 64 | 100 | 1.000 | 10.000 | 1.00 | 2.0 | 4.0 |",
        "| AbPC | pixels a side | 128 | 100 | 8.000 | 80.000 | 8.00 | 8.0 | 16.0 |",
    ]
    widths = [line.count("|") for line in lines if line.startswith("|")]
    assert widths == [13] * 4 + [10] * 6


def test_the_picture_has_a_column_for_each_size(tmp_path: Path) -> None:
    from matplotlib.image import imread

    height, width = imread(sizes.draw(FOUND, tmp_path / "sizes.png")).shape[:2]
    assert (height, width) == (900, 990)  # 6 inches, and 3.3 for each of two sizes, at 150 dots


def test_the_plan_changes_one_size_at_a_time() -> None:
    series = sizes.FULL.series()
    assert ("AbPC", "n_masks") not in series
    assert [len(each) for each in series.values()] == [4, 4, 5, 4, 4, 3, 3]
    bases = {each.method: each for each in sizes.FULL.bases}
    for (method, factor), points in series.items():
        assert all(each.at(factor, getattr(bases[method], factor)) == bases[method] for each in points)


@pytest.mark.parametrize(("method", "forwards"), [("RISE", 2 * 20), ("AbPC", 2 * 20)])  # AbPC: 2 + 2 · (10 - 1)
def test_as_many_bare_passes_as_the_method_asks(method: str, forwards: int) -> None:
    found = sizes.timed(sizes.Point(method, 32, 20, 2, 10), 1)
    assert found["forwards"] == forwards
    assert found["ratio"] == pytest.approx(found["seconds"] / found["bare"])


def test_the_chunk_is_given() -> None:
    model, work = sizes.prepared(sizes.Point("RISE", 32, 20, 1, 10))
    with sizes.chunks_given(), count_forwards() as counter:
        work()
    assert (counter.n_samples, counter.n_calls) == (20, 3)  # 8, 8 and 4


def test_the_networks_are_the_same_every_time_and_the_random_state_is_untouched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    once, again = sizes.network(10), sizes.network(10)
    subjects = [overhead.subjects() for _ in range(2)]
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(*(each.values() for each in subjects), strict=True))


EXACT = ("Gradient", "GradientXInput", "GradCam", "GradCam, layer given", "LRPUniformEpsilon", "RISE, 10 masks")


@pytest.mark.parametrize("peer", overhead.PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("title", ["MLP", "CNN"])
@pytest.mark.filterwarnings("ignore")
def test_what_is_compared_does_the_same(peer: overhead.Peer, title: str) -> None:
    model, x = overhead.subjects()[title]
    if peer not in overhead.fitting(x):
        pytest.skip("needs positions")
    ours, theirs = (each(model, x).detach().flatten() for each in (peer.ours, peer.theirs))
    if peer.name in EXACT:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    else:  # five other noises, or other points on the way
        assert correlation(ours, theirs) > (0.5 if peer.name.startswith("SmoothGrad") else 0.9)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def test_medians_of_calls_and_of_pairs() -> None:
    found = overhead.Compared.of([5.0, 9.0, 100.0], [1.0, 2.0, 99.0])
    assert found == overhead.Compared(9.0, 2.0, 4.0, 4.0)  # the differences are 4, 7 and 1


@pytest.mark.filterwarnings("ignore:Input Tensor 0")
def test_the_quicker_half_of_the_rounds_counts() -> None:
    slow, quick, middle = ([[(k * 1.0, k * 2.0)], [(k * 3.0, k * 4.0), (k * 5.0, k * 6.0)]] for k in (9, 1, 2))
    assert overhead.quicker_half([slow, quick, middle]) == [
        [(1.0, 2.0), (2.0, 4.0)],
        [(3.0, 4.0), (5.0, 6.0), (6.0, 8.0), (10.0, 12.0)],
    ]
    (found,) = overhead.compared([(overhead.PEERS[0], *overhead.subjects()["MLP"])], 1)
    assert found.theirs > 0
    assert found.ours > 0


def test_the_page_of_imports_and_calls() -> None:
    taken = {"torch": [1.0, 3.0, 2.0], "captum.attr": [2.5] * 3, "pnpxai": [2.8, 2.9, 3.2]}
    peer = overhead.PEERS[0]
    calls = [overhead.call_row("MLP", peer, overhead.Compared(1500.0, 400.0, 1001.0, 990.0))]
    lines = overhead.page(overhead.import_rows(taken), calls, 1.0)
    assert "| `import torch` | 2.00 | 1.00 to 3.00 | 0.00 |  |" in lines
    assert "| `import pnpxai` | 2.90 | 2.80 to 3.20 | 0.90 | reached |" in lines
    assert "| MLP | Gradient | Saliency | 1,500 | 400 | 1,001 | 990 | missed |" in lines
