"""What else is measured of a configuration beside the metric that is tuned for: complexity, stability, localisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import ParameterError, PnPXAIError, unknown_name
from pnpxai.explainers import Explainer
from pnpxai.metrics import METRICS, Complexity, Metric, RelevanceMass, Sensitivity, metric_for
from pnpxai.modality import Modality
from pnpxai.postprocess import Maps, PostProcessor
from pnpxai.tuning._maps import Samples, first_rows

N_STABLE = 2
"""Samples that are explained again to see how stable a map is: each costs as much as its explanation did."""


@dataclass(frozen=True)
class Aim:
    """One thing that is measured of every trial.

    Attributes:
        name: in the study and in `TuneResult.trials`.
        metric: measures it.
        n_samples: on how many of the first samples at most.
    """

    name: str
    metric: Metric
    n_samples: int = 2**31

    @property
    def higher_is_better(self) -> bool:
        """The direction."""
        return type(self.metric).HIGHER_IS_BETTER

    def measure(
        self, samples: Samples, index: Sequence[int], explainer: Explainer, postprocessor: PostProcessor, maps: Maps
    ) -> float:
        """The mean over the first samples of ``index``, whose raw maps are ``maps``; NaN where it is not defined."""
        n = len(maps[0] if isinstance(maps, tuple) else maps)
        rows = list(index[: min(self.n_samples, n)])
        metric = self.metric.judging(explainer, postprocessor).for_samples(rows)
        try:
            found = metric.evaluate(*samples.take(rows), postprocessor(first_rows(maps, len(rows))))
        except PnPXAIError:
            return float("nan")
        return float(found.double().mean())


def aims_for(
    aims: Sequence[str | type[Metric] | Metric] | None,
    model: Model,
    modality: Modality,
    regions: Tensor | None,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> list[Aim]:
    """The aims meant by names or metrics; None for complexity and stability, and localisation where regions are given.

    Raises:
        UnknownNameError: a name that is neither an aim nor a metric.
        ParameterError: localisation without regions.
    """
    shared: Mapping[str, Any] = {
        "forward_arg_extractor": forward_arg_extractor,
        "additional_forward_arg_extractor": additional_forward_arg_extractor,
        "channel_dim": modality.channel_dim,
    }
    made: list[Aim] = []
    usual = ("complexity", "stability", *(("localisation",) if regions is not None else ()))
    for each in usual if aims is None else aims:
        if each == "complexity":
            made.append(Aim("complexity", Complexity(model, **shared)))
        elif each == "stability":
            made.append(Aim("stability", Sensitivity(model, **shared, n_perturbations=1), N_STABLE))
        elif each == "localisation":
            if regions is None:
                raise ParameterError(
                    "regions for the aim localisation", "none", "Pass regions= (n, h, w), true inside."
                )
            made.append(Aim("localisation", RelevanceMass(model, **shared, regions=regions)))
        elif isinstance(each, str) and each.lower() not in {name.lower() for name in METRICS}:
            raise unknown_name("aim", each, ("complexity", "stability", "localisation", *METRICS))
        else:
            metric = metric_for(each, model, forward_arg_extractor, additional_forward_arg_extractor)
            if not isinstance(each, Metric):
                metric = modality.settled(metric.set_kwargs(channel_dim=modality.channel_dim))
            made.append(Aim(type(metric).__name__, metric))
    return made


def measured(
    aims: Sequence[Aim],
    samples: Samples,
    index: Sequence[int],
    seen: tuple[Explainer, Maps],
    postprocessor: PostProcessor,
) -> dict[str, float]:
    """Each aim that is defined for a trial, by name."""
    explainer, maps = seen
    found = {each.name: each.measure(samples, index, explainer, postprocessor, maps) for each in aims}
    return {name: value for name, value in found.items() if torch.isfinite(torch.tensor(value))}
