"""What the most relevant features do for a score: lost without them, and left with them alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import Explainer
from pnpxai.limits import OrNone, Within
from pnpxai.metrics._curve_metric import CurveMetric, PerturbationCurves
from pnpxai.metrics._curves import Curves, top_counts
from pnpxai.outputs import Score

ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The top fractions of DeYoung et al. (2020)."""


def top_places(top: Tensor, n_features: int, fractions: Sequence[float] | None) -> Tensor:
    """Which points of a curve are about the top fractions: of each fraction, or all up to half the features.

    Args:
        top: ``(p,)``, how many of the most relevant features each point is about, rising.
        n_features: how many features there are.
        fractions: those measured; None for every point of one feature to half of them, or the first of one at least.

    Example:
        >>> top_places(torch.tensor([0, 3, 5, 8, 10]), 10, None).tolist()
        [1, 2]
    """
    if fractions is not None:
        return torch.searchsorted(top, top_counts(n_features, fractions).to(top.device))
    some = (top > 0).nonzero().squeeze(1)
    half = some[2 * top[some] <= n_features]
    return half if len(half) else some[:1]


class _TopFractions(CurveMetric):
    """A mean over points of a curve that are about the most relevant features.

    Args:
        model: the model that was explained.
        explainer: makes the attributions where `evaluate` is given none.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the inputs' channels, which are removed together; None for none.
        baseline_fn: what stands in for removed features.
        n_steps: as for `AbPC`; without meaning where ``fractions`` are given.
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the random order among equally relevant features.
        fractions: the top fractions, each of at least one feature. None takes every step of the curves up to half the
            features (.1, .2, … .5 in ten steps), which costs nothing beside other metrics of the curves;
            ``comprehensiveness.ERASER`` are those of the paper, asked for on their own.
    """

    LIMITS = {**CurveMetric.LIMITS, "fractions": OrNone(Within(0.0, 1.0, low_open=True))}

    def __init__(
        self,
        model: Model,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = 1,
        baseline_fn: Baseline = "zeros",
        n_steps: int = 10,
        score: Score = "probability",
        seed: int = 0,
        fractions: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            model,
            explainer,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            channel_dim,
            baseline_fn,
            n_steps,
            score,
            seed,
        )
        self.fractions = fractions

    @property
    def measurement(self) -> PerturbationCurves:
        """The curves, at the fractions if they are given."""
        return super().measurement.set_kwargs(fractions=self.fractions)


class Comprehensiveness(_TopFractions):
    """Mean loss of score without the most relevant features (DeYoung et al., 2020, eq. 1): large if they were needed.

    ``mean over q of f(x) - f(x without the top fraction q of features)``. Tokens, pixels or columns alike.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> Comprehensiveness(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [3.0]
    """

    HIGHER_IS_BETTER = True

    def read(self, measured: Curves) -> Tensor:
        """The mean loss over the fractions removed."""
        f = measured.n_features
        places = top_places((measured.fractions.double() * f).round().long(), f, self.fractions)
        return (measured.morf[:, :1] - measured.morf[:, places]).mean(1)


class Sufficiency(_TopFractions):
    """Mean loss of score with the most relevant features alone (DeYoung et al., 2020, eq. 2): small if they suffice.

    ``mean over q of f(x) - f(the top fraction q of features, all others at the baseline)``. Below 0 where what was
    taken away spoke against the target.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> Sufficiency(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [1.0]
    """

    HIGHER_IS_BETTER = False

    def read(self, measured: Curves) -> Tensor:
        """The mean loss over the fractions kept."""
        f = measured.n_features
        kept = f - (measured.lerf_fractions.double() * f).round().long().flip(0)
        places = top_places(kept, f, self.fractions)
        return (measured.lerf[:, :1] - measured.lerf.flip(1)[:, places]).mean(1)
