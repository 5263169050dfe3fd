"""What a study costs beside the model: ``python -m benchmarks.race_overhead [cnn vit]``.

A study of 500 trials is run twice: once to fill a folder with maps, then again with the same seed, so that the same
trials find their maps there and all the model is asked is what the metric asks. The second run is timed, and the time
spent inside the model's forward with it.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.race_subjects import N_HOLDOUT, N_TUNING, SUBJECTS, Subject, subject
from benchmarks.written import circumstances, table, write
from pnpxai.explainers import Explainer
from pnpxai.recommender import explainers_for
from pnpxai.tuning import TuneResult, tune
from pnpxai.tuning._problem import versions

CHEAP = ("Gradient", "GradientXInput", "SmoothGrad", "LRPUniformEpsilon", "LRPEpsilonGammaBox")
N_NOISY = 5
"""Samples of SmoothGrad."""
SIDE = 64
"""Pixels that photographs are made smaller to: with all of them 500 trials take hours, nearly all in the model."""
WAYS: tuple[tuple[str, Literal["wilcoxon"] | None], ...] = (("raced", "wilcoxon"), ("exhaustive", None))
N_TRIALS = 500
SAMPLES = {"lite0": (16, 16)}
"""Tuning and hold-out samples, where they are others than elsewhere: it is the time beside the model that counts."""
AIM = 0.2


@dataclass
class Clock:
    """Seconds; an object of its own, because a model's own attributes are put back after each explanation."""

    seconds: float = 0.0


class Timed(nn.Module):
    """A model that notes on a clock how long its forward took in all."""

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.model = model
        self.clock = clock

    def forward(self, inputs: Tensor) -> Tensor:
        """The model's outputs."""
        start = time.perf_counter()
        outputs: Tensor = self.model(inputs)
        self.clock.seconds += time.perf_counter() - start
        return outputs


@dataclass(frozen=True)
class Overhead:
    """A study on cached maps.

    Attributes:
        seconds: in all.
        inside: of these in the model's forward.
        n_trials: that were scored.
        n_forwards: samples through the model.
    """

    seconds: float
    inside: float
    n_trials: int
    n_forwards: int

    @property
    def share(self) -> float:
        """Of the time, outside the model."""
        return 1 - self.inside / self.seconds


def small(tuned: Subject) -> Subject:
    """A subject whose images have at most `SIDE` pixels a side."""
    if tuned.inputs.shape[-1] <= SIDE:
        return tuned
    inputs = F.interpolate(tuned.inputs, SIDE, mode="bilinear", antialias=True)
    return replace(tuned, name=f"{tuned.name} of {SIDE} × {SIDE} pixels", inputs=inputs)


def cheap(model: nn.Module) -> list[Explainer]:
    """Explainers that take a few passes."""
    return [
        each.set_kwargs(n_samples=N_NOISY) if type(each).__name__ == "SmoothGrad" else each
        for each in explainers_for(model, CHEAP)
    ]


def study(model: nn.Module, inputs: Tensor, n_trials: int, folder: Path, **options: Any) -> TuneResult:
    """One study with maps kept in a folder."""
    return tune(
        model,
        inputs,
        explainers=cheap(model),
        n_trials=n_trials,
        aims=(),
        cache_dir=folder,
        progress=False,
        **options,
    )


def measured(tuned: Subject, n_trials: int, profile: cProfile.Profile | None = None, **options: Any) -> Overhead:
    """The second of two equal studies."""
    clock = Clock()
    model = Timed(tuned.model, clock).eval()
    with tempfile.TemporaryDirectory() as folder:
        study(model, tuned.inputs, n_trials, Path(folder), **options)
        clock.seconds = 0.0
        if profile:
            profile.enable()
        result = study(model, tuned.inputs, n_trials, Path(folder), **options)
        if profile:
            profile.disable()
    return Overhead(result.seconds, clock.seconds, len(result.trials), result.n_forwards)


def dominating(profile: cProfile.Profile, n: int = 40) -> str:
    """The functions that took most time with what they call."""
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(n)
    return text.getvalue()


def page(found: Sequence[tuple[str, str, Overhead]], seconds: float) -> list[str]:
    """The measured table as lines of Markdown."""
    rows = [
        [
            title,
            way,
            str(each.n_trials),
            f"{each.n_forwards:,}",
            f"{each.seconds:.1f}",
            f"{each.inside:.1f}",
            f"{1000 * (each.seconds - each.inside) / each.n_trials:.1f}",
            f"{each.share:.1%}",
            "reached" if each.share < AIM else "missed",
        ]
        for title, way, each in found
    ]
    columns = ["model", "search", "trials", "forwards", "seconds", "in the model", "outside, ms a trial", "outside"]
    return [
        "# Time outside the model",
        "",
        f"Studies of {N_TRIALS} trials whose maps were computed before and are read from a folder: what is left is to "
        f"choose, to score and to judge. Aim: less than {AIM:.0%} of the time outside the model's forward. "
        f"{', '.join(CHEAP)} (SmoothGrad with {N_NOISY} samples), AbPC, `aims=()`; tuning + hold-out samples.",
        "",
        *table([*columns, f"aim {AIM:.0%}"], rows),
        "",
        "`python -m benchmarks.race_overhead`: " + circumstances(seconds, versions()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=["cnn", "vit"], help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs for lite0")
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    parser.add_argument("--profile", action="store_true", help="print what takes the time instead")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    found: list[tuple[str, str, Overhead]] = []
    for key in arguments.subjects:
        n_tuning, n_holdout = SAMPLES.get(key, (N_TUNING, N_HOLDOUT))
        tuned = small(subject(key, n_tuning + n_holdout, folder=arguments.photographs))
        tuned = replace(tuned, name=f"{tuned.name}, {n_tuning} + {n_holdout} samples")
        for way, pruner in WAYS[: 1 if key == "lite0" else 2]:  # to the end it would take hours, in the model
            profile = cProfile.Profile() if arguments.profile else None
            each = measured(tuned, arguments.trials, profile, holdout=n_holdout, pruner=pruner)
            found.append((tuned.name, way, each))
            print(f"{tuned.name}, {way}: {each} {each.share:.1%} outside", flush=True)
            if profile:
                print(dominating(profile), flush=True)
    if not arguments.profile:
        lines = page(found, time.perf_counter() - start)
        print("\n".join(lines))
        if not arguments.dry:
            write("race_overhead", lines)


if __name__ == "__main__":
    main()
