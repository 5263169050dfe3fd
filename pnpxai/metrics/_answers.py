"""What a metric asks of a model whatever the map is: named, so that it can be kept and shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pnpxai.errors import InputError, TargetError
from pnpxai.forward import Part, Request, in_order
from pnpxai.targets import Target
from pnpxai.tunable import Tunable, to_json

Answers: TypeAlias = Mapping[str, Tensor]
"""Name to a tensor ``(n, …)``, one row a sample, on the CPU or the model's device."""

Question: TypeAlias = Callable[[Request, Answers], Tensor]
"""From a request and the answers to the questions before it to a tensor ``(n, …)``."""

NO_ANSWERS: Answers = MappingProxyType({})
TARGETS, MARKS = "targets", "marks of targets"


def answer_name(what: str, *settings: Any) -> str:
    """A name that is shared by equal settings alone; functions count by identity, so it holds within one process.

    Example:
        >>> answer_name("baseline", "zeros", 1)
        'baseline ["zeros", 1]'
    """
    return f"{what} {json.dumps([_described(each) for each in settings], sort_keys=True)}"


def ask(questions: Mapping[str, Question], request: Request, known: Answers) -> Answers:
    """The answers to ``questions``; those in ``known`` are not asked again.

    Raises:
        InputError: an answer in ``known`` that has not one row a sample.
    """
    found = {name: _rows(name, known[name], request) for name in questions if name in known}
    for name, question in questions.items():
        if name not in found:
            found[name] = question(request, found)
    return found


def rows(answers: Answers, part: Part) -> Answers:
    """The answers about the samples of a part; where it has places, none of those that have positions."""
    if part.places is None:
        return answers
    return {name: part.rows(each) for name, each in answers.items() if each.ndim < 3}


def gathered(answers: Sequence[Answers], parts: Sequence[Part]) -> Answers:
    """The answers about all samples, from those about the parts; see `rows`."""
    if parts[0].places is None:
        return answers[0]
    return {name: in_order(parts, [each[name] for each in answers]) for name in answers[0] if answers[0][name].ndim < 3}


def with_targets(request: Request, answers: Answers) -> Answers:
    """The answers, if there are any, with the class indices they are about, or the marks of named targets."""
    if answers and isinstance(request.targets, Target):
        return {**answers, MARKS: request.targets.marks(len(request))}
    if not answers or not isinstance(request.targets, Tensor):
        return answers
    return {**answers, TARGETS: request.targets}


def settled(request: Request, answers: Answers) -> Request:
    """The request, with the targets that the answers are about where it has none.

    Raises:
        TargetError: it has others.
        InputError: not one target a sample.
    """
    if MARKS in answers:
        about = _rows(MARKS, answers[MARKS], request)
        named = None if request.requested is None else request.targets
        if not isinstance(named, Target) or not torch.equal(named.marks(len(request)), about.cpu()):
            raise _about_others("others")
        return request
    if TARGETS not in answers:
        return request
    about = _rows(TARGETS, answers[TARGETS], request)
    if request.requested is None:
        return replace(request, requested=about)
    if not isinstance(request.requested, Tensor) or not torch.equal(request.requested, about):
        raise _about_others(f"{about.tolist()}")
    return request


def _about_others(which: str) -> TargetError:
    advice = "Ask with answers(inputs, targets) for these inputs and targets."
    return TargetError("answers about the same targets", f"answers about {which}", advice)


def _rows(name: str, answer: Tensor, request: Request) -> Tensor:
    if not isinstance(answer, Tensor) or answer.ndim == 0 or len(answer) != len(request):
        received = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(
            f"answers with one row for each of {len(request)} inputs",
            f"{received} for {name!r}",
            "Pass the rows of these inputs: {name: each[index] for name, each in answers.items()}.",
        )
    return answer.to(request.inputs[0].device)


def _described(value: Any) -> Any:
    if isinstance(value, Tunable):
        cls = type(value)
        return [f"{cls.__module__}.{cls.__qualname__}", {k: _described(each) for k, each in value.get_params().items()}]
    return f"{to_json(value)} {id(value)}" if callable(value) else to_json(value)
