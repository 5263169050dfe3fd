"""The winner's perturbation curves on each sample, drawn beside those of a random map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pnpxai.metrics import AbPC, Curves, Metric
from pnpxai.metrics._curve_metric import CurveMetric
from pnpxai.report._charts import Axis, axis_over, polyline
from pnpxai.tuning import TuneResult

WIDTH, HEIGHT = 640.0, 200.0
LEFT, TOP, RIGHT, BOTTOM = 46.0, 10.0, 10.0, 34.0


@dataclass(frozen=True)
class Line:
    """One curve: ``style`` names how it is drawn, ``points`` are SVG's."""

    name: str
    style: str
    points: str


@dataclass(frozen=True)
class Chart:
    """Perturbation curves of one sample.

    Attributes:
        across: the fraction of features removed.
        up: the model's score.
        lines: the winner's and the random map's curves.
        area: the region between the winner's curves, as SVG points.
        abpc: the area of that region.
        random_abpc: the same for the random map.
    """

    across: Axis
    up: Axis
    lines: tuple[Line, ...]
    area: str
    abpc: float
    random_abpc: float
    width: float = WIDTH
    height: float = HEIGHT


def curve_metric(result: TuneResult) -> CurveMetric:
    """The metric of the tuning if it reads curves, otherwise AbPC as it comes, on the same model."""
    metric: Metric = result.metric
    if isinstance(metric, CurveMetric):
        return metric
    return AbPC(
        metric.model,
        forward_arg_extractor=metric.forward_arg_extractor,
        additional_forward_arg_extractor=metric.additional_forward_arg_extractor,
        channel_dim=metric.channel_dim,
    )


def charts(result: TuneResult, inputs: Any, targets: Any, maps: Tensor, random_maps: Tensor) -> list[Chart]:
    """One chart a sample for maps ``(n, …)`` and control maps of the same shape."""
    metric = curve_metric(result)
    both = (metric.curves_of_each(inputs, targets, each) for each in (maps, random_maps))
    return [_chart(best, random) for best, random in zip(*both, strict=True)]


def _chart(best: Curves, random: Curves) -> Chart:
    """Of one sample."""
    first, last = best.fractions.tolist(), best.lerf_fractions.tolist()
    named = {
        ("least relevant first (LeRF)", "lerf"): (last, best.lerf[0].tolist()),
        ("most relevant first (MoRF)", "morf"): (first, best.morf[0].tolist()),
        ("random map, both directions", "random"): (last, random.lerf[0].tolist()),
        ("", "random"): (first, random.morf[0].tolist()),
    }
    heights = [each for _, ys in named.values() for each in ys]
    across = Axis(0.0, 1.0, WIDTH - LEFT - RIGHT, LEFT)
    reach = axis_over((0.0, *heights), 1.0, margin=0.03)
    up = Axis(reach.low if min(heights) < 0 else 0.0, reach.high, HEIGHT - TOP - BOTTOM, TOP, True)
    lines = [Line(name, style, polyline(xs, ys, across, up)) for (name, style), (xs, ys) in named.items()]
    return Chart(
        across,
        up,
        tuple(lines),
        polyline(last + first[::-1], best.lerf[0].tolist() + best.morf[0].tolist()[::-1], across, up),
        float(best.lerf_area[0] - best.morf_area[0]),
        float(random.lerf_area[0] - random.morf_area[0]),
    )
