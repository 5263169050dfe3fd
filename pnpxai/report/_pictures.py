"""Pictures of inputs and maps as PNG, drawn on canvases of their own: nothing global is touched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pnpxai.report._colour import Array, Scale, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SHADE = "#333a45", "#8a93a2"
WIDTH, HEIGHT, RESOLUTION = 4.0, 2.4, 110
LONGEST_BARS = 24
"""Bars drawn for one tabular sample; the rest are said to be left out."""


def photograph_png(picture: Array) -> str:
    """A picture ``(h, w, 3)`` in [0, 1], pixel for pixel, as the address of an embedded PNG."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(np.clip(picture, 0, 1)), format="png")
    return _address(buffer)


def series_png(series: Array, values: Array | None = None, scale: Scale | None = None) -> str:
    """A series ``(t, c)`` as lines, before a map ``(t,)`` as coloured ground."""
    axes = _axes()
    if values is not None and scale is not None:
        edges = -0.5, len(series) - 0.5, 0.0, 1.0
        axes.imshow(
            colours(values, scale)[None], aspect="auto", extent=edges, transform=axes.get_xaxis_transform(), zorder=0
        )
    for channel in series.T:
        axes.plot(np.arange(len(series)), channel, color=INK, linewidth=1.1)
    axes.set_xlim(-0.5, len(series) - 0.5)
    axes.set_xlabel("step")
    return _png(axes)


def bars_png(values: Array, scale: Scale | None = None, names: Sequence[str] | None = None) -> str:
    """A map ``(d,)`` (or the features themselves) as bars, largest magnitudes first where there are too many."""
    order = np.arange(len(values))
    if len(values) > LONGEST_BARS:
        order = np.sort(np.argsort(-np.abs(values), kind="stable")[:LONGEST_BARS])
    axes = _axes()
    painted = colours(values, scale)[order] if scale else SHADE
    axes.bar(np.arange(len(order)), values[order], color=painted, edgecolor=INK, linewidth=0.5)
    axes.axhline(0, color=INK, linewidth=0.8)
    labels = [names[i] if names else str(i) for i in order.tolist()]
    axes.set_xticks(np.arange(len(order)), labels, rotation=90 if names else 0)
    axes.set_xlabel("feature" if len(order) == len(values) else f"feature ({len(order)} largest of {len(values)})")
    return _png(axes)


def _axes() -> Axes:
    from matplotlib.figure import Figure

    axes = Figure((WIDTH, HEIGHT), dpi=RESOLUTION, layout="constrained").add_subplot()
    axes.tick_params(labelsize=7, colors=INK)
    axes.xaxis.label.set(size=8, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _png(axes: Axes) -> str:
    from matplotlib.figure import Figure

    assert isinstance(axes.figure, Figure)
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png")
    return _address(buffer)


def _address(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
