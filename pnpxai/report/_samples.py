"""One part of the page for each sample: the input, the best maps beside maps that know nothing, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pnpxai.batches import take_samples
from pnpxai.report._answers import ClassNames, ask
from pnpxai.report._board import stopped, used
from pnpxai.report._canvas import Canvas, Tile
from pnpxai.report._curves import Chart, charts
from pnpxai.targets import take_targets
from pnpxai.tuning import Configuration, Entry, TuneResult
from pnpxai.tuning._controls import control_map

SHOWN_CONTROLS = ("random", "edge")


@dataclass(frozen=True)
class Sample:
    """Everything shown of one sample.

    Attributes:
        name: of the sample.
        used_for: tuning or hold-out.
        answer: what the model said.
        tiles: the pictures; none of several inputs.
        chart: the winner's curves.
        coarse: so few pixels that they are shown as squares.
    """

    name: str
    used_for: str
    answer: str
    tiles: tuple[Tile, ...]
    chart: Chart
    coarse: bool


def samples(
    result: TuneResult, shown: Sequence[int], images: Any, names: Sequence[str], class_names: ClassNames, n_best: int
) -> list[Sample]:
    """The parts for the samples numbered ``shown``."""
    inputs = take_samples(result.inputs, shown)
    targets = take_targets(result.targets, shown)
    explained, answers, readings = ask(result, inputs, targets, class_names)
    entries = [result.winner, *(each for each in result.entries if each is not result.winner)][:n_best]
    maps = {each.name: used(result, each).maps(inputs, targets) for each in entries}
    controls = {name: control_map(name, explained, result.metric.channel_dim, result.seed) for name in SHOWN_CONTROLS}
    scores = {name: control_scores(result, shown, name, each) for name, each in controls.items()}
    drawn = charts(result, inputs, targets, maps[entries[0].name], controls["random"])
    parts: list[Sample] = []
    for row, index in enumerate(shown):
        if isinstance(explained, tuple):  # which have no one picture
            parts.append(Sample(names[index], used_for(result, index), answers[row], (), drawn[row], False))
            continue
        picture = None if images is None else images[index]
        canvas = Canvas.build(explained[row], result.modality, picture, readings[row])
        tiles = [canvas.input()]
        tiles += [
            canvas.tile(
                each.name, settings(result, each), maps[each.name][row], score_of(result, used(result, each), index)
            )
            for each in entries
        ]
        tiles += [
            canvas.tile(f"{name.capitalize()} map", "control", each[row], scores[name][row])
            for name, each in controls.items()
        ]
        parts.append(
            Sample(names[index], used_for(result, index), answers[row], tuple(tiles), drawn[row], canvas.coarse)
        )
    return parts


def control_scores(result: TuneResult, shown: Sequence[int], name: str, maps: Tensor) -> list[float | None]:
    """The scores of a control on the samples shown, those that were not judged asked for now."""
    if name not in result.controls:
        return [None] * len(shown)
    known: dict[int, float | None] = dict(
        zip(result.holdout_index or result.tuning_index, result.controls[name], strict=True)
    )
    rest = [row for row, index in enumerate(shown) if index not in known]
    if rest:
        numbers = [shown[row] for row in rest]
        scored = result.metric.evaluate(
            take_samples(result.inputs, numbers), take_targets(result.targets, numbers), maps[rest]
        )
        known |= dict(zip(numbers, scored.tolist(), strict=True))
    return [known[index] for index in shown]


def settings(result: TuneResult, entry: Entry) -> str:
    """Which configuration of an explainer is shown: the default where the hold-out did not confirm the tuned one."""
    if stopped(result, entry):
        return "stopped in the race"
    if entry is result.ensemble:
        return "average"
    return "default" if used(result, entry) is entry.default else "tuned"


def used_for(result: TuneResult, index: int) -> str:
    """What a sample was used for."""
    return "hold-out" if index in result.holdout_index else "tuning"


def score_of(result: TuneResult, configuration: Configuration, index: int) -> float | None:
    """The score a configuration got on one sample; None where the race did not come to it, or no judge."""
    for numbers, scores in (
        (result.holdout_index, configuration.holdout_scores),
        (result.tuning_index, configuration.tuning_scores),
    ):
        seen = dict(zip(numbers, scores, strict=False))
        if index in seen:
            return seen[index]
    return None
