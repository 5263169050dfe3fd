"""A model's scores of samples under masks, asked a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pnpxai.batches import all_finite
from pnpxai.errors import ModelError
from pnpxai.explainers._masks import BLOCK, MaskBank, MaskChunk
from pnpxai.forward import Request
from pnpxai.precision import fast_in_bfloat16

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]

PROBE = 32
"""Masks that are asked in both precisions before one is chosen."""
AGREEMENT = 0.98
"""The least rank correlation of scores in bfloat16 with those in float32."""


@dataclass(frozen=True, eq=False)
class MaskedScorer:
    """Asks for the scores of samples under masks.

    Attributes:
        request: the samples.
        score: see `pass_masks`.
        bank: the masks.
        baseline: what stands for absence, of the samples' shape.
    """

    request: Request
    score: ScoreFunction
    bank: MaskBank
    baseline: Tensor

    def stream(
        self,
        first: int,
        last: int,
        samples: Tensor,
        consume: Callable[[MaskChunk, Tensor, Tensor, Tensor], None],
        *,
        lower: bool,
    ) -> None:
        """Score some samples under masks number ``first`` to ``last``, a chunk at a time.

        Args:
            first: number of the first mask.
            last: one past the number of the last.
            samples: the numbers of the samples, ``(k,)``.
            consume: takes the masks in hand, the same ones as long as they last, and for each score the place of its
                mask among them, its sample and itself.
            lower: ask in bfloat16.

        Raises:
            ModelError: a score that is not finite.
        """
        x, k, held = self.request.input, len(samples), MaskChunk.none()
        samples, exact = samples.to(x.device), exact_device(x)
        absent, whole = self.baseline[samples], x[samples]
        rows, index = torch.empty(0), samples  # of the portion that was built last

        def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
            nonlocal held, rows, index
            a, b = first + start // k, first - (-stop // k)
            if b > held.last:
                held = self.bank.draw(a, min(-(-b // BLOCK) * BLOCK, last), x.device)  # whole blocks are drawn
            masks = held.masks[a - held.first : b - held.first].to(x.dtype)
            masks = masks if self.bank.grid is None else masks[:, None]
            rows = torch.arange(start, stop, device=x.device)
            index = samples[rows % k]
            return [_masked(absent, whole, masks, start % k, stop - start)], index

        def read(start: int, stop: int, outputs: Tensor) -> None:
            scores = finite(self.score(outputs, index))
            consume(held, (rows // k + first - held.first).to(exact), index.to(exact), scores)

        self.request.stream((last - first) * k, build, read, lower=lower, fresh=True)

    def scores(self, n_masks: int, *, lower: bool) -> Tensor:
        """Those of all samples under the first masks, ``(n, n_masks)``."""
        n, kept = len(self.request), list[Tensor]()
        self.stream(0, n_masks, torch.arange(n), lambda *found: kept.append(found[-1]), lower=lower)
        return torch.cat(kept).reshape(n_masks, n).T


def _masked(absent: Tensor, whole: Tensor, masks: Tensor, start: int, n: int) -> Tensor:
    """Every sample under the first mask, then under the next, and so on: ``n`` of these from number ``start`` on.

    Samples are copied only where the portion begins or ends amid those of several masks.

    Args:
        absent: what stands for absence, ``(k, …)``.
        whole: the samples, ``(k, …)``.
        masks: those of the portion, ``(m, …)``.
        start: number of the first, less than ``k``.
        n: how many.
    """
    k = len(whole)
    if len(masks) == 1:
        return torch.lerp(absent[start : start + n], whole[start : start + n], masks)
    if start == 0 and n % k == 0:
        return torch.lerp(absent[None], whole[None], masks[:, None]).flatten(0, 1)
    rows = torch.arange(start, start + n, device=whole.device)
    return torch.lerp(absent[rows % k], whole[rows % k], masks[rows // k])


def finite(scores: Tensor, how: str = "masked") -> Tensor:
    """The scores of inputs of which something was taken away.

    Args:
        scores: of any shape.
        how: it was taken away, in a word.

    Raises:
        ModelError: one of them is not finite.
    """
    if all_finite(scores):
        return scores
    raise ModelError(f"finite outputs on {how} inputs", "NaN or infinity", "Try another baseline_fn, or a wider dtype.")


def agreeing(scorer: MaskedScorer) -> Tensor:
    """The samples whose scores have the same order in bfloat16 as in the model's own precision, ``(n,)``.

    Asked are `PROBE` masks in both, where the device is fast in bfloat16; the orders agree where their rank correlation
    (Spearman's) is `AGREEMENT` or more. A map adds up what such scores have in common, so its order agrees better yet.
    """
    request = scorer.request
    if not (fast_in_bfloat16(request.input.device) and request.input.dtype == torch.float32):
        return torch.zeros(len(request), dtype=torch.bool)
    exact, close = (scorer.scores(PROBE, lower=way).cpu() for way in (False, True))
    correlations = [_spearman(*both) for both in zip(exact, close, strict=True)]
    return torch.tensor([each >= AGREEMENT for each in correlations])


def _spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two rows; 0 where one of them is constant."""
    if (one == one[0]).all() or (other == other[0]).all():
        return 0.0
    from scipy import stats

    return float(stats.spearmanr(one.numpy(), other.numpy()).statistic)


def exact_device(inputs: Tensor) -> torch.device:
    """Where sums are kept: beside the inputs, but MPS has no float64."""
    return torch.device("cpu") if inputs.device.type == "mps" else inputs.device
