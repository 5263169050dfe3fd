"""Which relevance rule each operation has: the one list, and how to add to it.

An operation is a torch function under its plain name: ``add`` stands for ``+``, ``+=``, ``torch.add`` and ``add_``.
What is not listed is refused when relevance reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pnpxai.errors import DeclarationError
from pnpxai.relevance import _composed, _recurrent
from pnpxai.relevance._bilinear import Bilinear
from pnpxai.relevance._call import operation_name
from pnpxai.relevance._composed import Composed
from pnpxai.relevance._elementwise import Pass, Power, Product, Quotient, Scaled
from pnpxai.relevance._linear_maps import read_addmm, read_layer, read_product
from pnpxai.relevance._moves import Aside, Constant, Identity, Move, MoveFirst
from pnpxai.relevance._norms import BatchNorm, InstanceNorm, Normalised
from pnpxai.relevance._proportional import Added, Extreme, Proportional, Softmax, Sum, Taylor, Winner
from pnpxai.relevance._refused import Refused
from pnpxai.relevance._rule import Rule
from pnpxai.relevance._weighted import STAND_INS, Weighted

_DIMS = (1, 2, 3)
_LISTED: list[tuple[Rule, str]] = [
    # Values are moved, copied, joined or selected.
    (Move(), "view reshape flatten unflatten ravel squeeze unsqueeze atleast_1d atleast_2d atleast_3d"),
    (Move(), "permute transpose swapaxes swapdims movedim moveaxis t T mT H mH adjoint flip fliplr flipud roll rot90"),
    (Move(), "__getitem__ __setitem__ select narrow index_select take take_along_dim gather masked_select diagonal"),
    (Move(), "chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind unsafe_chunk unsafe_split"),
    (Move(), "cat concat concatenate stack hstack vstack dstack column_stack row_stack block_diag broadcast_to"),
    (Move(), "expand repeat tile repeat_interleave contiguous clone type float double half bfloat16 cpu cuda"),
    (Move(), "pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold"),
    (Move(), "where masked_fill masked_scatter index_fill index_copy copy scatter slice_scatter tril triu"),
    (Extreme(), "max min"),
    (Move(), "amax amin aminmax median nanmedian topk sort kthvalue msort cummax cummin broadcast_tensors"),
    (Move(), " ".join(f"{way}max_pool{d}d" for way in ("", "adaptive_") for d in _DIMS)),
    (Move(), " ".join(f"{way}max_pool{d}d_with_indices" for way in ("", "adaptive_") for d in _DIMS)),
    (Move(), "pad_sequence _pack_padded_sequence _pad_packed_sequence"),
    (Move(), "max_unpool1d max_unpool2d max_unpool3d requires_grad zero fill"),
    (MoveFirst(), "view_as reshape_as expand_as type_as to"),
    (Identity(), "detach data"),
    (Constant(), "new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like"),
    (Constant(), "rand_like randn_like randint_like bernoulli"),
    (Aside(), "register_hook retain_grad register_post_accumulate_grad_hook"),
    (Winner(), "maximum minimum fmax fmin"),
    # Linear maps without weights: by contribution.
    (Added(), "scatter_add index_add"),
    (Sum(), "add sub rsub __radd__ __rsub__"),
    (Proportional(), "mean sum nansum cumsum fold"),
    (Proportional(), " ".join(f"{way}avg_pool{d}d" for way in ("", "adaptive_") for d in _DIMS)),
    (Proportional(), "interpolate upsample upsample_nearest upsample_bilinear diff trace"),
    (Proportional(held=((1, "grid"),)), "grid_sample"),
    # Element by element.
    (Pass(), "relu leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish softplus softsign"),
    (Pass(), "logsigmoid log_sigmoid hardshrink softshrink tanhshrink threshold"),
    (Pass(), "abs sqrt square log1p expm1 nan_to_num"),
    (Scaled(), "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout"),
    (Pass(), "normalize rms_norm local_response_norm"),
    (Pass(gate=1), "tanh relu6 hardtanh clamp clip clamp_min clamp_max erf"),
    (Pass(gate=2), "sigmoid hardsigmoid"),
    (Scaled(), "neg negative positive"),
    (Product(), "mul __rmul__"),
    (Quotient(), "div __rdiv__ __rtruediv__"),
    (Power(), "pow float_power __rpow__"),
    (Softmax(), "softmax"),
    (Taylor(), "log_softmax logsumexp softmin"),
    # Only ever a scale for something else; refused if relevance reaches them.
    (Refused(gate=2), "exp exp2 log log2 log10 rsqrt reciprocal norm std var var_mean std_mean"),
    (
        Refused(gate=2),
        "cosine_similarity cdist linalg_norm linalg_vector_norm vector_norm sign sgn round floor ceil trunc frac",
    ),
    # Linear maps with weights: by the composite.
    *((Weighted(kind, read_layer), kind) for kind in STAND_INS if kind != "linear"),
    (Weighted("linear", read_layer, Composed(_composed.linear)), "linear"),
    (Weighted("linear", read_product, Bilinear()), "matmul mm __matmul__ __rmatmul__"),
    (Weighted("linear", read_addmm, Composed(_composed.baddbmm)), "addmm"),
    (Bilinear(), "bmm einsum mv dot inner outer tensordot vdot chain_matmul"),
    # Normalisation: affine once the statistics are held constant.
    (BatchNorm(), "batch_norm"),
    (Normalised(), "layer_norm group_norm"),
    (InstanceNorm(), "instance_norm"),
    # Several operations in one.
    (Composed(_composed.baddbmm), "baddbmm"),
    (Composed(_composed.addcmul), "addcmul"),
    (Composed(_composed.lerp), "lerp"),
    (Composed(_composed.glu), "glu"),
    (Composed(_composed.attention), "scaled_dot_product_attention"),
    (Composed(_composed.multi_head_attention), "multi_head_attention_forward"),
    *(
        (Composed(getattr(_recurrent, name)), name)
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
    ),
]

OPERATIONS: dict[str, Rule] = {name: rule for rule, names in _LISTED for name in names.split()}
"""Plain name of a torch function, as `pnpxai.watch.plain_name` gives it, to rule."""

MODULES: dict[type[nn.Module], Rule] = {}
"""Module class to rule, for modules that are one operation; what such a module calls is not looked at."""


def register_rule(operation: str | Callable[..., Any] | type[nn.Module], rule: Rule) -> None:
    """Give an operation, or a module of one's own, a relevance rule.

    Args:
        operation: a torch function or its plain name, or a class of modules.
        rule: `Pass`, `Proportional`, `Taylor`, … or one's own subclass of `StepRule`.

    Raises:
        DeclarationError: not a rule, or nothing that can have one.

    Example:
        >>> import torch
        >>> register_rule(torch.special.erfc, Pass())
        >>> type(OPERATIONS.pop("special_erfc")).__name__
        'Pass'
    """
    if not isinstance(rule, Rule):
        raise DeclarationError("an instance of a Rule", type(rule).__name__, "Pass e.g. Pass(), with its brackets.")
    if isinstance(operation, type) and issubclass(operation, nn.Module):
        MODULES[operation] = rule
    elif isinstance(operation, str):
        OPERATIONS[operation] = rule
    elif callable(operation) and (name := operation_name(operation)):  # type: ignore[arg-type]
        OPERATIONS[name] = rule
    else:
        raise DeclarationError(
            "a torch function, its name, or a class of modules", f"{operation!r}", "Pass e.g. torch.erfc."
        )
