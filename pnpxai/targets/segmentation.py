"""The target of models that give every pixel a class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pnpxai.errors import TargetError
from pnpxai.outputs import Score
from pnpxai.targets._base import Named, Target, columns, naming
from pnpxai.targets.classes import SCORES


class SegmentationScore(Target):
    """The mean score of a class over a mask: ``1/|M| Σ_{p in M} z_c(p)``, of outputs ``(n, k, h, w)``.

    The mask stays where it is while inputs are changed (after Vinogradova et al., 2020, arXiv 2002.11434, section 2).
    Series ``(n, k, t)`` and volumes ``(n, k, d, h, w)`` alike.

    Args:
        label: the class, or one a sample ``(n,)``; of a single channel, 0.
        mask: bool, ``(n, h, w)``, or ``(1, h, w)`` for all samples; None for the pixels where the class is predicted
            for the unchanged input (of a single channel, where its output is positive).
        score: ``"logit"`` for the outputs themselves, ``"probability"`` for their softmax over classes (of a single
            channel, the logistic function).

    Example:
        >>> outputs = torch.tensor([[[[1.0, 5.0]], [[2.0, 0.0]]]])
        >>> SegmentationScore(1)(outputs).tolist(), SegmentationScore(1, torch.ones(1, 1, 2).bool())(outputs).tolist()
        ([2.0], [1.0])
    """

    PER_SAMPLE = ("label", "mask")
    LIMITS = {"score": SCORES}

    def __init__(self, label: int | Tensor, mask: Tensor | None = None, score: Score = "logit") -> None:
        self.label = label
        self.mask = mask
        self.score = score

    @property
    def is_open(self) -> bool:
        """Where the predicted mask is meant."""
        return self.mask is None

    def fixed(self, outputs: Tensor) -> SegmentationScore:
        """With the predicted masks in place."""
        return self.set_kwargs(mask=self._predicted(outputs)) if self.mask is None else self

    def read(self, outputs: Tensor) -> Tensor:
        """The mean over the mask."""
        mask = self._predicted(outputs) if self.mask is None else self.mask.to(outputs.device)
        shape = (len(outputs), *outputs.shape[2:])
        if outputs.ndim < 3 or mask.dtype != torch.bool or mask.shape not in (shape, (1, *shape[1:])):
            raise TargetError(
                f"a bool mask {shape} for outputs {tuple(outputs.shape)}",
                f"{mask.dtype}, shape {tuple(mask.shape)}",
                "Give the mask the size of the outputs, which may be smaller than the image.",
            )
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if self.score == "probability":
            outputs = outputs.softmax(1) if outputs.shape[1] > 1 else outputs.sigmoid()
        weights = _not_empty(mask.flatten(1)).to(outputs)
        return (columns(outputs, self.label, "class").flatten(1) * weights).sum(1) / weights.sum(1)

    def words(self, named: Named) -> str:
        """Such as ``mean logit of class 3 in its mask``."""
        where = "where it is predicted" if self.mask is None else f"over {_size(self.mask)} positions"
        return f"mean {self.score} of {naming(self.label, named)} {where}"

    def _predicted(self, outputs: Tensor) -> Tensor:
        if outputs.ndim < 3:
            raise TargetError(
                "outputs (n, k, h, w), with classes at positions", f"shape {tuple(outputs.shape)}", "Take ClassScore."
            )
        own = columns(outputs, self.label, "class")
        mask = own > 0 if outputs.shape[1] == 1 else own == outputs.amax(1)
        _not_empty(mask.flatten(1))
        return mask


def _not_empty(masks: Tensor) -> Tensor:
    empty = (~masks.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise TargetError(
            "a mask with at least one position for each sample",
            f"none in {len(empty)} of {len(masks)} (number {empty[0]})",
            "Leave these samples out, choose a class that is predicted there, or pass mask=.",
        )
    return masks


def _size(mask: Tensor) -> str:
    sizes = set(mask.flatten(1).sum(1).tolist())
    return str(sizes.pop()) if len(sizes) == 1 else f"up to {max(sizes)} of {math.prod(mask.shape[1:])}"
