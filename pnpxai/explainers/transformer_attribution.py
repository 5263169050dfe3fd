"""Relevance of a transformer's attention, rolled out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.explainers._attention import Attentions, HeadFusion, by_sample, fused, rows_read, unsupported
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import backward_errors, differentiable, in_chunks
from pnpxai.explainers._mixed_tokens import find_mixed_tokens
from pnpxai.forward import Request
from pnpxai.limits import OneOf, Within
from pnpxai.modules import Attention
from pnpxai.outputs import select
from pnpxai.relevance import Pass, Propagation, Settings, Stabilizer, Step
from pnpxai.relevance._proportional import Sum
from pnpxai.relevance.zennit_rules import alpha_beta_rule, composite_of
from pnpxai.watch import Attending


class NormalisedSum(Sum):
    """Relevance of two terms in proportion, then scaled so that neither gets more than there is.

    Chefer et al., 2021, section 3.2: with ``R^u`` and ``R^v`` by proportion, u gets
    ``R^u · |ΣR^u| / (|ΣR^u| + |ΣR^v|) · ΣR / ΣR^u``, and v likewise. The sums run over all of a pass, which is to be
    one sample. Of a term and a constant, the term gets all.
    """

    def share(self, step: Step, relevance: Tensor) -> Sequence[Tensor]:
        """Hand relevance down."""
        if len(step.leaves) < 2:
            return [relevance.sum_to_size(shape) for shape in step.shapes]
        found = super().share(step, relevance)
        sums = [each.sum() for each in found]
        weight = relevance.sum() / sum(each.abs() for each in sums)
        return [
            torch.where(total == 0, 0, each * total.sign() * weight) for each, total in zip(found, sums, strict=True)
        ]


def row_of_product(read: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """``r ((I + E_B) ⋯ (I + E_1) - I)``, without ever adding what is small to the one of the identity.

    Args:
        read: r, ``(n, t)``.
        layers: E_1 to E_B, each ``(n, t, t)``.

    Example:
        >>> row_of_product(torch.tensor([[1.0, 0.0]]), [torch.tensor([[[0.0, 2.0], [0.0, 1.0]]])] * 2).tolist()
        [[0.0, 6.0]]
    """
    first = read[:, None]
    gained = torch.zeros_like(first)
    for layer in reversed(layers):
        gained = gained + (first + gained) @ layer.to(first.dtype)
    return gained[:, 0]


class TransformerAttribution(Explainer):
    """Attention weights by their relevance and gradient for a class, rolled out (Chefer, Gur and Wolf, CVPR 2021).

    arXiv 2012.09838, equations 13 and 14: ``Ā_b = I + E_h (∇A_b ⊙ R_b)⁺`` and ``C = Ā_B ⋯ Ā_1``, with ``A_b`` the
    attention weights of block b, ``∇A_b`` the gradient of the target's score with respect to them, ``R_b`` their
    relevance and ``E_h`` the mean over heads. The map is the row of C of the token that the outputs are read from: the
    class token; the average of the rows where they are read from several, as after mean pooling. The identity in C is
    left out, which is the way through residual connections alone, whatever the class: it counts only where tokens of
    the input are read, and then each for itself. Not negative, one number for each token, interpolated linearly between
    patches; tokens that are no part of the input are left out. One channel ``(n, 1, h, w)`` where channels share a
    token, the inputs' shape elsewhere.

    Relevance starts as 1 at the target's output (for a target function, as the score's gradient) and goes down by the
    rules of the paper (sections 3.1 and 3.2) and of its authors' code: along positive contributions in linear layers,
    without biases; in proportion in sums, scaled over the sample; half to each factor in products of matrices;
    unchanged through activations, softmax and layer norm. Everything else goes by `pnpxai.relevance.OPERATIONS`; an
    operation without a rule is refused when relevance reaches it.

    Which models have such a map and how it is found is as for `AttentionRollout`. As the scaling is over a sample,
    samples go through the model one at a time, once for gradients and once for relevance.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        epsilon: added to all denominators, with their sign; larger takes relevance from elements where contributions
            cancel.
        head_fusion: ``"mean"`` over heads, as in the paper; ``"max"`` keeps what any head says, ``"min"`` what all do.

    Example:
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        ...     def forward(self, x):
        ...         return (x + self.attention(x, x, x)[0]).mean(1)
        >>> model = Mean()
        >>> model.attention.in_proj_weight.data[:] = torch.eye(2).repeat(3, 1)
        >>> model.attention.out_proj.weight.data[:] = torch.eye(2)
        >>> maps = TransformerAttribution(model).attribute(torch.tensor([[[0.0, 0.0], [3.0, 3.0]]]), 0)
        >>> [round(each, 3) for each in maps[0, :, 0].tolist()]
        [0.0, 0.225]
    """

    SUPPORTED_MODULES = (Attention,)
    TUNABLES = {
        "epsilon": FloatDistribution(1e-6, 1.0, log=True),
        "head_fusion": CategoricalDistribution(("mean", "max", "min")),
    }
    LIMITS = {"epsilon": Within(0.0, low_open=True), "head_fusion": OneOf(("mean", "max", "min"))}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        epsilon: float = 1e-6,
        head_fusion: HeadFusion = "mean",
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.epsilon = epsilon
        self.head_fusion = head_fusion

    def chunk_size(self) -> int:
        """One: a sum over a sample is a sum over all of a pass."""
        return 1

    def settings(self) -> Settings:
        """The rules, from the current parameters."""
        stabilizer = Stabilizer(self.epsilon)
        positive = alpha_beta_rule(1.0, 0.0, stabilizer, zero_params="bias")
        total = NormalisedSum()
        own = dict.fromkeys(("add", "sub", "rsub", "__radd__", "__rsub__"), total)
        unchanged = dict.fromkeys(("softmax", "layer_norm"), Pass())
        return Settings(composite_of(positive, positive), stabilizer, stabilizer, "attnlrp", {**own, **unchanged})

    def explain_request(self, request: Request) -> Tensor:
        """The maps, ``(n, 1, …)`` or of the inputs' shape."""
        tokens, settings = find_mixed_tokens(request), self.settings()
        rows: list[Tensor] = []

        def run(start: int, stop: int) -> None:
            index = torch.arange(start, stop, device=request.input.device)
            slopes, read = _slopes(request, index, tokens.n_attentions)
            relevance = _relevance(request, index, settings, tokens.n_attentions)
            weighted = [
                by_sample(slope * share, 1).clamp(min=0) for slope, share in zip(slopes, relevance, strict=True)
            ]
            rows.append(row_of_product(read, [fused(each, self.head_fusion) for each in weighted]))

        in_chunks(request, len(request), run)
        return tokens.maps(torch.cat(rows), request.input.shape[1:])


