"""How much faster several processes are than one, on a journal and on PostgreSQL, and whether they try anything twice.

A study that is bound by the processor, one thread for each process: SmoothGrad, its noise tuned at random, on a
convolutional network with random weights. The race is off, so that every trial costs the same. The clock runs from the
call of ``tune`` to its end, with the start of the processes and the judgement on the hold-out.

Run with ``python -m benchmarks.workers`` (and ``OMP_NUM_THREADS=1``); it needs PostgreSQL from the distribution.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from torch import nn

import pnpxai
from benchmarks.written import circumstances, table, write
from pnpxai.explainers import SmoothGrad
from tests import postgres

AIM = 1.6
N_TRIALS = 110
N_SAMPLES = 60
SIDE = 64
WORKERS = (1, 4)


@dataclass(frozen=True)
class Outcome:
    """One study.

    Attributes:
        storage: what it was kept in.
        workers: processes.
        seconds: of the whole call.
        finished: trials with a score.
        distinct: different ones among them.
        failed: trials that failed.
        left: trials that were left because another worker had made the same choice, or the study was full.
    """

    storage: str
    workers: int
    seconds: float
    finished: int
    distinct: int
    failed: int
    left: int


def network() -> nn.Module:
    """A convolutional network; ``(n, 3, 64, 64)`` to ``(n, 10)``."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10)).eval()


def run(kind: str, storage: str, workers: int, n_trials: int) -> Outcome:
    """Tune, and count what was tried."""
    model = network()
    inputs = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    result = pnpxai.tune(
        model,
        inputs,
        explainers=[SmoothGrad(model, n_samples=N_SAMPLES)],
        metric="complexity",
        aims=(),
        sampler="random",
        pruner=None,
        n_trials=n_trials,
        workers=workers,
        storage=storage,
        study_name=f"{kind}-{workers}",
        progress=False,
    )
    seconds = time.perf_counter() - start
    trials = result.study.get_trials()
    kept = getattr(result.study._storage, "_backend", None)
    if isinstance(kept, RDBStorage):
        kept.engine.dispose()
    scored = [each for each in trials if each.state == TrialState.COMPLETE]
    own = [tuple(sorted((k, v) for k, v in each.params.items() if not k.startswith("post"))) for each in scored]
    states = [each.state for each in trials]
    return Outcome(
        kind,
        workers,
        seconds,
        len(scored),
        len(set(own)),
        states.count(TrialState.FAIL),
        states.count(TrialState.PRUNED),
    )


@contextlib.contextmanager
def storages(without_server: bool) -> Iterator[list[tuple[str, str]]]:
    """Kinds of storage and their addresses."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = [("journal", str(Path(folder) / "study.journal"))]
        if not without_server:
            if postgres.why_not():
                raise SystemExit(postgres.why_not())
            found.append(("PostgreSQL", stack.enter_context(postgres.server())))
        yield found


def page(outcomes: list[Outcome], n_trials: int, seconds: float) -> list[str]:
    """The page."""
    alone = {each.storage: each.seconds for each in outcomes if each.workers == 1}
    rows = [
        [
            each.storage,
            f"{each.workers}",
            f"{each.seconds:.1f}",
            f"{alone[each.storage] / each.seconds:.2f}",
            f"{each.finished} of {n_trials}",
            f"{each.finished - each.distinct}",
            f"{each.failed}",
            f"{each.left}",
        ]
        for each in outcomes
    ]
    columns = ["storage", "workers", "seconds", "times as fast", "finished", "tried twice", "failed", "left to others"]
    most = [each for each in outcomes if each.workers == max(WORKERS)]
    once = all(each.finished == each.distinct == n_trials and not each.failed for each in outcomes)
    gains = ", ".join(f"{alone[each.storage] / each.seconds:.2f} on the {each.storage}" for each in most)
    found = {
        name: each for name, each in pnpxai.tuning._problem.versions().items() if name in ("python", "torch", "optuna")
    }
    return [
        "# Several workers on one study",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "",
        *table(columns, rows),
        "",
        f"- {max(WORKERS)} workers over one: {gains} (aim: {AIM}).",
        f"- Every trial finished, and none tried twice: {'yes' if once else 'NO'}.",
        "",
        f"`OMP_NUM_THREADS=1 python -m benchmarks.workers`: {circumstances(seconds, found)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--without-server", action="store_true", help="the journal only")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("set OMP_NUM_THREADS=1: one thread for each worker")
    began = time.perf_counter()
    outcomes = []
    with storages(arguments.without_server) as found:
        for kind, address in found:
            for workers in arguments.workers:
                outcomes.append(run(kind, address, workers, arguments.trials))
                print(outcomes[-1], flush=True)
    if (arguments.trials, tuple(arguments.workers), arguments.without_server) == (N_TRIALS, WORKERS, False):
        lines = page(outcomes, arguments.trials, time.perf_counter() - began)
        print("\n".join(lines))
        write("workers", lines)


if __name__ == "__main__":
    main()
