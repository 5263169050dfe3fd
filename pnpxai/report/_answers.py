"""What the model answers for each sample, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from pnpxai.errors import ParameterError
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.modality import Modality, Text
from pnpxai.outputs import probabilities, select
from pnpxai.postprocess import Maps
from pnpxai.report._words import Reading
from pnpxai.targets import Target
from pnpxai.tuning import TuneResult

ClassNames: TypeAlias = Sequence[str] | Mapping[int, str] | None


def ask(
    result: TuneResult, inputs: Any, targets: Any, class_names: ClassNames
) -> tuple[Maps, list[str], list[Reading | None]]:
    """What is explained, in words what the model answers for each sample, and each sample's text."""
    explainer = result.explainer
    with guard(explainer.model):
        request = Request.build(
            explainer.model,
            inputs,
            targets,
            explainer.forward_arg_extractor,
            explainer.additional_forward_arg_extractor,
        )
        several = tuple(each.cpu() for each in request.inputs)
        explained = several if len(several) > 1 else several[0]
        return explained, answers(request, class_names), readings_of(request, result.modality)


def readings_of(request: Request, modality: Modality) -> list[Reading | None]:
    """Each sample's text; None where it is none, or no token ids."""
    lookup = request.lookup()
    if lookup is None or not isinstance(modality, Text):
        return [None] * len(request)
    return [Reading.of(modality, lookup, row) for row in range(len(request))]


def answers(request: Request, class_names: ClassNames) -> list[str]:
    """What the model answers for each sample, in words."""
    outputs, targets = request.outputs.detach(), request.targets
    if isinstance(targets, Target):
        single = [targets.for_samples([i]) for i in range(len(outputs))]
        named = partial(class_name, class_names=class_names)
        scores = select(outputs, targets).tolist()
        return [f"{each.words(named)} {score:.3g}" for each, score in zip(single, scores, strict=True)]
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
