"""The same work by this package and by other libraries: ``python -m benchmarks.peers``.

Both sides take turns in one process of one thread; the figure is the median of the ratios of their times. Each pair has
two such processes of its own: one that keeps the memory it frees (`pnpxai.allocator`), and one as it comes, where
libraries that ask in large batches spend much of their time on having memory mapped anew. Where memory is measured,
each side has a process. Forward and backward passes are counted by hooks on the model, in samples.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import environment, install
from benchmarks.peers.pairs import PAIRS, Size
from benchmarks.written import RESULTS, circumstances, table, write
from pnpxai.tuning._problem import versions

N_RUNS, N_SCORED = 5, 4
QUICK = Size(n_masks=20, n_iterations=5, n_steps=5, n_noises=5, n_points=3)
LOG = RESULTS / "peers.jsonl"
TASKS: Mapping[str, Mapping[str, str]] = {
    "timed": {},
    "as it comes": {},
    "judged": {},
    "ours": {"MALLOC_MMAP_THRESHOLD_": "65536"},
    "theirs": {"MALLOC_MMAP_THRESHOLD_": "65536"},
}
"""What is measured, and with which environment: freed memory goes back to the system where memory is measured."""


def measured(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All tasks of one pair, each in a process of its own; the last line of its errors where one failed."""
    found: dict[str, Any] = {"settings": dict(settings), "failed": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for task, variables in TASKS.items():
            file = Path(temporary) / f"{task}.json"
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.measuring", task]
            done = subprocess.run(
                [*command, json.dumps(settings), str(file)],
                env=environment(folder, **variables),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                found["failed"][task] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            else:
                found[task] = json.loads(file.read_text(encoding="utf-8"))
    return found


def ratios(seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """How many times as long the other library took, turn by turn."""
    return [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]


def mean(values: Sequence[float]) -> str:
    """The mean of the numbers among them, and of how many where not all are."""
    numbers = [each for each in values if not math.isnan(each)]
    if not numbers:
        return "none"
    part = "" if len(numbers) == len(values) else f" ({len(numbers)} of {len(values)})"
    return f"{statistics.fmean(numbers):.3f}{part}"


def both(found: Mapping[str, Any], kind: str) -> str:
    """The passes of a kind on the two sides."""
    return " / ".join(f"{found['passes'][side][kind]:,}" for side in ("ours", "theirs"))


def cost_row(record: Mapping[str, Any]) -> list[str]:
    """Time, passes and memory of a pair."""
    settings = record["settings"]
    pair = PAIRS[settings["pair"]]
    row = [name_of(record), pair.package, pair.work_of(Size(**settings["size"])), str(settings["images"])]
    if "timed" in record:
        found = record["timed"]
        medians = [f"{statistics.median(found['seconds'][side]):.2f}" for side in ("ours", "theirs")]
        row += [both(found, "forward"), both(found, "backward"), " / ".join(medians)]
    else:
        row += ["", "", ""]
    for task in ("timed", "as it comes"):
        each = ratios(record[task]["seconds"]) if task in record else []
        row += [f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}"] if each else ["failed", ""]
    memory = [f"{record[side]:.0f}" if side in record else "failed" for side in ("ours", "theirs")]
    return [*row, " / ".join(memory)]


def quality_row(record: Mapping[str, Any]) -> list[str]:
    """How good the maps of a pair are and how alike."""
    pair, found = PAIRS[record["settings"]["pair"]], record["judged"]
    cells = []
    for column in range(3):
        cells.append(" / ".join(mean([each[column] for each in found[side]]) for side in ("ours", "theirs")))
    return [name_of(record), pair.package, *cells, mean(found["correlation"])]


def score_row(record: Mapping[str, Any]) -> list[str]:
    """What the two sides of a pair say of the same maps."""
    found = record["judged"]
    scores = {side: [each[0] for each in found[side]] for side in ("ours", "theirs")}
    apart = max(abs(one - other) for one, other in zip(scores["ours"], scores["theirs"], strict=True))
    pair = PAIRS[record["settings"]["pair"]]
    return [pair.method, pair.package, mean(scores["ours"]), mean(scores["theirs"]), f"{apart:.4f}"]


def name_of(record: Mapping[str, Any]) -> str:
    """A pair's method, and what was repaired for it if there is another pair without."""
    name: str = record["settings"]["pair"]
    return PAIRS[name].method + (", repaired" if name.endswith("repaired") else "")


def note_row(record: Mapping[str, Any]) -> list[str]:
    """How the other library of a pair is called, and what it leaves behind."""
    pair = PAIRS[record["settings"]["pair"]]
    left = record["timed"]["left"]["theirs"] if "timed" in record else []
    failed = "; ".join(f"{task}: {error}" for task, error in record["failed"].items())
    return [name_of(record), pair.package, pair.called, pair.repair.strip().rstrip(";"), ", ".join(left), failed]


def page(records: Sequence[Mapping[str, Any]], taken: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    first: dict[str, Mapping[str, Any]] = {}
    for record in records:
        first.setdefault(record["settings"]["pair"], record)
    judged = [each for each in first.values() if "judged" in each]
    maps = [each for each in judged if not PAIRS[each["settings"]["pair"]].scores]
    scores = [each for each in judged if PAIRS[each["settings"]["pair"]].scores]
    settings = records[0]["settings"]
    peers = {PAIRS[each["settings"]["pair"]].package: each["timed"]["version"] for each in records if "timed" in each}
    lines = [
        "# The same work by other libraries",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "EfficientNet-Lite0 on photographs of 224 × 224 pixels; every library at its own batch size. Two numbers in a "
        "cell: ours / theirs. A first call of each side is not timed; where this package looks for the fastest batch "
        "size only later, as it does after some hundred samples, that is in the turn's time. Memory is that of the "
        "peak above the peak of one bare pass of the same images (there and back for the "
        "methods that go back), in MB.",
        "",
        f"Time, {settings['runs']} turns:",
        "",
        *table(
            [
                "method",
                "library",
                "the same work",
                "images",
                "forward",
                "backward",
                "seconds",
                "theirs over ours",
                "from, to",
                "as it comes",
                "from, to",
                "memory",
            ],
            [cost_row(each) for each in records],
        ),
        "",
    ]
    if maps:
        lines += [
            f"Quality, means over {settings['scored']} photographs (image by image, by this package's metrics; the "
            "correlation is that of the two maps):",
            "",
            *table(
                [
                    "method",
                    "library",
                    "insertion − deletion (blurred)",
                    "deletion (blurred)",
                    "deletion (zeros)",
                    "correlation",
                ],
                [quality_row(each) for each in maps],
            ),
            "",
        ]
    if scores:
        lines += [
            f"The same maps' scores, means over {settings['scored']} photographs:",
            "",
            *table(["metric", "library", "ours", "theirs", "largest difference"], [score_row(each) for each in scores]),
            "",
        ]
    return [
        *lines,
        "How the libraries are called, and what they leave behind on the model and in the global random states:",
        "",
        *table(
            ["method", "library", "called", "repair", "left behind", "failures"],
            [note_row(each) for each in first.values()],
        ),
        "",
        "`python -m benchmarks.peers`: " + circumstances(taken, {**versions(), **peers}),
    ]


def kept(path: Path) -> list[dict[str, Any]]:
    """What a log holds."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=Size.n_masks)
    parser.add_argument("--runs", type=int, default=N_RUNS, help="turns of both sides that are timed")
    parser.add_argument("--images", type=int, nargs="+", default=[1], help="batches that are timed")
    parser.add_argument("--scored", type=int, default=N_SCORED, help="photographs whose maps are scored")
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS), metavar="PAIR")
    parser.add_argument("--quick", action="store_true", help="next to nothing, to see that it runs")
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, one a pair, as soon as it is measured")
    parser.add_argument("--resume", action="store_true", help="keep what the log holds, and go on from there")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size(n_masks=arguments.masks)
    runs, scored = (1, 1) if arguments.quick else (arguments.runs, arguments.scored)
    start = time.perf_counter()
    folder = install()
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        arguments.log.unlink(missing_ok=True)
    records = []
    for name in arguments.pairs:
        for images in arguments.images:
            settings = {"pair": name, "images": images, "runs": runs, "scored": scored, "size": asdict(size)}
            known = [each for each in kept(arguments.log) if each["settings"] == settings]
            record = known[0] if known else measured(folder, settings)
            if not known:
                with arguments.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            records.append(record)
            print(" | ".join(cost_row(record)), f"[{time.perf_counter() - start:.0f} s]", flush=True)
            if record["failed"]:
                print(record["failed"], flush=True)
    lines = page(records, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("peers", lines)


if __name__ == "__main__":
    main()
