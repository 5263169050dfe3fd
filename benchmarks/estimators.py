"""How many masks a map takes, by estimator: ``python -m benchmarks.estimators [vit lite0]``.

All estimators see the same masks and scores, asked once for each bank: what differs is what they make of them. Lite0
takes hours; a run that was stopped goes on with ``--resume``, and several may share the samples (``--part 1/2``).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

from benchmarks.quick import quick
from benchmarks.race_subjects import Subject, subject
from benchmarks.written import RESULTS, circumstances, table, write
from pnpxai.explainers._mask_ridge import MaskMoments, no_masks
from pnpxai.explainers._mask_sums import MaskSums, as_maps, pass_masks
from pnpxai.explainers._masks import MaskBank, MaskChunk
from pnpxai.explainers.rise import ESTIMATORS, rise_map
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.metrics import AbPC, Deletion, Insertion, evaluate_together
from pnpxai.outputs import select
from pnpxai.tuning._problem import versions


def named(estimator: str, sampling: str) -> str:
    """A map's name in the tables."""
    return estimator if sampling == "independent" else f"{estimator}, {sampling}"


@dataclass(frozen=True)
class Bank:
    """Masks that are asked about, and the numbers of them at which maps are made.

    Attributes:
        sampling: of the masks.
        seed: of the masks; those of seed 0 are set against the others.
        budgets: growing numbers of masks.
        scored: whether the maps are.
    """

    sampling: str
    seed: int
    budgets: Sequence[int]
    scored: bool = True


BUDGETS = (64, 128, 256, 300, 500, 1000, 1500, 2000, 4000)
FEWER = (64, 128, 300, 500, 1500, 4000)
FEW = (64, 128, 300, 500)
PLANS: Mapping[str, Sequence[Bank]] = {
    "vit": [Bank(sampling, seed, BUDGETS) for sampling in ("independent", "sobol") for seed in range(4)],
    "lite0": [
        Bank("independent", 0, FEWER),
        Bank("independent", 1, FEW, scored=False),
        Bank("sobol", 0, (*FEW, 1500)),
        Bank("sobol", 1, FEW, scored=False),
    ],
}
MADE_OF: Mapping[str, Sequence[str]] = {"independent": ESTIMATORS, "sobol": ("centered", "ridge")}
"""The estimators that are tried on masks of a sampling."""
NAMES = [named(estimator, sampling) for sampling, each in MADE_OF.items() for estimator in each]
COMPARED = [
    (name, n)
    for n in (300, 500, 1500)
    for name in ("centered", "ridge", named("centered", "sobol"), named("ridge", "sobol"))
]
"""What is set against the paper's and the normalised estimator with the most masks."""
N_SAMPLES = 64
WEAK = 0.2
"""Predictions less probable than that are reported apart."""
GRID, P_KEEP = 7, 0.5
LOG = RESULTS / "estimators.jsonl"


@dataclass
class Both:
    """What all estimators need of the same masks."""

    sums: MaskSums
    moments: MaskMoments
    lower: Tensor | None = None

    @property
    def n_masks(self) -> int:
        """How many passed."""
        return self.sums.n_masks

    def copied(self) -> Both:
        """The same, to be added to."""
        return Both(self.sums.copied(), self.moments.copied(), self.lower)

    def add(self, chunk: MaskChunk, fresh: Tensor, scores: Tensor, present: Tensor) -> None:
        """Let some masks pass."""
        self.sums.add(chunk, fresh, scores, present)
        self.moments.add(chunk, fresh, scores, present)

    def map(self, estimator: str) -> Tensor:
        """The map by an estimator, ``(n, p)``."""
        return rise_map(self.moments if estimator == "ridge" else self.sums, P_KEEP, estimator)


@dataclass(frozen=True)
class Quality:
    """The map of one sample, estimator and budget.

    Attributes:
        sample: its number.
        weak: whether its prediction is weak.
        estimator: of the map, and the sampling of its masks.
        n_masks: asked for it.
        abpc: area between the perturbation curves; of several banks, the mean over their maps.
        insertion_deletion: insertion minus deletion area, from and to a blurred image; likewise.
        correlation: with the maps of other banks; NaN where there are none.
    """

    sample: int
    weak: bool
    estimator: str
    n_masks: int
    abpc: float
    insertion_deletion: float
    correlation: float


def measured(tuned: Subject, banks: Sequence[Bank], sample: int) -> list[Quality]:
    """Every estimator and budget on one sample."""
    x = tuned.inputs[sample : sample + 1]
    maps: dict[tuple[str, int], dict[int, Tensor]] = {}
    with guard(tuned.model), torch.no_grad():
        request = Request.build(tuned.model, x)
        probability = float(request.outputs.softmax(1).max())

        def score(outputs: Tensor, index: Tensor) -> Tensor:
            return select(outputs, request.targets_for(index), "probability")

        for each in banks:
            bank = MaskBank.for_inputs(x, GRID, P_KEEP, each.seed, each.sampling)
            moments = no_masks(x, bank, ridge=True)
            assert isinstance(moments, MaskMoments)
            both = Both(MaskSums.none(x, bank), moments)
            for n in each.budgets:
                both = pass_masks(request, score, both, bank, n, "zeros")
                for estimator in MADE_OF[each.sampling]:
                    own = maps.setdefault((named(estimator, each.sampling), n), {})
                    own[each.seed] = as_maps(both.map(estimator), x)
    metrics = [AbPC(tuned.model), Insertion(tuned.model, baseline_fn="blur"), Deletion(tuned.model, baseline_fn="blur")]
    scored = {(each.sampling, each.seed) for each in banks if each.scored}
    found = []
    for (name, n), by_seed in maps.items():
        sampling = "sobol" if name.endswith("sobol") else "independent"
        own = [each for seed, each in by_seed.items() if (sampling, seed) in scored]
        scores = torch.stack([torch.cat(evaluate_together(metrics, x, request.targets, each)) for each in own])
        abpc, insertion, deletion = scores.double().mean(0).tolist()
        others = [each.flatten() for seed, each in by_seed.items() if seed]
        correlations = [float(torch.corrcoef(torch.stack([by_seed[0].flatten(), each]))[0, 1]) for each in others]
        correlation = statistics.fmean(correlations) if correlations else math.nan
        found.append(Quality(sample, probability < WEAK, name, n, abpc, insertion - deletion, correlation))
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
        for estimator in NAMES:
            cells = []
            for budget in budgets:
                values = [each for each in of(found, estimator, budget, key) if not math.isnan(each)]
                mean, half = interval(values) if values else (math.nan, math.nan)
                cells.append(f"{mean:.3f} ± {half:.3f}" if values else "")
            rows.append([estimator, *cells])
        lines += [f"{name}:", "", *table(["estimator", *map(str, budgets)], rows), ""]
    most = budgets[-1]
    rows = []
    for estimator, budget in COMPARED:
        if not of(found, estimator, budget, "abpc"):
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


