"""What the package takes beside a model that takes nothing: ``python -m benchmarks.overhead``.

Seconds to import it, in fresh processes that take turns with those that import torch or captum alone. And microseconds
of one call on tiny networks, the target given, in turns with captum's equivalent; where captum has none, with the same
written out by hand. Medians; the difference is the median over the pairs of calls. All explainers take turns in rounds,
and the quicker half of the rounds counts, for others on the same machine may make everything twice as slow for a while.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import io
import os
import pstats
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from captum import attr
from torch import Tensor, nn

from benchmarks.written import circumstances, table, write
from pnpxai.explainers import (
    RISE,
    Explainer,
    GradCam,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    LRPUniformEpsilon,
    SmoothGrad,
)
from pnpxai.explainers._masks import MaskBank
from pnpxai.tuning._problem import versions

IMPORTS = ("torch", "captum.attr", "pnpxai")
N_IMPORTS = 7
N_ROUNDS, N_CALLS = 40, 15
"""Rounds, and calls of each explainer in one."""
AIM = 1000.0
"""Microseconds above captum."""
IMPORT_AIM = 1.0
"""Seconds above torch."""
N_STEPS, N_SAMPLES, N_MASKS = 10, 5, 10


class MLP(nn.Module):
    """Three layers on features, ``(n, 20)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layers(x)
        return logits


class CNN(nn.Module):
    """Two convolutions and a layer on images, ``(n, 3, 16, 16)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(512, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.relu2(self.second(self.pool(self.relu(self.first(x)))))
        logits: Tensor = self.head(x.flatten(1))
        return logits


def subjects() -> dict[str, tuple[nn.Module, Tensor]]:
    """The networks, with weights of their own seed, and an input for each."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return {"MLP": (MLP().eval(), torch.randn(1, 20)), "CNN": (CNN().eval(), torch.randn(1, 3, 16, 16))}


TARGET = torch.tensor([0])


def cam_by_captum(model: nn.Module, x: Tensor) -> Tensor:
    """Captum's map of the layer that `GradCam` finds, at the input's size."""
    maps = attr.LayerGradCam(model, model.get_submodule("relu2")).attribute(x, TARGET, relu_attributions=True)
    scaled: Tensor = attr.LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")
    return scaled


def noise_by_captum(model: nn.Module, x: Tensor) -> Tensor:
    """Captum's mean of gradients under noise of the same deviation."""
    deviation = 0.1 * float(x.max() - x.min())
    tunnel = attr.NoiseTunnel(attr.Saliency(model))
    maps: Tensor = tunnel.attribute(
        x, nt_type="smoothgrad", nt_samples=N_SAMPLES, stdevs=deviation, target=TARGET, abs=False
    )
    return maps


def masks_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    """The centred map of RISE for a single input."""
    masks = MaskBank.for_inputs(x, 7, 0.5, 0).draw(0, N_MASKS).masks
    masks = masks[:, None] if x.ndim == 4 else masks
    with torch.inference_mode():
        scores = model(masks * x).softmax(1)[:, 0]
        maps: Tensor = torch.tensordot(scores - scores.mean(), masks, 1)[None] / (0.5 * N_MASKS)
        return maps


@dataclass(frozen=True)
class Peer:
    """An explainer and its equivalent, both made anew for each call.

    Attributes:
        name: of the explainer.
        peer: of the equivalent.
        explainer: makes the explainer.
        theirs: one call of the equivalent.
    """

    name: str
    peer: str
    explainer: Callable[[nn.Module], Explainer]
    theirs: Callable[[nn.Module, Tensor], Tensor]

    def ours(self, model: nn.Module, x: Tensor) -> Tensor:
        """One call of the explainer."""
        maps: Tensor = self.explainer(model).attribute(x, TARGET)
        return maps


PEERS = (
    Peer("Gradient", "Saliency", Gradient, lambda model, x: attr.Saliency(model).attribute(x, TARGET, abs=False)),
    Peer(
        "GradientXInput",
        "InputXGradient",
        GradientXInput,
        lambda model, x: attr.InputXGradient(model).attribute(x, TARGET),
    ),
    Peer(
        f"IntegratedGradients, {N_STEPS} steps",
        "IntegratedGradients",
        functools.partial(IntegratedGradients, n_steps=N_STEPS),
        lambda model, x: attr.IntegratedGradients(model).attribute(x, target=TARGET, n_steps=N_STEPS),
    ),
    Peer(
        f"SmoothGrad, {N_SAMPLES} samples",
        "NoiseTunnel of Saliency",
        functools.partial(SmoothGrad, n_samples=N_SAMPLES, noise_level=0.1),
        noise_by_captum,
    ),
    Peer("GradCam", "LayerGradCam", GradCam, cam_by_captum),
    Peer("GradCam, layer given", "LayerGradCam", functools.partial(GradCam, layer="relu2"), cam_by_captum),
    Peer(
        "LRPUniformEpsilon",
        "LRP",
        functools.partial(LRPUniformEpsilon, epsilon=1e-9),
        lambda model, x: attr.LRP(model).attribute(x, target=TARGET),
    ),
    Peer(f"RISE, {N_MASKS} masks", "by hand", functools.partial(RISE, n_masks=N_MASKS), masks_by_hand),
)


