"""What methods take beside the model: ``python -m benchmarks.engine``.

Each method and the same number of bare passes, at the fastest batch size, take turns in one process; the figure is the
median of the ratios. Perturbation methods and metrics are set against forward passes without gradients, the others
against forward and backward passes to the inputs with frozen weights; all against float32. Memory is the peak of a
process of its own, less that of a bare pass in it.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.written import circumstances, table, write
from pnpxai.explainers import MP, RELAX, RISE, Gradient, IntegratedGradients, SmoothGrad
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, MuFidelity, Sensitivity
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized
from pnpxai.tuning._problem import versions

BATCHES = (1, 2, 4, 8, 16, 32)
N_MASKS = 1000
N_STEPS = 50
N_RUNS = 5
AIMS = {"forward": 1.05, "bfloat16": 0.6, "metric": 1.1, "backward": 1.1}
BATCHED = 6.0
"""What eight images may take of MP by the time of one."""
MEGABYTES, FLAT = 200, 1.1
"""Most memory above bare passes, and how many times as much ten times the masks may take."""


@dataclass(frozen=True)
class Work:
    """One method on one batch.

    Attributes:
        name: of the method.
        kind: of `AIMS`.
        run: does it.
    """

    name: str
    kind: str
    run: Callable[[], object]


def forward(model: nn.Module, inputs: Tensor) -> None:
    """A bare pass."""
    with torch.inference_mode():
        model(inputs)


def backward(model: nn.Module, inputs: Tensor) -> None:
    """A bare pass there and back, to the inputs alone."""
    given = inputs.detach().requires_grad_()
    torch.autograd.grad(model(given).sum(), given)


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def bare(model: nn.Module, inputs: Tensor, step: Callable[[nn.Module, Tensor], None], n: int) -> None:
    """``n`` samples through the model."""
    while n > 0:
        step(model, inputs[:n])
        n -= len(inputs)


def fastest(model: nn.Module, sample: Tensor, step: Callable[[nn.Module, Tensor], None]) -> Tensor:
    """The batch size at which a sample takes least, as a batch."""
    batches = {size: sample.expand(size, *sample.shape[1:]).clone() for size in BATCHES}
    taken: dict[int, list[float]] = {size: [] for size in BATCHES}
    for _ in range(N_RUNS):
        for size, inputs in batches.items():
            taken[size].append(seconds(functools.partial(step, model, inputs)) / size)
    return batches[min(taken, key=lambda size: min(taken[size]))]


def works(model: nn.Module, x: Tensor, n_masks: int) -> list[Work]:
    """What is measured on a batch."""
    target = model(x).argmax(1).detach()
    maps = torch.rand(len(x), *x.shape[2:], generator=torch.Generator().manual_seed(0))
    return [
        Work(f"RISE, {n_masks} masks", "forward", lambda: RISE(model, n_masks=n_masks).attribute(x, target)),
        Work(
            f"RISE by ridge, {n_masks} masks",
            "forward",
            lambda: RISE(model, n_masks=n_masks, estimator="ridge").attribute(x, target),
        ),
        Work(f"RELAX, {n_masks} masks", "forward", lambda: RELAX(model, n_masks=n_masks).attribute(x)),
        Work(
            f"RISE in bfloat16, {n_masks} masks",
            "bfloat16",
            lambda: RISE(model, n_masks=n_masks, precision="bfloat16").attribute(x, target),
        ),
        Work(
            f"RELAX in bfloat16, {n_masks} masks",
            "bfloat16",
            lambda: RELAX(model, n_masks=n_masks, precision="bfloat16").attribute(x),
        ),
        Work("AbPC", "metric", lambda: AbPC(model).evaluate(x, target, maps)),
        Work("MuFidelity", "metric", lambda: MuFidelity(model).evaluate(x, target, maps)),
        Work(
            "Sensitivity of Gradient",
            "backward",
            lambda: Sensitivity(model, Gradient(model)).evaluate(x, target, Gradient(model).attribute(x, target)),
        ),
        Work(f"MP, {N_STEPS} steps", "backward", lambda: MP(model, max_iter=N_STEPS).attribute(x, target)),
        Work("SmoothGrad", "backward", lambda: SmoothGrad(model).attribute(x, target)),
        Work("IntegratedGradients", "backward", lambda: IntegratedGradients(model).attribute(x, target)),
    ]


def measured(model: nn.Module, x: Tensor, n_masks: int, n_runs: int) -> list[list[str]]:
    """A row for each method."""
    steps = {kind: backward if kind == "backward" else forward for kind in AIMS}
    batches = {step: fastest(model, x[:1], step) for step in (forward, backward)}
    rows = []
    for work in works(model, x, n_masks):
        step = steps[work.kind]
        work.run()  # tries chunk sizes, once
        with count_forwards() as counter:
            work.run()
        ratios = []
        for _ in range(n_runs):
            taken = seconds(work.run)
            ratios.append(taken / seconds(functools.partial(bare, model, batches[step], step, counter.n_samples)))
        ratio = statistics.median(ratios)
        print(work.name, len(x), [f"{each:.3f}" for each in ratios], flush=True)
        rows.append(
            [
                work.name,
                str(len(x)),
                str(torch.get_num_threads()),
                f"{counter.n_samples:,}",
                str(len(batches[step])),
                f"{ratio:.3f}",
                f"{min(ratios):.3f} to {max(ratios):.3f}",
                "reached" if ratio <= AIMS[work.kind] else "missed",
            ]
        )
    return rows


def batched(model: nn.Module, x: Tensor, n_runs: int) -> list[str]:
    """MP on a batch by MP on its first image, and the same of bare passes, each at its own fastest batch size."""
    target = model(x).argmax(1).detach()
    explainer = MP(model, max_iter=N_STEPS)
    several, one = (functools.partial(explainer.attribute, x[:n], target[:n]) for n in (len(x), 1))
    alone, full = x[:1].clone(), fastest(model, x[:1], backward)
    bare_several = functools.partial(bare, model, full, backward, N_STEPS * len(x))
    bare_one = functools.partial(bare, model, alone, backward, N_STEPS)
    ratios = []
    for _ in range(1 + n_runs):
        taken = [seconds(each) for each in (several, one, bare_several, bare_one)]
        ratios.append((taken[0] / taken[1], taken[2] / taken[3]))
    ours, limit = (statistics.median(each) for each in zip(*ratios[1:], strict=True))
    reached = "reached" if ours <= BATCHED else "missed"
    return [str(len(x)), str(torch.get_num_threads()), str(len(full)), f"{ours:.2f}", f"{limit:.2f}", reached]


def peak() -> float:
    """The most memory this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(method: str, n_masks: int, n_images: int, batch_size: int) -> float:
    """Megabytes that a method takes above a bare pass of one image; in this process."""
    torch.set_num_threads(1)
    model = efficientnet_lite0()
    x = standardized([cropped(each.open()) for each in photographs()])[:n_images]
    forward(model, x[:1].clone())
    before = peak()
    {"RISE": RISE, "RELAX": RELAX}[method](model, n_masks=n_masks, batch_size=batch_size).attribute(x)
    return peak() - before


