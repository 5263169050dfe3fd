"""What cost does as sizes grow: ``python -m benchmarks.sizes``.

RISE and AbPC on a small convolutional network with random weights, whose passes are cheap, so that what a method adds
to them shows. One size changes at a time, and the chunk and its layout stay the same. Each point is two processes of
their own, one thread each. In the first a call and as many bare passes at the same chunk take turns; the figures are
medians. The second takes the peak of resident memory above that of bare passes at the same chunk, with all but small
allocations returned to the system at once, and then that of a call that finds its own chunk and layout.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.engine import bare, forward, seconds
from benchmarks.fresh import in_a_process
from benchmarks.resident import GIVES_BACK, resident_peak
from benchmarks.written import RESULTS, circumstances, table, write
from pnpxai.explainers import RISE
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC
from pnpxai.tuning._problem import versions

N_RUNS = 3
CHUNK = 8
"""Samples that go through the network at once."""
WIDTH = 8
"""Channels of the network's first stage."""
LINEAR, FLAT, ALIKE = 1.1, 1.1, 0.1
"""The largest exponent that counts as linear, how many times the least the most may be to count as flat, and the
largest exponent of time over bare passes with which it counts as growing as they do."""


@dataclass(frozen=True)
class Point:
    """One combination of sizes.

    Attributes:
        method: of `METHODS`.
        side: of the square images, in pixels.
        n_masks: of RISE.
        batch: images.
        classes: of the network.
    """

    method: str
    side: int
    n_masks: int
    batch: int
    classes: int

    def at(self, factor: str, value: int) -> Point:
        """The point with one size changed."""
        changed: dict[str, Any] = {factor: value}
        return replace(self, **changed)


@dataclass(frozen=True)
class Cost:
    """What was measured at a point.

    Attributes:
        seconds: of one call.
        bare: of as many bare passes at the same chunk.
        ratio: of the two.
        forwards: samples through the model in one call.
        memory: megabytes above bare passes at the same chunk.
        own: the same where the method finds its own chunk.
    """

    seconds: float
    bare: float
    ratio: float
    forwards: int
    memory: float
    own: float


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        bases: the sizes that stay, for each method.
        factors: the values of each size that changes.
    """

    bases: tuple[Point, ...]
    factors: Mapping[str, tuple[int, ...]]

    def series(self) -> dict[tuple[str, str], list[Point]]:
        """The points for each method and size, in order."""
        return {
            (base.method, factor): [base.at(factor, value) for value in values]
            for factor, values in self.factors.items()
            for base in self.bases
            if factor != "n_masks" or base.method == "RISE"
        }


FULL = Plan(
    (Point("RISE", 112, 200, 1, 1000), Point("AbPC", 112, 0, 16, 1000)),
    {
        "side": (64, 112, 224, 448),
        "n_masks": (100, 300, 1000, 3000, 10000),
        "batch": (1, 4, 16, 64),
        "classes": (10, 1000, 21000),
    },
)
QUICK = Plan(
    (Point("RISE", 32, 20, 1, 10), Point("AbPC", 32, 0, 2, 10)),
    {"side": (32, 64), "n_masks": (20, 40), "batch": (1, 2), "classes": (10, 100)},
)
LABELS = {"side": "pixels a side", "n_masks": "masks", "batch": "images in the batch", "classes": "classes"}
UNITS = {"side": "pixels", "n_masks": "masks", "batch": "images", "classes": "classes"}
"""What cost is set against."""


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, stride, 1)
        self.second = nn.Conv2d(out, out, 3, 1, 1)
        self.around = nn.Conv2d(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(n, c, h, w)``."""
        sums: Tensor = self.second(self.first(x).relu()) + self.around(x)
        return sums.relu()


