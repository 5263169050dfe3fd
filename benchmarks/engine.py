"""What methods take beside the model: ``python -m benchmarks.engine``.

While a method runs, bare passes at the fastest batch size are made amid its own, one for every four, and timed apart,
so that a spell in which the machine is slow strikes both; the figure is the median of the ratios of their times a
sample. Perturbation methods and metrics are set against forward passes without gradients, the others against forward
and backward passes to the inputs with frozen weights; all against float32, in batches no larger than what the method
has to ask about at once. The process keeps the memory that it frees (`pnpxai.allocator`), else each pass maps its own
anew, which takes up to as long as the arithmetic, more or less in each process. Bare passes themselves are measured in
the same way: as far as these are from 1, the other figures may be, too. Memory is the peak of another process, which
gives it back, less that of a bare pass in it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.fresh import in_a_process
from benchmarks.resident import GIVES_BACK, forget_peak, resident_peak
from benchmarks.written import RESULTS, machine, named_versions, table, today, write
from pnpxai.allocator import keep_freed_memory
from pnpxai.explainers import MP, RELAX, RISE, Gradient, IntegratedGradients, SmoothGrad
from pnpxai.metrics import AbPC, MuFidelity, Sensitivity
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized
from pnpxai.tuning._problem import versions

BATCHES = (1, 2, 4, 8, 16, 32)
N_MASKS = 1000
N_STEPS = 50
N_RUNS = 5
TURN = 8.0
"""Seconds of a turn, at least; a shorter method is called several times in it."""
SHARE = 0.25
"""Bare passes for each of a method's own."""
AIMS = {"forward": 1.05, "bfloat16": 0.6, "metric": 1.1, "backward": 1.1}
BATCHED = 6.0
"""What eight images may take of MP by the time of one."""
MEGABYTES, FLAT = 200, 1.1
"""Most memory above bare passes, and how many times as much ten times the masks may take."""
ALIKE = 0.98
"""Least rank correlation of a map by bfloat16 with that by float32."""
AMID = 2
"""Batches of bare passes that are made in a turn, at least."""
SETTLED = 900
"""Samples after which the chunk size is known, also where some of them are asked about one by one."""
LOG = RESULTS / "engine.jsonl"


Step: TypeAlias = Callable[[Callable[[Tensor], Tensor], Tensor], None]
"""A bare pass of a batch through a model."""


@dataclass(frozen=True)
class Work:
    """One method on one batch.

    Attributes:
        name: of the method.
        kind: of `AIMS`.
        run: does it, with so many masks where it has some.
        step_by_step: whether each of its passes depends on the one before.
    """

    name: str
    kind: str
    run: Callable[[int], object]
    step_by_step: bool = False


@dataclass(frozen=True)
class Measured:
    """What a method took.

    Attributes:
        name: of the method.
        kind: of `AIMS`.
        n_images: of the batch.
        n_threads: of torch.
        n_passes: samples that went through the model.
        batch: at which the bare passes are fastest.
        ratios: its time by that of the bare passes, turn by turn.
    """

    name: str
    kind: str
    n_images: int
    n_threads: int
    n_passes: int
    batch: int
    ratios: list[float]

    def row(self) -> list[str]:
        """Of the table."""
        ratio = statistics.median(self.ratios)
        return [
            self.name,
            str(self.n_images),
            str(self.n_threads),
            f"{self.n_passes:,}",
            str(self.batch),
            f"{ratio:.3f}",
            f"{min(self.ratios):.3f} to {max(self.ratios):.3f}",
            "reached" if ratio <= AIMS[self.kind] else "missed",
        ]


