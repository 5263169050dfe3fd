"""The grid game: how much of a map's positive relevance lies in the right quadrant of a grid of four photographs.

Four photographs of different classes, 112 × 112 pixels each, make one input of 224 × 224. An explanation of one of the
four classes should point at its own quadrant; an arbitrary map puts a quarter there. Only photographs whose class the
network still names when they stand alone in the grid take part. The explainers are tuned on the single photographs at
full size, so no setting was chosen with this game in sight.

Run with ``python -m benchmarks.grid_game``; about five minutes on two cores.
"""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pnpxai.demo import MODEL_NAME, search
from pnpxai.photographs import PHOTOGRAPHS, SIZE, Photograph, cropped, efficientnet_lite0, standardized
from pnpxai.tuning import TuneResult
from pnpxai.tuning._controls import CONTROLS

TILE = SIZE // 2
N_GRIDS = 3
TARGET = 0.6
CHANCE = 0.25
OUT = Path(__file__).parent / "results" / "grid_game.md"


@dataclass(frozen=True)
class Grids:
    """Inputs ``(n, 3, 224, 224)``, the class asked about ``(n,)``, the quadrant that shows it ``(n,)``, and names."""

    inputs: Tensor
    targets: Tensor
    quadrants: Tensor
    names: tuple[str, ...]


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    start = time.perf_counter()
    model = efficientnet_lite0()
    grids = build(model)
    single = standardized([cropped(each.open()) for each in PHOTOGRAPHS])
    result = search(model, single, timeout=90.0)
    text = page(result, grids, time.perf_counter() - start)
    print(text)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text, encoding="utf-8")


def build(model: nn.Module) -> Grids:
    """Grids of the photographs that the network names rightly alone in the first quadrant, each asked four times."""
    named = [each for each in PHOTOGRAPHS if each.classes]
    tiles = standardized([cropped(each.open(), TILE) for each in named])
    alone = torch.zeros(len(tiles), 3, SIZE, SIZE)
    alone[:, :, :TILE, :TILE] = tiles
    with torch.no_grad():
        classes = model(alone).argmax(1)
    right = [i for i, each in enumerate(named) if int(classes[i]) in each.classes]
    chosen = spread(list(itertools.combinations(right, 4)), N_GRIDS)
    inputs = torch.stack([assemble(tiles[list(four)]) for four in chosen]).repeat_interleave(4, 0)
    targets = torch.stack([classes[i] for four in chosen for i in four])
    return Grids(inputs, targets, torch.arange(4).repeat(len(chosen)), tuple(caption(named, four) for four in chosen))


def spread(values: list[tuple[int, ...]], n: int) -> list[tuple[int, ...]]:
    """``n`` of the values (or all), evenly spaced from the first to the last."""
    n = min(n, len(values))
    return [values[round(i * (len(values) - 1) / max(n - 1, 1))] for i in range(n)]


def assemble(tiles: Tensor) -> Tensor:
    """Four tiles ``(4, c, h, w)`` in reading order as one picture ``(c, 2h, 2w)``."""
    return torch.cat([torch.cat([tiles[0], tiles[1]], 2), torch.cat([tiles[2], tiles[3]], 2)], 1)


def caption(named: list[Photograph], four: tuple[int, ...]) -> str:
    return ", ".join(named[i].name for i in four)


def shares(maps: Tensor, quadrants: Tensor) -> Tensor:
    """The share of positive relevance in the right quadrant, ``(n,)`` from maps ``(n, 2h, 2w)``.

    A map without positive relevance scores 0.
    """
    h, w = maps.shape[1] // 2, maps.shape[2] // 2
    inside = maps.clamp(min=0).reshape(-1, 2, h, 2, w).sum((2, 4)).flatten(1)
    total = inside.sum(1)
    right = inside.gather(1, quadrants[:, None]).squeeze(1)
    return torch.where(total > 0, right / total.clamp(min=torch.finfo(total.dtype).tiny), torch.zeros_like(total))


def page(result: TuneResult, grids: Grids, seconds: float) -> str:
    """The measured table as Markdown."""
    lines = ["| explainer | default | tuned | settings |", "|---|---|---|---|"]
    winner_share = 0.0
    for entry in result.entries:
        found = {}
        for name, each in (("default", entry.default), ("tuned", entry.tuned)):
            if name == "tuned" and entry.tuned is entry.default:
                found[name] = found["default"]
                continue
            maps = each.maps(grids.inputs, grids.targets)
            found[name] = shares(maps, grids.quadrants).mean().item()
        settings = ", ".join(f"{k.split('.', 1)[1]} {shown(v)}" for k, v in entry.tuned.params.items())
        tuned = "as default" if entry.tuned is entry.default else f"{found['tuned']:.2f}"
        lines.append(f"| {entry.name} | {found['default']:.2f} | {tuned} | {settings} |")
        if entry is result.winner:
            winner_share = found["tuned"]
    for name, control in CONTROLS.items():
        share = shares(control(grids.inputs, 1, 0), grids.quadrants).mean().item()
        lines.append(f"| {name} map (control) | {share:.2f} | | |")
    verdict = "reached" if winner_share >= TARGET else "missed"
    return "\n".join(
        [
            "# Grid game",
            "",
            f"Mean share of positive relevance in the right quadrant; chance {CHANCE}. {MODEL_NAME}, "
            f"{len(grids.names)} grids of four photographs ({TILE} × {TILE} pixels each in {SIZE} × {SIZE}), every "
            f"class of a grid asked about: {len(grids.targets)} maps. Explainers in the order of their tuned "
            f"{type(result.metric).__name__} on single photographs, with the demo's budgets.",
            "",
            *lines,
            "",
            f"The tuned winner, {result.winner.name}, has {winner_share:.2f} (target {TARGET}: {verdict}).",
            "",
            *(f"- grid {i}: {name}" for i, name in enumerate(grids.names, 1)),
            "",
            f"{datetime.datetime.now(datetime.timezone.utc).date()}, {seconds:.0f} s, {machine()}; "
            + ", ".join(f"{name} {version}" for name, version in result.versions.items()),
            "",
        ]
    )


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def machine() -> str:
    """The processor and how many cores of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