def fitting(x: Tensor) -> list[Peer]:
    """Those for an input: maps of activations need positions."""
    return [each for each in PEERS if x.ndim == 4 or not each.name.startswith("GradCam")]


def microseconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1000


@dataclass(frozen=True)
class Compared:
    """Pairs of calls, in microseconds.

    Attributes:
        ours: the median of the explainer's calls.
        theirs: of its equivalent's.
        above: of the differences within a pair.
        least: the explainer's quickest call less the quickest of its equivalent; what else the machine does is in
            neither.
    """

    ours: float
    theirs: float
    above: float
    least: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Compared:
        """From calls that took turns."""
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        quickest = min(ours) - min(theirs)
        return cls(statistics.median(ours), statistics.median(theirs), statistics.median(differences), quickest)


Round: TypeAlias = list[list[tuple[float, float]]]
"""For each explainer its calls in turn with its equivalent's, in microseconds."""


def compared(pairs: Sequence[tuple[Peer, nn.Module, Tensor]], n_rounds: int) -> list[Compared]:
    """Explainers against their equivalents, in rounds; a first one warms up."""
    calls = [(functools.partial(peer.ours, *each), functools.partial(peer.theirs, *each)) for peer, *each in pairs]
    rounds: list[Round] = [
        [[(microseconds(ours), microseconds(theirs)) for _ in range(N_CALLS)] for ours, theirs in calls]
        for _ in range(1 + n_rounds)
    ]
    return [Compared.of(*zip(*each, strict=True)) for each in quicker_half(rounds[1:])]


def quicker_half(rounds: Sequence[Round]) -> Round:
    """The calls of the rounds that took less, together."""
    ordered = sorted(rounds, key=lambda each: sum(sum(map(sum, calls)) for calls in each))
    kept = ordered[: -(-len(rounds) // 2)]
    return [[call for calls in each for call in calls] for each in zip(*kept, strict=True)]


def import_seconds(name: str) -> float:
    """How long a fresh process takes to import a module."""
    code = f"import time; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def imported(n_runs: int) -> dict[str, list[float]]:
    """Seconds for each of `IMPORTS`, in turns; a first turn, which may have to read and compile, does not count."""
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(1 + n_runs):
        for name, each in taken.items():
            each.append(import_seconds(name))
    return {name: each[1:] for name, each in taken.items()}


def import_rows(taken: dict[str, list[float]]) -> list[list[str]]:
    """A row for each module."""
    least = statistics.median(taken["torch"])
    rows = []
    for name, each in taken.items():
        above = statistics.median(each) - least
        aim = "" if name != "pnpxai" else "reached" if above <= IMPORT_AIM else "missed"
        span = f"{min(each):.2f} to {max(each):.2f}"
        rows.append([f"`import {name}`", f"{statistics.median(each):.2f}", span, f"{above:.2f}", aim])
    return rows


def call_row(title: str, peer: Peer, each: Compared) -> list[str]:
    """A row for an explainer on a network."""
    figures = [f"{value:,.0f}" for value in (each.ours, each.theirs, each.above, each.least)]
    return [title, peer.name, peer.peer, *figures, "reached" if each.above <= AIM else "missed"]


def page(imports: Sequence[Sequence[str]], calls: Sequence[Sequence[str]], taken: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    columns = ["network", "explainer", "against", "takes", "against takes", "above", "quickest above quickest"]
    return [
        "# Time beside a model that takes none",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "",
        *table(["import", "seconds", "from, to", "above torch", f"aim {IMPORT_AIM:g} s"], imports),
        "",
        "One call on one input, microseconds:",
        "",
        *table([*columns, f"aim {AIM:,.0f} µs"], calls),
        "",
        "`python -m benchmarks.overhead`: " + circumstances(taken, versions()),
    ]


def profiled(peer: Peer, model: nn.Module, x: Tensor, n_calls: int) -> str:
    """The functions in which calls of an explainer spend most, themselves alone."""
    profile, text = cProfile.Profile(), io.StringIO()
    peer.ours(model, x)
    profile.enable()
    for _ in range(n_calls):
        peer.ours(model, x)
    profile.disable()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it runs")
    parser.add_argument("--profile", action="store_true", help="print what takes the time instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # captum's, at each input that does not ask for a gradient
    start = time.perf_counter()
    pairs = [(title, peer, model, x) for title, (model, x) in subjects().items() for peer in fitting(x)]
    if arguments.profile:
        for title, peer, model, x in pairs:
            print(title, peer.name, profiled(peer, model, x, N_ROUNDS * N_CALLS), sep="\n", flush=True)
        return
    found = compared([(peer, model, x) for _, peer, model, x in pairs], 1 if arguments.quick else N_ROUNDS)
    calls = [call_row(title, peer, each) for (title, peer, *_), each in zip(pairs, found, strict=True)]
    lines = page(import_rows(imported(1 if arguments.quick else N_IMPORTS)), calls, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("overhead", lines)


if __name__ == "__main__":
    main()