def forward(model: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    """A bare pass."""
    with torch.inference_mode():
        model(inputs)


def backward(model: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    """A bare pass there and back, to the inputs alone."""
    given = inputs.detach().requires_grad_()
    torch.autograd.grad(model(given).sum(), given)


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """How many samples go through a model in each pass inside the block."""
    passed: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    try:
        yield passed
    finally:
        hook.remove()


def settled(model: nn.Module, run: Callable[[], object]) -> tuple[float, int]:
    """How long the last call takes, of as many as ask about `SETTLED` samples, and how many samples one asks about."""
    with counted(model) as passed:
        taken = seconds(run)
        asked = sum(passed)
        while 0 < sum(passed) < SETTLED:
            taken = seconds(run)
    return taken, asked


def repeated(run: Callable[[], object], n: int) -> None:
    """``n`` calls."""
    for _ in range(n):
        run()


def bare(model: nn.Module, inputs: Tensor, step: Step, n: int) -> None:
    """``n`` samples through the model."""
    while n > 0:
        step(model, inputs[:n])
        n -= len(inputs)


class BarePasses:
    """Bare passes of copies of one image, at the batch size at which they are fastest.

    Args:
        model: what is passed through.
        sample: the image, ``(1, c, h, w)``.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        self.model = model
        self.sample = sample
        self._taken: dict[Step, dict[int, float]] = {}

    def batch(self, step: Step, most: int) -> Tensor:
        """The batch at which a sample takes least, of at most so many."""
        if step not in self._taken:
            self._taken[step] = self._measured(step)
        taken = {size: seconds for size, seconds in self._taken[step].items() if size <= most}
        return self._copies(min(taken, key=lambda size: taken[size]))

    def _measured(self, step: Step) -> dict[int, float]:
        batches = {size: self._copies(size) for size in BATCHES}
        taken: dict[int, list[float]] = {size: [] for size in BATCHES}
        for _ in range(N_RUNS):
            for size, inputs in batches.items():
                taken[size].append(seconds(functools.partial(step, self.model, inputs)) / size)
        return {size: min(each) for size, each in taken.items()}

    def _copies(self, size: int) -> Tensor:
        return self.sample.expand(size, *self.sample.shape[1:]).clone()


class Amid:
    """Bare passes that are made while a method runs.

    Attributes:
        seconds: they took.
        n: samples of them.
    """

    def __init__(self, model: nn.Module, batch: Tensor, step: Step) -> None:
        self.model, self.batch, self.step = model, batch, step
        self.seconds, self.n = 0.0, 0
        self._owed = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[Amid]:
        """Make them whenever the model is asked inside the block."""
        forward = self.model.forward

        def after_others(x: Tensor) -> Tensor:
            self._owed += SHARE * len(x)
            while self._owed >= len(self.batch):
                with torch.autocast("cpu", enabled=False):
                    self.seconds += seconds(lambda: self.step(forward, self.batch))
                self._owed -= len(self.batch)
                self.n += len(self.batch)
            outputs: Tensor = forward(x)
            return outputs

        with mock.patch.object(self.model, "forward", after_others):
            yield self


def works(model: nn.Module, x: Tensor) -> list[Work]:
    """What is measured on a batch."""
    target = model(x).argmax(1).detach()
    maps = torch.rand(len(x), *x.shape[2:], generator=torch.Generator().manual_seed(0))
    found = [
        Work("RISE", "forward", lambda n: RISE(model, n_masks=n).attribute(x, target)),
        Work("RELAX", "forward", lambda n: RELAX(model, n_masks=n).attribute(x)),
    ]
    if len(x) == 1:
        found += [
            Work(
                "RISE by ridge",
                "forward",
                lambda n: RISE(model, n_masks=n, estimator="ridge").attribute(x, target),
            ),
            Work(
                "RISE in bfloat16",
                "bfloat16",
                lambda n: RISE(model, n_masks=n, precision="bfloat16").attribute(x, target),
            ),
            Work(
                "RELAX in bfloat16",
                "bfloat16",
                lambda n: RELAX(model, n_masks=n, precision="bfloat16").attribute(x),
            ),
        ]
    return [
        *found,
        Work("AbPC", "metric", lambda _: AbPC(model).evaluate(x, target, maps)),
        Work("MuFidelity", "metric", lambda _: MuFidelity(model).evaluate(x, target, maps)),
        Work(
            "Sensitivity of Gradient",
            "backward",
            lambda _: Sensitivity(model, Gradient(model)).evaluate(x, target, Gradient(model).attribute(x, target)),
        ),
        Work(
            f"MP, {N_STEPS} steps",
            "backward",
            lambda _: MP(model, max_iter=N_STEPS).attribute(x, target),
            step_by_step=True,
        ),
        Work("SmoothGrad", "backward", lambda _: SmoothGrad(model).attribute(x, target)),
        Work("IntegratedGradients", "backward", lambda _: IntegratedGradients(model).attribute(x, target)),
    ]


def itself(passes: BarePasses) -> Work:
    """Bare passes, to be measured as methods are: as far as these are from 1, the other figures may be, too."""
    return Work("bare passes themselves", "forward", lambda n: bare(passes.model, passes.batch(forward, n), forward, n))


def measured(passes: BarePasses, work: Work, n_images: int, n_masks: int, n_runs: int) -> dict[str, Any]:
    """A method with bare passes amid, after calls of it that do not count: in these chunk sizes are tried.

    The batches of the bare passes are no larger than what the method has to ask about at once.
    """
    step = backward if work.kind == "backward" else forward
    taken, asked = settled(passes.model, functools.partial(work.run, min(n_masks, 2 * SETTLED // n_images)))
    batch = passes.batch(step, n_images if work.step_by_step else asked)
    n_calls = max(math.ceil(TURN / taken), math.ceil(AMID * len(batch) / (SHARE * asked)))
    ratios = list[float]()
    for _ in range(n_runs):
        amid = Amid(passes.model, batch, step)
        with counted(passes.model) as passed, amid.running():
            total = seconds(functools.partial(repeated, functools.partial(work.run, n_masks), n_calls))
        ratios.append((total - amid.seconds) / sum(passed) / (amid.seconds / amid.n))
    n_passes = sum(passed) // n_calls
    return asdict(Measured(work.name, work.kind, n_images, torch.get_num_threads(), n_passes, len(batch), ratios))


def batched(passes: BarePasses, x: Tensor, n_runs: int) -> list[str]:
    """MP on a batch by MP on its first image, and the same of bare passes, each at its own fastest batch size."""
    model = passes.model
    target = model(x).argmax(1).detach()
    explainer = MP(model, max_iter=N_STEPS)
    several, one = (functools.partial(explainer.attribute, x[:n], target[:n]) for n in (len(x), 1))
    alone, full = x[:1].clone(), passes.batch(backward, len(x))
    bare_several = functools.partial(bare, model, full, backward, N_STEPS * len(x))
    bare_one = functools.partial(bare, model, alone, backward, N_STEPS)
    ratios = []
    for _ in range(1 + n_runs):
        taken = [seconds(each) for each in (several, one, bare_several, bare_one)]
        ratios.append((taken[0] / taken[1], taken[2] / taken[3]))
    ours, limit = (statistics.median(each) for each in zip(*ratios[1:], strict=True))
    reached = "reached" if ours <= BATCHED else "missed"
    return [str(len(x)), str(torch.get_num_threads()), str(len(full)), f"{ours:.2f}", f"{limit:.2f}", reached]


def lowered(model: nn.Module, every: Tensor, n_masks: int) -> list[list[str]]:
    """A row for RISE and one for RELAX: rank correlation of their maps by bfloat16 with those by float32, by image."""
    rows = []
    for method in (RISE, RELAX):
        correlations = []
        for x in torch.split(every, 1):
            maps = [
                method(model, n_masks=n_masks, precision=precision).attribute(x).flatten().numpy()
                for precision in ("float32", "bfloat16")
            ]
            correlations.append(float(stats.spearmanr(*maps).statistic))
        reached = "reached" if min(correlations) > ALIKE else "missed"
        cells = [f"{each:.4f}" for each in (statistics.median(correlations), min(correlations))]
        rows.append([method.__name__, str(len(every)), *cells, reached])
    return rows


def memory_of(method: str, n_masks: int, batch_size: int) -> float:
    """Megabytes that a method on one image takes above a bare pass of it, in this process."""
    torch.set_num_threads(1)
    model = efficientnet_lite0()
    x = standardized([cropped(photographs()[0].open())])

    def attribute(n: int) -> None:
        {"RISE": RISE, "RELAX": RELAX}[method](model, n_masks=n, batch_size=batch_size).attribute(x)

    attribute(1)  # what is imported by a first call is no part of it
    forget_peak()
    forward(model, x)
    before = resident_peak()
    forget_peak()
    attribute(n_masks)
    return resident_peak() - before


def memory(method: str, n_masks: int, batch_size: int) -> list[str]:
    """A row, from two processes of their own."""
    taken = []
    for n in (n_masks, 10 * n_masks):
        call, environment = f"memory_of({method!r}, {n}, {batch_size})", {**os.environ, **GIVES_BACK}
        taken.append(in_a_process("benchmarks.engine", call, environment))
    ratio = taken[1] / max(taken[0], 1.0)
    reached = "reached" if max(taken) <= MEGABYTES and ratio <= FLAT else "missed"
    return [method, str(batch_size), *(f"{each:.0f}" for each in taken), f"{ratio:.2f}", reached]


class Log:
    """What was measured, one JSON line each: the name of what it is, itself, and when and where that was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self) -> dict[str, Any]:
        """All that was kept, in its order."""
        return {name: found for name, found, _ in self._lines()}

    def circumstances(self) -> list[str]:
        """When and where."""
        return sorted({each for *_, each in self._lines()})

    def _lines(self) -> list[tuple[str, Any, str]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return [(name, found, each) for name, found, each in map(json.loads, lines)]

    def once(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure and keep it, unless it is there."""
        if name in self.known():
            return
        start = time.perf_counter()
        found = measure()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, found, f"{today()}, {machine()}"]) + "\n")
        print(name, found, f"[{time.perf_counter() - start:.0f} s]", flush=True)


def page(known: Mapping[str, Any], n_masks: int, circumstances: Sequence[str]) -> list[str]:
    """What is known as lines of Markdown."""

    def rows(kind: str) -> list[Any]:
        return [each for name, each in known.items() if name.startswith(f"{kind}: ")]

    columns = ["method", "images", "threads", "passes", "bare batch", "time over bare passes", "from, to", "aim"]
    return [
        "# Time beside the model",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        f"EfficientNet-Lite0 on photographs of 224 × 224 pixels, {n_masks:,} masks. Aims: "
        + ", ".join(f"{value} ({name})" for name, value in AIMS.items())
        + ".",
        "",
        *table(columns, [Measured(**each).row() for each in rows("time")]),
        "",
        f"MP of {N_STEPS} steps on several images by the time of one, and the least that bare passes there and back "
        f"allow: all of them at the fastest batch size by those of one image, one at a time. Aim: {BATCHED:g} for 8.",
        "",
        *table(["images", "threads", "bare batch", "MP", "bare passes", "aim"], rows("batched")),
        "",
        f"Rank correlation of maps of {n_masks:,} masks by bfloat16 with those by float32; aim: above {ALIKE}.",
        "",
        *table(["method", "images", "median", "least", "aim"], [one for each in rows("lowered") for one in each]),
        "",
        f"Memory above a bare pass of one image, in megabytes; aims: {MEGABYTES}, and {FLAT} times as much for ten "
        "times the masks.",
        "",
        *table(
            ["method", "batch size", f"{n_masks:,} masks", f"{10 * n_masks:,} masks", "ratio", "aim"], rows("memory")
        ),
        "",
        f"`python -m benchmarks.engine`: {'; '.join(circumstances)}; {named_versions(versions())}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=N_MASKS)
    parser.add_argument("--runs", type=int, default=N_RUNS)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="measure what has this in its name")
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, one a measurement, as soon as it is done")
    parser.add_argument("--resume", action="store_true", help="keep what the log holds, and go on from there")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        arguments.log.unlink(missing_ok=True)
    keep_freed_memory()
    log = Log(arguments.log)
    model = efficientnet_lite0().requires_grad_(False)
    every = standardized([cropped(each.open()) for each in photographs()])

    def once(name: str, measure: Callable[[], Any]) -> None:
        if arguments.only in name:
            log.once(name, measure)

    for n_threads in arguments.threads:
        torch.set_num_threads(n_threads)
        passes = BarePasses(model, every[:1])
        check = functools.partial(measured, passes, itself(passes), 1, arguments.masks, arguments.runs)
        once(f"time: bare passes themselves, {n_threads} threads", check)
        for n in arguments.images:
            where = f"{n} images, {n_threads} threads"
            for work in works(model, every[:n]):
                measure = functools.partial(measured, passes, work, n, arguments.masks, arguments.runs)
                once(f"time: {work.name}; {where}", measure)
            if n > 1:
                once(f"batched: {where}", functools.partial(batched, passes, every[:n], arguments.runs))
    once("lowered: bfloat16", functools.partial(lowered, model, every, arguments.masks))
    for method in ("RISE", "RELAX"):
        for size in (4, 8):
            once(f"memory: {method}, {size}", functools.partial(memory, method, arguments.masks, size))
    lines = page(log.known(), arguments.masks, log.circumstances())
    print("\n".join(lines))
    if not arguments.dry:
        write("engine", lines)


if __name__ == "__main__":
    main()
