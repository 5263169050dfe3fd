"""Sobol attribution: a cell matters by the variance of the score that random masks owe to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from optuna.distributions import IntDistribution
from torch import Tensor

from pnpxai.baselines import Baseline, BaselineFunction, baseline_for
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import ParameterError
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._by_feature import ByFeature, further_by_feature, searched_without
from pnpxai.explainers._mask_sums import as_maps
from pnpxai.explainers._masked_scores import exact_device, finite, masked
from pnpxai.explainers._masks import BLOCK, mask_grid, most_sobol_dimensions, sobol_block
from pnpxai.feature_masks import FeatureMask, FeatureMaskFunction
from pnpxai.forward import Request
from pnpxai.limits import OneOf, OrNone, WholeWithin
from pnpxai.outputs import Score, select
from pnpxai.scratch import Scratch
from pnpxai.tunable import Space, choices

AT_ONCE = 4096
"""Scores of a sample that are kept until they are added up."""
ROUNDING = 16
"""A score whose deviation is less than so many units in the last place does not vary."""


class SobolAttribution(Explainer):
    """Total Sobol indices of the cells of random masks (Fel et al., NeurIPS 2021, arXiv 2111.04138).

    The cells of a grid take independent values ``M``, uniform in [0, 1], under which the score is ``f(x ⊙ M + (1 − M) ⊙
    baseline)``. A cell's total index ``S_T = E[Var(f | all other cells)] / Var(f)`` is the share of the score's
    variance that is left when all cells but this one are known: its own effect, and its part in every interaction.
    Jansen's formula (1999) estimates it by ``S_T = Σ_j (f(A_j) − f(C_j))² / (2·N·V)``: ``A`` and ``B`` are the two
    halves of the ``N`` points of a scrambled Sobol sequence, ``C`` is ``A`` with this cell's column from ``B``, and
    ``V`` the variance of the answers to ``A`` and ``B``.

    A share, so without units and never negative: it does not tell for from against. The indices sum to 1 for a score
    that is a sum over cells, to more where cells interact. Where the score does not vary, zeros.

    With ``d`` cells (``grid_size²`` of an image) it costs ``n_designs·(d + 2)`` forwards a sample: 2,112 by default.
    Positions are pixels of ``(n, c, h, w)``, steps of ``(n, c, t)``, voxels of ``(n, c, d, h, w)`` (channels are masked
    together) or features of ``(n, d)``, each of them a cell. Maps have one channel, or are ``(n, d)``.

    Args:
        model: see `Explainer`.
        forward_arg_extractor: see `Explainer`.
        additional_forward_arg_extractor: see `Explainer`.
        n_designs: points ``N``; the error of an index falls with the square root or faster, best at powers of two. A
            larger number adds to the same points.
        grid_size: cells along each axis, or one number an axis, no more than positions; more is finer, and dearer with
            the number of cells.
        baseline_fn: what stands for absence: a name, number, tensor or function.
        upsampling: from cells to positions, of masks and of maps: ``"nearest"``, where a position is its cell's; or
            ``"linear"``, for masks without edges, in which neighbouring cells blend.
        score: ``"probability"`` or ``"logit"``. Functions as targets see the output itself.
        batch_size: masked samples that go through the model at once; None for as many as fit.
        seed: names the points, which all samples share.
        feature_mask_fn: in the place of a grid, what makes cells of positions: a name, an object, or a function from
            inputs to feature numbers ``(n, *positions)``, such as `Words`.

    Presets: 11 cells, the paper's.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 0.0, -4.0]]))
        >>> maps = SobolAttribution(model, n_designs=256).attribute(torch.ones(1, 3))
        >>> [round(each, 2) for each in maps[0].tolist()]  # squares of weight·input, as shares
        [0.2, 0.0, 0.8]
    """

    SUPPORTED_MODULES = ANY_MODULE
    OUTPUTS_ONLY = True
    INPUT_NDIMS = (2, 3, 4, 5)
    TUNABLES = {
        "n_designs": IntDistribution(8, 256, log=True),
        "grid_size": IntDistribution(3, 12),
        "baseline_fn": BaselineFunction,
        "upsampling": choices("nearest", "linear"),
        "score": choices("probability", "logit"),
        "feature_mask_fn": FeatureMaskFunction,
    }
    PRESETS = ({"grid_size": 11},)
    BUDGET = ("n_designs",)
    NESTED = True
    LIMITS = {
        "n_designs": WholeWithin(2),
        "grid_size": WholeWithin(1),
        "upsampling": OneOf(("nearest", "linear")),
        "score": OneOf(("probability", "logit")),
        "batch_size": OrNone(WholeWithin(1)),
        "seed": WholeWithin(0),
    }

    def __init__(
        self,
        model: Model,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_designs: int = 32,
        grid_size: int | Sequence[int] = 8,
        baseline_fn: Baseline = "zeros",
        upsampling: str = "nearest",
        score: Score = "probability",
        batch_size: int | None = None,
        seed: int = 0,
        feature_mask_fn: FeatureMask = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_designs = n_designs
        self.grid_size = grid_size
        self.baseline_fn = baseline_fn
        self.upsampling = upsampling
        self.score = score
        self.batch_size = batch_size
        self.seed = seed
        self.feature_mask_fn = feature_mask_fn

    @property
    def searched(self) -> Mapping[str, Space]:
        """Size and upsampling of a grid where there is one."""
        return searched_without(self, "grid_size", "upsampling")

    def chunk_size(self) -> int | None:
        """``batch_size``."""
        return self.batch_size

    def explain_further(
        self, request: Request, budget: int, state: JansenSums | ByFeature | None
    ) -> tuple[Tensor, JansenSums | ByFeature]:
        """One map a sample, from sums over the first points of the sequence."""
        if self.feature_mask_fn is not None:
            assert state is None or isinstance(state, ByFeature)
            return further_by_feature(self, request, budget, state)
        assert not isinstance(state, ByFeature)
        x = request.input
        designs = Designs.for_inputs(x, self.grid_size, self.upsampling, self.seed)
        baseline = baseline_for(self.baseline_fn, x, lookup=request.lookup())
        sums, several = state, max(1, AT_ONCE // (designs.d + 2))
        for start in range(sums.n_designs if sums else 0, budget, several):
            scores = _scores(request, designs, baseline, start, min(start + several, budget), self.score)
            sums = (sums or JansenSums.none(scores)).added(scores)
        assert sums is not None
        indices = sums.total_indices(torch.finfo(x.dtype).eps)
        return as_maps(designs.upsample(indices.reshape(-1, *designs.cells)).flatten(1), x), sums


@dataclass(frozen=True, eq=False)
class Designs:
    """Points in the unit cube of the cells: ``A_j``, ``B_j``, and ``A_j`` with one coordinate from ``B_j``.

    Attributes:
        size: the lengths of the axes.
        cells: along each of them.
        upsampling: ``"nearest"`` or ``"linear"``.
        seed: names the sequence.
    """

    size: tuple[int, ...]
    cells: tuple[int, ...]
    upsampling: str
    seed: int

    @classmethod
    def for_inputs(cls, inputs: Tensor, grid_size: int | Sequence[int], upsampling: str, seed: int) -> Designs:
        """The designs for inputs ``(n, …)``; each feature of ``(n, d)`` is a cell.

        Raises:
            ParameterError: more cells than the Sobol sequence has dimensions for, or see `mask_grid`.
        """
        grid = mask_grid(inputs, grid_size)
        size = tuple(inputs.shape[1:] if grid is None else inputs.shape[2:])
        cells = size if grid is None else tuple(map(min, grid, size))
        most = most_sobol_dimensions() // 2
        if math.prod(cells) > most:
            raise ParameterError(
                f"at most {most} cells (or features) for SobolAttribution",
                f"{math.prod(cells)} of inputs of shape {tuple(inputs.shape)}",
                "Take a smaller grid_size, or RISE.",
            )
        return cls(size, cells, upsampling, seed)

    @property
    def d(self) -> int:
        """How many cells there are."""
        return math.prod(self.cells)

    def draw(self, start: int, stop: int) -> Tensor:
        """Points number ``start`` to ``stop``, ``A`` and beside it ``B``: ``(m, 2, d)``, float64."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        points = torch.cat([sobol_block(self.seed, each, 2 * self.d) for each in range(first, last)])
        return points[start - first * BLOCK : stop - first * BLOCK].reshape(-1, 2, self.d)

    def masks(self, points: Tensor, numbers: Tensor) -> Tensor:
        """The masks ``(m, *size)`` of some questions; number ``j·(d + 2) + k`` asks ``A_j``, ``B_j``, ``C_j`` by cell.

        Args:
            points: as `draw` has them, from the first design on.
            numbers: ``(m,)``.
        """
        design, which = numbers // (self.d + 2), numbers % (self.d + 2)
        chosen = points[design, (which == 1).long()]
        (mixed,) = (which >= 2).nonzero(as_tuple=True)
        column = which[mixed] - 2
        chosen[mixed, column] = points[design[mixed], 1, column]
        return self.upsample(chosen.reshape(-1, *self.cells))

    def upsample(self, grids: Tensor) -> Tensor:
        """Values of cells ``(m, *cells)`` at positions, ``(m, *size)``."""
        for axis, (length, cells) in enumerate(zip(self.size, self.cells, strict=True), start=1):
            eye = torch.eye(cells, dtype=grids.dtype, device=grids.device)[:, None]
            along = {"align_corners": False} if self.upsampling == "linear" else {}
            spread = F.interpolate(eye, length, mode=self.upsampling, **along)[:, 0]
            grids = torch.tensordot(grids, spread, ([axis], [0])).movedim(-1, axis)
        return grids


