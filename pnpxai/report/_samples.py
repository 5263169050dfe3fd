"""One part of the page for each sample: the input, the best maps beside maps that know nothing, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from pnpxai.errors import ParameterError
from pnpxai.forward import Request, take_samples
from pnpxai.guard import guard
from pnpxai.modality import Image, Modality, Tabular, Text
from pnpxai.outputs import probabilities
from pnpxai.postprocess import channel_axis
from pnpxai.report._colour import Array, as_photograph, overlay, scale_of, stretched
from pnpxai.report._curves import Chart, charts
from pnpxai.report._pictures import bars_png, photograph_png, series_png
from pnpxai.tuning import Configuration, Entry, TuneResult
from pnpxai.tuning._controls import CONTROLS
from pnpxai.tuning._maps import take_targets

ClassNames: TypeAlias = Sequence[str] | Mapping[int, str] | None
SHOWN_CONTROLS = ("random", "edge")


@dataclass(frozen=True)
class Tile:
    """One picture.

    Attributes:
        title: what it shows.
        note: with which settings.
        src: the picture itself, as an address.
        scale: what its colours stand for.
        score: what the metric gave the map, None where there is no score.
    """

    title: str
    note: str
    src: str
    scale: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Sample:
    """Everything shown of one sample: ``used_for`` is tuning or hold-out, ``answer`` what the model said."""

    name: str
    used_for: str
    answer: str
    tiles: tuple[Tile, ...]
    chart: Chart


def samples(
    result: TuneResult, shown: Sequence[int], images: Any, names: Sequence[str], class_names: ClassNames, n_best: int
) -> list[Sample]:
    """The parts for the samples numbered ``shown``."""
    inputs = take_samples(result.inputs, shown)
    targets = take_targets(result.targets, shown)
    explained, answers = ask(result, inputs, targets, class_names)
    entries = result.entries[:n_best]
    maps = {each.name: each.recommended.maps(inputs, targets) for each in entries}
    controls = {name: CONTROLS[name](explained, result.metric.channel_dim, result.seed) for name in SHOWN_CONTROLS}
    scores = {name: control_scores(result, shown, name, each) for name, each in controls.items()}
    drawn = charts(result, inputs, targets, maps[entries[0].name], controls["random"])
    parts: list[Sample] = []
    for row, index in enumerate(shown):
        canvas = Canvas.build(explained[row], result.modality, None if images is None else images[index])
        tiles = [Tile("Input", canvas.note, canvas.draw())]
        tiles += [
            canvas.tile(each.name, settings(each), maps[each.name][row], score_of(result, each.recommended, index))
            for each in entries
        ]
        tiles += [
            canvas.tile(f"{name.capitalize()} map", "control", each[row], scores[name][row])
            for name, each in controls.items()
        ]
        parts.append(Sample(names[index], used_for(result, index), answers[row], tuple(tiles), drawn[row]))
    return parts


@dataclass(frozen=True)
class Canvas:
    """One sample's input, and how maps of it are drawn.

    Attributes:
        modality: decides between overlay, series and bars.
        ground: a photograph ``(h, w, 3)``, a series ``(t, c)`` or features ``(d,)``.
        note: how the ground was made.
    """

    modality: Modality
    ground: Array
    note: str

    @classmethod
    def build(cls, inputs: Tensor, modality: Modality, image: Any) -> Canvas:
        """From one sample ``(c, h, w)``, ``(c, t)`` or ``(d,)``, channels where the modality says, and its picture."""
        axis = channel_axis(modality.channel_dim, inputs.ndim + 1)
        last = inputs.detach().cpu().double()
        array: Array = (last if axis is None else last.movedim(axis - 1, -1)).numpy()
        if isinstance(modality, Image):
            array = array[..., None] if axis is None else array
            if image is None:
                return cls(modality, stretched(array), "as the model sees it, stretched to the full range")
            return cls(modality, as_photograph(image, array.shape[:2]), "as the model sees it")
        if isinstance(modality, Text):
            return cls(modality, (array**2).sum(-1) ** 0.5, "length of each token's vector")
        return cls(modality, array[:, None] if array.ndim == 1 and axis is None and not _flat(modality) else array, "")

    def draw(self, values: Array | None = None) -> str:
        """The input, or a map of it."""
        scale = None if values is None else scale_of(values)
        if isinstance(self.modality, Image):
            if values is None or scale is None:
                return photograph_png(self.ground)
            return photograph_png(overlay(values, self.ground, scale))
        if _flat(self.modality):
            return bars_png(self.ground if values is None else values, scale)
        return series_png(self.ground, values, scale)

    def tile(self, title: str, note: str, values: Tensor, score: float | None) -> Tile:
        """A map of the input, with its scale in words."""
        array: Array = values.detach().cpu().double().numpy()
        return Tile(title, note, self.draw(array), str(scale_of(array)), score)


def _flat(modality: Modality) -> bool:
    return isinstance(modality, Tabular | Text)


def ask(result: TuneResult, inputs: Any, targets: Any, class_names: ClassNames) -> tuple[Tensor, list[str]]:
    """The tensor that is explained, and in words what the model answers for each sample."""
    explainer = result.explainer
    with guard(explainer.model):
        request = Request.build(
            explainer.model,
            inputs,
            targets,
            explainer.forward_arg_extractor,
            explainer.additional_forward_arg_extractor,
        )
        return request.input.cpu(), _answers(request, class_names)


def _answers(request: Request, class_names: ClassNames) -> list[str]:
    outputs, targets = request.outputs.detach(), request.targets
    if not isinstance(targets, Tensor):
        return ["explained for a score of the outputs"] * len(outputs)
    if outputs.ndim != 2 or outputs.shape[1] == 1:
        return [f"output {each:.3g}" for each in outputs.flatten().tolist()]
    shares = probabilities(outputs)
    told: list[str] = []
    for row, target, best in zip(shares, targets.tolist(), shares.argmax(1).tolist(), strict=True):
        answer = f"predicted {class_name(best, class_names)}, probability {float(row[best]):.2f}"
        if target != best:
            answer += f"; explained for {class_name(target, class_names)}, probability {float(row[target]):.2f}"
        told.append(answer)
    return told


def class_name(index: int, class_names: ClassNames) -> str:
    """The name of a class, or ``class 3`` where it has none.

    Raises:
        ParameterError: a list of names that is too short.
    """
    if class_names is None:
        return f"class {index}"
    if isinstance(class_names, Mapping):
        return class_names.get(index, f"class {index}")
    if index >= len(class_names):
        raise ParameterError(
            f"a name for class {index}", f"{len(class_names)} class names", "Name every output of the model."
        )
    return class_names[index]


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


def settings(entry: Entry) -> str:
    """Whether the tuned or the default configuration of an explainer is shown.

    The name is "default" where the hold-out did not confirm the tuned one.
    """
    return "default" if entry.recommended is entry.default else "tuned"


def used_for(result: TuneResult, index: int) -> str:
    """What a sample was used for."""
    return "hold-out" if index in result.holdout_index else "tuning"


def score_of(result: TuneResult, configuration: Configuration, index: int) -> float | None:
    """The score a configuration got on one sample when it was judged; None where it was not."""
    for numbers, scores in (
        (result.holdout_index, configuration.holdout_scores),
        (result.tuning_index, configuration.tuning_scores),
    ):
        if index in numbers and len(scores) == len(numbers):
            return scores[numbers.index(index)]
    return None
