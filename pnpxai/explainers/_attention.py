"""The attentions of a model, found by what it calls: their weights, and which tokens its outputs are read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers._gradients import backward_errors, differentiable
from pnpxai.forward import Request
from pnpxai.outputs import select
from pnpxai.relevance import _composed
from pnpxai.watch import Attending, AttentionTrail, plain_name, tensors_of

HeadFusion: TypeAlias = Literal["mean", "max", "min"]

_WRITTEN_OUT: Mapping[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": _composed.attention,
    "multi_head_attention_forward": _composed.multi_head_attention,
}
_CLOSED = frozenset({"_native_multi_head_attention", "_transformer_encoder_layer_fwd"})
_PRODUCTS = frozenset({"matmul", "bmm"})


class Attentions(TorchFunctionMode):
    """Shows each self-attention of a forward pass, in the order in which they run.

    Fused attentions are written out as products and a softmax, so that the weights exist. Fast paths of torch that
    skip the functions they are made of are off while a function mode is active.

    Args:
        visit: takes the attention's number, from 0, and the attention; the model goes on with what it returns in
            place of the attention's output.

    Attributes:
        n: attentions so far.
        n_softmaxes: softmaxes of products so far, which is the same if each of them was the weights of an attention.
    """

    def __init__(self, visit: Callable[[int, Attending], Tensor]) -> None:
        super().__init__()
        self.n = 0
        self._visit = visit
        self._trail = AttentionTrail()

    @property
    def n_softmaxes(self) -> int:
        """See the class."""
        return self._trail.n_softmaxes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and show the attention it completes."""
        kwargs = kwargs or {}
        name = plain_name(getattr(func, "__name__", ""))
        if name in _WRITTEN_OUT:
            with self:
                return _WRITTEN_OUT[name](*args, **kwargs)
        if name in _CLOSED:
            raise unsupported("attention by functions whose weights can be seen", f"torch.{name}")
        result = func(*args, **kwargs)
        found = self._trail.follow(name, tensors_of(args, kwargs), result)
        if found is None:
            return result
        if name not in _PRODUCTS or len(found.operands) != 2 or found.operands[0] is not found.weights:
            raise unsupported("attention weights (…, t, s) multiplied with values (…, s, d) by matmul or bmm", name)
        self.n += 1
        return self._visit(self.n - 1, found)


def unsupported(expected: str, received: str) -> UnsupportedModelError:
    """The error for a model whose attentions cannot be rolled out."""
    return UnsupportedModelError(
        expected, received, "Use a method that needs no attention weights, e.g. IntegratedGradients, LRP or RISE."
    )


def by_sample(weights: Tensor, m: int) -> Tensor:
    """Attention weights as ``(m, heads, t, t)``."""
    return weights.reshape(m, -1, *weights.shape[-2:])


def fused(weights: Tensor, head_fusion: HeadFusion) -> Tensor:
    """One matrix for all heads: ``(m, heads, t, t)`` to ``(m, t, t)``.

    Example:
        >>> heads = torch.tensor([[[[1.0]], [[3.0]]]])
        >>> fused(heads, "mean").item(), fused(heads, "max").item(), fused(heads, "min").item()
        (2.0, 3.0, 1.0)
    """
    if head_fusion == "mean":
        return weights.mean(1)
    return weights.amax(1) if head_fusion == "max" else weights.amin(1)


def rows_read(outputs: Tensor, attended: Tensor, index: Tensor, request: Request) -> Tensor:
    """How much each token counts as the one that the outputs are read from, after the last attention.

    Tokens on which the outputs depend count alike, others not at all; found by the gradient. Outputs of more than two
    dimensions are read where the target's score is.

    Args:
        outputs: of the model, ``(m, k)``, ``(m,)`` or ``(m, …)``.
        attended: what the last attention returned, ``(…, t, d)``, from which the outputs were computed with gradients.
        index: ``(m,)``, the samples.
        request: the batch.

    Returns:
        ``(m, t)``; rows sum to 1.

    Raises:
        UnsupportedModelError: the outputs of a sample depend on none.
        TargetError: targets that the outputs do not have.
    """
    probe = select(outputs, request.targets_for(index))
    if outputs.ndim <= 2:
        probe = outputs * torch.linspace(1, 2, outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    with backward_errors(request):
        (slope,) = torch.autograd.grad(
            differentiable(probe.sum(), request), (attended,), retain_graph=True, allow_unused=True
        )
    read = attended.new_zeros(len(index), attended.shape[-2])
    if slope is not None:
        read = by_sample(slope.ne(0), len(index)).any(-1).any(1).to(attended.dtype)
    if not read.any(1).all():
        raise unsupported(
            "outputs that depend on the last attention of the model",
            "outputs that do not; the head's weights may be zero, or its outputs saturated",
        )
    return read / read.sum(1, keepdim=True)