@dataclass(frozen=True, eq=False)
class JansenSums:
    """Sums over designs, of each sample's scores less its first one, in float64.

    Attributes:
        n_designs: how many there were.
        origin: each sample's first score, ``(n,)``.
        first: ``Σ f(A) + f(B)``, ``(n,)``.
        second: ``Σ f(A)² + f(B)²``, ``(n,)``.
        differences: ``Σ (f(A) − f(C))²`` for each cell, ``(n, d)``.
    """

    n_designs: int
    origin: Tensor
    first: Tensor
    second: Tensor
    differences: Tensor

    @classmethod
    def none(cls, scores: Tensor) -> JansenSums:
        """Of no design yet; see `added`."""
        zeros = torch.zeros_like(scores[:, 0, 0])
        return cls(0, scores[:, 0, 0], zeros, zeros, torch.zeros_like(scores[:, 0, 2:]))

    def added(self, scores: Tensor) -> JansenSums:
        """With the scores of further designs, ``(n, designs, d + 2)``."""
        scores = scores - self.origin[:, None, None]
        return JansenSums(
            self.n_designs + scores.shape[1],
            self.origin,
            self.first + scores[:, :, :2].sum((1, 2)),
            self.second + scores[:, :, :2].square().sum((1, 2)),
            self.differences + (scores[:, :, :1] - scores[:, :, 2:]).square().sum(1),
        )

    def total_indices(self, precision: float) -> Tensor:
        """``Σ (f(A) − f(C))² / (2·N·V)``, ``(n, d)``; 0 where ``V`` is not more than rounding to a precision leaves."""
        mean = self.first / (2 * self.n_designs)
        variance = (self.second / (2 * self.n_designs) - mean**2).clamp(min=0)
        least = (ROUNDING * precision * (mean + self.origin).abs()) ** 2
        varies = (variance > least)[:, None]
        shares = self.differences / (2 * self.n_designs * torch.where(variance > 0, variance, 1)[:, None])
        return torch.where(varies, shares, 0)


def _scores(request: Request, designs: Designs, baseline: Tensor, start: int, stop: int, score: Score) -> Tensor:
    """Each sample's scores under the masks of some designs, ``(n, designs, d + 2)``, float64."""
    x, n, d = request.input, len(request), designs.d
    points = designs.draw(start, stop).to(exact_device(x))
    scratch = Scratch()
    scores = torch.empty(len(points) * (d + 2) * n, dtype=torch.float64, device=exact_device(x))

    def build(first: int, last: int) -> tuple[list[Tensor], Tensor]:
        index = torch.arange(first, last, device=x.device) % n
        numbers = torch.arange(first // n, -(-last // n), device=points.device)
        masks = designs.masks(points, numbers).to(x)
        masks = masks if x.ndim == 2 else masks[:, None]
        return [masked(baseline, x, masks, first % n, scratch.rows(x, last - first))], index

    def read(first: int, last: int, outputs: Tensor) -> None:
        index = torch.arange(first, last, device=outputs.device) % n
        scores[first:last] = select(outputs, request.targets_for(index), score).to(scores)

    request.stream(len(scores), build, read, fresh=True)
    return finite(scores).reshape(-1, d + 2, n).permute(2, 0, 1)
