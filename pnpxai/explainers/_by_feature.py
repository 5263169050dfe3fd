"""Methods for features ``(n, d)``, asked which features of an input matter where several positions make a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.explainers._base import Explainer
from pnpxai.feature_masks import FeatureMask, by_number, feature_mask_for, on_positions
from pnpxai.forward import Request
from pnpxai.tunable import Space


@dataclass(kw_only=True)
class Presence(Request):
    """A request about which features are present: ones ``(k, d)`` in the place of inputs, 0 where one is absent.

    Attributes:
        whole: the request about the inputs themselves.
        samples: those of them with ``d`` features, ``(k,)``.
        features: which feature each position of each of the whole request's inputs belongs to, ``(n, *positions)``.
        baseline: what stands for absence, of the inputs' shape.
    """

    whole: Request
    samples: Tensor
    features: Tensor
    baseline: Tensor

    def call(
        self,
        inputs: Sequence[Tensor],
        index: Tensor | None = None,
        *,
        fresh: bool = False,
        **how: Any,
    ) -> Tensor:
        """Ask the model about inputs with these features: ``x`` times their presence, and the baseline for the rest."""
        (present,) = inputs
        x, own = self.whole.input, self.samples if index is None else self.samples[index.to(self.samples.device)]
        spread = present.gather(1, self.features[own].flatten(1))
        shape = (len(own), *(1,) * (x.ndim - self.features.ndim), *self.features.shape[1:])
        rows = torch.lerp(self.baseline[own], x[own], spread.reshape(shape))
        return self.whole.call([rows], own, fresh=True, **how)

    @property
    def passed(self) -> tuple[Tensor, ...]:
        """The inputs themselves."""
        return self.whole.inputs


@dataclass(frozen=True, eq=False)
class ByFeature:
    """What a nested explainer goes on from: by the number of features, a request and the state of its own.

    Attributes:
        presences: number of features to the request about the samples that have as many.
        states: likewise, what `Explainer.explain_further` returned.
    """

    presences: Mapping[int, Presence]
    states: Mapping[int, Any]


def presences_of(request: Request, feature_mask_fn: FeatureMask, baseline_fn: Baseline) -> dict[int, Presence]:
    """A request about the presence of features for each number of features that samples have.

    Raises:
        PnPXAIError: a feature mask or a baseline that does not fit the inputs.
    """
    x = request.input
    features = feature_mask_for(feature_mask_fn, x, request.lookup())
    baseline = baseline_for(baseline_fn, x, lookup=request.lookup())
    made = {}
    for d, samples in by_number(features).items():
        made[d] = Presence(
            request.model,
            (x.new_ones(len(samples), d),),
            (),
            requested=request.targets_for(samples),
            chunk_size=request.chunk_size,
            whole=request,
            samples=samples,
            features=features,
            baseline=baseline,
        )
    return made


def _maps(presences: Mapping[int, Presence], values: Mapping[int, Tensor]) -> Tensor:
    """The value of each position's feature: ``(n, 1, *positions)`` or ``(n, d)``, from ``(k, d)`` for each ``d``."""
    first = next(iter(presences.values()))
    made = on_positions(first.features, values)
    return made if made.ndim == first.whole.input.ndim else made[:, None]


def explained_by_feature(explainer: Explainer, request: Request, **settings: Any) -> Tensor:
    """The maps of an explainer with a ``feature_mask_fn`` and a ``baseline_fn``, which is asked without them.

    Args:
        explainer: takes inputs ``(n, d)``.
        request: what is explained.
        **settings: further arguments that are other ones for single features.
    """
    presences, plain = _presences(explainer, request), _plain(explainer, **settings)
    return _maps(presences, {d: _single(plain.explain_request(each)) for d, each in presences.items()})


def further_by_feature(
    explainer: Explainer, request: Request, budget: int, state: ByFeature | None
) -> tuple[Tensor, ByFeature]:
    """Likewise of a nested explainer, as of `Explainer.explain_further`."""
    presences = _presences(explainer, request) if state is None else state.presences
    plain, maps, states = _plain(explainer), dict[int, Tensor](), dict[int, Any]()
    for d, each in presences.items():
        found, states[d] = plain.explain_further(each, budget, None if state is None else state.states[d])
        maps[d] = _single(found)
    return _maps(presences, maps), ByFeature(presences, states)


def searched_without(explainer: Explainer, *names: str) -> Mapping[str, Space]:
    """What is searched of an explainer; without some names where these do not matter beside its features."""
    every = type(explainer).TUNABLES
    if explainer.get_params().get("feature_mask_fn") is None:
        return every
    return {name: space for name, space in every.items() if name not in names}


def _presences(explainer: Explainer, request: Request) -> dict[int, Presence]:
    own = explainer.get_params()
    return presences_of(request, own["feature_mask_fn"], own["baseline_fn"])


def _plain(explainer: Explainer, **settings: Any) -> Explainer:
    return explainer.set_kwargs(feature_mask_fn=None, baseline_fn="zeros", **settings)


def _single(maps: Tensor | tuple[Tensor, ...]) -> Tensor:
    return maps if isinstance(maps, Tensor) else maps[0]
