"""Operations that are several others: written out, each part goes by its own rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnpxai.relevance._call import Call
from pnpxai.relevance._rule import Rule

if TYPE_CHECKING:
    from pnpxai.relevance._propagation import Propagation


class Composed(Rule):
    """For an operation that a function of other operations computes just as well.

    Args:
        function: takes what the operation takes and returns the same.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def trace(self, call: Call, propagation: Propagation) -> Any:
        """Run the function, tracing what it calls."""
        with propagation:
            return self.function(*call.args, **call.kwargs)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention``."""
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    scores = (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def multi_head_attention(  # noqa: D417  # torch's own arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``multi_head_attention_forward``, on ``(t, n, d)`` or ``(t, d)``."""
    single = query.ndim == 2
    if single:
        query, key, value = (each.unsqueeze(1) for each in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    steps, n, width = query.shape
    head = width // num_heads
    weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if in_proj_weight is not None and not use_separate_proj_weight:
        weights = in_proj_weight.chunk(3)
    biases: Sequence[Tensor | None] = [None] * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(each, weight, bias) for each, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    if bias_k is not None and bias_v is not None:
        k, v = torch.cat([k, bias_k.repeat(1, n, 1)]), torch.cat([v, bias_v.repeat(1, n, 1)])
    q = q.reshape(steps, n, num_heads, head).permute(1, 2, 0, 3)
    k, v = (
        each.reshape(len(each), n, num_heads, head).permute(1, 2, 0, 3)
        if static is None
        else static.reshape(n, num_heads, -1, head)
        for each, static in ((k, static_k), (v, static_v))
    )
    if add_zero_attn:
        k, v = (torch.cat([each, each.new_zeros(n, num_heads, 1, head)], 2) for each in (k, v))
    scores = (q @ k.transpose(-2, -1)) * (1 / math.sqrt(head))
    mask = _mask(attn_mask, key_padding_mask, scores)
    if mask is not None:
        scores = scores + mask
    attended = scores.softmax(-1)
    dropped = F.dropout(attended, dropout_p) if training and dropout_p else attended
    joined = (dropped @ v).permute(2, 0, 1, 3).reshape(steps, n, width)
    output = F.linear(joined, out_proj_weight, out_proj_bias)
    shown = None if not need_weights else attended.mean(1) if average_attn_weights else attended
    if single:
        return output.squeeze(1), None if shown is None else shown.squeeze(0)
    return output, shown


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, scores: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores ``(n, heads, t, s)``; keys that were joined on are not masked."""
    n, heads, steps, keys = scores.shape
    masks = []
    if attn_mask is not None:
        several = (1, 1) if attn_mask.ndim == 2 else (n, heads)
        masks.append(_additive(attn_mask, scores).reshape(*several, steps, keys))
    if key_padding_mask is not None:
        masks.append(_additive(key_padding_mask, scores).reshape(n, 1, 1, keys))
    return masks[0] + masks[1] if len(masks) == 2 else masks[0] if masks else None


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(mask, -math.inf)
    return F.pad(mask.to(scores.dtype), (0, scores.shape[-1] - mask.shape[-1]))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """``linear`` with a weight that depends on the inputs."""
    product = input @ weight.mT
    return product if bias is None else product + bias


def glu(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002
    """``glu``."""
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:  # noqa: A002
    """``baddbmm`` and ``addmm``."""
    product = torch.matmul(batch1, batch2)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (input if beta == 1 else input * beta)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:  # noqa: A002
    """``addcmul``."""
    return input + (tensor1 * tensor2) * value


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:  # noqa: A002
    """``lerp``."""
    return input * (1 - weight) + end * weight
