"""What a model returned, made uniform: one tensor, probabilities, one score a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pnpxai.errors import ModelError, PnPXAIError, TargetError

TargetFunction: TypeAlias = Callable[[Tensor], Tensor]
Score: TypeAlias = Literal["logit", "probability"]

DETECTED = ("boxes", "labels", "scores")
"""What a detector, such as one of torchvision, returns of each sample: ``(m, 4)``, ``(m,)`` and ``(m,)``."""
DETECTION = ("x1", "y1", "x2", "y2", "label", "score")
"""What the columns of a detector's outputs ``(n, m, 6)`` hold."""


def output_tensor(outputs: Any, device: torch.device | None = None) -> Tensor:
    """The tensor to be explained in what a model returned.

    A tensor is itself; of a mapping or a Hugging Face ``ModelOutput``, ``logits``, else the first tensor; of a tuple
    or list, the first tensor; of a detector's list of mappings, see `DETECTION`. An array is a tensor of its values, on
    ``device``.

    Raises:
        ModelError: there is no floating-point tensor in it.
    """
    if isinstance(outputs, tuple | list) and outputs and all(map(_is_detected, outputs)):
        return _detections(outputs)
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
        candidates = [found] if isinstance(found, Tensor | np.ndarray) else list(outputs.values())
    elif isinstance(outputs, tuple | list):
        candidates = list(outputs)
    else:
        candidates = [outputs]
    for each in candidates:
        if isinstance(each, np.ndarray) and np.issubdtype(each.dtype, np.floating):
            each = torch.from_numpy(np.array(each, f"f{min(each.dtype.itemsize, 8)}", order="C")).to(device)
        if isinstance(each, Tensor) and each.is_floating_point() and each.ndim > 0:
            return each
    raise ModelError(
        "a model that returns a floating-point tensor or array (or a tuple, dict or ModelOutput that holds one)",
        f"a {type(outputs).__name__} of shape {tuple(outputs.shape)} and {outputs.dtype}"
        if isinstance(outputs, Tensor | np.ndarray)
        else type(outputs).__name__,
        "Wrap the model so that it returns the tensor to be explained.",
    )


def _is_detected(sample: Any) -> bool:
    return isinstance(sample, Mapping) and all(isinstance(sample.get(each), Tensor) for each in DETECTED)


def _detections(samples: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Detections ``(n, m, 6)``, as many as of the sample with most, and at least one; see `joined`."""
    rows = []
    for each in samples:
        boxes, labels, scores = (each[name] for name in DETECTED)
        rows.append(torch.cat([boxes, labels[:, None].to(boxes), scores[:, None].to(boxes)], 1)[None])
    return _as_long(rows)


def joined(outputs: Sequence[Tensor]) -> Tensor:
    """Outputs of all samples, from those of some; detections that are missing have label -1 and score 0."""
    detected = outputs[0].ndim == 3 and outputs[0].shape[2] == len(DETECTION)
    return _as_long(outputs) if detected and len({len(each[0]) for each in outputs}) > 1 else torch.cat(list(outputs))


def _as_long(detections: Sequence[Tensor]) -> Tensor:
    longest = max(1, *(each.shape[1] for each in detections))
    made = []
    for each in detections:
        missing = each.new_zeros(len(each), longest - each.shape[1], len(DETECTION))
        missing[..., DETECTION.index("label")] = -1
        made.append(torch.cat([each, missing], 1))
    return torch.cat(made)


def probabilities(outputs: Tensor) -> Tensor:
    """Softmax over classes, in single precision at least; rows that are probabilities already keep their values.

    Args:
        outputs: ``(n, k)``, or single outputs, which are returned as they are. A row is probabilities if none is
            negative and they sum to 1 within 1e-3, or within the precision of a coarser dtype: pass what the model
            returned, since a softmax in bfloat16 is no longer recognised once it has been converted.
    """
    if outputs.ndim != 2 or outputs.shape[1] == 1:
        return outputs
    exact = outputs.float() if outputs.dtype != torch.float64 else outputs
    tolerance = max(1e-3, torch.finfo(outputs.dtype).eps)
    already = (exact >= 0).all(1) & ((exact.sum(1) - 1).abs() < tolerance)
    return torch.where(already[:, None], exact, exact.softmax(1))


def select(outputs: Tensor, targets: Tensor | TargetFunction, score: Score = "logit") -> Tensor:
    """One number a sample: the target's output, or its probability.

    Args:
        outputs: ``(n, k)`` or ``(n,)``.
        targets: class indices ``(n,)``, or a function of the outputs that returns ``(n,)``.
        score: ``"logit"`` for the output itself, ``"probability"`` for its softmax (functions see the output itself).

    Raises:
        TargetError: a class the outputs do not have, or a function that does not return one number a sample.
    """
    if not isinstance(targets, Tensor):
        try:
            chosen = targets(outputs)
        except PnPXAIError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise TargetError(
                f"a target function of outputs of shape {tuple(outputs.shape)}",
                f"{type(error).__name__}: {error}",
                "Call it on the model's outputs yourself to see where it fails.",
            ) from error
        if not isinstance(chosen, Tensor) or chosen.shape != outputs.shape[:1]:
            received = tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
            raise TargetError(
                f"a target function that returns a tensor ({len(outputs)},), one score a sample",
                f"{received}",
                "Return one number for each row of the outputs it is given.",
            )
        if not chosen.is_floating_point():
            raise TargetError(
                "a target function that returns floating-point scores",
                f"{chosen.dtype}",
                "Return outputs, not the indices of classes or the results of comparisons.",
            )
        return chosen
    if outputs.ndim > 2:
        raise TargetError(
            "a target function, for outputs with more than two dimensions",
            f"outputs of shape {tuple(outputs.shape)}",
            "Take one of pnpxai.targets, such as SegmentationScore, or a function such as "
            "lambda outputs: outputs[:, 3].mean((1, 2)).",
        )
    k = outputs.shape[1] if outputs.ndim == 2 else 1
    highest = int(targets.max())
    if highest >= k:
        raise TargetError(f"class indices from 0 to {k - 1}", f"{highest}", f"The model has {k} outputs.")
    scores = probabilities(outputs) if score == "probability" else outputs
    return scores if scores.ndim == 1 else scores.gather(1, targets[:, None]).squeeze(1)


def predicted(outputs: Tensor) -> Tensor:
    """The class with the highest output, ``(n,)``; 0 where there is one output only."""
    if outputs.ndim == 2:
        return outputs.argmax(1)
    return torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)
