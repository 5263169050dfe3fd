"""Deep SHAP: DeepLIFT averaged over references."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.errors import RelevanceWarning
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import backward_errors, differentiable, in_chunks
from pnpxai.explainers._multipliers import RULES, unlisted
from pnpxai.explainers._pairs import Pairs
from pnpxai.explainers._references import Background, References, references_for
from pnpxai.forward import Request
from pnpxai.modules import Convolution, Linear

UNEXPLAINED = 0.01
"""The share of the mean ``|f(x) − f(x')|`` by which a map may miss the mean of ``f(x) − f(x')`` without a warning."""
ROUNDING = 64
"""What rounding may do beside that: so many times the dtype's precision, of the map's ``Σ|·|`` and of the scores."""


def multipliers(
    request: Request, rows: Sequence[Tensor], references: Sequence[Tensor], index: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The multipliers of each row against its reference.

    Args:
        request: the batch being explained.
        rows: tensors ``(m, …)``.
        references: likewise.
        index: ``(m,)``, the sample each row comes from.

    Returns:
        One tensor for each of ``rows``, of its shape, and the rows' scores ``(m,)``.

    Raises:
        UnsupportedOperationError: an operation without a rule; says which and where.
        UnsupportedModelError: the scores have no gradient.
        ModelError: the model fails forward or backward.
    """
    leaves = [each.detach().requires_grad_() for each in rows]
    pairs = Pairs(request.module, RULES, unlisted)
    with torch.enable_grad():
        with pairs.running(leaves, references):
            scores = request.scores(leaves, index)
        pairs.check(differentiable(scores, request), f"at the end of {type(request.model).__name__}")
        with backward_errors(request):
            found = torch.autograd.grad(scores.sum(), leaves, allow_unused=True)
    made = tuple(torch.zeros_like(leaf) if each is None else each for leaf, each in zip(leaves, found, strict=True))
    return made, scores.detach()


@dataclass(frozen=True)
class Differences:
    """Maps, and what they should sum to.

    Attributes:
        maps: the mean over references of ``m ⊙ (x − x')``, one ``(n, …)`` for each of the inputs.
        expected: the mean of ``f(x) − f(x')``, ``(n,)``.
        magnitude: the mean of ``|f(x) − f(x')|``, ``(n,)``.
        scores: the mean of ``|f(x)| + |f(x')|``, ``(n,)``.
        precision: of the model's dtype.
    """

    maps: tuple[Tensor, ...]
    expected: Tensor
    magnitude: Tensor
    scores: Tensor
    precision: float

    @property
    def gaps(self) -> Tensor:
        """What the maps' sums miss, ``(n,)``."""
        return (sum(each.flatten(1).sum(1) for each in self.maps) - self.expected).abs()

    @property
    def tolerance(self) -> Tensor:
        """What they may miss, ``(n,)``."""
        numbers = self.scores + torch.stack([each.abs().flatten(1).sum(1) for each in self.maps]).sum(0)
        return UNEXPLAINED * self.magnitude + ROUNDING * self.precision * numbers


def differences(request: Request, references: References) -> Differences:
    """DeepLIFT's maps averaged over references, pair by pair, so that chunks change nothing."""
    inputs, m = request.inputs, len(references)
    kinds = [torch.promote_types(each.dtype, torch.float32) for each in inputs]
    maps = tuple(torch.zeros_like(each, dtype=kind) for each, kind in zip(inputs, kinds, strict=True))
    expected, magnitude, size = maps[0].new_zeros(3, len(request))

    def run(start: int, stop: int) -> None:
        items = torch.arange(start, stop)
        index = (items // m).to(inputs[0].device)
        rows = [each[index] for each in inputs]
        beside = references.rows(index, items % m)
        with torch.no_grad():
            others = request.scores(beside, index)
        slopes, scores = multipliers(request, rows, beside, index)
        scores, others = (each.to(expected.dtype) / m for each in (scores, others))
        steps, sizes = scores - others, scores.abs() + others.abs()
        for place, item in enumerate(items.tolist()):
            expected[item // m] += steps[place]
            magnitude[item // m] += steps[place].abs()
            size[item // m] += sizes[place]
            for total, slope, row, reference in zip(maps, slopes, rows, beside, strict=True):
                total[item // m] += slope[place].to(total.dtype) * (row[place] - reference[place]).to(total.dtype) / m

    in_chunks(request, len(request) * m, run)
    return Differences(maps, expected, magnitude, size, torch.finfo(inputs[0].dtype).eps)


class DeepLiftShap(Explainer):
    """DeepLIFT against a distribution of references (Deep SHAP: Lundberg and Lee, 2017, arXiv 1705.07874, section 4.2).

    ``R(x) = E_{x'~D} [m ⊙ (x − x')]`` with DeepLIFT's multipliers ``m`` (Shrikumar et al., 2017, arXiv 1704.02685),
    which are handed down as gradients are, operation by operation, such that the map sums to ``f(x) − E f(x')``
    (equation 1). Where a model is a sum of functions of one feature each, the map is the Shapley values. Signed, of the
    inputs' shape, in units of the model's output: the logit. Takes several inputs.

    The rules belong to torch functions, not to modules, so that functional calls, modules used twice and a model's own
    code go by them, too:

    - an element-wise function: ``Δy/Δx`` (the rescale rule), and the gradient where ``Δx`` is next to nothing;
    - a product of two tensors, as in gates and attention: half way, ``Δ(ab) = b̄ Δa + ā Δb``, its Shapley values;
    - softmax, layer norm and their like, recurrent layers, quotients: as what they are made of;
    - a maximum, as in pooling: all to the sample's winner, or to the reference's where that is larger;
    - what is affine, batch norm in eval mode among it: its gradient.

    Dropout that is on, batch statistics, other operations and control flow that goes another way for a reference are
    refused. Where a condition differs between a sample and a reference (``torch.where(x > 0, …)``, ``x * (x > 0)``),
    the jump belongs to no input: what the map misses of the sum is measured, and warned of.

    Without a background the references are those of `ExpectedGradients` without one: each sample's own zeros, mean and
    blur. Each reference costs two forward passes and one backward, so give tens rather than thousands.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        background: references ``(m, …)``, all of which are used, or a tuple with one such tensor for each input; or one
            baseline, its name, a number, or a function of the inputs; None for each sample's own baselines. More
            references are nearer to their distribution, and cost as much more.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, -1.0]])), model[0].bias.data.fill_(-2.0)
        >>> DeepLiftShap(model, background="zeros").attribute(torch.tensor([[6.0, 2.0]])).tolist()
        [[3.0, -1.0]]
    """

    SUPPORTED_MODULES = (Linear, Convolution)

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        background: Background = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.background = background

    def explain_request(self, request: Request) -> tuple[Tensor, ...]:
        """One map for each of the inputs.

        Warns:
            RelevanceWarning: a map misses the difference of the scores by more than `UNEXPLAINED` of it.
        """
        found = differences(request, references_for(self.background, request.inputs, request.lookups))
        excess = found.gaps - found.tolerance
        if (excess > 0).any():
            worst = int(excess.argmax())
            warnings.warn(
                f"DeepLiftShap: {int((excess > 0).sum())} of {len(request)} maps do not sum to the difference between "
                f"the sample's score and its references'. That of sample {worst} misses "
                f"{float(found.gaps[worst]):.3g} of {float(found.expected[worst]):.3g}. The model has a condition that "
                "depends on the inputs, or something that no torch function computes; ExpectedGradients has no such "
                "limits. Where it is rounding, model.double() helps.",
                RelevanceWarning,
                stacklevel=4,
            )
        return found.maps
