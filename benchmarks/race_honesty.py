"""Fifty copies of one configuration: how often is the best of them called better than the default?

``python -m benchmarks.race_honesty``. An explainer whose only parameter is the number of a copy; its scores, one for
each sample and copy, come from a table: the sample's own level, and noise with a deviation of .06 that a copy has by
luck alone. All that decides is `pnpxai.tuning`'s: the search, the race, the judgement on the hold-out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from benchmarks.written import circumstances, table, write
from pnpxai.batches import Extractor
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request
from pnpxai.metrics import METRICS, Metric
from pnpxai.metrics._base import Answers
from pnpxai.tuning import TuneResult, tune
from pnpxai.tuning._problem import versions
from pnpxai.tuning._statistics import Gain, paired_gain

N_COPIES = 50
NOISE, LEVEL, SPREAD = 0.06, 0.4, 0.15
"""Deviation of a score by luck, and mean and deviation of the samples' own levels."""
SIZES = ((16, 64), (64, 128))
"""Tuning and hold-out samples."""
N_RUNS = 400
COVERED = 0.93


class Copy(Explainer):
    """One of many configurations that are equally good; its map ``(n, 3)`` says which: 0, 1 and a code between."""

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"number": CategoricalDistribution(tuple(range(N_COPIES)))}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        number: int = 0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.number = number

    def explain_request(self, request: Request) -> Tensor:
        """The same map for each sample."""
        code = (self.number + 0.5) / N_COPIES
        return torch.tensor([0.0, 1.0, code]).expand(len(request.input), 3).clone()


class Luck(Metric):
    """The score a table ``(samples, copies)`` holds for a map; inputs ``(n, 3)`` start with the sample's number."""

    HIGHER_IS_BETTER = True

    def __init__(
        self,
        model: nn.Module,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = None,
        scores: Tensor | None = None,
    ) -> None:
        super().__init__(model, explainer, forward_arg_extractor, additional_forward_arg_extractor, channel_dim)
        self.scores = scores

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """Looked up."""
        assert self.scores is not None
        copies = (values[:, 2] * N_COPIES).long().clamp(0, N_COPIES - 1)
        return self.scores[request.input[:, 0].long(), copies]


for registry, name in ((EXPLAINERS, "Copy"), (METRICS, "Luck")):
    registry.pop(name, None)  # nobody else is to be recommended these


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        gain: of the winner over its default on the hold-out; None where the default itself won the search.
        flattered: the same on the tuning samples, what one would report who does not hold out.
        kept: the default is recommended.
    """

    gain: Gain | None
    flattered: Gain | None
    kept: bool

    @property
    def covers(self) -> bool:
        """Whether the interval on the hold-out holds zero, the truth."""
        return covers(self.gain)


def covers(gain: Gain | None) -> bool:
    """Whether an interval holds zero; trivially where there is nothing to compare."""
    return gain is None or gain.low <= 0 <= gain.high


def table_of_luck(n: int, generator: np.random.Generator) -> Tensor:
    """Scores ``(n, copies)``: what the sample gives, and luck."""
    own = generator.normal(LEVEL, SPREAD, (n, 1))
    return torch.from_numpy(own + generator.normal(0.0, NOISE, (n, N_COPIES)))


def run(
    n_tuning: int,
    n_holdout: int,
    seed: int,
    pruner: Literal["wilcoxon"] | None = "wilcoxon",
    n_copies: int = N_COPIES,
) -> Outcome:
    """Tune a table of luck: each of the first ``n_copies`` is tried once."""
    n = n_tuning + n_holdout
    model = nn.Linear(3, 2)
    numbers = torch.arange(n, dtype=torch.float32)
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()
    luck = np.random.default_rng([n, seed])  # not the stream that splits and resamples
    metric = Luck(model, scores=table_of_luck(n, luck))
    result = tune(
        model,
        torch.stack([numbers, torch.ones(n), torch.zeros(n)], 1),
        torch.zeros(n, dtype=torch.long),
        explainers=[Copy(model)],
        metric=metric,
        n_trials=n_copies,
        seed=seed,
        holdout=n_holdout,
        sampler="grid",
        pruner=pruner,
        aims=(),
        progress=False,
    )
    return outcome(result)


def outcome(result: TuneResult) -> Outcome:
    """What a run says of its winner."""
    entry = result.entries[0]
    if entry.tuned is entry.default:
        return Outcome(None, None, True)
    m = min(len(entry.tuned.tuning_scores), len(entry.default.tuning_scores))
    flattered = paired_gain(entry.tuned.tuning_scores[:m], entry.default.tuning_scores[:m])
    return Outcome(entry.gain, flattered, result.recommended is entry.default)


def row(n_tuning: int, n_holdout: int, way: str, runs: Sequence[Outcome]) -> list[str]:
    """One line of the table."""
    searched = [each for each in runs if each.gain is not None]
    gains = [each.gain.mean for each in searched if each.gain is not None]
    flattered = [each.flattered.mean for each in searched if each.flattered is not None]
    return [
        way,
        f"{n_tuning} / {n_holdout}",
        str(len(runs)),
        f"{100 * np.mean([each.covers for each in runs]):.1f}",
        f"{100 * np.mean([each.kept for each in runs]):.1f}",
        str(len(searched)),
        f"{100 * np.mean([each.covers for each in searched]):.1f}" if searched else "–",
        f"{np.mean(gains):+.4f}" if searched else "–",
        f"{np.mean(flattered):+.4f}" if searched else "–",
        f"{100 * np.mean([covers(each.flattered) for each in searched]):.1f}" if searched else "–",
    ]


def page(found: Sequence[tuple[int, int, str, Sequence[Outcome]]], seconds: float) -> list[str]:
    """The measured table as lines of Markdown."""
    columns = ["search", "tuning / hold-out", "runs", "interval covers 0, %", "default kept, %"]
    columns += ["runs a copy won", "of these covers 0, %", "their gain on the hold-out", "and on the tuning samples"]
    columns += ["whose interval covers 0, %"]
    reached = all(np.mean([each.covers for each in runs]) >= COVERED for _, _, _, runs in found)
    return [
        "# Honesty",
        "",
        f"{N_COPIES} copies of one configuration whose scores differ by luck (deviation {NOISE:g} a sample and copy), "
        "through the whole of `tune`: the best of them against the default, on samples that the search never saw. A "
        f"95 % interval ought to hold zero; aim: in {COVERED:.0%} of the runs, with the default kept "
        f"({'reached' if reached else 'missed'}). The last two columns are what selection alone makes of nothing.",
        "",
        *table(columns, [row(*each) for each in found]),
        "",
        "`python -m benchmarks.race_honesty`: " + circumstances(seconds, versions()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=N_RUNS)
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    ways: dict[str, Literal["wilcoxon"] | None] = {"raced": "wilcoxon", "exhaustive": None}
    found = [
        (*size, way, [run(*size, seed, pruner) for seed in range(arguments.runs)])
        for size in SIZES
        for way, pruner in ways.items()
    ]
    lines = page(found, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("race_honesty", lines)


if __name__ == "__main__":
    main()
