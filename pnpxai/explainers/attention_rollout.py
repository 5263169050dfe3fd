"""Attention rollout."""

from __future__ import annotations

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.explainers._attention import Attentions, HeadFusion, by_sample, fused, rows_read, unsupported
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import in_chunks
from pnpxai.explainers._mixed_tokens import find_mixed_tokens
from pnpxai.forward import Request
from pnpxai.limits import OneOf, Within
from pnpxai.modules import Attention
from pnpxai.watch import Attending


def with_residual(attention: Tensor, discard_ratio: float = 0.0) -> Tensor:
    """``½ A + ½ I`` with the lowest entries of A set to zero, and rows that sum to 1.

    Args:
        attention: A, ``(n, t, t)``.
        discard_ratio: the share of the entries of each matrix that is set to zero; entries that tie stay.

    Example:
        >>> with_residual(torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])).tolist()
        [[[0.75, 0.25], [0.0, 1.0]]]
    """
    n_discarded = int(discard_ratio * attention[0].numel())
    if n_discarded:
        lowest_kept = attention.flatten(1).kthvalue(n_discarded + 1, dim=1).values
        attention = attention.where(attention >= lowest_kept[:, None, None], 0)
    mixed = (attention + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)) / 2
    return mixed / mixed.sum(-1, keepdim=True)


class AttentionRollout(Explainer):
    """Which input tokens the output is computed from, if attention were all there is (Abnar & Zuidema, 2020).

    arXiv 2005.00928, section 3: ``Ã_l = (½ A_l + ½ I) Ã_{l-1}`` with ``A_l`` the attention weights of layer l, heads
    fused, and ½ I for the residual connection that every attention is taken to have. The map is the row of ``Ã`` of the
    token that the outputs are read from: the class token; the average of the rows where they are read from several, as
    after mean pooling. Not negative. At each position of the input stands the share of its token, between 0 and 1,
    interpolated linearly between patches; shares of tokens that are no part of the input, such as the class token, are
    left out. One channel ``(n, 1, h, w)`` where channels share a token, the inputs' shape elsewhere.

    Two classes have one map: targets are checked but play no part. Values, MLPs and norms are not looked at.

    Attention is found in what the model calls, and so are the tokens that the outputs are read from; which positions a
    token stands for is measured by changing the input. Refused are windows, hierarchies, cross-attention, attention
    over channels, and mixing of tokens by anything else between two attentions. In causal models tokens attend
    backwards, and the map is of the token that is read.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        head_fusion: ``"mean"`` over heads, as in the paper; ``"max"`` keeps what any head attends to, ``"min"`` what
            all do. Rows are scaled to sum to 1 afterwards.
        discard_ratio: the share of the lowest entries of each matrix that is set to zero before the residual; larger
            gives sparser maps.

    Presets: the setting of J. Gildenblat's vit-explain (2020) for vision transformers.

    Example:
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        ...     def forward(self, x):
        ...         return (x + self.attention(x, x, x)[0]).mean(1)
        >>> model = Mean()
        >>> model.attention.in_proj_weight.data[:4] = torch.eye(2).repeat(2, 1) * 2
        >>> maps = AttentionRollout(model).attribute(torch.tensor([[[0.0, 0.0], [3.0, 3.0]]]))
        >>> [round(each, 3) for each in maps[0, :, 0].tolist()]
        [0.375, 0.625]
    """

    SUPPORTED_MODULES = (Attention,)
    OF_TARGETS = False
    TUNABLES = {
        "head_fusion": CategoricalDistribution(("mean", "max", "min")),
        "discard_ratio": FloatDistribution(0.0, 0.9),
    }
    PRESETS = ({"head_fusion": "max", "discard_ratio": 0.9},)
    LIMITS = {"head_fusion": OneOf(("mean", "max", "min")), "discard_ratio": Within(0.0, 1.0, high_open=True)}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        head_fusion: HeadFusion = "mean",
        discard_ratio: float = 0.0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.head_fusion = head_fusion
        self.discard_ratio = discard_ratio

    def explain_request(self, request: Request) -> Tensor:
        """The maps, ``(n, 1, …)`` or of the inputs' shape."""
        tokens = find_mixed_tokens(request)
        rows: list[Tensor] = []

        def run(start: int, stop: int) -> None:
            index = torch.arange(start, stop, device=request.input.device)
            rows.append(self._rolled(request, index, tokens.n_attentions))

        in_chunks(request, len(request), run)
        return tokens.maps(torch.cat(rows), request.input.shape[1:])

    def _rolled(self, request: Request, index: Tensor, n_attentions: int) -> Tensor:
        """Shares of the tokens for some samples, ``(m, t)``."""
        rolled: list[Tensor] = []
        last: list[Tensor] = []

        def visit(place: int, attention: Attending) -> Tensor:
            weights = by_sample(attention.weights.detach(), len(index)).to(
                torch.promote_types(request.input.dtype, torch.float32)
            )
            layer = with_residual(fused(weights, self.head_fusion), self.discard_ratio)
            rolled[:] = [layer @ rolled[0] if rolled else layer]
            if place != n_attentions - 1:
                return attention.output
            last.append(attention.output.detach().requires_grad_())
            return last[0]

        with torch.enable_grad(), Attentions(visit) as attentions:
            outputs = request.call((request.input[index],), index)
        if attentions.n != n_attentions:
            raise unsupported("as many attentions for each sample", f"{n_attentions} and {attentions.n}")
        read = rows_read(outputs, last[0], index, request)
        return (read[:, None].to(rolled[0].dtype) @ rolled[0])[:, 0]
