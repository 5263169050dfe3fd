"""Faithfulness by removing random subsets of single features."""

from __future__ import annotations

from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import Explainer
from pnpxai.limits import OneOf, OrNone, WholeWithin
from pnpxai.metrics._measurement import MeasuringMetric
from pnpxai.metrics._subsets import Losses, SubsetRemovals
from pnpxai.outputs import Score


class FaithfulnessCorrelation(MeasuringMetric):
    """Pearson correlation of what the map gives to subsets with what the score loses (Bhatt et al., 2020).

    ``corr over S of (Σ_{i in S} a_i, f(x) - f(x with S at the baseline))`` for random subsets S of a fixed number of
    single features. `MuFidelity` is the same formula over cells of an image: use it where single pixels hardly
    change the score. The subsets depend on the seed and the shape of the inputs alone. Where the map or the loss is
    constant the result is 0.

    Args:
        model: the model that was explained.
        explainer: makes the attributions where `evaluate` is given none.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the inputs' channels, which are removed together; None for none.
        n_perturbations: subsets, each a forward; more make the correlation less noisy.
        subset_size: features in a subset, fewer than there are; None for the square root of their number, which is
            224 of 224 × 224 pixels.
        baseline_fn: what stands in for removed features.
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the subsets.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 1)
        >>> x = torch.ones(1, 4)
        >>> round(FaithfulnessCorrelation(model).evaluate(x, 0, model.weight * x).item(), 4)
        1.0
    """

    HIGHER_IS_BETTER = True
    OUTPUTS_ONLY = True
    LIMITS = {
        "n_perturbations": WholeWithin(2),
        "subset_size": OrNone(WholeWithin(1)),
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
        n_perturbations: int = 100,
        subset_size: int | None = None,
        baseline_fn: Baseline = "zeros",
        score: Score = "probability",
        seed: int = 0,
    ) -> None:
        super().__init__(model, explainer, forward_arg_extractor, additional_forward_arg_extractor, channel_dim)
        self.n_perturbations = n_perturbations
        self.subset_size = subset_size
        self.baseline_fn = baseline_fn
        self.score = score
        self.seed = seed

    @property
    def measurement(self) -> SubsetRemovals:
        """The losses by subsets, as the arguments determine them."""
        return SubsetRemovals(
            self.n_perturbations, self.subset_size, None, self.baseline_fn, self.score, self.seed, self.channel_dim
        )

    def read(self, measured: Losses) -> Tensor:
        """The correlation over subsets."""
        return measured.correlation(ranked=False)
