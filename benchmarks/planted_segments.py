"""Planted segments: does the explanation that ``tune`` returns rank the segment first that decides the class?

A pattern is planted into one of ten equal segments of a real series, in one of its channels: one cycle of a sine for
the one class, its reverse for the other, nothing for the third. Into another segment goes a decoy, a plateau of equal
energy, which says nothing of the class, and nor does the movement that the series shows. Networks are trained on such
series until they name the class, and explanations tuned on some of them, with no word about segments. Then 100 other
series with a pattern are explained, on recordings that no network was trained on. Counted is where the segment of the
pattern has the greatest mean relevance of the ten. Chance is 10 of 100; a map of magnitudes (the control) sees pattern
and decoy alike.

Run with ``python -m benchmarks.planted_segments``, with the series of ``pip install --no-deps aeon``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import pnpxai
from benchmarks.written import circumstances, table, write
from benchmarks.zoo_data import recorded
from pnpxai.demo import within
from pnpxai.explainers import Explainer
from pnpxai.tuning import TuneResult
from pnpxai.tuning._problem import versions

N_SEGMENTS, N_CASES, N_TUNING = 10, 100, 32
AIM = 95
HEIGHT = 4.0
"""Of the pattern, in standard deviations of the series."""
BUDGETS = {"n_masks": 128, "n_samples": 64, "n_steps": 16}
TRIED = ("GradientXInput", "IntegratedGradients", "LRPEpsilonPlus", "GradCam", "Occlusion", "RISE", "KernelShap")


@dataclass(frozen=True)
class Planted:
    """Series ``(n, c, t)``, their classes ``(n,)`` (0 where nothing is planted) and the segment of the pattern."""

    inputs: Tensor
    classes: Tensor
    segments: Tensor

    def rows(self, index: Tensor) -> Planted:
        """Some of them."""
        return Planted(self.inputs[index], self.classes[index], self.segments[index])


def standardised(values: Tensor) -> Tensor:
    """Each channel of each series with mean 0 and deviation 1."""
    return (values - values.mean(2, keepdim=True)) / values.std(2, keepdim=True).clamp(min=1e-6)


def planted(backgrounds: Tensor, n: int, seed: int, classes: Sequence[int] = (0, 1, 2)) -> Planted:
    """``n`` series on backgrounds ``(m, c, t)``, drawn with their classes, segments, channels and decoys."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(most: int) -> Tensor:
        return torch.randint(most, (n,), generator=generator)

    inputs, length = backgrounds[drawn(len(backgrounds))].clone(), backgrounds.shape[2] // N_SEGMENTS
    chosen, segments = torch.tensor(classes)[drawn(len(classes))], drawn(N_SEGMENTS)
    elsewhere = (segments + 1 + drawn(N_SEGMENTS - 1)) % N_SEGMENTS
    steps, rows = torch.arange(length), torch.arange(n)[:, None]
    wave = HEIGHT * torch.sin(2 * math.pi * (steps + 0.5) / length)
    decoy = HEIGHT / 2**0.5 * (2 * drawn(2) - 1)
    for where, shape in (
        (segments, torch.tensor([0.0, 1.0, -1.0])[chosen][:, None] * wave),
        (elsewhere, decoy[:, None].expand(n, length)),
    ):
        inputs[rows, drawn(inputs.shape[1])[:, None], where[:, None] * length + steps] += shape
    return Planted(inputs, chosen, segments)


