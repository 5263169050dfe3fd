"""Another judge, for where there are no unseen samples: another metric, with another baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pnpxai.baselines import BaselineFunction
from pnpxai.batches import Extractor
from pnpxai.metrics import AbPC, Metric, MuFidelity
from pnpxai.modality import Modality


@dataclass(frozen=True)
class Opinion:
    """What a metric that was not tuned for says of the winner, on the samples that were tuned on.

    Attributes:
        metric: the other metric, with another baseline where there is one.
        tuned, default: its scores of the tuned and the default configuration, one a sample.
    """

    metric: Metric
    tuned: tuple[float, ...]
    default: tuple[float, ...]

    @property
    def gain(self) -> float:
        """Mean paired difference, positive where the tuned configuration is better."""
        sign = 1 if type(self.metric).HIGHER_IS_BETTER else -1
        pairs = zip(self.tuned, self.default, strict=True)
        return sign * sum(tuned - default for tuned, default in pairs) / len(self.tuned)

    @property
    def agrees(self) -> bool:
        """Whether it too finds the tuned configuration better."""
        return self.gain > 0


def other_metric(
    metric: Metric,
    modality: Modality,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> Metric:
    """A faithfulness metric of another family, with the first of the modality's baselines that is not ``metric``'s."""
    kind = AbPC if isinstance(metric, MuFidelity) else MuFidelity
    own = getattr(metric, "baseline_fn", None)
    used = own if isinstance(own, str) else getattr(own, "NAME", None)
    listed = [each for each in modality.candidates.get(BaselineFunction, ()) if isinstance(each, BaselineFunction)]
    preferred = sorted((each for each in listed if used != each.NAME), key=lambda each: each.NAME != "blur")
    options: dict[str, Any] = {"baseline_fn": preferred[0]} if preferred else {}
    made = kind(
        metric.model, None, forward_arg_extractor, additional_forward_arg_extractor, channel_dim=metric.channel_dim
    )
    return modality.settled(made).set_kwargs(**options)
