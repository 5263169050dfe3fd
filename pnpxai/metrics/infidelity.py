"""How far a map is from saying what the score loses when features are removed."""

from __future__ import annotations

import torch
from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import Explainer
from pnpxai.limits import OneOf, OrNone, WholeWithin, Within
from pnpxai.metrics._measurement import MeasuringMetric
from pnpxai.metrics._subsets import Losses, SubsetRemovals
from pnpxai.outputs import Score


def squared_error(given: Tensor, lost: Tensor, *, normalize: bool) -> Tensor:
    """Mean over the rows of ``(β given - lost)²``: ``(n,)``, with β = 1, or the β that makes it least.

    Args:
        given: ``(n, m)``.
        lost: ``(n, m)``.
        normalize: scale each row by its ``β = Σ given · lost / Σ given²`` (1 for a row of zeros).

    Example:
        >>> given, lost = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]])
        >>> [squared_error(given, lost, normalize=each).item() for each in (False, True)]
        [2.5, 0.0]
    """
    if normalize:
        power = given.square().sum(1, keepdim=True)
        beta = (given * lost).sum(1, keepdim=True) / torch.where(power > 0, power, 1.0)
        given = torch.where(power > 0, beta, 1.0) * given
    return (given - lost).square().mean(1)


class Infidelity(MeasuringMetric):
    """Expected squared error of what the map says the score loses by a perturbation (Yeh et al., 2019, eq. 1).

    ``E over I of (Iᵀ Φ - (f(x) - f(x - I)))²``; less is more faithful. I moves a random subset S of the features to the
    baseline x₀, which is ``x - x₀`` on S and 0 elsewhere. The map's values are taken for contributions,
    ``a_i = Φ_i (x - x₀)_i``, as integrated gradients, Shapley values, LRP and gradient × input give them, so that
    ``Iᵀ Φ = Σ_{i in S} a_i``; a plain gradient has to be multiplied by ``x - x₀`` first. The subsets are those of
    `MuFidelity`, and with equal arguments the model is asked once for both.

    The error is in squared units of the score: a map on another scale, such as one rescaled to [0, 1], is as wrong as
    one that points elsewhere, unless ``normalize``.

    Args:
        model: the model that was explained.
        explainer: makes the attributions where `evaluate` is given none.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the inputs' channels, which are removed together; None for none.
        n_perturbations: subsets, each a forward; more make the mean less noisy.
        subset_share: share of the features in a subset.
        grid_size: subsets are drawn from this many cells along each axis of images and series; None for single
            positions. Inputs ``(n, d)`` have no cells.
        baseline_fn: what stands in for removed features.
        normalize: multiply each map by the factor that makes its error least, ``β = E[Iᵀ Φ Δf] / E[(Iᵀ Φ)²]``. The
            factor may be negative: a map and its opposite are then the same.
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the subsets.

    Example:
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> x = torch.ones(1, 4)
        >>> found = [Infidelity(model).evaluate(x, 0, scale * model.weight * x).item() for scale in (1, 2)]
        >>> found[0] < 1e-12 < found[1]
        True
    """

    HIGHER_IS_BETTER = False
    OUTPUTS_ONLY = True
    LIMITS = {
        "n_perturbations": WholeWithin(2),
        "subset_share": Within(0.0, 1.0, low_open=True, high_open=True),
        "grid_size": OrNone(WholeWithin(2)),
        "normalize": OneOf((False, True)),
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
        normalize: bool = False,
        score: Score = "probability",
        seed: int = 0,
    ) -> None:
        super().__init__(model, explainer, forward_arg_extractor, additional_forward_arg_extractor, channel_dim)
        self.n_perturbations = n_perturbations
        self.subset_share = subset_share
        self.grid_size = grid_size
        self.baseline_fn = baseline_fn
        self.normalize = normalize
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
        """The mean squared error over subsets."""
        return squared_error(measured.given, measured.lost, normalize=self.normalize).to(measured.dtype)
