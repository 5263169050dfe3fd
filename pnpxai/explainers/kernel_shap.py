"""KernelSHAP: Shapley values by a regression on coalitions of features."""

from __future__ import annotations

from optuna.distributions import IntDistribution
from torch import Tensor

from pnpxai.baselines import Baseline, BaselineFunction
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._coalitions import MOST, ShapleyPairs, shapley_pairs
from pnpxai.explainers._linear_fits import ridge
from pnpxai.explainers._surrogate import SCORES, CoalitionScores
from pnpxai.feature_masks import FeatureMask, FeatureMaskFunction
from pnpxai.forward import Request
from pnpxai.limits import OneOf, WholeWithin
from pnpxai.outputs import Score


class KernelShap(Explainer):
    """Shapley values by regression (Lundberg & Lee, 2017, arXiv 1705.07874, theorem 2).

    With ``v(z)`` the score where only the features in ``z`` are present and the others are as in the baseline,
    ``φ = argmin Σ_z w(z) (v(z) - v(∅) - z·φ)²`` under ``Σ φ = v(all) - v(∅)``, with the Shapley kernel
    ``w(z) = (d - 1) / (binom(d, |z|) |z| (d - |z|))``. The sum holds exactly, whatever the number of samples.

    Coalitions are drawn from the kernel, each with its complement (Covert & Lee, 2021, arXiv 2012.01536, sections 3
    and 4.2), and none twice (see `shapley_pairs`). Pairs leave no error at all where no more than two features act
    together, once they are ``d - 1`` independent ones; and there is none in any model once they are all ``2^d - 2``
    coalitions. With fewer pairs than ``d - 1`` the values are the most equal ones that fit.

    Maps: ``(n, d)``, ``(n, 1, t)``, ``(n, 1, h, w)`` or ``(n, 1, d, h, w)``, signed, or of the inputs' shape if
    channels have features of their own. A position has the value of its whole feature, so that it is features, not
    positions, whose values add up. A chunk of changed inputs is in memory at once; beside it a byte for each feature
    and eight for each sample stay of a coalition.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        n_samples: coalitions a sample, beside that of all features and that of none; an odd one is not used. More is
            more accurate, the error falls with the square root. For a small network on digits and 49 cells the median
            correlation with the map of 60,000 was .95 at 128, .996 at 512 and .999 at 2,048; of the map of its
            probability .55, .91 and .98.
        feature_mask_fn: what makes features of positions: a name, an object, or a function from inputs to feature
            numbers ``(n, *positions)``, or of the inputs' shape. ``"grid"``, or None, makes 7 cells along each axis,
            and leaves each feature of ``(n, d)`` alone. More and smaller features show more detail, and need more
            samples.
        baseline_fn: what stands for absence: a name, number, tensor or function. Rows of data, `Marginal` for the
            interventional Shapley values or `Conditional` for the observational ones, are asked about one by one for
            each coalition, and their scores averaged.
        score: ``"logit"`` for the output itself, ``"probability"`` for its softmax.
        seed: names the coalitions, which samples with as many features share; a larger ``n_samples`` adds to them.

    Presets: about 50 superpixels by SLIC, as in the authors' example for ImageNet.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 1.0, -4.0]]))
        >>> [round(value, 4) for value in KernelShap(model).attribute(torch.ones(1, 3))[0].tolist()]  # weight·input
        [2.0, 1.0, -4.0]
    """

    SUPPORTED_MODULES = ANY_MODULE
    OUTPUTS_ONLY = True
    INPUT_NDIMS = (2, 3, 4, 5)
    TUNABLES = {
        "n_samples": IntDistribution(64, 8192, log=True),
        "feature_mask_fn": FeatureMaskFunction,
        "baseline_fn": BaselineFunction,
    }
    PRESETS = ({"feature_mask_fn": "slic", "feature_mask_fn.n_segments": 50},)
    BUDGET = ("n_samples",)
    NESTED = True
    LIMITS = {"n_samples": WholeWithin(2, MOST), "score": OneOf(SCORES), "seed": WholeWithin(0)}

    def __init__(
        self,
        model: Model,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_samples: int = 512,
        feature_mask_fn: FeatureMask = "grid",
        baseline_fn: Baseline = "zeros",
        score: Score = "logit",
        seed: int = 0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_samples = n_samples
        self.feature_mask_fn = feature_mask_fn
        self.baseline_fn = baseline_fn
        self.score = score
        self.seed = seed

    def explain_further(
        self, request: Request, budget: int, state: CoalitionScores | None
    ) -> tuple[Tensor, CoalitionScores]:
        """Values from scores under the same coalitions, and more of them."""
        if state is None:
            state = CoalitionScores.none(request, self.feature_mask_fn, self.baseline_fn, self.score)
        pairs = {d: shapley_pairs(d, budget // 2, self.seed) for d in state.known}
        found = state.under({d: each.coalitions for d, each in pairs.items()})
        return found.maps({d: shapley_values(pairs[d], each) for d, each in found.known.items()}), found


def shapley_values(pairs: ShapleyPairs, scores: Tensor) -> Tensor:
    """The regression's ``φ``, ``(n, d)``, from scores ``(n, 2 + 2m)`` under `ShapleyPairs.coalitions`.

    With ``φ = Δ/d + γ``, ``Δ = v(all) - v(∅)`` and ``Σ γ = 0``, the errors at a coalition and at its complement differ
    by ``v(z) - v(z̄) - (2|z| - d) Δ/d - 2 (z - |z|/d)·γ``, and their sum does not depend on ``γ``: one row a pair.

    Example:
        >>> import torch
        >>> pairs = shapley_pairs(2, 1, seed=0)  # {0} and {1}
        >>> shapley_values(pairs, torch.tensor([[10.0, 0.0, 2.0, 4.0]]).double()).tolist()
        [[4.0, 6.0]]
    """
    shares = pairs.chosen.double()
    d = shares.shape[1]
    sizes = shares.sum(1)
    whole = scores[:, :1] - scores[:, 1:2]  # (n, 1)
    differences = (scores[:, 2::2] - scores[:, 3::2]) / 2 - (sizes / d - 0.5) * whole
    uneven = ridge(shares - sizes[:, None] / d, differences, pairs.weights)
    return uneven - uneven.mean(1, keepdim=True) + whole / d
