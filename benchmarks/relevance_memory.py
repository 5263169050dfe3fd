"""How much memory an explanation by relevance takes beside a plain forward and backward pass.

Each measurement is a process of its own: the peak of its resident memory while it runs, less what it held before, with
small allocations returned to the system at once. Run with ``python -m benchmarks.relevance_memory``; two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.written import circumstances, table, write
from benchmarks.zoo import torchvision_net
from pnpxai.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.tuning._problem import versions

MODELS = ("resnet18", "efficientnet_b0", "densenet121", "vit_b_16", "vgg11_bn")
COMPOSITES = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox)
BATCH, SIZE, REPETITIONS = 4, 224, 3
LIMIT = 4.0


def resident() -> float:
    """This process's resident memory in megabytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_of(run: Callable[[], object]) -> float:
    """Megabytes that resident memory rises by while ``run`` runs."""
    before, highest, done = resident(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return highest - before


def measure(name: str, mode: str) -> float:
    """One measurement, in the process that is asked for it."""
    torch.set_num_threads(1)
    model = torchvision_net(name)
    inputs = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(BATCH, dtype=torch.long)
    with torch.no_grad():
        model(inputs[:1])
    if mode == "plain":
        model.requires_grad_(False)
        return peak_of(lambda: gradient(model, inputs))
    explainer = next(each for each in COMPOSITES if each.__name__ == mode)(model)
    explainer.attribute(inputs[:1, :, :64, :64] if "vit" not in name else inputs[:1], targets[:1])  # imports
    return peak_of(lambda: explainer.attribute(inputs, targets))


def gradient(model: torch.nn.Module, inputs: Tensor) -> Tensor:
    """A plain forward and backward pass to the inputs."""
    leaf = inputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    return found


def asked(name: str, mode: str) -> float:
    """The median of a few measurements, each by another process."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.relevance_memory", name, mode]
    runs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(REPETITIONS)
    ]
    return sorted(float(each.stdout) for each in runs)[REPETITIONS // 2]


def main() -> None:
    began = time.perf_counter()
    rows, ratios = [], []
    for name in MODELS:
        plain = asked(name, "plain")
        found = [asked(name, each.__name__) / plain for each in COMPOSITES]
        ratios += found
        rows.append([name, f"{plain:.0f} MB", *(f"{each:.2f}×" for each in found)])
        print(rows[-1], flush=True)
    verdict = "kept" if max(ratios) <= LIMIT else "missed"
    write(
        "relevance_memory",
        [
            "# Memory of an explanation by relevance",
            "",
            f"Rise of the resident memory over that of a plain forward and backward pass to the inputs, {BATCH} inputs "
            f"of {SIZE} × {SIZE} pixels, float32, frozen random weights; median of {REPETITIONS} processes each.",
            "",
            *table(["model", "plain", *(each.__name__ for each in COMPOSITES)], rows),
            "",
            f"Largest: {max(ratios):.2f}× (limit {LIMIT:g}×: {verdict}).",
            "",
            "`python -m benchmarks.relevance_memory`: " + circumstances(time.perf_counter() - began, versions()),
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(measure(*sys.argv[1:]))
    else:
        main()
