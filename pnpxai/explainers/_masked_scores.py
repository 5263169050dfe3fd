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
from pnpxai.scratch import Scratch

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
        absent, whole, scratch = self.baseline[samples], x[samples], Scratch()
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
            return [masked(absent, whole, masks, start % k, scratch.rows(x, stop - start))], index

        def read(start: int, stop: int, outputs: Tensor) -> None:
            scores = finite(self.score(outputs, index))
            consume(held, (rows // k + first - held.first).to(exact), index.to(exact), scores)

        self.request.stream((last - first) * k, build, read, lower=lower, fresh=True)

    def scores(self, n_masks: int, *, lower: bool) -> Tensor:
        """Those of all samples under the first masks, ``(n, n_masks)``."""
        n, kept = len(self.request), list[Tensor]()
        self.stream(0, n_masks, torch.arange(n), lambda *found: kept.append(found[-1]), lower=lower)
        return torch.cat(kept).reshape(n_masks, n).T


def masked(absent: Tensor, whole: Tensor, masks: Tensor, start: int, out: Tensor) -> Tensor:
    """Every sample under the first mask, then under the next, and so on, from number ``start`` on.

    Args:
        absent: what stands for absence, ``(k, …)``.
        whole: the samples, ``(k, …)``.
        masks: those that are needed, ``(m, …)``.
        start: number of the first, less than ``k``.
        out: where they are written to, ``(n, …)``.

    Example:
        >>> x, masks = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.5], [1.0]])
        >>> masked(torch.zeros(2, 1), x, masks, 1, torch.empty(4, 1)).flatten().tolist()
        [0.0, 0.5, 1.0, 1.0]
    """
    k, n = len(whole), len(out)
    before = min(-start % k, n)  # under a mask that was begun in the portion before
    full = (n - before) // k
    begun, rows = int(before > 0), slice(start, start + before)
    if before:
        torch.lerp(absent[rows], whole[rows], masks[0], out=out[:before])
    if full:
        apart = out[before : before + full * k].view(full, k, *whole.shape[1:])
        torch.lerp(absent[None], whole[None], masks[begun : begun + full, None], out=apart)
    left = n - before - full * k
    if left:
        torch.lerp(absent[:left], whole[:left], masks[-1], out=out[n - left :])
    return out


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
