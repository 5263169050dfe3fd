"""Where ``tol=`` stops, and whether errors are what they say: ``python -m benchmarks.settling [vit cnn]``.

The oracle knows the map of 10,000 other masks, and stops a sample at the first look at which the root mean square error
over several banks of masks, by the deviation of that map, is at ``tol``. Samples that need no more than the first look,
or more masks than are asked for, are left out. Errors cover the map of 10,000 masks where it lies within 1.96 standard
errors, at the look at which RISE stopped.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.race_subjects import Subject, subject
from benchmarks.written import circumstances, table, write
from pnpxai.explainers import RISE
from pnpxai.explainers._mask_settling import Settling, looks
from pnpxai.guard import guard
from pnpxai.tuning._problem import versions

TOLERANCES = (0.3, 0.25, 0.2, 0.15)
SETTINGS: Sequence[Mapping[str, object]] = [
    {"sampling": sampling, "p_keep": p_keep} for p_keep in (0.5, 0.1) for sampling in ("sobol", "independent")
]
MOST, OF_TRUTH = 2048, 10_000
N_BANKS = 5
N_SAMPLES = 32
AIM, COVERED = 0.2, (0.90, 0.97)
"""How far from the oracle's number of masks on average, and the least and most that errors should cover."""


@dataclass(frozen=True)
class Stops:
    """One setting, with one tolerance.

    Attributes:
        ratios: masks by the oracle's, one a bank and sample that count.
        oracle: the oracle's masks, of samples that count.
        covered: the share of positions that the errors cover, one a bank and sample.
        actual: the relative errors at the stops, root mean square over banks and samples.
    """

    ratios: Sequence[float]
    oracle: Sequence[int]
    covered: Sequence[float]
    actual: float


def followed(explainer: RISE, inputs: Tensor, tolerances: Sequence[float]) -> tuple[Tensor, dict[float, Settling]]:
    """The map at every look, ``(looks, n, p)``, and where each tolerance stops; masks are asked about once."""
    maps, found = [], dict[float, Settling]()
    with guard(explainer.model), torch.no_grad():
        request = explainer.request(inputs)
        start = Settling.begin(explainer._none(request, recorded=True))  # type: ignore[arg-type]
        sums, found = start.sums, dict.fromkeys(tolerances, start)
        for n in looks(0, explainer.n_masks):
            sums = explainer._more(request, sums, n)
            maps.append(start.look(sums, None).relevance)
            found = {tol: each.look(sums, tol) for tol, each in found.items()}
    return torch.stack(maps), found


def errors(maps: Tensor, truth: Tensor) -> Tensor:
    """Root mean square errors of maps ``(…, p)`` by the deviation of the true one."""
    return ((maps - truth).square().mean(-1) / truth.var(-1, correction=0)).sqrt()


def measured(tuned: Subject, settings: Mapping[str, object]) -> dict[float, Stops]:
    """One setting with all tolerances."""
    made = RISE(tuned.model, n_masks=MOST, estimator="ridge", **settings)  # type: ignore[arg-type]
    truth = made.set_kwargs(n_masks=OF_TRUTH, seed=N_BANKS).attribute(tuned.inputs).flatten(1).double()
    banks = [followed(made.set_kwargs(seed=seed), tuned.inputs, TOLERANCES) for seed in range(N_BANKS)]
    by_look = torch.stack([errors(maps, truth) for maps, _ in banks]).square().mean(0).sqrt()  # (looks, n)
    numbers = list(looks(0, MOST))
    found = {}
    for tol in TOLERANCES:
        ends = [each[tol] for _, each in banks]
        oracle = [next((n for n, error in zip(numbers, own, strict=True) if error <= tol), 0) for own in by_look.T]
        counts = [i for i, n in enumerate(oracle) if n > numbers[0]]
        within = [((each.relevance - truth).abs() <= 1.96 * each.standard_error).double().mean(1) for each in ends]
        actual = torch.stack([errors(each.relevance, truth) for each in ends])[:, counts]
        found[tol] = Stops(
            [float(each.n_masks[i]) / oracle[i] for each in ends for i in counts],
            [oracle[i] for i in counts],
            [float(each[i]) for each in within for i in counts],
            float(actual.square().mean().sqrt()) if counts else math.nan,
        )
    return found


def row(title: str, settings: Mapping[str, object], tol: float, stops: Stops) -> list[str]:
    """A line of the table."""
    if not stops.ratios:
        return [title, *map(str, settings.values()), f"{tol:g}", "0", *[""] * 6]
    ratio, covered = statistics.fmean(stops.ratios), statistics.fmean(stops.covered)
    reached = abs(ratio - 1) <= AIM, COVERED[0] <= covered <= COVERED[1]
    return [
        title,
        *map(str, settings.values()),
        f"{tol:g}",
        str(len(stops.oracle)),
        f"{statistics.fmean(stops.oracle):.0f}",
        f"{ratio:.2f}",
        f"{statistics.median(stops.ratios):.2f}",
        f"{stops.actual:.3f}",
        f"{covered:.1%}",
        " and ".join("reached" if each else "missed" for each in reached),
    ]


def page(rows: Sequence[Sequence[str]], seconds: float) -> list[str]:
    """The measured table as lines of Markdown."""
    columns = ["network", "masks", "p_keep", "tol", "samples", "oracle's masks", "masks by the oracle's, mean"]
    columns += ["median", "error at the stop", "covered", "aims"]
    return [
        "# Where tol stops",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "",
        f'`RISE(estimator="ridge", tol=…)`, 7 × 7 cells, at most {MOST:,} masks, {N_BANKS} banks. Aims: within '
        f"{AIM:.0%} of the oracle's masks on average, and {COVERED[0]:.0%} to {COVERED[1]:.0%} of positions covered.",
        "",
        *table(columns, rows),
        "",
        "`python -m benchmarks.settling`: " + circumstances(seconds, versions()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=["vit", "cnn"])
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = []
    for key in arguments.subjects:
        tuned = subject(key, arguments.samples)
        for settings in SETTINGS:
            for tol, stops in measured(tuned, settings).items():
                rows.append(row(tuned.name, settings, tol, stops))
                print(rows[-1], flush=True)
    lines = page(rows, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("settling", lines)


if __name__ == "__main__":
    main()
