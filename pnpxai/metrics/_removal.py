"""Inputs with some of their features removed, and the model's scores of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.batches import all_finite
from pnpxai.chunks import sample_bytes
from pnpxai.errors import ModelError
from pnpxai.forward import Request
from pnpxai.outputs import Score, TargetFunction, select
from pnpxai.postprocess import channel_axis, n_features
from pnpxai.replacing import rectangles, replaced
from pnpxai.scratch import Scratch
from pnpxai.targets import Target

COPIED_BYTES = 2**13
"""Samples of fewer bytes are copied for each removal, which takes less than to go through them one by one."""


def remove(inputs: Tensor, baseline: Tensor, removed: Tensor, channel_dim: int | None, out: Tensor) -> Tensor:
    """Each input with the baseline's values where features are removed, in all their channels.

    Args:
        inputs: ``(n, …)``.
        baseline: of their shape.
        removed: ``(n, m, f)``, or ``(1, m, f)`` for all inputs, true where a feature is removed.
        channel_dim: the inputs' channels; None for none.
        out: ``(n · m, …)``, where it is written to, an input after the other.

    Example:
        >>> x, gone = torch.ones(1, 2, 3), torch.tensor([[[True, False, False], [True, False, True]]])
        >>> remove(x, torch.zeros(1, 2, 3), gone, 1, torch.empty(2, 2, 3)).tolist()
        [[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    axis = channel_axis(channel_dim, inputs.ndim)
    shape = [1 if each == axis else size for each, size in enumerate(inputs.shape)][1:]
    gone = removed.reshape(*removed.shape[:2], *shape)
    replaced(inputs[:, None], baseline[:, None], gone, out.view(len(inputs), removed.shape[1], *inputs.shape[1:]))
    return out


def baselines(request: Request, baseline_fn: Baseline, channel_dim: int | None) -> Tensor:
    """The baseline of what is explained, of its shape; of several inputs ``(n, ·)``, all their elements in a row."""
    every = enumerate(request.inputs)
    made = [baseline_for(baseline_fn, each, channel_dim, request.lookup(number)) for number, each in every]
    return made[0] if len(made) == 1 else torch.cat([each.flatten(1) for each in made], 1)


def _apart(baseline: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """One baseline for each input."""
    if len(inputs) == 1:
        return [baseline]
    rows = torch.split(baseline, [each[0].numel() for each in inputs], 1)
    return [own.reshape(each.shape).to(each) for own, each in zip(rows, inputs, strict=True)]


def clean_scores(request: Request, score: Score) -> Tensor:
    """The scores of the inputs themselves, ``(n,)``, in single precision at least."""
    return _read(request.outputs, request.targets, score)


def removal_scores(
    request: Request,
    baseline: Tensor,
    n_removals: int,
    removed: Callable[[slice | Tensor, Tensor], Tensor],
    channel_dim: int | None,
    score: Score,
) -> Tensor:
    """Ask the model about every input under every removal, in full chunks across inputs and removals.

    Args:
        request: what is scored.
        baseline: the values of removed features, as of `baselines`.
        n_removals: removals of each input.
        removed: from numbers of k inputs, and of removals ``(1, m)`` or ``(k, m)``, to what is removed ``(k, m, f)``,
            or ``(1, m, f)`` where it is the same for all of them.
        channel_dim: the inputs' channels; None for none.
        score: what is read from the outputs.

    Returns:
        ``(n, n_removals)``, in single precision at least.

    Raises:
        ModelError: the model returns NaN or infinity for one of them.
    """
    inputs = request.inputs
    own, sizes = _apart(baseline, inputs), [n_features(each, channel_dim) for each in inputs]
    rooms = [Scratch() for _ in inputs]

    def build(start: int, stop: int) -> list[Tensor]:
        made, done = [room.rows(each, stop - start) for room, each in zip(rooms, inputs, strict=True)], 0
        for rows, removals in portions(start, stop):
            gone = torch.split(removed(rows, removals), sizes, 2)
            for each, absent, away, out in zip(inputs, own, gone, made, strict=True):
                given = each[rows]
                n = len(given) * removals.shape[1]
                remove(given, absent[rows], away, channel_dim, out[done : done + n])
            done += n
        return made

    def portions(start: int, stop: int) -> list[tuple[slice | Tensor, Tensor]]:
        numbers = functools.partial(torch.arange, device=inputs[0].device)
        if sample_bytes(inputs) < COPIED_BYTES:
            item = numbers(start, stop)
            return [(item // n_removals, item[:, None] % n_removals)]
        found = rectangles(start, stop, n_removals)
        return [(rows, numbers(each.start, each.stop)[None]) for rows, each in found]

    return _finite_scores(request, n_removals, build, score)


def baseline_scores(request: Request, baseline: Tensor, score: Score) -> Tensor:
    """The scores of the whole baseline, as of `baselines`, ``(n,)``, in single precision at least.

    Raises:
        ModelError: the model returns NaN or infinity for one of them.
    """
    own = _apart(baseline, request.inputs)
    return _finite_scores(request, 1, lambda start, stop: [each[start:stop].clone() for each in own], score).squeeze(1)


def _finite_scores(request: Request, n_each: int, changed: Callable[[int, int], list[Tensor]], score: Score) -> Tensor:
    """Scores ``(n, n_each)`` of changed inputs, made anew by their numbers: from which on, and before which."""
    device, kept = request.inputs[0].device, list[Tensor]()

    def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        return changed(start, stop), torch.arange(start, stop, device=device) // n_each

    def consume(start: int, stop: int, outputs: Tensor) -> None:
        sample = torch.arange(start, stop, device=outputs.device) // n_each
        kept.append(_read(outputs, request.targets_for(sample), score))

    request.stream(len(request) * n_each, build, consume, fresh=True)
    scores = torch.cat(kept)
    if not all_finite(scores):
        raise ModelError(
            "a model with finite outputs where features are removed",
            "NaN or infinity",
            "Choose another baseline_fn; this one leads the model out of its range.",
        )
    return scores.reshape(len(request), n_each)


def _read(outputs: Tensor, targets: Tensor | TargetFunction, score: Score) -> Tensor:
    """The targets' scores; plain functions get converted outputs, others know a softmax by its own precision."""
    return _precise(select(outputs if isinstance(targets, Tensor | Target) else _precise(outputs), targets, score))


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
