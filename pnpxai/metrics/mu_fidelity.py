"""Faithfulness by removing random subsets of features, the same for every map."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import Explainer
from pnpxai.limits import OneOf, OrNone, WholeWithin, Within
from pnpxai.metrics._measurement import MeasuringMetric
from pnpxai.metrics._subsets import Losses, SubsetRemovals
from pnpxai.outputs import Score


class MuFidelity(MeasuringMetric):
    """Correlation of what the map gives to a subset with what the score loses by it (Bhatt et al., 2020).

    ``corr over S of (Σ_{i in S} a_i, f(x) - f(x with S at the baseline))`` for random subsets S of one size. The
    subsets depend on the seed and the shape of the inputs alone: the same for every map and every sample. Where the
    map or the score's loss is constant, nothing can be correlated and the result is 0.

    Args:
        model: the model that was explained.
        explainer: makes the attributions where `evaluate` is given none.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the inputs' channels, which are removed together; None for none.
        n_perturbations: subsets, each a forward; more make the correlation less noisy.
        subset_share: share of the features in a subset.
        grid_size: subsets are drawn from this many cells along each axis of images and series, since removing single
            pixels hardly changes a score; None for single positions. Inputs ``(n, d)`` have no cells.
        baseline_fn: what stands in for removed features.
        correlation: ``"pearson"`` or ``"spearman"`` (of ranks: any monotone relation counts in full).
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the subsets.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 1)
        >>> x = torch.ones(1, 4)
        >>> round(MuFidelity(model).evaluate(x, 0, model.weight * x).item(), 4)
        1.0
    """

    HIGHER_IS_BETTER = True
    OUTPUTS_ONLY = True
    LIMITS = {
        "n_perturbations": WholeWithin(2),
        "subset_share": Within(0.0, 1.0, low_open=True, high_open=True),
        "grid_size": OrNone(WholeWithin(2)),
        "correlation": OneOf(("pearson", "spearman")),
        "score": OneOf(("probability", "logit")),
        "seed": WholeWithin(0),
    }

    def __init__(
        self,
        model: Model,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = 1,
        n_perturbations: int = 200,
        subset_share: float = 0.2,
        grid_size: int | None = 9,
        baseline_fn: Baseline = "zeros",
        correlation: Literal["pearson", "spearman"] = "pearson",
        score: Score = "probability",
        seed: int = 0,
    ) -> None:
        super().__init__(model, explainer, forward_arg_extractor, additional_forward_arg_extractor, channel_dim)
        self.n_perturbations = n_perturbations
        self.subset_share = subset_share
        self.grid_size = grid_size
        self.baseline_fn = baseline_fn
        self.correlation = correlation
        self.score = score
        self.seed = seed

    @property
    def measurement(self) -> SubsetRemovals:
        """The losses by subsets, as the arguments determine them."""
        return SubsetRemovals(
            self.n_perturbations,
            float(self.subset_share),
            self.grid_size,
            self.baseline_fn,
            self.score,
            self.seed,
            self.channel_dim,
        )

    def read(self, measured: Losses) -> Tensor:
        """The correlation over subsets."""
        return measured.correlation(ranked=self.correlation == "spearman")
