"""RELAX: what a representation is made of, and how certain that is, without a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model, check_model
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._maps import like_inputs
from pnpxai.explainers._mask_ridge import MaskMoments, no_masks
from pnpxai.explainers._mask_sums import MaskSums, as_maps, pass_masks
from pnpxai.explainers._masks import MASK_LIMITS, MASK_TUNABLES, MaskBank
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.limits import OneOf
from pnpxai.precision import Precision
from pnpxai.targets import Similarity, SimilarityToItself
from pnpxai.targets.similarity import SimilarityFunction


@dataclass(frozen=True)
class RelaxExplanation:
    """What `RELAX.explain` returns; all maps of one channel, ``(n, 1, h, w)``, ``(n, 1, t)`` …, or ``(n, d)``.

    Attributes:
        importance: ``R``, the mean similarity where a position is kept.
        uncertainty: ``U``, the variance of that similarity; larger is less certain.
        filtered: U-RELAX, the importance where the uncertainty is at most its median, elsewhere zero.
    """

    importance: Tensor
    uncertainty: Tensor
    filtered: Tensor


class RELAX(Explainer):
    """Representation learning explainability (Wickstrøm et al., IJCV 2023, arXiv 2112.10161, section 3).

    With ``h = f(x)`` the model's output, ``s_i = similarity(f(x ⊙ M_i), h)`` under the random masks of `RISE`:
    importance ``R = Σ s_i M_i / Σ M_i``, uncertainty ``U = Σ (s_i - R)² M_i / Σ M_i``, U-RELAX ``R·1[U ≤ median U]``.
    Where no mask kept a position, all masks count alike.

    With a `Similarity` as targets ``s_i`` is that one: to another item (why the two are found together), or to a
    cluster's mean. Otherwise it explains the whole output, and targets are checked but play no part. Outputs with more
    than two dimensions are flattened. By Hoeffding's inequality ``n_masks ≥ ln(2/δ)/(2t²)`` keeps ``R`` within ``t``
    with probability ``1 - δ`` (2,944 for ``δ = .01``, ``t = .03``).

    Args:
        model: an encoder, or any model whose output represents its input.
        forward_arg_extractor: see `Explainer`.
        additional_forward_arg_extractor: see `Explainer`.
        n_masks: masks a sample.
        grid_size: cells along each axis before upsampling, or one number an axis.
        p_keep: probability that a cell is kept.
        baseline_fn: what stands for absence.
        batch_size: masked samples that go through the model at once; None for as many as fit.
        seed: names the masks, which all samples share.
        similarity: ``"cosine"``, or a function of outputs ``(m, e)`` under masks and the outputs ``(m, e)`` without
            them, to ``(m,)``. Targets that are a `Similarity` have their own.
        estimator: ``"normalized"``, the sums above, or ``"ridge"``, both means by ridge regression on the masks (see
            `RISE`), which takes fewer masks; of more than 512 features without a grid it is the normalized one.
        sampling: as of `RISE`.
        precision: likewise.
        compile: likewise.

    Presets: 16 cells for smaller objects, as of `RISE`.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> explanation = RELAX(model, n_masks=4000).explain(torch.tensor([[2.0, 0.0]]))
        >>> [round(value, 1) for value in explanation.importance[0].tolist()]  # cosine 1 with the first, 0 without
        [1.0, 0.5]
    """

    SUPPORTED_MODULES = ANY_MODULE
    OUTPUTS_ONLY = True
    OF_TARGETS = False
    INPUT_NDIMS = (2, 3, 4, 5)
    TUNABLES = MASK_TUNABLES
    PRESETS = ({"grid_size": 16},)
    BUDGET = ("n_masks",)
    NESTED = True
    LIMITS = {**MASK_LIMITS, "estimator": OneOf(("normalized", "ridge"))}

    def __init__(
        self,
        model: Model,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_masks: int = 512,
        grid_size: int | Sequence[int] = 7,
        p_keep: float = 0.5,
        baseline_fn: Baseline = "zeros",
        batch_size: int | None = None,
        seed: int = 0,
        similarity: str | SimilarityFunction = "cosine",
        estimator: str = "normalized",
        sampling: str = "sobol",
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_masks = n_masks
        self.grid_size = grid_size
        self.p_keep = p_keep
        self.baseline_fn = baseline_fn
        self.batch_size = batch_size
        self.seed = seed
        self.similarity = similarity
        self.estimator = estimator
        self.sampling = sampling
        self.precision = precision
        self.compile = compile

    def chunk_size(self) -> int | None:
        """``batch_size``."""
        return self.batch_size

    def request(self, inputs: Any, targets: Targets = None) -> Request:
        """As of `Explainer`, to a compiled model if that is asked for."""
        request = super().request(inputs, targets)
        request.compile = self.compile
        return request

    def explain(self, inputs: Any, targets: Targets = None) -> RelaxExplanation:
        """Importance, uncertainty and the uncertainty-filtered importance of a batch, from one pass.

        Args:
            inputs: as `attribute` takes them.
            targets: likewise.

        Raises:
            PnPXAIError: bad inputs or model; an unknown similarity.
        """
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = self.request(inputs, targets)
            importance, uncertainty = relax_maps(*self._sums(request, self.n_masks, powers=2))
            maps = importance, uncertainty, filter_uncertain(importance, uncertainty)
            return RelaxExplanation(*(like_inputs(as_maps(each, request.input), inputs, request) for each in maps))

    def explain_further(
        self, request: Request, budget: int, state: MaskSums | MaskMoments | None
    ) -> tuple[Tensor, MaskSums | MaskMoments]:
        """The importance."""
        sums, unmasked = self._sums(request, budget, powers=1, known=state)
        return as_maps(sums.mean() + unmasked, request.input), sums

    def _sums(
        self, request: Request, n_masks: int, powers: int, known: MaskSums | MaskMoments | None = None
    ) -> tuple[MaskSums | MaskMoments, Tensor]:
        """Sums of ``s_i - s(h, h)``, small where masks change little, so that no digits cancel; and ``s(h, h)``."""
        target = self._similarity(request)
        unmasked = target(request.outputs)
        bank = MaskBank.for_inputs(request.input, self.grid_size, self.p_keep, self.seed, self.sampling)
        sums = pass_masks(
            request,
            lambda outputs, index: target.for_samples(index)(outputs) - unmasked[index],
            known or no_masks(request.input, bank, ridge=self.estimator == "ridge", powers=powers),
            bank,
            n_masks,
            self.baseline_fn,
            self.precision,
        )
        return sums, unmasked[:, None].to(sums.scores)

    def _similarity(self, request: Request) -> Similarity:
        """What masked inputs are scored by: the targets, if they are one, else similarity to the inputs themselves."""
        if isinstance(request.requested, Similarity):
            return cast(Similarity, request.targets)
        return SimilarityToItself(similarity=self.similarity).fixed(request.outputs)


def relax_maps(sums: MaskSums | MaskMoments, unmasked: Tensor) -> tuple[Tensor, Tensor]:
    """Importance and uncertainty ``(n, p)``: the mean and the variance of the similarity, weighted by the masks.

    Args:
        sums: of the first two powers of the similarity under each mask, minus ``unmasked``.
        unmasked: the similarity without a mask, ``(n, 1)``.
    """
    change = sums.mean()
    return change + unmasked, (sums.mean(2) - change**2).clamp(min=0)


def filter_uncertain(importance: Tensor, uncertainty: Tensor) -> Tensor:
    """U-RELAX ``(n, p)``: the importance where the uncertainty is at most the sample's median, elsewhere zero."""
    return torch.where(uncertainty <= uncertainty.median(1, keepdim=True).values, importance, 0.0)
