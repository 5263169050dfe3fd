"""Expected gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from optuna.distributions import IntDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._gradients import in_chunks, score_gradients
from pnpxai.explainers._references import Background, References, references_for
from pnpxai.explainers._seeds import generator_for
from pnpxai.forward import Request
from pnpxai.limits import WholeWithin

ACROSS_ROUNDS, ACROSS_REFERENCES = (5**0.5 - 1) / 2, 2**0.5 - 1
"""By how much α goes on from one round through the references to the next, and within a round, modulo 1."""


def draws(seed: int, n_references: int, first: int, stop: int) -> tuple[Tensor, Tensor]:
    """Draws number ``first`` to ``stop`` of a seed: which reference, and how far ``α`` from it to the input.

    The references come in rounds, in one random order. ``α`` is a Kronecker sequence from a random start (Cranley and
    Patterson, 1976): each reference is as likely and each ``α`` as uniform as if drawn alone, so that means over the
    draws are unbiased, and together they fill the way from each reference evenly.

    Returns:
        Indices ``(s,)`` and numbers in [0, 1) ``(s,)``.

    Example:
        >>> which, alphas = draws(0, 2, 0, 4)
        >>> sorted(which.tolist()), bool((alphas < 1).all())
        ([0, 0, 1, 1], True)
    """
    generator = generator_for(seed)
    order = torch.randperm(n_references, generator=generator)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    numbers = torch.arange(first, stop)
    rounds, places = numbers // n_references, numbers % n_references
    return order[places], (start + rounds * ACROSS_ROUNDS + places * ACROSS_REFERENCES) % 1


@dataclass(frozen=True)
class GradientSums:
    """What remains of some draws.

    Attributes:
        n_samples: how many there were, for each input.
        sums: of ``(x − x') ⊙ ∂f/∂x``, one ``(n, …)`` for each of the inputs.
    """

    n_samples: int
    sums: tuple[Tensor, ...]


def expected_gradients(
    request: Request, references: References, n_samples: int, seed: int, known: GradientSums | None = None
) -> GradientSums:
    """``Σ_i (x − x'_i) ⊙ ∂f(x'_i + α_i (x − x'_i))/∂x``, term by term, so that chunks and portions change nothing.

    Args:
        request: what is explained.
        references: where the ``x'`` come from.
        n_samples: terms for each input, those of ``known`` among them.
        seed: of `draws`.
        known: the sums of the first of the same terms, which are not asked again; stay as they are.
    """
    inputs = request.inputs
    if known is None:
        kinds = [torch.promote_types(each.dtype, torch.float32) for each in inputs]
        known = GradientSums(0, tuple(torch.zeros_like(a, dtype=b) for a, b in zip(inputs, kinds, strict=True)))
    sums = tuple(each.clone() for each in known.sums)
    added = n_samples - known.n_samples
    which, alphas = draws(seed, len(references), known.n_samples, n_samples)

    def run(start: int, stop: int) -> None:
        items = torch.arange(start, stop)
        index = (items // added).to(inputs[0].device)
        rows, ways = [], []
        for each, reference in zip(inputs, references.rows(index, which[items % added]), strict=True):
            share = alphas[items % added].to(each).reshape(-1, *[1] * (each.ndim - 1))
            ways.append(each[index] - reference)
            rows.append(torch.lerp(reference, each[index], share))
        for total, way, slope in zip(sums, ways, score_gradients(request, rows, index), strict=True):
            for position, item in enumerate(items.tolist()):
                total[item // added] += way[position].to(total.dtype) * slope[position].to(total.dtype)

    in_chunks(request, len(request) * added, run)
    return GradientSums(n_samples, sums)


class ExpectedGradients(Explainer):
    """Integrated gradients averaged over a distribution of baselines (Erion et al., 2021, arXiv 1906.10670).

    ``EG(x) = E_{x'~D, α~U(0,1)} [(x − x') ⊙ ∂f(x' + α (x − x'))/∂x]`` (section "Expected gradients"), the mean of
    ``n_samples`` terms by `draws`. In expectation the map sums to ``f(x) − E f(x')``; what it misses is the error of
    the mean. Signed, of the inputs' shape, in units of the model's output. Takes several inputs.

    Without a background the method knows no data. It then compares each sample with baselines of its own, never with
    its neighbours: zeros, its mean over positions by channel and its blur; for ``(n, d)`` zeros and the mean of the
    features. That averages the choice of a baseline out. It is no distribution of data: pass one where you have it,
    and for embedded text, whose dimension 1 is no channel.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        n_samples: terms; more is nearer to the expectation and costs as many gradients. Up to the number of references
            none is drawn twice.
        background: references ``(m, …)``, such as training samples, or a tuple with one such tensor for each input;
            or one baseline, its name, a number, or a function of the inputs; None for each sample's own baselines.
        seed: of the draws, which are the same for every sample.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> background = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> ExpectedGradients(model, background=background).attribute(torch.tensor([[3.0, 4.0]])).tolist()
        [[4.0, -3.0]]
    """

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"n_samples": IntDistribution(10, 500, log=True)}
    BUDGET = ("n_samples",)
    NESTED = True
    LIMITS = {"n_samples": WholeWithin(1), "seed": WholeWithin(0)}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_samples: int = 100,
        background: Background = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_samples = n_samples
        self.background = background
        self.seed = seed

    def explain_further(
        self, request: Request, budget: int, state: GradientSums | None
    ) -> tuple[tuple[Tensor, ...], GradientSums]:
        """The means."""
        references = references_for(self.background, request.inputs, request.lookups)
        found = expected_gradients(request, references, budget, self.seed, state)
        return tuple(each / budget for each in found.sums), found
