"""Inputs with some of their features removed, built by index, and the model's scores of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.errors import ModelError
from pnpxai.forward import Request
from pnpxai.outputs import Score, TargetFunction, select
from pnpxai.postprocess import channel_axis, n_features
from pnpxai.targets import Target


def remove(sample: Tensor, baseline: Tensor, removed: Tensor, channel_dim: int | None, out: Tensor) -> Tensor:
    """An input with the baseline's values where features are removed, in all their channels.

    Args:
        sample: ``(1, …)``.
        baseline: of its shape.
        removed: ``(m, f)``, true where a feature is removed.
        channel_dim: the input's channels; None for none.
        out: ``(m, …)``, where it is written to.

    Example:
        >>> x, gone = torch.ones(1, 2, 3), torch.tensor([[True, False, False], [True, False, True]])
        >>> remove(x, torch.zeros(1, 2, 3), gone, 1, torch.empty(2, 2, 3)).tolist()
        [[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    axis = channel_axis(channel_dim, sample.ndim)
    shape = [1 if each == axis else size for each, size in enumerate(out.shape)]
    return torch.where(removed.reshape(shape), baseline, sample, out=out)


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
    removed: Callable[[int, Tensor], Tensor],
    channel_dim: int | None,
    score: Score,
) -> Tensor:
    """Ask the model about every input under every removal, in full chunks across inputs and removals.

    Args:
        request: what is scored.
        baseline: the values of removed features, as of `baselines`.
        n_removals: removals of each input.
        removed: from the number of an input and those of removals ``(m,)`` to what is removed ``(m, f)``.
        channel_dim: the inputs' channels; None for none.
        score: what is read from the outputs.

    Returns:
        ``(n, n_removals)``, in single precision at least.

    Raises:
        ModelError: the model returns NaN or infinity for one of them.
    """
    inputs = request.inputs
    own, sizes = _apart(baseline, inputs), [n_features(each, channel_dim) for each in inputs]

    def changed(sample: Tensor, removal: Tensor) -> list[Tensor]:
        made = [each.new_empty(len(sample), *each.shape[1:]) for each in inputs]
        done = 0
        for row, together in itertools.groupby(sample.tolist()):
            n = len(list(together))
            here, alone = slice(done, done + n), slice(row, row + 1)
            gone = torch.split(removed(row, removal[here]), sizes, 1)
            for each, absent, away, out in zip(inputs, own, gone, made, strict=True):
                remove(each[alone], absent[alone], away, channel_dim, out[here])
            done += n
        return made

    return _finite_scores(request, n_removals, changed, score)


def baseline_scores(request: Request, baseline: Tensor, score: Score) -> Tensor:
    """The scores of the whole baseline, as of `baselines`, ``(n,)``, in single precision at least.

    Raises:
        ModelError: the model returns NaN or infinity for one of them.
    """
    own = _apart(baseline, request.inputs)
    return _finite_scores(request, 1, lambda sample, _: [each[sample] for each in own], score).squeeze(1)


def _finite_scores(
    request: Request, n_each: int, changed: Callable[[Tensor, Tensor], list[Tensor]], score: Score
) -> Tensor:
    """Scores ``(n, n_each)`` of inputs changed by the numbers of samples and of changes, both ``(m,)``."""
    device, kept = request.inputs[0].device, list[Tensor]()

    def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        item = torch.arange(start, stop, device=device)
        sample = item // n_each
        return changed(sample, item % n_each), sample

    def consume(start: int, stop: int, outputs: Tensor) -> None:
        sample = torch.arange(start, stop, device=outputs.device) // n_each
        kept.append(_read(outputs, request.targets_for(sample), score))

    request.stream(len(request) * n_each, build, consume, fresh=True)
    scores = torch.cat(kept)
    if not torch.isfinite(scores).all():
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
