"""Targets of classifiers and of regression: one output a sample, or a few of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnpxai.errors import TargetError
from pnpxai.limits import OneOf, Within
from pnpxai.outputs import Score, predicted, probabilities
from pnpxai.targets._base import Named, Target, columns, naming, whole_numbers

SCORES = OneOf(("logit", "probability"))


class ClassScore(Target):
    """The output of a class, or its probability by the softmax over classes: ``(n, k)`` to ``(n,)``.

    Class indices as targets leave the choice between the two to the explainer or metric; this does not.

    Args:
        label: the class, or one a sample ``(n,)``; None for the one predicted for the unchanged input.
        score: ``"logit"`` for the output itself, ``"probability"`` for its softmax; rows that are probabilities
            already keep their values.

    Example:
        >>> ClassScore(1, "probability")(torch.tensor([[0.0, 0.0]])).tolist()
        [0.5]
    """

    PER_SAMPLE = ("label",)
    LIMITS = {"score": SCORES}

    def __init__(self, label: int | Tensor | None = None, score: Score = "logit") -> None:
        self.label = label
        self.score = score

    @property
    def is_open(self) -> bool:
        """Where the predicted class is meant."""
        return self.label is None

    def fixed(self, outputs: Tensor) -> ClassScore:
        """With the predicted classes in place."""
        return self.set_kwargs(label=predicted(_classes(outputs))) if self.label is None else self

    def read(self, outputs: Tensor) -> Tensor:
        """The class's column, of the outputs or of their softmax."""
        rows = _classes(outputs)
        label = predicted(rows) if self.label is None else self.label
        return columns(probabilities(rows) if self.score == "probability" else rows, label, "class")

    def words(self, named: Named) -> str:
        """Such as ``probability of class 3``."""
        return f"{self.score} of {naming(self.label, named)}"


class BinaryScore(Target):
    """Either class of a model with one logit: ``±z``, or ``σ(±z)``; outputs ``(n,)`` or ``(n, 1)``.

    Args:
        positive: explain the positive class, or not; one a sample ``(n,)``, bool; None for the class predicted for the
            unchanged input.
        score: ``"logit"`` for ``z`` or ``-z``, ``"probability"`` for its logistic function. For a model that ends in
            one itself take ``"logit"``.
        boundary: the output above which the positive class is predicted: 0 for logits, .5 for probabilities.

    Example:
        >>> BinaryScore()(torch.tensor([2.0, -3.0])).tolist()
        [2.0, 3.0]
    """

    PER_SAMPLE = ("positive",)
    LIMITS = {"score": SCORES, "boundary": Within()}

    def __init__(self, positive: bool | Tensor | None = None, score: Score = "logit", boundary: float = 0.0) -> None:
        self.positive = positive
        self.score = score
        self.boundary = boundary

    @property
    def is_open(self) -> bool:
        """Where the predicted class is meant."""
        return self.positive is None

    def fixed(self, outputs: Tensor) -> BinaryScore:
        """With the predicted classes in place."""
        return self.set_kwargs(positive=_single(outputs) > self.boundary) if self.positive is None else self

    def read(self, outputs: Tensor) -> Tensor:
        """The output, turned round for the negative class."""
        values = _single(outputs)
        positive = values > self.boundary if self.positive is None else self.positive
        positive = torch.as_tensor(positive, device=values.device)
        if positive.dtype != torch.bool or positive.shape not in ((), values.shape):
            raise TargetError(
                "positive as True, False, None or a bool tensor (n,)",
                f"{positive.dtype}, shape {tuple(positive.shape)}",
                "Pass labels == 1.",
            )
        turned = torch.where(positive, values, -values)
        return turned.sigmoid() if self.score == "probability" else turned

    def words(self, named: Named) -> str:
        """Such as ``logit of the negative class``."""
        if self.positive is None:
            return f"{self.score} of the predicted class"
        sides = {"positive" if each else "negative" for each in torch.as_tensor(self.positive).flatten().tolist()}
        return f"{self.score} of {f'the {sides.pop()} class' if len(sides) == 1 else 'the class of each sample'}"


