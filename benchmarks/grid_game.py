"""The grid game: how much of a map's positive relevance lies in the right quadrant of a grid of four photographs.

Four photographs of different classes, 112 × 112 pixels each, make one input of 224 × 224. An explanation of one of the
four classes should point at its own quadrant; an arbitrary map puts a quarter there. Only photographs whose class the
network still names when they stand alone in the grid take part. The explainers are tuned on the single photographs at
full size, so no setting was chosen with this game in sight.

Run with ``python -m benchmarks.grid_game``; about five minutes on two cores.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.written import circumstances, table, write
from pnpxai.demo import MODEL_NAME, search
from pnpxai.photographs import PHOTOGRAPHS, SIZE, Photograph, cropped, efficientnet_lite0, standardized
from pnpxai.tuning import Configuration, Entry, TuneResult
from pnpxai.tuning._controls import CONTROLS

TILE = SIZE // 2
N_GRIDS = 3
TARGET = 0.6
CHANCE = 0.25


@dataclass(frozen=True)
class Grids:
    """Inputs ``(n, 3, 224, 224)``, the class asked about ``(n,)``, the quadrant that shows it ``(n,)``, and names."""

    inputs: Tensor
    targets: Tensor
    quadrants: Tensor
    names: tuple[str, ...]


def main() -> None:
    start = time.perf_counter()
    model = efficientnet_lite0()
    grids = build(model)
    single = standardized([cropped(each.open()) for each in PHOTOGRAPHS])
    result = search(model, single)
    found = measure(result, grids)
    lines = page(result, grids, found, time.perf_counter() - start)
    print("\n".join(lines))
    write("grid_game", lines)


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


def share_of(configuration: Configuration, grids: Grids) -> float:
    """The mean share of a configuration's maps."""
    return shares(configuration.maps(grids.inputs, grids.targets), grids.quadrants).mean().item()


def entries(result: TuneResult) -> list[Entry]:
    """The explainers, and the ensemble if there is one."""
    return [*result.entries, *([result.ensemble] if result.ensemble else [])]


def measure(result: TuneResult, grids: Grids) -> dict[str, tuple[float, float]]:
    """Each explainer's mean share with its default and with its tuned settings."""
    found: dict[str, tuple[float, float]] = {}
    for entry in entries(result):
        default = share_of(entry.default, grids)
        found[entry.name] = default, default if entry.tuned is entry.default else share_of(entry.tuned, grids)
    return found


def page(result: TuneResult, grids: Grids, found: dict[str, tuple[float, float]], seconds: float) -> list[str]:
    """The measured table as lines of Markdown."""
    rows = []
    for entry in entries(result):
        default, tuned = found[entry.name]
        changed = entry.tuned is not entry.default
        settings = ", ".join(f"{key.partition('.')[2]} {shown(value)}" for key, value in entry.tuned.params.items())
        rows.append([entry.name, f"{default:.2f}", f"{tuned:.2f}" if changed else "as default", settings])
    for name, control in CONTROLS.items():
        maps = control(grids.inputs, 1, 0)
        share = shares(maps - maps.amin((1, 2), keepdim=True), grids.quadrants).mean().item()
        rows.append([f"{name} map (control)", f"{share:.2f}", "", ""])
    best = found[result.winner.name][1]
    return [
        "# Grid game",
        "",
        f"Mean share of positive relevance in the right quadrant; chance {CHANCE}. {MODEL_NAME}, {len(grids.names)} "
        f"grids of four photographs ({TILE} × {TILE} pixels each in {SIZE} × {SIZE}), every class of a grid asked "
        f"about: {len(grids.targets)} maps. Explainers in the order of their tuned {type(result.metric).__name__} on "
        "single photographs, with the demo's budgets.",
        "",
        *table(["explainer", "default", "tuned", "tuned settings"], rows),
        "",
        f"The tuned winner, {result.winner.name}, has {best:.2f} (target {TARGET}: "
        f"{'reached' if best >= TARGET else 'missed'}).",
        "",
        *(f"- grid {i}: {name}" for i, name in enumerate(grids.names, 1)),
        "",
        "Run with `python -m benchmarks.grid_game`. " + circumstances(seconds, result.versions),
    ]


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
