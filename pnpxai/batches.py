"""Batches as users give them: what is accepted, what is refused and why, and how samples are taken out of them."""

from __future__ import annotations

import cmath
import numbers
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pnpxai.errors import InputError, TargetError
from pnpxai.outputs import TargetFunction
from pnpxai.targets import Target

Targets: TypeAlias = Tensor | Sequence[int] | int | TargetFunction | None
Extractor: TypeAlias = Callable[[Any], Any]


def all_finite(values: Tensor) -> bool:
    """Whether there is no NaN or infinity: a sum says so quickly, unless it leaves the range itself.

    Example:
        >>> all_finite(torch.tensor([1.0, float("nan")])), all_finite(torch.full((2,), 3e38))
        (False, True)
    """
    if not (values.is_floating_point() or values.is_complex()):
        return True
    return cmath.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def check_inputs(inputs: Sequence[object], whole: Container[int] = ()) -> None:
    """Refuse what is no batch of finite floating-point tensors of one length.

    Args:
        inputs: what was given.
        whole: numbers of those that may be whole numbers, such as token ids.

    Raises:
        InputError: says which of these it is.
    """
    strange = [each for each in inputs if not isinstance(each, Tensor)]
    if strange or not inputs:
        raise InputError(
            "a tensor (n, …) or a tuple of tensors",
            type(strange[0]).__name__ if strange else "nothing",
            "Convert the inputs to tensors, or pick the tensors with forward_arg_extractor.",
        )
    tensors = [each for each in inputs if isinstance(each, Tensor)]
    for i, each in enumerate(tensors):
        if not (each.is_floating_point() or i in whole):
            raise InputError(
                "floating-point inputs",
                f"{each.dtype}",
                "Convert with inputs.float(); explain token ids by their embeddings.",
            )
        if each.ndim < 2:
            raise InputError(
                "a batch of inputs (n, …) with at least 2 dimensions",
                f"{each.ndim} dimensions, shape {tuple(each.shape)}",
                "Add the batch dimension with inputs[None].",
            )
        if each.numel() == 0:
            raise InputError("at least one input", f"an empty batch, shape {tuple(each.shape)}", "Pass n ≥ 1 inputs.")
        if len(each) != len(tensors[0]):
            raise InputError(
                "tensors of one batch length", f"{len(tensors[0])} and {len(each)}", "Pass the same samples in each."
            )
        if not all_finite(each):
            raise InputError("finite inputs", "NaN or infinity", "Clean the inputs first; every map would be NaN.")


def check_targets(targets: Targets, n: int, device: torch.device) -> Tensor | TargetFunction | None:
    """Class indices ``(n,)`` or a named target on ``device``, the function given, or None.

    Raises:
        TargetError: wrong type or length, or a negative class (one too high is found when the outputs are known).
    """
    if isinstance(targets, Target):
        return targets.for_batch(n, device)
    if targets is None or (callable(targets) and not isinstance(targets, Tensor)):
        return targets
    if isinstance(targets, numbers.Integral) and not isinstance(targets, bool):
        targets = torch.full((n,), int(targets))
    if isinstance(targets, Sequence) and targets and all(isinstance(each, numbers.Integral) for each in targets):
        targets = torch.as_tensor(targets)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        raise TargetError(
            "targets as an int, whole numbers (n,), None (the predicted class), one of pnpxai.targets or a function",
            f"{targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__,
            "Pass class indices, not scores or one-hot rows.",
        )
    if tuple(targets.shape) != (n,):
        raise TargetError(f"one target for each of {n} inputs", f"shape {tuple(targets.shape)}", "Pass shape (n,).")
    if int(targets.min()) < 0:
        raise TargetError("class indices from 0", f"{int(targets.min())}", "Count classes from 0.")
    return usable(targets.detach()).to(device, torch.long)


def extracted(name: str, extractor: Extractor | None, inputs: Any, default: Any) -> Any:
    """What an extractor takes out of inputs, or the default where there is none.

    Raises:
        InputError: it fails on them; named by ``name``.
    """
    if extractor is None:
        return default
    try:
        return extractor(inputs)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"a {name} of inputs of type {type(inputs).__name__}",
            f"{type(error).__name__}: {error}",
            "Call it on the same inputs yourself to see where it fails.",
        ) from error


def usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd may save where it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def take_samples(batch: Any, index: Sequence[int]) -> Any:
    """Some samples of a batch: every tensor in a tuple, list or mapping is indexed, anything else passes through."""
    if isinstance(batch, Tensor):
        return batch[torch.as_tensor(list(index), dtype=torch.long, device=batch.device)]
    if isinstance(batch, Mapping):
        return {name: take_samples(each, index) for name, each in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(take_samples(each, index) for each in batch)
    return batch


def n_samples(batch: Any) -> int:
    """The length of the first tensor in a batch.

    Raises:
        InputError: there is no tensor in it.
    """
    for each in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]:
        if isinstance(each, Tensor) and each.ndim:
            return len(each)
    raise InputError("a tensor (n, …), or a tuple, list or dict of tensors", type(batch).__name__, "Pass tensors.")


def batch_shape(inputs: Tensor) -> str:
    """The shape of inputs ``(n, …)`` in words.

    Example:
        >>> batch_shape(torch.zeros(4, 3, 8))
        '(n, 3, 8)'
    """
    return "(" + ", ".join(["n", *map(str, inputs.shape[1:])]) + ")"
