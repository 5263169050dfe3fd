"""Faithfulness by removing random subsets of features, the same for every map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from pnpxai.baselines import Baseline, baseline_for
from pnpxai.explainers._base import Explainer
from pnpxai.feature_masks import grid_cells
from pnpxai.forward import Extractor, Request
from pnpxai.limits import OneOf, OrNone, WholeWithin, Within
from pnpxai.metrics._base import Metric
from pnpxai.metrics._removal import clean_scores, removal_scores
from pnpxai.outputs import Score
from pnpxai.postprocess import channel_axis


def random_subsets(n_subsets: int, n_cells: int, subset_share: float, seed: int) -> Tensor:
    """Subsets of one size, each drawn without replacement: ``(n_subsets, n_cells)``, true where a cell is in.

    Example:
        >>> random_subsets(3, 10, 0.2, seed=0).sum(1).tolist()
        [2, 2, 2]
    """
    size = min(max(round(subset_share * n_cells), 1), n_cells)
    keys = torch.rand(n_subsets, n_cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.zeros(n_subsets, n_cells, dtype=torch.bool).scatter_(1, keys.argsort(1)[:, :size], True)


def correlations(first: Tensor, second: Tensor, *, ranked: bool) -> Tensor:
    """Correlation of the rows of two ``(n, m)``: ``(n,)``, Pearson's or of ranks (Spearman's); 0 for a constant row.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]])
        >>> [round(each, 6) for each in correlations(*rows, ranked=True).tolist()]
        [1.0, 0.0]
    """
    rows = [each.double() for each in (first, second)]
    if ranked:
        rows = [torch.from_numpy(np.asarray(stats.rankdata(each.cpu().numpy(), axis=1))).to(each) for each in rows]
    centred = [each - each.mean(1, keepdim=True) for each in rows]
    norms = [each.norm(dim=1) for each in centred]
    varies = torch.stack([norm > 1e-12 * each.norm(dim=1) for norm, each in zip(norms, rows, strict=True)]).all(0)
    found = (centred[0] * centred[1]).sum(1) / torch.where(varies, norms[0] * norms[1], 1.0)
    return torch.where(varies, found.clamp(-1.0, 1.0), 0.0)


class MuFidelity(Metric):
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
        >>> model = nn.Linear(4, 1)
        >>> x = torch.ones(1, 4)
        >>> round(MuFidelity(model).evaluate(x, 0, model.weight * x).item(), 4)
        1.0
    """

    HIGHER_IS_BETTER = True
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
        model: nn.Module,
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

    def evaluate_request(self, request: Request, values: Tensor) -> Tensor:
        """The correlation over subsets, a sample at a time."""
        cells = _cells(request.input.shape, self.channel_dim, self.grid_size).to(values.device)  # (f,)
        n_cells = int(cells.max()) + 1
        subsets = random_subsets(self.n_perturbations, n_cells, self.subset_share, self.seed).to(values.device)
        clean = clean_scores(request, self.score)[:, None]
        scores = removal_scores(
            request,
            baseline_for(self.baseline_fn, request.input, self.channel_dim),
            self.n_perturbations,
            lambda sample, removal: subsets[removal][:, cells],
            self.channel_dim,
            self.score,
        )
        given = values.new_zeros(len(values), n_cells, dtype=torch.float64).index_add_(1, cells, values.double())
        found = correlations(given @ subsets.double().T, clean - scores, ranked=self.correlation == "spearman")
        noise = 4 * torch.finfo(scores.dtype).eps * torch.cat([clean, scores], 1).abs().amax(1)
        answers = (scores.amax(1) - scores.amin(1) > noise) & (values.amax(1) > values.amin(1))
        return torch.where(answers, found, 0.0).to(values)


def _cells(shape: Sequence[int], channel_dim: int | None, grid_size: int | None) -> Tensor:
    axis = channel_axis(channel_dim, len(shape))
    positions = [size for each, size in enumerate(shape) if each not in (0, axis)]
    if grid_size is None or len(shape) == 2:
        return torch.arange(int(np.prod(positions)))
    return grid_cells(positions, grid_size).flatten()
