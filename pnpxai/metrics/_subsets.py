"""Random subsets of features, removed the same way for every map: one bank of perturbations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.errors import ParameterError
from pnpxai.feature_masks import grid_cells
from pnpxai.forward import Request
from pnpxai.metrics._answers import Answers, Question, answer_name
from pnpxai.metrics._measurement import Measurement
from pnpxai.metrics._removal import baselines, clean_scores, removal_scores
from pnpxai.outputs import Score
from pnpxai.postprocess import channel_axis


@lru_cache(maxsize=4)  # drawing 100 of 224 × 224 takes .1 s, and every map needs them
def random_subsets(n_subsets: int, n_cells: int, size: int, seed: int) -> Tensor:
    """Subsets of one size, each drawn without replacement: ``(n_subsets, n_cells)``, true where a cell is in.

    Example:
        >>> random_subsets(3, 10, 2, seed=0).sum(1).tolist()
        [2, 2, 2]
    """
    keys = torch.rand(n_subsets, n_cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = keys.topk(size, dim=1, largest=False, sorted=False).indices
    return torch.zeros(n_subsets, n_cells, dtype=torch.bool).scatter_(1, drawn, True)


def share_of(n_cells: int, share: float) -> int:
    """How many cells a share of them is, at least one.

    Example:
        >>> share_of(81, 0.2), share_of(3, 0.1)
        (16, 1)
    """
    return min(max(round(share * n_cells), 1), n_cells)


def correlations(first: Tensor, second: Tensor, *, ranked: bool) -> Tensor:
    """Correlation of the rows of two ``(n, m)``: ``(n,)``, Pearson's or of ranks (Spearman's); 0 for a constant row.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]])
        >>> [round(each, 6) for each in correlations(*rows, ranked=True).tolist()]
        [1.0, 0.0]
    """
    rows = [each.double() for each in (first, second)]
    if ranked:
        from scipy import stats

        rows = [torch.from_numpy(np.asarray(stats.rankdata(each.cpu().numpy(), axis=1))).to(each) for each in rows]
    centred = [each - each.mean(1, keepdim=True) for each in rows]
    norms = [each.norm(dim=1) for each in centred]
    varies = torch.stack([norm > 1e-12 * each.norm(dim=1) for norm, each in zip(norms, rows, strict=True)]).all(0)
    found = (centred[0] * centred[1]).sum(1) / torch.where(varies, norms[0] * norms[1], 1.0)
    return torch.where(varies, found.clamp(-1.0, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Losses:
    """What subsets of features are given by a map, and what the score loses without them.

    Attributes:
        given: ``(n, m)``, the map's sum over each subset, in double precision.
        lost: ``(n, m)``, the clean score minus the score with the subset removed, in double precision.
        varied: ``(n,)``, whether the map is not constant and the scores differ by more than rounding.
        dtype: of the metric's scores.
    """

    given: Tensor
    lost: Tensor
    varied: Tensor
    dtype: torch.dtype

    def correlation(self, *, ranked: bool) -> Tensor:
        """Correlation of ``given`` and ``lost`` over the subsets, ``(n,)``; 0 where nothing varies."""
        found = correlations(self.given, self.lost, ranked=ranked)
        return torch.where(self.varied, found, 0.0).to(self.dtype)


class SubsetRemovals(Measurement):
    """What the score loses by the removal of random subsets. Asks the model nothing that depends on the map.

    Args:
        n_perturbations: subsets.
        size: cells in a subset if whole, a share of them if not, and the square root of their number if None.
        grid_size: cells along each axis of images and series; None for single positions.
        baseline_fn: what stands in for removed features.
        score: the target's ``"probability"`` or ``"logit"``.
        seed: of the subsets.
        channel_dim: the inputs' channels, which are removed together; None for none.
    """

    def __init__(
        self,
        n_perturbations: int,
        size: int | float | None,
        grid_size: int | None,
        baseline_fn: Baseline,
        score: Score,
        seed: int,
        channel_dim: int | None,
    ) -> None:
        self.n_perturbations = n_perturbations
        self.size = size
        self.grid_size = grid_size
        self.baseline_fn = baseline_fn
        self.score = score
        self.seed = seed
        self.channel_dim = channel_dim

    @property
    def names(self) -> tuple[str, str]:
        """The names of the clean scores and of the subsets' scores among the answers."""
        return answer_name("clean", self.score), answer_name("subset scores", *self.get_params().values())

    def questions(self) -> Mapping[str, Question]:
        """The scores of the inputs, and of the inputs without each subset."""
        clean, without = self.names
        return {
            clean: lambda request, _: clean_scores(request, self.score),
            without: lambda request, _: self.scores(request),
        }

    def scores(self, request: Request) -> Tensor:
        """The scores without each subset, ``(n, m)``."""
        cells, subsets = self.drawn(request.inputs)
        return removal_scores(
            request,
            baselines(request, self.baseline_fn, self.channel_dim),
            self.n_perturbations,
            lambda _, removals: subsets[removals][..., cells],
            self.channel_dim,
            self.score,
        )

    def measure(self, request: Request, values: Tensor, answers: Answers) -> Losses:
        """The map's sums and the score's losses over the subsets."""
        clean, scores = (answers[name] for name in self.names)
        cells, subsets = self.drawn(request.inputs)
        totals = values.new_zeros(len(values), subsets.shape[1], dtype=torch.float64)
        totals.index_add_(1, cells, values.double())
        scale = torch.cat([clean[:, None], scores], 1).abs().amax(1)
        heard = scores.amax(1) - scores.amin(1) > 4 * torch.finfo(scores.dtype).eps * scale
        return Losses(
            given=totals @ subsets.double().T,
            lost=(clean[:, None] - scores).double(),
            varied=heard & (values.amax(1) > values.amin(1)),
            dtype=values.dtype,
        )

    def drawn(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The cell of each feature ``(f,)``, those of several inputs in their order, and subsets ``(m, n_cells)``.

        Raises:
            ParameterError: subsets of as many cells as there are, or more.
        """
        numbered, n_cells = list[Tensor](), 0
        for each in inputs:
            numbered.append(n_cells + _cells(each.shape, self.channel_dim, self.grid_size))
            n_cells = int(numbered[-1].max()) + 1
        cells = torch.cat(numbered).to(inputs[0].device)
        size = self.size if isinstance(self.size, int) else share_of(n_cells, self.size or 1 / math.sqrt(n_cells))
        if isinstance(self.size, int) and size >= n_cells:
            raise ParameterError(
                f"subsets of fewer than all {n_cells} features", f"subset_size {size}", "Choose a smaller subset_size."
            )
        return cells, random_subsets(self.n_perturbations, n_cells, size, self.seed).to(cells.device)


def _cells(shape: Sequence[int], channel_dim: int | None, grid_size: int | None) -> Tensor:
    axis = channel_axis(channel_dim, len(shape))
    positions = [size for each, size in enumerate(shape) if each not in (0, axis)]
    if grid_size is None or len(shape) == 2:
        return torch.arange(int(np.prod(positions)))
    return grid_cells(positions, grid_size).flatten()
