"""The picture of a Pareto front."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pnpxai.tuning._pareto import Pareto

UNITS = {"runtime": "seconds a sample", "forwards": "samples through the model, a sample"}


def draw_front(pareto: Pareto, path: Path, x: str, y: str) -> Path:
    """Two aims of all trials, those that no other beats in both joined and named."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from pnpxai.tuning._pareto import undominated

    trials = [*pareto.front, *pareto.dominated]
    points = np.array([[each.values[x], each.values[y]] for each in trials])
    signs = [1.0 if pareto.aims[name] else -1.0 for name in (x, y)]
    shown = np.flatnonzero(undominated(points * signs))
    shown = shown[points[shown, 0].argsort()]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(points[:, 0], points[:, 1], s=18, color="0.7", label="other trials")
    axes.plot(
        points[shown, 0], points[shown, 1], "o-", color="#1b6ca8", markersize=5, linewidth=1, label="best in both"
    )
    named: set[str] = set()
    for place in shown:
        name = trials[place].name
        if name not in named:
            axes.annotate(name, points[place], xytext=(5, -10), textcoords="offset points", fontsize=8)
            named.add(name)
    if points[:, 0].min() > 0 and points[:, 0].max() > 20 * points[:, 0].min():
        axes.set_xscale("log")
    axes.set_xlabel(UNITS.get(x, x))
    axes.set_ylabel(UNITS.get(y, y))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    return path