def network(classes: int, width: int = WIDTH) -> nn.Module:
    """The stages of a ResNet with one block and few channels each, and weights of their own seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        return nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *(Residual(a, b, 1 + (b > a)) for a, b in zip(widths, widths[1:], strict=False)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * width, classes),
        ).eval()


def images(n: int, side: int) -> Tensor:
    """Noise, ``(n, 3, side, side)``."""
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def rise(model: nn.Module, x: Tensor, point: Point) -> Callable[[], object]:
    """A call of RISE."""
    return lambda: RISE(model, n_masks=point.n_masks).attribute(x, 0)


def abpc(model: nn.Module, x: Tensor, point: Point) -> Callable[[], object]:
    """A call of AbPC, on maps of noise."""
    maps = images(len(x), point.side)[:, 0]
    return lambda: AbPC(model).evaluate(x, torch.zeros(len(x), dtype=torch.long), maps)


METHODS = {"RISE": rise, "AbPC": abpc}


def prepared(point: Point) -> tuple[nn.Module, Callable[[], object]]:
    """The network and a call of the method on it, warmed up on small sizes."""
    small = replace(point, side=32, n_masks=2, batch=1)
    METHODS[point.method](network(point.classes), images(1, 32), small)()
    model = network(point.classes)
    return model, METHODS[point.method](model, images(point.batch, point.side), point)


@contextlib.contextmanager
def chunks_given() -> Iterator[None]:
    """Chunks of `CHUNK` in plain order inside the block, without a trial of others."""
    with (
        mock.patch("pnpxai.forward._request.chunk_size_for", return_value=CHUNK),
        mock.patch("pnpxai.forward._request.channels_last_for", return_value=False),
    ):
        yield


def timed(point: Point, n_runs: int) -> dict[str, float]:
    """What `Cost` has of time, in this process."""
    model, work = prepared(point)
    rows, taken, plain = images(CHUNK, point.side), list[float](), list[float]()
    with chunks_given(), count_forwards() as counter:
        work()
        n = counter.n_samples
        bare(model, rows, forward, CHUNK)
        for _ in range(n_runs):
            taken.append(seconds(work))
            plain.append(seconds(functools.partial(bare, model, rows, forward, n)))
    ratio = statistics.median(a / b for a, b in zip(taken, plain, strict=True))
    return {"seconds": statistics.median(taken), "bare": statistics.median(plain), "ratio": ratio, "forwards": n}


def peaks(point: Point) -> dict[str, float]:
    """What `Cost` has of memory, in this process, which must have had no more before."""
    model, work = prepared(point)
    bare(model, images(CHUNK, point.side), forward, 3 * CHUNK)
    before = resident_peak()
    with chunks_given():
        work()
    given = resident_peak()
    work()
    return {"memory": given - before, "own": resident_peak() - before}


def asked(call: str, **environment: str) -> dict[str, float]:
    """What a call of a function of this module returns in a process of its own with one thread."""
    return dict(in_a_process("benchmarks.sizes", call, {**os.environ, "OMP_NUM_THREADS": "1", **environment}))


def cost(point: Point, n_runs: int) -> Cost:
    """What a point takes."""
    taken, kept = asked(f"timed({point!r}, {n_runs})"), asked(f"peaks({point!r})", **GIVES_BACK)
    return Cost(taken["seconds"], taken["bare"], taken["ratio"], int(taken["forwards"]), kept["memory"], kept["own"])


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent ``b`` of ``value = a · size^b``, by least squares of the logarithms."""
    return statistics.linear_regression([math.log(each) for each in sizes], [math.log(each) for each in values]).slope


def counted(megabytes: Sequence[float]) -> list[float]:
    """Megabytes, at least one each: less is the allocator's."""
    return [max(each, 1.0) for each in megabytes]


def flatness(values: Sequence[float]) -> float:
    """The largest by the smallest."""
    return max(values) / min(values)


def manner(exponent: float, spread: float) -> str:
    """How something grows, in a word."""
    if spread <= FLAT:
        return "flat"
    return "at most linear" if exponent <= LINEAR else "steeper"


@dataclass(frozen=True)
class Growth:
    """How cost grows with one size: exponents, and the largest by the smallest.

    Attributes:
        time: the exponent of seconds.
        bare: of those of bare passes.
        over: of the ratio of the two, which a machine that is slower at one size leaves as it is.
        end: the same from the last size but one to the last.
        memory: of megabytes.
        memory_spread: of megabytes.
    """

    time: float
    bare: float
    over: float
    end: float
    memory: float
    memory_spread: float


def growth(factor: str, costs: Mapping[int, Cost]) -> Growth:
    """The figures for the values of one size; images are counted in pixels."""
    against = [each**2 if factor == "side" else each for each in costs]
    over, memory = [each.ratio for each in costs.values()], counted([each.memory for each in costs.values()])
    return Growth(
        slope(against, [each.seconds for each in costs.values()]),
        slope(against, [each.bare for each in costs.values()]),
        slope(against, over),
        slope(against[-2:], over[-2:]),
        slope(against, memory),
        flatness(memory),
    )


Found = Mapping[tuple[str, str], Mapping[int, Cost]]


def size_rows(found: Found) -> list[list[str]]:
    """A row for each point."""
    return [
        [
            method,
            LABELS[factor],
            f"{size:,}",
            f"{each.forwards:,}",
            f"{each.seconds:.3f}",
            f"{1000 * each.seconds / each.forwards:.3f}",
            f"{each.ratio:.2f}",
            f"{each.memory:.1f}",
            f"{each.own:.1f}",
        ]
        for (method, factor), costs in found.items()
        for size, each in costs.items()
    ]


