"""What methods take beside the model: ``python -m benchmarks.engine``.

Each method and the same number of bare passes, at the fastest batch size, take turns in one process; the figure is the
median of the ratios. Perturbation methods and metrics are set against forward passes without gradients, the others
against forward and backward passes to the inputs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.written import circumstances, table, write
from pnpxai.explainers import RELAX, RISE, IntegratedGradients, SmoothGrad
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, MuFidelity
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized
from pnpxai.tuning._problem import versions

BATCHES = (1, 2, 4, 8, 16, 32)
N_MASKS = 1000
N_RUNS = 5
AIMS = {"forward": 1.05, "metric": 1.1, "backward": 1.1}


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
    taken: dict[int, float] = {}
    batches = {size: sample.expand(size, *sample.shape[1:]).clone() for size in BATCHES}
    for size, inputs in batches.items():
        step(model, inputs)
        runs = [seconds(functools.partial(step, model, inputs)) for _ in range(N_RUNS)]
        taken[size] = statistics.median(runs) / size
    return batches[min(taken, key=lambda size: taken[size])]


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
        Work("AbPC", "metric", lambda: AbPC(model).evaluate(x, target, maps)),
        Work("MuFidelity", "metric", lambda: MuFidelity(model).evaluate(x, target, maps)),
        Work("SmoothGrad", "backward", lambda: SmoothGrad(model).attribute(x, target)),
        Work("IntegratedGradients", "backward", lambda: IntegratedGradients(model).attribute(x, target)),
    ]


def measured(model: nn.Module, x: Tensor, n_masks: int, n_runs: int) -> list[list[str]]:
    """A row for each method."""
    steps = {"forward": forward, "metric": forward, "backward": backward}
    batches = {step: fastest(model, x[:1], step) for step in (forward, backward)}
    rows = []
    for work in works(model, x, n_masks):
        step = steps[work.kind]
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


def page(rows: Sequence[Sequence[str]], taken: float) -> list[str]:
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
    model = efficientnet_lite0()
    every = standardized([cropped(each.open()) for each in photographs()])
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for n in arguments.images:
            rows += measured(model, every[:n], arguments.masks, arguments.runs)
    lines = page(rows, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("engine", lines)


if __name__ == "__main__":
    main()
