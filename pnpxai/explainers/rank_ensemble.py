"""Several explanations made one: the mean of their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model, check_model, same_model
from pnpxai.errors import InputError, ParameterError
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._maps import as_given
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.postprocess import PostProcessor, channel_axis
from pnpxai.targets import is_open


def rank_average(maps: Sequence[Tensor]) -> Tensor:
    """The mean over maps of each one's ranks within each sample, from 0 (least) to 1 (greatest).

    Equal values share the mean of their ranks, so that a constant map is 1/2 everywhere. Exact: features tie if and
    only if their ranks sum to the same, whatever the order of the maps.

    Args:
        maps: one number a feature each, all of one shape ``(n, …)``.

    Returns:
        ``(n, …)``, in single precision at least.

    Raises:
        InputError: no map, maps of several shapes, or not finite.

    Example:
        >>> rank_average([torch.tensor([[5.0, 0.1, 0.1]]), torch.tensor([[30.0, 20.0, 10.0]])]).tolist()
        [[1.0, 0.375, 0.125]]
    """
    shapes = {tuple(each.shape) for each in maps}
    if len(shapes) != 1 or min(map(len, shapes)) < 2 or not all(torch.isfinite(each).all() for each in maps):
        raise InputError(
            "finite maps (n, …) of one shape",
            "no map"
            if not shapes
            else " and ".join(map(str, sorted(shapes)))
            if len(shapes) > 1
            else "NaN or infinity",
            "Give each map one number a feature first, with a PostProcessor.",
        )
    dtype = reduce(torch.promote_types, (each.dtype for each in maps), torch.float32)
    total = torch.stack([_doubled_ranks(each.flatten(1)) for each in maps]).sum(0)
    most = total.shape[1] - 1
    ranks = total.to(dtype) / (2 * len(maps) * most) if most else torch.full_like(total, 0.5, dtype=dtype)
    return ranks.reshape(maps[0].shape)


def _doubled_ranks(values: Tensor) -> Tensor:
    """Twice the rank from 0 of each of ``(n, f)`` in its row, a whole number also for ties."""
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    return below + torch.searchsorted(ordered, values, right=True) - 1


class RankEnsemble(Explainer):
    """The mean of several explainers' maps, each turned into ranks first.

    A feature is relevant if the members agree that it is. Ranks make maps comparable whatever their units, signs and
    outliers, and a metric that sees only the order of features loses nothing by them. The mean rank is Borda's count;
    of all maps of ranks it is the one nearest to the members' in squared distance. That a mean of explanations finds
    relevant features better than its members, and is harder to deceive, is shown for normalised maps by Rieger and
    Hansen (2019, arXiv 1903.00519). Not in the registry: it has nothing to explain with of its own.

    In [0, 1], one number a feature: ``(n, 1, h, w)``, ``(n, 1, t)`` or ``(n, d)``; where the post-processors pool
    another dimension, that one is 1.

    Args:
        model: the model that all members explain.
        explainers: the members; a `RankEnsemble` may be one.
        postprocessors: one for each of the members, all of one ``channel_dim``.
        forward_arg_extractor: see `Explainer`; None for the first member's. The members go by their own.
        additional_forward_arg_extractor: likewise.

    Example:
        >>> from pnpxai.explainers import Gradient, GradientXInput
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 1.0, -4.0]]))
        >>> members = [Gradient(model), GradientXInput(model)]
        >>> ensemble = RankEnsemble(model, members, [PostProcessor()] * 2)
        >>> ensemble.attribute(torch.tensor([[1.0, 3.0, 1.0]])).tolist()  # ranks 2 1 0 and 1 2 0
        [[0.75, 0.75, 0.0]]
    """

    OUTPUTS_ONLY = True

    def __init__(
        self,
        model: Model,
        explainers: Sequence[Explainer],
        postprocessors: Sequence[PostProcessor],
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.explainers = explainers
        self.postprocessors = postprocessors

    def set_kwargs(self, **kwargs: Any) -> RankEnsemble:
        """As of `Tunable`; another model is the members' model, too."""
        if "model" in kwargs and "explainers" not in kwargs:
            members = [each.set_kwargs(model=kwargs["model"]) for each in self.explainers]
            kwargs["explainers"] = tuple(members) if isinstance(self.explainers, tuple) else members
        return super().set_kwargs(**kwargs)

    def attribute(self, inputs: Any, targets: Targets = None) -> Any:
        """Explain a batch by all members, for the same targets.

        Raises:
            ParameterError: no member, other than one post-processor for each, or a member of another model.
            InputError: several inputs, or members whose maps have different numbers of features.
            PnPXAIError: as for `Explainer.attribute`.
        """
        check_model(self.model)
        self._check_members()
        first = self.explainers[0]
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model,
                inputs,
                targets,
                self.forward_arg_extractor or first.forward_arg_extractor,
                self.additional_forward_arg_extractor or first.additional_forward_arg_extractor,
            )
            axis = channel_axis(self.postprocessors[0].channel_dim, request.input.ndim)
            targets = request.targets if is_open(targets) else targets
        pooled = []
        for explainer, postprocessor in zip(self.explainers, self.postprocessors, strict=True):
            maps = explainer.attribute(inputs, targets)
            pooled.append(postprocessor(maps[0] if isinstance(maps, tuple) else maps))
        ranks = rank_average(pooled)
        return as_given((ranks if axis is None else ranks.unsqueeze(axis),), inputs, request)

    def _check_members(self) -> None:
        kinds_fit = all(isinstance(each, Explainer) for each in self.explainers) and all(
            isinstance(each, PostProcessor) for each in self.postprocessors
        )
        if not kinds_fit or not 0 < len(self.explainers) == len(self.postprocessors):
            raise ParameterError(
                "explainers and as many postprocessors, at least one of each",
                f"{list(self.explainers)} and {list(self.postprocessors)}",
                "Pass a PostProcessor for each of the explainers.",
            )
        strangers = [type(each).__name__ for each in self.explainers if not same_model(each.model, self.model)]
        if strangers:
            raise ParameterError(
                "members of RankEnsemble that explain its own model",
                f"another model in {', '.join(strangers)}",
                "Build them with the same model, or call set_kwargs(model=model) on the ensemble.",
            )
        dims = {each.channel_dim for each in self.postprocessors}
        if len(dims) != 1:
            raise ParameterError(
                "postprocessors of one channel_dim", f"{sorted(map(str, dims))}", "Give all the inputs' channel_dim."
            )