class LabelScore(Target):
    """A label of a model that gives several at once, or the sum of a few: ``Σ z_l``, or ``Σ σ(z_l)``, of ``(n, k)``.

    Args:
        labels: the label; several, whose scores are summed; or a bool tensor ``(n, k)`` of those of each sample.
        score: ``"logit"`` for the outputs themselves, ``"probability"`` for their logistic function. For a model that
            ends in one itself take ``"logit"``.

    Example:
        >>> LabelScore((0, 2))(torch.tensor([[1.0, 5.0, 3.0]])).tolist()
        [4.0]
    """

    PER_SAMPLE = ("labels",)
    LIMITS = {"score": SCORES}

    def __init__(self, labels: int | Sequence[int] | Tensor, score: Score = "logit") -> None:
        self.labels = labels
        self.score = score

    def read(self, outputs: Tensor) -> Tensor:
        """The sum over the labels."""
        rows = _classes(outputs)
        rows = rows.sigmoid() if self.score == "probability" else rows
        if isinstance(self.labels, Tensor):
            if self.labels.dtype != torch.bool or self.labels.shape != rows.shape:
                raise TargetError(
                    f"labels as numbers, or as a bool tensor {tuple(rows.shape)}",
                    f"{self.labels.dtype}, shape {tuple(self.labels.shape)}",
                    "Mark each sample's labels with True.",
                )
            return torch.where(self.labels.to(rows.device), rows, 0.0).sum(1)
        chosen = _several(self.labels, "label")
        if not chosen or len(set(chosen)) < len(chosen):
            raise TargetError("at least one label, each once", f"{self.labels!r}", "List the labels that are summed.")
        return torch.stack([columns(rows, each, "label") for each in chosen]).sum(0)

    def words(self, named: Named) -> str:
        """Such as ``logit of class 0 + class 2``."""
        if isinstance(self.labels, Tensor):
            rows = self.labels.reshape(-1, self.labels.shape[-1])
            if not (rows == rows[:1]).all():
                return f"{self.score} of the labels of each sample"
            chosen = rows[0].nonzero()[:, 0].tolist()
        else:
            chosen = _several(self.labels, "label")
        return f"{self.score} of {' + '.join(map(named, chosen)) or 'no label'}"


class OutputScore(Target):
    """One output as it is, as of regression: of ``(n,)``, ``(n, k)``, or ``(n, k, …)`` such as forecasts.

    Args:
        place: number of the output; several numbers where outputs have several dimensions; None where there is one.
        rising: what moves it up is relevant; False for what moves it down.

    Example:
        >>> OutputScore((1, 0))(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [3.0]
    """

    def __init__(self, place: int | Sequence[int] | None = None, rising: bool = True) -> None:
        self.place = place
        self.rising = rising

    def read(self, outputs: Tensor) -> Tensor:
        """The output at the place."""
        found = _single(outputs) if self.place is None else outputs
        for place in [] if self.place is None else _several(self.place, "place"):
            found = columns(found, place, "place")
        if found.ndim != 1:
            raise TargetError(
                f"a place with {outputs.ndim - 1} numbers, for outputs {tuple(outputs.shape)}",
                f"{self.place!r}",
                "Give one number for each dimension but the first.",
            )
        return found if self.rising else -found

    def words(self, named: Named) -> str:
        """Such as ``output 3``."""
        place = "" if self.place is None else f" {self.place}"
        return f"{'' if self.rising else 'falling '}output{place}"


def _several(chosen: int | Sequence[int], what: str) -> list[int]:
    """The numbers that are chosen, the same for all samples."""
    numbers = [whole_numbers(each, what) for each in (chosen if isinstance(chosen, Sequence) else [chosen])]
    if any(each.ndim for each in numbers):
        raise TargetError(
            f"a {what} that is the same for all samples",
            f"a tensor of shape {next(tuple(each.shape) for each in numbers if each.ndim)}",
            "Take ClassScore for another output of each sample, or LabelScore with a bool tensor (n, k).",
        )
    return [int(each) for each in numbers]


def _classes(outputs: Tensor) -> Tensor:
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs
    raise TargetError(
        "outputs (n, k) with at least two columns",
        f"outputs of shape {tuple(outputs.shape)}",
        "Take BinaryScore for one logit, OutputScore for a regression, SegmentationScore for classes of pixels.",
    )


def _single(outputs: Tensor) -> Tensor:
    if outputs.ndim == 1 or outputs.shape[1:] == (1,):
        return outputs.reshape(len(outputs))
    raise TargetError(
        "one output a sample, (n,) or (n, 1)",
        f"outputs of shape {tuple(outputs.shape)}",
        "Take ClassScore or LabelScore, or OutputScore with a place.",
    )
