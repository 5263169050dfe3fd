"""Several explanations of the same inputs, for which the model is asked once for what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pnpxai.batches import Targets
from pnpxai.callables import same_model
from pnpxai.errors import ParameterError
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._maps import joined, like_inputs
from pnpxai.forward import parts_of
from pnpxai.guard import guard
from pnpxai.targets import is_open


def attribute_together(explainers: Sequence[Explainer], inputs: Any, targets: Targets = None) -> list[Any]:
    """Explain a batch by several explainers; each map is what the explainer's own ``attribute`` gives.

    The predicted classes are asked for once, and so is what explainers of the same `Explainer.work` are made of: one
    set of gradients serves `SmoothGrad` and `VarGrad`, that of the larger ``n_samples``. `IntegratedGradients` takes
    its gradients at other inputs, of which nothing can be shared.

    Args:
        explainers: of one model, with the same extractors.
        inputs: as for `Explainer.attribute`.
        targets: likewise.

    Returns:
        The maps of each explainer, in order.

    Raises:
        ParameterError: explainers of several models, or with other extractors.
        PnPXAIError: as of `Explainer.attribute`, of the first that fails.

    Example:
        >>> from pnpxai.explainers import SmoothGrad, VarGrad
        >>> from pnpxai.forward import count_forwards
        >>> model = torch.nn.Linear(3, 2)
        >>> with count_forwards() as counter:
        ...     mean, variance = attribute_together([SmoothGrad(model), VarGrad(model)], torch.ones(1, 3), 0)
        >>> counter.n_samples
        25
    """
    for name in ("model", "forward_arg_extractor", "additional_forward_arg_extractor"):
        if not all(same_model(getattr(each, name), getattr(explainers[0], name)) for each in explainers):
            raise ParameterError(f"explainers with the same {name}", "several", "Ask each with attribute.")
    if is_open(targets) and len(explainers) > 1:
        first = explainers[0]
        with guard(first.model), torch.inference_mode(False):
            targets = first.request(inputs, targets).targets
    made: dict[int, Any] = {}
    for place, each in enumerate(explainers):
        if place not in made:
            shared = [i for i, other in enumerate(explainers) if i == place or shares_work(each, other)]
            made |= zip(shared, _continued([explainers[i] for i in shared], inputs, targets), strict=True)
    return [made[place] for place in range(len(explainers))]


def shares_work(one: Explainer, other: Explainer) -> bool:
    """Whether two explainers of one model ask it the same, so that one can go on from the other's state."""
    return one.work() is not None and one.work() == other.work()


def _continued(explainers: Sequence[Explainer], inputs: Any, targets: Targets) -> list[Any]:
    """Maps by explainers that share their work, in order."""
    if len(explainers) == 1:
        return [explainers[0].attribute(inputs, targets)]
    made: dict[int, Any] = {}
    with guard(explainers[0].model), torch.inference_mode(False):
        request = explainers[0].request(inputs, targets)
        parts = parts_of(request)
        states: list[Any] = [None] * len(parts)
        for place in sorted(range(len(explainers)), key=lambda place: explainers[place].budget):
            each = explainers[place]
            maps = []
            for number, part in enumerate(parts):
                found, states[number] = each.explain_further(part.request, each.budget, states[number])
                maps.append(found)
            made[place] = like_inputs(joined(maps, parts, request), inputs, request)
    return [made[place] for place in range(len(explainers))]
