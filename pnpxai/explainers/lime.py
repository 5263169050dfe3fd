"""LIME: a sparse or shrunk linear model of the score, near the input."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.baselines import Baseline, BaselineFunction
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import ParameterError
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._coalitions import MOST, random_coalitions
from pnpxai.explainers._linear_fits import lasso, ridge
from pnpxai.explainers._surrogate import SCORES, CoalitionScores
from pnpxai.feature_masks import FeatureMask, FeatureMaskFunction
from pnpxai.forward import Request
from pnpxai.limits import OneOf, WholeWithin, Within
from pnpxai.outputs import Score
from pnpxai.tunable import choices

SIMILARITIES = ("cosine", "euclidean")
REGRESSIONS = ("ridge", "lasso")
LEAST_WEIGHT = 1e-6
"""What the samples beside the input have to weigh together, where it weighs 1."""


class Lime(Explainer):
    """Local surrogate (Ribeiro, Singh, Guestrin, KDD 2016, arXiv 1602.04938, equation 1 and section 3.4).

    The score is asked where random halves of the features ``z ∈ {0, 1}^d`` are present and the others as in the
    baseline, ``z = 1`` first. A line is fitted to it, with weights that favour samples near the input:
    ``min Σ_z π̂(z) (f(z) - b - β·z)²`` plus a penalty, ``π(z) = exp(-D(z)²/σ²)``, ``π̂ = π / Σ π``, and, with
    ``s = |z|/d`` the share of features that are present,

    * ``"cosine"``: ``D = 1 - √s``, the cosine distance of ``z`` to ``1``;
    * ``"euclidean"``: ``D = √(1 - s)``, the Euclidean distance by its largest value.

    The map is ``β``, the penalty on it

    * ``"ridge"``: ``λ ‖β‖²``;
    * ``"lasso"``: ``2 λ α ‖β‖₁``, with ``α`` such that ``β`` is zero from ``λ = 1`` on: few features differ from 0.

    Maps: ``(n, d)``, ``(n, 1, t)``, ``(n, 1, h, w)`` or ``(n, 1, d, h, w)``, signed; a position has the coefficient of
    its whole feature. A chunk of changed inputs is in memory at once; beside it a byte for each feature and eight for
    each sample stay of each ``z``.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        n_samples: how many ``z``; all ``2^d`` of them where those are not more. More is more accurate, the error falls
            with the square root; with fewer than features, the penalty decides much. For a small network on digits and
            49 cells the median correlation with the map of 60,000 was .74 at 128, .92 at 512 and .96 at 1,000.
        feature_mask_fn: what makes features of positions: a name, an object, or a function from inputs to feature
            numbers ``(n, *positions)``. ``"grid"``, or None, makes 7 cells along each axis, and leaves each feature of
            ``(n, d)`` alone. More and smaller features show more detail, and need more samples.
        baseline_fn: what stands for absence: a name, number, tensor or function, or rows of data (see `KernelShap`).
        score: ``"probability"`` for the softmax of the outputs, ``"logit"`` for the output itself.
        kernel_width: ``σ``; smaller looks at samples with more of the features, and is noisier.
        similarity: which distance.
        regression: which penalty.
        regularization: ``λ``; larger shrinks more, by a factor of about ``1 + 4 λ`` (ridge), or leaves out more
            features (lasso). 0 for least squares.
        seed: names the ``z``, which samples with as many features share; a larger ``n_samples`` adds to them.

    Presets: the authors' code for images, which takes the root of ``π`` and makes features by quickshift.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 1.0, -4.0]]))
        >>> maps = Lime(model, regularization=0.0).attribute(torch.ones(1, 3))
        >>> [round(value, 4) for value in maps[0].tolist()]  # weight·input
        [2.0, 1.0, -4.0]
    """

    SUPPORTED_MODULES = ANY_MODULE
    OUTPUTS_ONLY = True
    INPUT_NDIMS = (2, 3, 4, 5)
    TUNABLES = {
        "n_samples": IntDistribution(64, 8192, log=True),
        "feature_mask_fn": FeatureMaskFunction,
        "baseline_fn": BaselineFunction,
        "kernel_width": FloatDistribution(0.15, 2.0, log=True),
        "similarity": choices(*SIMILARITIES),
        "regression": choices(*REGRESSIONS),
        "regularization": FloatDistribution(1e-3, 0.5, log=True),
    }
    PRESETS = ({"feature_mask_fn": "quickshift", "kernel_width": 0.35},)
    BUDGET = ("n_samples",)
    NESTED = True
    LIMITS = {
        "n_samples": WholeWithin(2, MOST),
        "score": OneOf(SCORES),
        "kernel_width": Within(0.0, low_open=True),
        "similarity": OneOf(SIMILARITIES),
        "regression": OneOf(REGRESSIONS),
        "regularization": Within(0.0, 1.0, high_open=True),
        "seed": WholeWithin(0),
    }

    def __init__(
        self,
        model: Model,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_samples: int = 1000,
        feature_mask_fn: FeatureMask = "grid",
        baseline_fn: Baseline = "zeros",
        score: Score = "probability",
        kernel_width: float = 0.25,
        similarity: str = "cosine",
        regression: str = "ridge",
        regularization: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_samples = n_samples
        self.feature_mask_fn = feature_mask_fn
        self.baseline_fn = baseline_fn
        self.score = score
        self.kernel_width = kernel_width
        self.similarity = similarity
        self.regression = regression
        self.regularization = regularization
        self.seed = seed

    def work(self) -> Hashable:
        """Scores under these ``z``, whatever is fitted to them."""
        return Lime(
            self.model,
            feature_mask_fn=self.feature_mask_fn,
            baseline_fn=self.baseline_fn,
            score=self.score,
            seed=self.seed,
        )

    def explain_further(
        self, request: Request, budget: int, state: CoalitionScores | None
    ) -> tuple[Tensor, CoalitionScores]:
        """Coefficients from scores under the same ``z``, and more of them."""
        if state is None:
            state = CoalitionScores.none(request, self.feature_mask_fn, self.baseline_fn, self.score)
        coalitions = {d: random_coalitions(d, budget, self.seed) for d in state.known}
        found = state.under(coalitions)
        return found.maps({d: self._fit(coalitions[d], each) for d, each in found.known.items()}), found

    def _fit(self, coalitions: Tensor, scores: Tensor) -> Tensor:
        weights = similarities(coalitions, self.similarity, self.kernel_width)
        return surrogate_coefficients(coalitions, scores, weights, self.regression, self.regularization)


def similarities(coalitions: Tensor, similarity: str, kernel_width: float) -> Tensor:
    """``π(z)`` of coalitions ``(m, d)`` as of `Lime`, ``(m,)``, float64.

    Raises:
        ParameterError: a kernel so narrow that hardly any weight is left beside that of the input itself.
    """
    d = coalitions.shape[1]
    share = coalitions.sum(1).double() / d
    distances = 1 - share.sqrt() if similarity == "cosine" else (1 - share).sqrt()
    weights = torch.exp(-(distances**2) / kernel_width**2)
    if d > 1 and weights.sum() < 1 + LEAST_WEIGHT:
        raise ParameterError(
            f"a kernel_width that gives samples beside the input a weight, for {similarity} distances of {d} features",
            f"{kernel_width}",
            "Take a larger one.",
        )
    return weights


def surrogate_coefficients(
    coalitions: Tensor, scores: Tensor, weights: Tensor, regression: str, regularization: float
) -> Tensor:
    """``β`` as of `Lime`, ``(n, d)``; the intercept is not penalised.

    Args:
        coalitions: ``z``, ``(m, d)``.
        scores: ``f(z)``, ``(n, m)``, float64.
        weights: ``π(z)``, ``(m,)``.
        regression: which penalty.
        regularization: ``λ``.
    """
    shares = weights / weights.sum()
    design = coalitions.double()
    design = design - shares @ design
    responses = scores - (scores @ shares)[:, None]
    if regression == "lasso" and regularization:
        return lasso(design, responses, shares, regularization)
    return ridge(design, responses, shares, regularization)