def growth_rows(found: Found) -> list[list[str]]:
    """A row for each method and size that changes."""
    rows = []
    for (method, factor), costs in found.items():
        each, memory = growth(factor, costs), [one.memory for one in costs.values()]
        rows.append(
            [
                method,
                UNITS[factor],
                f"{each.time:.2f}",
                f"{each.bare:.2f}",
                f"{each.over:.2f}",
                f"{each.end:.2f}",
                "as passes" if max(each.over, each.end) <= ALIKE else "steeper",
                f"{min(memory):.1f}",
                f"{max(memory):.1f}",
                f"{each.memory_spread:.2f}",
                f"{each.memory:.2f}",
                manner(each.memory, each.memory_spread),
            ]
        )
    return rows


def page(found: Found, plan: Plan, taken: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    growths = ["method", "size", "exponent of time", "of bare passes", "of the ratio", "at the large end"]
    growths += ["time grows", "least MB", "most MB", "most by least", "exponent of memory", "memory is"]
    points = ["method", "size", "value", "passes", "seconds", "ms a pass", "over a bare pass", "MB above bare passes"]
    points += ["MB with its own chunk"]
    bases = "; ".join(
        f"{each.method}: images of {each.side} × {each.side} pixels, "
        + (f"{each.n_masks} masks, " if each.n_masks else "")
        + f"batch {each.batch}, {each.classes:,} classes"
        for each in plan.bases
    )
    return [
        "# Cost against size",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "",
        f"Chunks of {CHUNK}. Where a size does not change: {bases}.",
        "",
        "![Time and memory against each size](sizes.png)",
        "",
        "The exponent is `b` of `cost = a · size^b`, by least squares over all sizes, and from the last but one to "
        "the last. Time grows as passes, whose number is linear in masks and images, where the exponent of its ratio "
        f"to theirs, which take turns with it, is up to {ALIKE}. Memory that changes by up to {FLAT} times in all "
        f"counts as flat, else an exponent up to {LINEAR} as linear; less than 1 MB is taken as 1.",
        "",
        *table(growths, growth_rows(found)),
        "",
        "Each point:",
        "",
        *table(points, size_rows(found)),
        "",
        "`python -m benchmarks.sizes`: " + circumstances(taken, versions()),
    ]


COLORS = {"RISE": "#1b6ca8", "AbPC": "#c8553d"}


def draw(found: Found, path: Path) -> Path:
    """Time above, memory below, a column for each size; both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    factors = list(dict.fromkeys(factor for _, factor in found))
    figure = Figure(figsize=(3.3 * len(factors), 6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(factors), sharex="col", sharey="row", squeeze=False)
    for (method, factor), costs in found.items():
        above, below = grid[:, factors.index(factor)]
        each, unit, color, sizes = growth(factor, costs), UNITS[factor], COLORS[method], list(costs)
        above.plot(
            sizes,
            [one.seconds for one in costs.values()],
            "o-",
            color=color,
            label=f"{method}: {unit}$^{{{each.time:.2f}}}$",
        )
        above.plot(sizes, [one.bare for one in costs.values()], ":", color=color, linewidth=2.5, alpha=0.5)
        below.plot(
            sizes,
            counted([one.memory for one in costs.values()]),
            "o-",
            color=color,
            label=f"{method}: {unit}$^{{{each.memory:.2f}}}$",
        )
    for factor, column in zip(factors, grid.T, strict=True):
        sizes = sorted({size for (_, each), costs in found.items() if each == factor for size in costs})
        for axes in column:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(FixedLocator(sizes))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="0.9")
            axes.legend(frameon=False, fontsize=9, loc="upper left")
        column[1].set_xlabel(LABELS[factor])
    grid[0, 0].set_ylabel("seconds (dotted: bare passes)")
    grid[1, 0].set_ylabel("MB above bare passes")
    for axes in grid[:, 0]:
        low, high = axes.get_ylim()
        low, high = 10 ** math.floor(math.log10(low * 1.5)), max(high, 10 * low)
        axes.set_ylim(low, high * (high / low) ** 0.25)  # room for the legends
    figure.savefig(path, dpi=150)
    return path


def measured(plan: Plan, n_runs: int) -> dict[tuple[str, str], dict[int, Cost]]:
    """Every point of a plan; one that several series share is measured once."""
    known: dict[Point, Cost] = {}
    found: dict[tuple[str, str], dict[int, Cost]] = {}
    for (method, factor), points in plan.series().items():
        for point in points:
            if point not in known:
                known[point] = cost(point, n_runs)
                print(point, asdict(known[point]), flush=True)
        found[method, factor] = {getattr(point, factor): known[point] for point in points}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print the page, draw beside it, and keep neither")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--runs", type=int, default=N_RUNS)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    start = time.perf_counter()
    found = measured(plan, arguments.runs)
    lines = page(found, plan, time.perf_counter() - start)
    print("\n".join(lines))
    if arguments.dry:
        print(draw(found, Path(tempfile.gettempdir()) / "sizes.png"))
    else:
        write("sizes", lines)
        draw(found, RESULTS / "sizes.png")


if __name__ == "__main__":
    main()
