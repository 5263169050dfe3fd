"""What it takes to give freed memory back: ``python -m benchmarks.freed_memory``.

Bare forward passes on the CPU, in processes that keep the memory they free (`pnpxai.allocator.keep_freed_memory`) and
in processes that leave it to the GNU C library, one after the other in turns; images a second at each batch size, the
median over the processes. The weights of EfficientNet-Lite0 are in channels-last order, those of ResNet-18 are not.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from benchmarks.engine import BATCHES, forward, seconds
from benchmarks.fresh import in_a_process
from benchmarks.written import circumstances, table, write
from pnpxai.allocator import keep_freed_memory
from pnpxai.photographs import efficientnet_lite0
from pnpxai.tuning._problem import versions

N_PROCESSES = 3
N_PASSES = 5
"""Timed at each batch size in a process, after two that are not."""


def resnet18() -> nn.Module:
    """Torchvision's."""
    from torchvision.models import resnet18

    return resnet18().eval()


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "EfficientNet-Lite0": efficientnet_lite0,
    "ResNet-18": resnet18,
}


def rates(network: str, n_threads: int, keep: bool) -> dict[int, float]:
    """Images a second at each batch size, in this process."""
    assert not keep or keep_freed_memory(), "only the GNU C library can be told"
    torch.set_num_threads(n_threads)
    model, found = NETWORKS[network](), {}
    for size in BATCHES:
        inputs = torch.zeros(size, 3, 224, 224)
        taken = [seconds(functools.partial(forward, model, inputs)) for _ in range(2 + N_PASSES)]
        found[size] = size / statistics.median(taken[2:])
    return found


def fresh_rates(network: str, n_threads: int, keep: bool) -> dict[int, float]:
    """The same in a fresh one."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = in_a_process("benchmarks.freed_memory", f"rates({network!r}, {n_threads}, {keep})", plain)
    return {int(size): rate for size, rate in found.items()}


def rows(network: str, n_threads: int, n_processes: int) -> list[list[str]]:
    """A row for each batch size."""
    turns = [[fresh_rates(network, n_threads, keep) for keep in (True, False)] for _ in range(n_processes)]
    found = []
    for size in BATCHES:
        kept, given_back = ([turn[side][size] for turn in turns] for side in (0, 1))
        ratios = [one / other for one, other in zip(kept, given_back, strict=True)]
        cells = [f"{statistics.median(kept):.1f}", f"{statistics.median(given_back):.1f}"]
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        found.append([network, str(n_threads), str(size), *cells, f"{statistics.median(ratios):.2f}", span])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=N_PROCESSES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start, found = time.perf_counter(), []
    for network in arguments.networks:
        for n_threads in arguments.threads:
            for row in rows(network, n_threads, arguments.processes):
                found.append(row)
                print(row, flush=True)
    columns = ["network", "threads", "batch", "kept", "given back", "kept over given back", "from, to"]
    lines = [
        "# Memory that is freed",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "",
        *table(columns, found),
        "",
        "`python -m benchmarks.freed_memory`: " + circumstances(time.perf_counter() - start, versions()),
    ]
    print("\n".join(lines))
    if not arguments.dry:
        write("freed_memory", lines)


if __name__ == "__main__":
    main()
