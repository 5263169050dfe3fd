"""The target of models that find objects."""

from __future__ import annotations

import torch
from torch import Tensor

from pnpxai.errors import TargetError
from pnpxai.limits import Within
from pnpxai.outputs import DETECTION
from pnpxai.targets._base import Named, Target, naming, whole_numbers


class DetectionScore(Target):
    """The best score of a class among the detections whose boxes overlap a given box; 0 where there is none.

    ``max { s_j : label_j = c, IoU(box_j, b) ≥ overlap }`` over a detector's final detections (the terms of D-RISE,
    Petsiuk et al., CVPR 2021, arXiv 2006.03204, eq. 3, with the overlap as a condition). The detector returns, as
    torchvision's do, a list of one mapping a sample with ``"boxes"`` ``(m, 4)``, ``"labels"`` and ``"scores"``
    ``(m,)``. The gradient is that of the best score; which box overlaps, and what a detector drops (a score below its
    threshold, a box that another suppresses), has none.

    Args:
        label: the class, or one a sample ``(n,)``.
        box: corners ``(x1, y1, x2, y2)`` in the detector's coordinates, ``(n, 4)``, or ``(1, 4)`` for all samples.
        overlap: the least intersection over union; a larger one asks for a box that fits more closely.

    Example:
        >>> from pnpxai.outputs import output_tensor
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [6.0, 6.0, 9.0, 9.0]])
        >>> found = [{"boxes": boxes, "labels": torch.tensor([2, 2]), "scores": torch.tensor([0.5, 0.75])}]
        >>> DetectionScore(2, torch.tensor([[0.0, 0.0, 4.0, 5.0]]))(output_tensor(found)).tolist()
        [0.5]
    """

    PER_SAMPLE = ("label", "box")
    LIMITS = {"overlap": Within(0.0, 1.0, low_open=True)}

    def __init__(self, label: int | Tensor, box: Tensor, overlap: float = 0.5) -> None:
        self.label = label
        self.box = box
        self.overlap = overlap

    def read(self, outputs: Tensor) -> Tensor:
        """The best score under both conditions."""
        if outputs.ndim != 3 or outputs.shape[2] != len(DETECTION):
            raise TargetError(
                "a detector's outputs: a list of one mapping a sample with boxes, labels and scores",
                f"outputs of shape {tuple(outputs.shape)}",
                "Wrap the model so that it returns such a list, as torchvision's detectors do.",
            )
        label = whole_numbers(self.label, "class").to(outputs.device).reshape(-1, 1)
        fits = (outputs[..., 4] == label) & (overlaps(outputs[..., :4], _box(self.box, len(outputs))) >= self.overlap)
        return torch.where(fits, outputs[..., 5], 0.0).amax(1)

    def words(self, named: Named) -> str:
        """Such as ``best score of class 3 at box (1, 2, 8, 9)``."""
        where = "the box of each sample"
        if len(self.box) == 1:
            where = f"box ({', '.join(f'{each:.4g}' for each in self.box[0].tolist())})"
        return f"best score of {naming(self.label, named)} at {where}"


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes ``(n, m, 4)``, corners ``(x1, y1, x2, y2)``, with one a sample ``(n, 4)``.

    Example:
        >>> overlaps(torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]), torch.tensor([[1.0, 0.0, 4.0, 2.0]])).item()
        0.25
    """
    boxes, others = boxes.detach(), others[:, None].to(boxes)
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    both = sum((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others)) - shared
    return shared / both.clamp(min=torch.finfo(both.dtype).tiny)


def _box(box: Tensor, n: int) -> Tensor:
    proper = isinstance(box, Tensor) and box.ndim == 2 and box.shape[1] == 4 and len(box) in (1, n)
    if proper and bool((box[:, 2:] > box[:, :2]).all()):
        return box
    raise TargetError(
        f"a box (x1, y1, x2, y2) with x1 < x2 and y1 < y2 for each of {n} samples, ({n}, 4) or (1, 4)",
        f"shape {tuple(box.shape)}, {box.tolist()}" if isinstance(box, Tensor) else type(box).__name__,
        "Pass corners, in pixels of the input.",
    )