COLORS = {"paper": "#8a8a8a", "normalized": "#c8553d", "centered": "#1b6ca8", "ridge": "#3a7d44"}


def draw(found: Mapping[str, Sequence[Quality]], path: Path) -> Path:
    """Each measure against the number of masks, a row for each network; solid for Sobol masks, shaded the intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(12.5, 3.9 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(found), len(MEASURES), sharex="row", squeeze=False)
    for (title, every), row in zip(found.items(), grid, strict=True):
        strong = [each for each in every if not each.weak]
        budgets = sorted({each.n_masks for each in strong})
        for (name, key), axes in zip(MEASURES.items(), row, strict=True):
            for estimator in NAMES:
                known = {budget: of(strong, estimator, budget, key) for budget in budgets}
                means = {n: interval(values) for n, values in known.items() if values and not math.isnan(values[0])}
                if not means:
                    continue
                color, sobol = COLORS[estimator.partition(",")[0]], estimator.endswith("sobol")
                centre, half = zip(*means.values(), strict=True)
                axes.plot(list(means), centre, "o-" if sobol else ".--", color=color, markersize=4, label=estimator)
                if sobol or estimator == "paper":
                    low, high = ([a + sign * b for a, b in means.values()] for sign in (-1, 1))
                    axes.fill_between(list(means), low, high, color=color, alpha=0.1, linewidth=0)
            axes.set_xscale("log")
            shown = [n for n, before in zip(budgets, [0, *budgets], strict=False) if n > 1.3 * before]
            axes.set_xticks(shown, [f"{n:,}" for n in shown], rotation=45)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="0.9")
            axes.set_title(name, fontsize=10)
            axes.set_xlabel("masks, that is forwards")
        row[0].set_ylabel(title)
        row[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    return path


def page(found: dict[str, Sequence[Quality]], seconds: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    lines = [
        "# Quality for each mask",
        "",
        f"RISE, {GRID} × {GRID} cells, of which {P_KEEP:.0%} are kept, zeros for what is not; predicted classes. All "
        "estimators have the same masks, independent ones or, where it says so, the points of a Sobol sequence. Means "
        "and half of their 95 % interval over the samples. For the photographs one bank of masks is scored; for the "
        "digits a sample's score is the mean over four. The correlation is that of maps from two banks of masks.",
        "",
        "![Quality against the number of masks](estimators.png)",
        "",
    ]
    for title, each in found.items():
        weak = [one for one in each if one.weak]
        lines += section(title, [one for one in each if not one.weak])
        lines += (
            section(f"{title}, predictions below {WEAK:g}", weak) if weak else [f"No prediction is below {WEAK:g}.", ""]
        )
    return [*lines, "`python -m benchmarks.estimators`: " + circumstances(seconds, versions())]


def kept(path: Path) -> dict[str, list[Quality]]:
    """What a log holds, by network."""
    found: dict[str, list[Quality]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        record = json.loads(line)
        found.setdefault(record.pop("title"), []).append(Quality(**record))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=["vit"], help=f"some of {', '.join(PLANS)}")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs for lite0, which takes hours")
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--part", default="1/1", help="which of how many parts of the samples")
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, one a map, as soon as it is scored")
    parser.add_argument("--resume", action="store_true", help="keep what the log holds, and go on from there")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    part, n_parts = map(int, arguments.part.split("/"))
    if not arguments.resume:
        arguments.log.unlink(missing_ok=True)
    start = time.perf_counter()
    for key in arguments.subjects:
        tuned = subject(key, arguments.samples, folder=arguments.photographs)
        tuned = replace(tuned, model=quick(tuned.model, compiled=True)) if key == "lite0" else tuned
        done = {each.sample for each in kept(arguments.log).get(tuned.name, [])}
        for i in range(part - 1, arguments.samples, n_parts):
            if i in done:
                continue
            lines = [json.dumps({"title": tuned.name, **asdict(each)}) for each in measured(tuned, PLANS[key], i)]
            with arguments.log.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
            print(tuned.name, i, f"[{time.perf_counter() - start:.0f} s]", flush=True)
    found = kept(arguments.log)
    lines = page(found, time.perf_counter() - start)
    print("\n".join(lines))
    if arguments.dry:
        print(draw(found, Path(tempfile.gettempdir()) / "estimators.png"))
    else:
        draw(found, RESULTS / "estimators.png")
        write("estimators", lines)


if __name__ == "__main__":
    main()
