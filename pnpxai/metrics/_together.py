"""Several metrics of the same maps, which ask the model once for what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import Targets
from pnpxai.callables import same_model
from pnpxai.errors import ParameterError
from pnpxai.forward import Request, in_order, parts_of
from pnpxai.metrics._answers import NO_ANSWERS, Answers, gathered, rows, with_targets
from pnpxai.metrics._base import Metric
from pnpxai.metrics._measurement import Measurement, MeasuringMetric


def evaluate_together(
    metrics: Sequence[Metric],
    inputs: Any,
    targets: Targets = None,
    attributions: Any = None,
    answers: Answers | None = None,
) -> list[Tensor]:
    """Score the same maps by several metrics; each gives what its own ``evaluate`` gives.

    The clean outputs are asked for once, and so is each distinct measurement: with one baseline, all metrics of the
    perturbation curves cost the forwards of one.

    Args:
        metrics: on one model, with the same extractors.
        inputs: as for `Metric.evaluate`.
        targets: as for `Metric.evaluate`.
        attributions: as for `Metric.evaluate`; None asks the explainer, which has to be the same for all.
        answers: what `answers_together` or `Metric.answers` gave for these inputs and targets; what is missing is
            asked.

    Returns:
        One tensor ``(n,)`` for each metric.

    Raises:
        ParameterError: metrics on several models, or with other extractors or explainers.

    Example:
        >>> from pnpxai.metrics import AbPC, Complexity, MoRF
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> metrics = [AbPC(model), MoRF(model), Complexity(model)]
        >>> found = evaluate_together(metrics, torch.ones(1, 2), 0, torch.tensor([[3.0, 1.0]]))
        >>> [round(each.item(), 2) for each in found]
        [1.0, 1.5, 0.56]
    """
    if not metrics:
        return []
    _check_alike(metrics, explained=attributions is None)
    known = answers or NO_ANSWERS
    maps = metrics[0].maps(inputs, targets, attributions)
    with metrics[0].opened(inputs, targets, known) as request:
        values = [metric.feature_values(maps, request.explained) for metric in metrics]
        parts = parts_of(request)
        found = [_scored(metrics, part.request, list(map(part.free, values)), rows(known, part)) for part in parts]
    return [in_order(parts, each) for each in zip(*found, strict=True)]


def _scored(metrics: Sequence[Metric], request: Request, values: Sequence[Tensor], known: Answers) -> list[Tensor]:
    """The scores by each metric, from one number a feature ``(n, f)`` for each."""
    known = dict(known)
    measured: dict[Measurement, tuple[Tensor, Any]] = {}
    scores = []
    for metric, own_values in zip(metrics, values, strict=True):
        own = metric.ask(request, known)
        known |= own
        if isinstance(metric, MeasuringMetric):
            measurement = metric.measurement
            if measurement not in measured or not torch.equal(measured[measurement][0], own_values):
                measured[measurement] = own_values, measurement.measure(request, own_values, own)
            scores.append(metric.read(measured[measurement][1]))
        else:
            scores.append(metric.evaluate_request(request, own_values, own))
    return scores


def answers_together(metrics: Sequence[Metric], inputs: Any, targets: Targets = None) -> Answers:
    """What several metrics ask of the model whatever the map is, each question once.

    Args:
        metrics: on one model, with the same extractors.
        inputs: as for `Metric.evaluate`.
        targets: as for `Metric.evaluate`.

    Raises:
        ParameterError: metrics on several models or with other extractors.
    """
    if not metrics:
        return {}
    _check_alike(metrics, explained=False)
    with metrics[0].opened(inputs, targets) as request:
        parts = parts_of(request)
        found: list[dict[str, Tensor]] = [{} for _ in parts]
        for known, part in zip(found, parts, strict=True):
            for metric in metrics:
                known |= metric.ask(part.request, known)
        return with_targets(request, gathered(found, parts))


def _check_alike(metrics: Sequence[Metric], *, explained: bool) -> None:
    names = ("model", "forward_arg_extractor", "additional_forward_arg_extractor", *(["explainer"] * explained))
    for name in names:
        first = getattr(metrics[0], name)
        for metric in metrics:
            own = getattr(metric, name)
            if not same_model(own, first) and (name != "explainer" or own != first):
                raise ParameterError(
                    f"metrics with the same {name}", f"another one in {type(metric).__name__}", "Evaluate it alone."
                )
