"""How many masks a map takes, by estimator: ``python -m benchmarks.estimators [vit lite0]``.

All estimators see the same masks and scores, asked once for two banks: what differs is what they make of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

from benchmarks.race_subjects import SUBJECTS, Subject, subject
from benchmarks.written import circumstances, table, write
from pnpxai.explainers._mask_ridge import MaskMoments, no_masks
from pnpxai.explainers._mask_sums import MaskSums, as_maps, pass_masks
from pnpxai.explainers._masks import MaskBank, MaskChunk
from pnpxai.explainers.rise import ESTIMATORS, rise_map
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.metrics import AbPC, Deletion, Insertion, evaluate_together
from pnpxai.outputs import select
from pnpxai.tuning._problem import versions

BUDGETS = (64, 128, 256, 300, 500, 1000, 1500, 2000, 4000)
COMPARED = (("ridge", 300), ("ridge", 500), ("centered", 500), ("ridge", 1500))
"""What is set against the paper's and the normalised estimator with the most masks."""
N_SAMPLES = 64
WEAK = 0.2
"""Predictions less probable than that are reported apart."""
GRID, P_KEEP = 7, 0.5
SEEDS = (0, 1)


@dataclass
class Both:
    """What all estimators need of the same masks."""

    sums: MaskSums
    moments: MaskMoments

    @property
    def n_masks(self) -> int:
        """How many passed."""
        return self.sums.n_masks

    def add(self, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        """Let some masks pass."""
        self.sums.add(chunk, fresh, scores, present)
        self.moments.add(chunk, fresh, scores, present)

    def map(self, estimator: str) -> Tensor:
        """The map by an estimator, ``(n, p)``."""
        return rise_map(self.moments if estimator == "ridge" else self.sums, P_KEEP, estimator)


@dataclass(frozen=True)
class Quality:
    """Maps of one sample, estimator and budget, by the mean over the banks.

    Attributes:
        sample: its number.
        weak: whether its prediction is weak.
        estimator: of the map.
        n_masks: asked for it.
        abpc: area between the perturbation curves.
        insertion_deletion: insertion minus deletion area, from and to a blurred image.
        correlation: between the maps of the two banks.
    """

    sample: int
    weak: bool
    estimator: str
    n_masks: int
    abpc: float
    insertion_deletion: float
    correlation: float


def measured(tuned: Subject, budgets: Sequence[int], sample: int) -> list[Quality]:
    """Every estimator and budget on one sample."""
    x = tuned.inputs[sample : sample + 1]
    maps: dict[tuple[str, int], list[Tensor]] = {}
    with guard(tuned.model), torch.no_grad():
        request = Request.build(tuned.model, x)
        probability = float(request.outputs.softmax(1).max())

        def score(outputs: Tensor, index: Tensor) -> Tensor:
            return select(outputs, request.targets_for(index), "probability")

        for seed in SEEDS:
            bank = MaskBank.for_inputs(x, GRID, P_KEEP, seed)
            moments = no_masks(x, bank, ridge=True)
            assert isinstance(moments, MaskMoments)
            both = Both(MaskSums.none(x, bank), moments)
            for n in budgets:
                both = pass_masks(request, score, both, bank, n, "zeros")
                for estimator in ESTIMATORS:
                    maps.setdefault((estimator, n), []).append(as_maps(both.map(estimator), x))
    metrics = [AbPC(tuned.model), Insertion(tuned.model, baseline_fn="blur"), Deletion(tuned.model, baseline_fn="blur")]
    found = []
    for (estimator, n), each in maps.items():
        scored = [[float(one) for one in evaluate_together(metrics, x, request.targets, of_bank)] for of_bank in each]
        flat = torch.stack([one.flatten() for one in each])
        found.append(
            Quality(
                sample,
                probability < WEAK,
                estimator,
                n,
                statistics.fmean(abpc for abpc, _, _ in scored),
                statistics.fmean(insertion - deletion for _, insertion, deletion in scored),
                float(torch.corrcoef(flat)[0, 1]),
            )
        )
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the half-width of its 95 % interval (Student)."""
    n = len(values)
    if n < 2:
        return statistics.fmean(values), float("nan")
    return statistics.fmean(values), float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5


MEASURES = {
    "AbPC": "abpc",
    "insertion − deletion (blurred)": "insertion_deletion",
    "correlation of two banks": "correlation",
}


def section(title: str, found: Sequence[Quality]) -> list[str]:
    """One network's tables."""
    budgets = sorted({each.n_masks for each in found})
    n = len({each.sample for each in found})
    lines = [f"## {title}, {n} samples", ""]
    for name, key in MEASURES.items():
        rows = []
        for estimator in ESTIMATORS:
            cells = []
            for budget in budgets:
                mean, half = interval(of(found, estimator, budget, key))
                cells.append(f"{mean:.3f} ± {half:.3f}")
            rows.append([estimator, *cells])
        lines += [f"{name}:", "", *table(["estimator", *map(str, budgets)], rows), ""]
    most = budgets[-1]
    rows = []
    for estimator, budget in COMPARED:
        if budget not in budgets:
            continue
        for other in ("paper", "normalized"):
            cells = []
            for key in ("abpc", "insertion_deletion"):
                pairs = zip(of(found, estimator, budget, key), of(found, other, most, key), strict=True)
                mean, half = interval([mine - its for mine, its in pairs])
                cells.append(f"{mean:+.4f} ± {half:.4f}")
            rows.append([f"{estimator}, {budget} masks", f"{other}, {most} masks", *cells])
    return [*lines, "Sample by sample:", "", *table(["map", "minus", "AbPC", "insertion − deletion"], rows), ""]


def of(found: Sequence[Quality], estimator: str, budget: int, key: str) -> list[float]:
    """One measure of all samples, in their order."""
    own = [each for each in found if (each.estimator, each.n_masks) == (estimator, budget)]
    return [getattr(each, key) for each in sorted(own, key=lambda each: each.sample)]


def page(found: dict[str, Sequence[Quality]], seconds: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    lines = [
        "# Quality for each mask",
        "",
        f"RISE, {GRID} × {GRID} cells, of which {P_KEEP:.0%} are kept, zeros for what is not; predicted classes. Every "
        "estimator has the same masks. Means over two banks of masks, ± half of the 95 % interval over the samples.",
        "",
    ]
    for title, each in found.items():
        weak = [one for one in each if one.weak]
        lines += section(title, [one for one in each if not one.weak])
        lines += section(f"{title}, predictions below {WEAK:g}", weak) if weak else []
    return [*lines, "`python -m benchmarks.estimators`: " + circumstances(seconds, versions())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=["vit"], help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs for lite0, which takes hours")
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--masks", type=int, default=BUDGETS[-1], help="at most so many")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    found: dict[str, Sequence[Quality]] = {}
    budgets = [each for each in BUDGETS if each <= arguments.masks]
    for key in arguments.subjects:
        tuned = subject(key, arguments.samples, folder=arguments.photographs)
        found[tuned.name] = [each for i in range(arguments.samples) for each in measured(tuned, budgets, i)]
    lines = page(found, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("estimators", lines)


if __name__ == "__main__":
    main()