def memory(n_masks: int, n_images: int, batch_size: int) -> list[list[str]]:
    """A row for each method, from processes of their own."""
    rows = []
    for method in ("RISE", "RELAX"):
        taken = []
        for n in (n_masks, 10 * n_masks):
            call = f"memory_of({method!r}, {n}, {n_images}, {batch_size})"
            call = f"from benchmarks.engine import memory_of; print({call})"
            done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
            taken.append(float(done.stdout.split()[-1]))
            print(method, n, f"{taken[-1]:.0f} MB", flush=True)
        reached = max(taken) <= MEGABYTES and taken[1] <= FLAT * max(taken[0], 1.0)
        cells = [f"{each:.0f}" for each in taken]
        rows.append(
            [
                method,
                str(n_images),
                str(batch_size),
                *cells,
                f"{taken[1] / max(taken[0], 1.0):.2f}",
                "reached" if reached else "missed",
            ]
        )
    return rows


def page(
    rows: Sequence[Sequence[str]],
    together: Sequence[Sequence[str]],
    kept: Sequence[Sequence[str]],
    n_masks: int,
    taken: float,
) -> list[str]:
    """The measured table as lines of Markdown."""
    columns = ["method", "images", "threads", "passes", "bare batch", "time over bare passes", "from, to", "aim"]
    return [
        "# Time beside the model",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "EfficientNet-Lite0 on photographs of 224 × 224 pixels. Aims: "
        + ", ".join(f"{value} ({name})" for name, value in AIMS.items())
        + ".",
        "",
        *table(columns, rows),
        "",
        f"MP of {N_STEPS} steps on several images by the time of one, and the least that bare passes there and back "
        f"allow: all of them at the fastest batch size by those of one image, one at a time. Aim: {BATCHED:g} for 8.",
        "",
        *table(["images", "threads", "bare batch", "MP", "bare passes", "aim"], together),
        "",
        f"Memory above a bare pass of one image, in megabytes; aims: {MEGABYTES}, and {FLAT} times as much for ten "
        "times the masks.",
        "",
        *table(
            ["method", "images", "batch size", f"{n_masks:,} masks", f"{10 * n_masks:,} masks", "ratio", "aim"], kept
        ),
        "",
        "`python -m benchmarks.engine`: " + circumstances(taken, versions()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=N_MASKS)
    parser.add_argument("--runs", type=int, default=N_RUNS)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    model = efficientnet_lite0().requires_grad_(False)
    every = standardized([cropped(each.open()) for each in photographs()])
    rows, together = [], []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for n in arguments.images:
            rows += measured(model, every[:n], arguments.masks, arguments.runs)
            if n > 1:
                together.append(batched(model, every[:n], arguments.runs))
                print("MP", together[-1], flush=True)
    kept = [row for size in (4, 8) for row in memory(arguments.masks, 1, size)]
    lines = page(rows, together, kept, arguments.masks, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("engine", lines)


if __name__ == "__main__":
    main()
