"""RISE: a position matters if the score is higher where random masks keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model, check_model
from pnpxai.errors import ParameterError
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._by_feature import ByFeature, further_by_feature, searched_without
from pnpxai.explainers._maps import as_given, like_inputs
from pnpxai.explainers._mask_ridge import MaskMoments, no_masks, ridge
from pnpxai.explainers._mask_settling import Settling, settle
from pnpxai.explainers._mask_sums import MaskSums, as_maps, pass_masks
from pnpxai.explainers._masks import MASK_LIMITS, MASK_TUNABLES, MaskBank
from pnpxai.feature_masks import FeatureMask, FeatureMaskFunction
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.limits import OneOf, OrNone, Within
from pnpxai.outputs import select
from pnpxai.precision import Precision
from pnpxai.tunable import Space

Kept: TypeAlias = MaskSums | MaskMoments
K = TypeVar("K", bound=Kept)
ESTIMATORS = ("paper", "normalized", "centered", "ridge")


@dataclass(frozen=True, eq=False)
class RiseExplanation:
    """What `RISE.explain` returns; maps ``(n, 1, h, w)``, ``(n, 1, t)`` …, in the form of the inputs.

    The errors are those of independent masks, times what portions of the masks show of how these depend on one another
    and on what the regression leaves over; components that it does not use are left out. For small networks on digits
    88 to 95 % of the positions of a map of 10,000 masks lay within 1.96 standard errors.

    Attributes:
        relevance: the map.
        standard_error: how far the map of all masks there are may be from it, position by position; infinite where
            fewer than ten masks kept the position, or fewer than ten did not.
        relative_error: the root mean square of the standard error by the deviation of the map over its positions,
            ``(n,)``; with ``ε`` of it, the map's correlation with the map of all masks is about ``1/√(1 + ε²)``.
        n_masks: how many masks the map is made of, ``(n,)``.
    """

    relevance: Any
    standard_error: Any
    relative_error: Tensor
    n_masks: Tensor


class RISE(Explainer):
    """Randomised input sampling (Petsiuk, Das, Saenko, BMVC 2018, arXiv 1806.07421, section 3).

    The model's score ``f``, the target's probability, is asked under random masks ``M``; a position's relevance is
    its mean over the masks that keep the position. Four estimators of it, by growing accuracy at equal cost:

    * ``"paper"``: ``S = 1/(m·p_keep) Σ f(x ⊙ M) M``, as published; most of its variance comes from the mean score.
    * ``"normalized"``: ``S = Σ f(x ⊙ M) M / Σ M``, the same quantity with the variance of ``Σ M`` taken out.
    * ``"centered"``: ``S = 1/(m·p_keep) Σ (f(x ⊙ M) - mean f) M``, the paper's with the mean score as control variate.
      It estimates the paper's map minus the mean score: zero where nothing matters, negative against the target
      (and, its mean being taken from the same masks, smaller by a factor of ``1 - 1/m``).
    * ``"ridge"``: the centred map again, ``S = Cov(M) β / p_keep`` with the masks' exact covariance, known in closed
      form, and ``β`` from ridge regression of ``f`` on ``M``, its penalty by generalised cross-validation. Accidental
      correlations of the masks drop out. Biased towards zero by the penalty, and smoothed by leaving a thousandth of
      the masks' variance out (more for grids of more than 10 cells, of which the 512 largest components are kept).
      Of more than 512 features without a grid it is the centred one.

    Positions are steps of ``(n, c, t)``, pixels of ``(n, c, h, w)``, voxels of ``(n, c, d, h, w)`` (channels masked
    together) or features of ``(n, d)`` (one bit each, ``grid_size`` unused). Maps have one channel, or are ``(n, d)``.

    Args:
        model: see `Explainer`.
        forward_arg_extractor: see `Explainer`.
        additional_forward_arg_extractor: see `Explainer`.
        n_masks: masks a sample; the map's error falls with the square root.
        grid_size: cells along each axis before upsampling, or one number an axis; more cells, finer and noisier maps.
        p_keep: probability that a cell is kept.
        baseline_fn: what stands for absence: a name, number, tensor or function.
        batch_size: masked samples that go through the model at once; None for as many as fit.
        seed: names the masks, which all samples share; a larger ``n_masks`` adds to the same masks.
        estimator: one of the above.
        sampling: the points of a ``"sobol"`` sequence, ``"antithetic"`` pairs or ``"independent"`` masks; in each, the
            first masks are the same however many are drawn, and means over them have no bias.
        precision: what the masked inputs are asked in: ``"float32"`` for the model's own precision; ``"bfloat16"``,
            where that is float32, which takes half the time on processors that have it; ``"auto"`` for bfloat16 where
            the processor has it and the scores of 32 masks keep their order, decided for each sample.
        tol: the relative error (see `RiseExplanation`) at which a sample is asked no further, by the estimator
            ``"ridge"``: .25 for a correlation of about .97 with the map of all masks, .5 for .89. Looked at from 128
            masks on; two looks in a row have to agree. ``n_masks`` is then the most. None for all of them. For small
            networks on digits it stopped at .95 to 1.2 times the masks at which the true error was there.
        compile: ask what ``torch.compile`` makes of the model. That takes minutes at first, once in a process, and
            needs a C++ compiler on the CPU; then a mask took EfficientNet-Lite0 a quarter to a third less. The map
            is the same but for rounding.
        feature_mask_fn: in the place of a grid, what makes features of positions, which are kept or not as a whole: a
            name, an object, or a function from inputs to feature numbers ``(n, *positions)``, such as `Words`.

    Presets: 16 cells for smaller objects (Petsiuk et al., CVPR 2021, arXiv 2006.03204); 8 cells of which a tenth is
    kept, as in the authors' code for ImageNet.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 0.0, -4.0]]))
        >>> maps = RISE(model, n_masks=4000).attribute(torch.ones(1, 3), lambda outputs: outputs[:, 0])
        >>> [round(value) for value in maps[0].tolist()]  # (1 - p_keep)·weight·input
        [1, 0, -2]
    """

    SUPPORTED_MODULES = ANY_MODULE
    OUTPUTS_ONLY = True
    INPUT_NDIMS = (2, 3, 4, 5)
    TUNABLES = {**MASK_TUNABLES, "feature_mask_fn": FeatureMaskFunction}
    PRESETS = ({"grid_size": 16}, {"grid_size": 8, "p_keep": 0.1})
    BUDGET = ("n_masks",)
    NESTED = True
    LIMITS = {**MASK_LIMITS, "estimator": OneOf(ESTIMATORS), "tol": OrNone(Within(0.0, low_open=True))}

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
        estimator: str = "centered",
        sampling: str = "sobol",
        precision: Precision = "float32",
        tol: float | None = None,
        compile: bool = False,
        feature_mask_fn: FeatureMask = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_masks = n_masks
        self.grid_size = grid_size
        self.p_keep = p_keep
        self.baseline_fn = baseline_fn
        self.batch_size = batch_size
        self.seed = seed
        self.estimator = estimator
        self.sampling = sampling
        self.precision = precision
        self.tol = tol
        self.compile = compile
        self.feature_mask_fn = feature_mask_fn

    @property
    def searched(self) -> Mapping[str, Space]:
        """The size of a grid where there is one."""
        return searched_without(self, "grid_size")

    def chunk_size(self) -> int | None:
        """``batch_size``."""
        return self.batch_size

    def request(self, inputs: Any, targets: Targets = None) -> Request:
        """As of `Explainer`, to a compiled model if that is asked for."""
        request = super().request(inputs, targets)
        request.compile = self.compile
        return request

    def explain(self, inputs: Any, targets: Targets = None) -> RiseExplanation:
        """The map and its standard error, by the estimator ``"ridge"``.

        Args:
            inputs: as `attribute` takes them.
            targets: likewise.

        Raises:
            PnPXAIError: bad inputs, targets or model; another estimator, or too many features to regress on.
        """
        if self.feature_mask_fn is not None:
            raise ParameterError(
                "RISE without feature_mask_fn for a standard error", f"{self.feature_mask_fn!r}", "Use attribute."
            )
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = self.request(inputs, targets)
            found = self._settle(request, self.n_masks, None)
            return RiseExplanation(
                like_inputs(as_maps(found.relevance, request.input), inputs, request),
                as_given((as_maps(found.standard_error, request.input),), inputs, request),
                found.relative_error,
                found.n_masks,
            )

    def explain_further(
        self, request: Request, budget: int, state: Kept | Settling | ByFeature | None
    ) -> tuple[Tensor, Kept | Settling | ByFeature]:
        """One map a sample, from sums over the same masks."""
        if self.feature_mask_fn is not None:
            assert state is None or isinstance(state, ByFeature)
            return further_by_feature(self, request, budget, state)
        assert not isinstance(state, ByFeature)
        if self.tol is not None:
            assert not isinstance(state, MaskSums | MaskMoments)
            settled = self._settle(request, budget, state)
            return as_maps(settled.relevance, request.input), settled
        assert not isinstance(state, Settling)
        sums = self._more(request, state or self._none(request), budget)
        return as_maps(rise_map(sums, self.p_keep, self.estimator), request.input), sums

    def _settle(self, request: Request, n_masks: int, state: Settling | None) -> Settling:
        if state is None:
            none = self._none(request, recorded=True)
            if not isinstance(none, MaskMoments):
                raise ParameterError(
                    "estimator='ridge' for a standard error, and no more features than it can regress on",
                    f"{self.estimator!r} with inputs of shape {tuple(request.input.shape)}",
                    "Change the estimator, or use attribute without tol for the map alone.",
                )
            state = Settling.begin(none)
        return settle(lambda sums, n, among: self._more(request, sums, n, among), state, n_masks, self.tol)

    def _bank(self, request: Request) -> MaskBank:
        return MaskBank.for_inputs(request.input, self.grid_size, self.p_keep, self.seed, self.sampling)

    def _none(self, request: Request, *, recorded: bool = False) -> Kept:
        return no_masks(request.input, self._bank(request), ridge=self.estimator == "ridge", recorded=recorded)

    def _more(self, request: Request, sums: K, n_masks: int, among: Tensor | None = None) -> K:
        return pass_masks(
            request,
            lambda outputs, index: select(outputs, request.targets_for(index), "probability"),
            sums,
            self._bank(request),
            n_masks,
            self.baseline_fn,
            self.precision,
            among,
        )


def rise_map(sums: Kept, p_keep: float, estimator: str) -> Tensor:
    """The relevance ``(n, p)`` by one of the estimators of `RISE`; ``E[M] = p_keep`` at every position."""
    if isinstance(sums, MaskMoments):
        return sums.effects(ridge(sums))
    if estimator == "normalized":
        return sums.mean()
    weighted = sums.weighted[0]
    if estimator in ("centered", "ridge"):
        weighted = weighted - sums.scores[0, :, None] / sums.n_masks * sums.masks
    return weighted / (sums.n_masks * p_keep)