def convolutional(n_channels: int, width: int = 32) -> nn.Module:
    """A fully convolutional network (Wang, Yan and Oates, 2017), narrower than in the paper."""
    layers: list[nn.Module] = []
    for before, size in ((n_channels, 9), (width, 5), (width, 3)):
        layers += [nn.Conv1d(before, width, size, padding=size // 2), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 3))


class Recurrent(nn.Module):
    """A bidirectional LSTM, the greatest of its states over time classified."""

    def __init__(self, n_channels: int, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_channels, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 3)``."""
        return self.head(self.lstm(x.transpose(1, 2))[0].amax(1))


NETWORKS = {"FCN": convolutional, "BiLSTM": Recurrent}
N_STEPS = {"GunPoint": 200, "BasicMotions": 600}
"""Of training; wild movements are harder to see a pattern in."""


def trained(
    kind: str, backgrounds: Tensor, n_steps: int, rate: float = 1e-2, seed: int = 0, width: int = 32
) -> nn.Module:
    """A network after some steps on series that are planted anew for each of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[kind](backgrounds.shape[1], width)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    for step in range(n_steps):
        batch = planted(backgrounds, 64, seed=10**6 * (seed + 1) + step)
        loss = nn.functional.cross_entropy(model(batch.inputs), batch.classes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, backgrounds: Tensor, n: int = 300) -> float:
    """On series of all three classes."""
    batch = planted(backgrounds, n, seed=3)
    with torch.no_grad():
        return (model(batch.inputs).argmax(1) == batch.classes).double().mean().item()


def cases(model: nn.Module, backgrounds: Tensor, n: int, seed: int) -> Planted:
    """Series with something planted whose class the network names."""
    batch = planted(backgrounds, 2 * n, seed, classes=(1, 2))
    with torch.no_grad():
        right = (model(batch.inputs).argmax(1) == batch.classes).nonzero()[:n, 0]
    return batch.rows(right)


def ranked_first(maps: Tensor, segments: Tensor) -> Tensor:
    """Whether the segment has the greatest mean of maps ``(n, t)``, by more than nothing: ``(n,)``.

    Example:
        >>> ranked_first(torch.eye(10).repeat_interleave(2, 1)[:2], torch.tensor([0, 5])).tolist()
        [True, False]
    """
    length = maps.shape[1] // N_SEGMENTS
    means = maps[:, : N_SEGMENTS * length].reshape(len(maps), N_SEGMENTS, length).mean(2)
    own = means.gather(1, segments[:, None])
    return (means >= own).sum(1) == 1


def tuned(model: nn.Module, sample: Planted, explainers: Sequence[Explainer | str], n_trials: int) -> TuneResult:
    """As a user would tune, on series whose segments nobody is told."""
    return pnpxai.tune(model, sample.inputs, explainers=explainers, n_trials=n_trials, progress=False)


def measured(kind: str, name: str, n_trials: int) -> tuple[list[str], list[list[str]]]:
    """The line of one network on one data set, and one for each explainer."""
    known, unseen = (standardised(recorded(name, part)[0]) for part in ("TRAIN", "TEST"))
    if len(unseen) > 2 * len(known):
        known, unseen = torch.cat([known, unseen[::2]]), unseen[1::2]
    model = trained(kind, known, N_STEPS[name])
    sample, judged = cases(model, unseen, N_TUNING, seed=1), cases(model, unseen, N_CASES, seed=2)
    fitting = [within(each, BUDGETS) for each in pnpxai.recommend(model, sample.inputs, explainers=TRIED).explainers]
    result = tuned(model, sample, fitting, n_trials)
    found = int(ranked_first(result.explain(judged.inputs), judged.segments).sum())
    control = int(ranked_first(judged.inputs.abs().sum(1), judged.segments).sum())
    line = [name, kind, f"{accuracy(model, unseen):.2f}", result.winner.name]
    line += [f"{found} of {len(judged.segments)}", str(control)]
    line.append("reached" if found >= AIM * len(judged.segments) / 100 else "missed")
    rows = []
    for entry in result.entries:
        counts = []
        for each in (entry.default, entry.tuned):
            counts.append(int(ranked_first(each.maps(judged.inputs), judged.segments).sum()))
        rows.append(
            [name, kind, entry.name, str(counts[0]), "as default" if entry.tuned is entry.default else str(counts[1])]
        )
    return line, rows


def page(lines: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], seconds: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    columns = ["series", "network"]
    return [
        "# Planted segments",
        "",
        *(__doc__ or "").split("\n\n")[1].splitlines(),
        "",
        *table([*columns, "accuracy", "recommended", "planted segment first", "control", f"aim of {AIM}"], lines),
        "",
        f"Each explainer, of {N_CASES}, in the order of its tuned AbPC:",
        "",
        *table([*columns, "explainer", "default", "tuned"], rows),
        "",
        "`python -m benchmarks.planted_segments`: " + circumstances(seconds, versions()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    lines, rows = [], []
    for name in N_STEPS:
        for kind in NETWORKS:
            line, more = measured(kind, name, arguments.trials)
            print(line, *more, sep="\n", flush=True)
            lines.append(line)
            rows += more
    made = page(lines, rows, time.perf_counter() - start)
    print("\n".join(made))
    if not arguments.dry:
        write("planted_segments", made)


if __name__ == "__main__":
    main()