def _slopes(request: Request, index: Tensor, n_attentions: int) -> tuple[list[Tensor], Tensor]:
    """The gradient of the score at the weights of each attention, and the rows that the outputs are read from."""
    kept: list[Attending] = []

    def visit(_place: int, attention: Attending) -> Tensor:
        kept.append(attention)
        return attention.output

    leaf = request.input[index].detach().requires_grad_()
    with torch.enable_grad():
        with Attentions(visit):
            outputs = request.call((leaf,), index)
        _check(kept, n_attentions)
        read = rows_read(outputs, kept[-1].output, index, request)
        scores = differentiable(select(outputs, request.targets_for(index)), request)
        with backward_errors(request):
            weights = [each.weights for each in kept]
            found = torch.autograd.grad(scores.sum(), weights, allow_unused=True)
    return [torch.zeros_like(end) if each is None else each for end, each in zip(weights, found, strict=True)], read


def _relevance(request: Request, index: Tensor, settings: Settings, n_attentions: int) -> list[Tensor]:
    """The relevance of the weights of each attention, from 1 at the target's output."""
    kept: list[Attending] = []

    def visit(_place: int, attention: Attending) -> Tensor:
        kept.append(attention)
        return attention.output

    leaf = request.input[index].detach().requires_grad_()
    propagation = Propagation(request.module, settings)
    with torch.enable_grad():
        with propagation.ready(leaf), propagation, Attentions(visit):
            outputs = request.call((leaf,), index)
        _check(kept, n_attentions)
        propagation.check(outputs, f"at the end of {type(request.model).__name__}")
        ends = outputs.detach().requires_grad_()
        scores = differentiable(select(ends, request.targets_for(index)), request)
        (start,) = torch.autograd.grad(scores.sum(), (ends,))
        weights = [each.weights for each in kept]
        with backward_errors(request):
            found = torch.autograd.grad(outputs, weights, start, allow_unused=True)
    return [torch.zeros_like(end) if each is None else each for end, each in zip(weights, found, strict=True)]


def _check(kept: Sequence[Attending], n_attentions: int) -> None:
    if len(kept) != n_attentions:
        raise unsupported("as many attentions for each sample", f"{n_attentions} and {len(kept)}")
