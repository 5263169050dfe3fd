"""DeepLIFT's multipliers for torch functions: the rescale rule, and what goes with it.

For an operation ``y = g(x)``, multipliers ``m`` with ``Σ m Δx = Δy`` (Shrikumar et al., 2017, arXiv 1704.02685,
equations 1 and 2), ``Δ`` being a sample's value minus its reference's. Chained as gradients are (equation 3) they sum
to the difference of the outputs, whatever the model is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pnpxai.explainers import _extremes as extremes
from pnpxai.explainers import _written_out as written_out
from pnpxai.explainers._pairs import PairRule, Pairs, Valued, replaced, unsupported
from pnpxai.relevance import OPERATIONS, Bilinear, Move, Proportional
from pnpxai.relevance import _composed as composed
from pnpxai.relevance import _recurrent as recurrent
from pnpxai.relevance._call import Call, flat, mapped
from pnpxai.relevance._elementwise import Product
from pnpxai.relevance._moves import Aside, Constant, Identity, MoveFirst
from pnpxai.relevance._proportional import Added, Sum
from pnpxai.relevance._refused import Barrier
from pnpxai.relevance._rule import Rule
from pnpxai.relevance._weighted import Weighted

RULED = "only operations with a rule for differences"


def affine(call: Call, pairs: Pairs) -> Any:
    """What is affine in all that it takes keeps its gradient."""
    pairs.before_change(call.target)
    result = call.run()
    return pairs.paired(call, result, pairs.of_references(call))


def rescaled(call: Call, pairs: Pairs) -> Any:
    """Element by element: ``m = Δy/Δx``, the mean of the gradients at both ends where ``Δx`` is next to nothing."""
    varying = pairs.varying(call)
    if len(varying) != 1:
        raise unsupported(call, RULED, f", of {len(varying)} tensors that depend on the inputs")
    (x,) = varying
    pair = x.detach(), pairs.reference(x)
    shape = _at(call, x, pair[0])[0].shape
    pair = pair[0].expand(shape), pair[1].expand(shape)
    (y, slope), (reference, other) = (_at(call, x, each) for each in pair)
    step = pair[0] - pair[1]
    near = torch.finfo(step.dtype).eps ** (1 / 3)
    size = torch.maximum(pair[0].abs(), pair[1].abs()).clamp(min=1)
    smooth = (step.abs() <= near * size) & ((slope - other).abs() <= 2 * near)
    m = torch.where(smooth | (step == 0), (slope + other) / 2, (y - reference) / step)
    return pairs.carried(call, y, reference, x * torch.where(m.isfinite(), m, 0))


def _at(call: Call, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """A call's result where ``x`` has a value, and its gradient there."""
    leaf = value.detach().clone().requires_grad_()
    copies = {id(call.target): call.target.clone()} if call.target is not None else {}
    copies[id(x)] = leaf.clone()
    result = replaced(call, lambda each: copies.get(id(each), each)).run()
    (slope,) = torch.autograd.grad(result.sum(), leaf, allow_unused=True) if result.requires_grad else (None,)
    return result.detach(), torch.zeros_like(result) if slope is None else slope


def quadratic(call: Call, pairs: Pairs) -> Any:
    """Products: ``m`` is the gradient half way, which shares ``Δ(ab) = b̄ Δa + ā Δb`` equally, as Shapley values do."""
    varying, plain = pairs.varying(call), call.out_of_place()
    if len(varying) < 2:
        return affine(call, pairs)
    if call.name in OF_ANY_NUMBER and len(varying) > 2:
        raise unsupported(call, RULED, f", of {len(varying)} tensors that depend on the inputs")
    middles = {id(x): Valued.apply(((x.detach() + pairs.reference(x)) / 2,), x) for x in varying}
    carrier = replaced(plain, lambda each: middles.get(id(each), each)).run()
    with torch.no_grad():
        value = plain.run()
    return pairs.carried(call, value, pairs.of_references(plain), carrier)


def quotient(call: Call, pairs: Pairs) -> Any:
    """``a / b``: affine in ``a`` alone, rescaled in ``b`` alone, of both the product of ``a`` and ``1 / b``."""
    over, under = call.argument(0, "input"), call.argument(1, "other")
    if call.kwargs.get("rounding_mode") is not None or not (pairs.knows(over) and pairs.knows(under)):
        reflected = getattr(call.function, "__name__", "") in ("__rdiv__", "__rtruediv__")
        below = pairs.knows(over) if reflected else pairs.knows(under)
        return rescaled(call, pairs) if below or call.kwargs.get("rounding_mode") is not None else affine(call, pairs)
    return _run(lambda: over * under.reciprocal(), call, pairs)


def power(call: Call, pairs: Pairs) -> Any:
    """A square is a product; any other power goes element by element."""
    x, exponent = call.argument(0, "input"), call.argument(1, "exponent")
    if not isinstance(exponent, Tensor) and exponent == 2:
        return _run(lambda: x * x, call, pairs)
    return rescaled(call, pairs)


def exponential(call: Call, pairs: Pairs) -> Any:
    """``m = exp(max(x, x')) φ(|Δx|)`` with ``φ(u) = (1 − exp(−u)) / u``."""
    x = call.argument(0, "input")
    reference = pairs.reference(x)
    highest, step = torch.maximum(x.detach(), reference), (x.detach() - reference).abs()
    m = torch.where(highest.isinf(), 0, highest.exp() * _phi(step))
    return pairs.carried(call, x.detach().exp(), reference.exp(), x * m)


def log_of_sum(call: Call, pairs: Pairs) -> Any:
    """``logsumexp`` as a sum and a logarithm: ``m = exp(max(x, x') − max(y, y')) φ(|Δx|) / φ(|Δy|)``."""
    x, dim, keep = call.argument(0, "input"), call.argument(1, "dim"), call.argument(2, "keepdim", False)
    pair = x.detach(), pairs.reference(x)
    y, reference = (each.logsumexp(dim, keepdim=True) for each in pair)
    highest = torch.maximum(*pair)
    m = (highest - torch.maximum(y, reference)).exp() * _phi((pair[0] - pair[1]).abs()) / _phi((y - reference).abs())
    carrier = (x * torch.where(highest.isinf(), 0, m)).sum(dim, keepdim=keep)
    return pairs.carried(call, y.reshape(carrier.shape), reference.reshape(carrier.shape), carrier)


def _phi(u: Tensor) -> Tensor:
    return torch.where(u == 0, 1, -torch.expm1(-u) / u)


def aside(call: Call, pairs: Pairs) -> Any:
    """What has nothing to do with values: the call as it is."""
    return call.run()


def constant(call: Call, pairs: Pairs) -> Any:
    """What takes no more than the shape of a tensor."""
    with torch.no_grad():
        return call.run()


def alias(call: Call, pairs: Pairs) -> Any:
    """``detach`` and ``data``: the same values, and multipliers are no gradients that could be stopped."""
    tensor = call.args[0]
    if call.target is not None:
        return tensor
    reference = pairs.reference(tensor)
    return pairs.know(tensor.view_as(tensor), reference.view_as(reference))


def dropped(call: Call, pairs: Pairs) -> Any:
    """Dropout that is off."""
    if call.argument(2, "training", call.kwargs.get("train", True)) and call.argument(1, "p", 0.5):
        raise unsupported(call, "a model without randomness")
    return affine(call, pairs)


def batch_norm(call: Call, pairs: Pairs) -> Any:
    """Batch norm by running statistics, which is affine."""
    if call.argument(5, "training", False) or call.argument(1, "running_mean") is None:
        raise unsupported(call, "a model whose samples do not depend on their neighbours")
    return affine(call, pairs)


def sampled(call: Call, pairs: Pairs) -> Any:
    """Sampling at places that do not depend on the inputs."""
    return (unlisted if pairs.knows(call.argument(1, "grid")) else affine)(call, pairs)


def unlisted(call: Call, pairs: Pairs) -> Any:
    """What is in no list: harmless if it gives no numbers; refused when multipliers reach it; values must not leave.

    A truth value may, as in a check of the inputs, where it is that of the references too.
    """
    if call.target is not None:
        raise unsupported(call, RULED)
    if call.name in LEAVING:
        result = call.swapped(Tensor.detach).run()
        if not isinstance(result, bool) or result != pairs.of_references(call):
            raise unsupported(call, "a model that takes the same way for a sample and its references")
        return result
    with torch.no_grad():
        result = call.run()
    if not any(isinstance(each, Tensor) for each in flat(result)):
        return result
    error, tensors = unsupported(call, RULED), call.tensors

    def barred(each: Any) -> Any:
        numbers = isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex())
        return Barrier.apply(error, (each.data,), *tensors) if numbers else each

    made = type(result)([barred(each) for each in result]) if isinstance(result, tuple | list) else barred(result)
    return pairs.paired(call, made, pairs.of_references(call))


def _run(function: Callable[[], Any], call: Call, pairs: Pairs) -> Any:
    """What a function gives when it is followed, written where the call writes."""
    with pairs:
        result = function()
    return result if call.target is None else pairs.written(call.target, result)


def made_of(function: Callable[..., Any]) -> PairRule:
    """The rule of an operation that a function of other operations computes just as well."""
    return lambda call, pairs: _run(partial(function, *call.args, **call.kwargs), call, pairs)


def stepwise(function: Callable[..., Any]) -> PairRule:
    """The rule of a recurrent layer or cell that a function computes step by step.

    A first state that is constant is beside itself, so that its gate is followed like any other.
    """

    def rule(call: Call, pairs: Pairs) -> Any:
        def known(each: Any) -> Any:
            if not isinstance(each, Tensor) or pairs.knows(each):
                return each
            return pairs.know(each.detach().clone().requires_grad_(), each.detach())

        args = list(call.args)
        place = 2 if isinstance(args[3], tuple | list) else 1
        args[place] = mapped(args[place], known)
        with pairs:
            return function(*args, **call.kwargs)

    return rule


_CONVERTING = (f"__{kind}__" for kind in ("array", "bool", "int", "float", "index", "complex", "contains"))
LEAVING = frozenset({"item", "tolist", "numpy", "equal", "allclose", "is_nonzero", *_CONVERTING})
"""Operations whose result is no tensor, but depends on values."""
OF_ANY_NUMBER = frozenset({"einsum", "chain_matmul"})
"""Products of two tensors, or of more."""
_KINDS: dict[type[Rule], PairRule] = {
    **dict.fromkeys((Move, MoveFirst, Proportional, Added, Sum), affine),
    **dict.fromkeys((Product, Weighted, Bilinear), quadratic),
    Identity: alias,
    Constant: constant,
    Aside: aside,
}
_CHOOSING = "aminmax median nanmedian topk sort kthvalue msort cummax cummin unique"
"""What moves values to places that depend on them."""
_LISTED: list[tuple[PairRule, str]] = [
    (affine, "neg negative positive"),
    (quadratic, "addmm baddbmm addcmul lerp bilinear"),
    (rescaled, "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish softplus softsign threshold"),
    (rescaled, "sigmoid tanh hardsigmoid hardtanh logsigmoid log_sigmoid hardshrink softshrink tanhshrink"),
    (rescaled, "special_expit clamp clip clamp_min clamp_max abs absolute sqrt rsqrt reciprocal nan_to_num"),
    (rescaled, "log log2 log10 log1p exp2 expm1 erf erfc sin cos tan sinh cosh asin acos atan asinh acosh atanh"),
    (rescaled, "float_power __rpow__ sign sgn round floor ceil trunc frac logit sinc"),
    (dropped, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout"),
    (batch_norm, "batch_norm"),
    (sampled, "grid_sample"),
    (quotient, "div __rdiv__ __rtruediv__"),
    (power, "pow"),
    (made_of(lambda x: x * x), "square"),
    (exponential, "exp"),
    (log_of_sum, "logsumexp"),
    (extremes.extreme, "max min"),
    (made_of(extremes.along), "amax"),
    (made_of(partial(extremes.along, least=True)), "amin"),
    (made_of(extremes.larger), "maximum fmax"),
    (made_of(extremes.smaller), "minimum fmin"),
    *(
        (extremes.pooled, f"{way}max_pool{d}d {way}max_pool{d}d_with_indices")
        for way in ("", "adaptive_")
        for d in (1, 2, 3)
    ),
    *(
        (made_of(getattr(written_out, name)), name)
        for name in ("softmax", "log_softmax", "softmin", "layer_norm", "group_norm", "instance_norm", "rms_norm")
    ),
    *((made_of(getattr(written_out, name)), name) for name in ("normalize", "norm", "var", "std")),
    (made_of(written_out.vector_norm), "linalg_vector_norm vector_norm"),
    (made_of(composed.glu), "glu"),
    (made_of(composed.attention), "scaled_dot_product_attention"),
    (made_of(composed.multi_head_attention), "multi_head_attention_forward"),
    *(
        (stepwise(getattr(recurrent, name)), name)
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
    ),
]

RULES: dict[str, PairRule] = {
    name: _KINDS[type(rule)]
    for name, rule in OPERATIONS.items()
    if type(rule) in _KINDS and name not in _CHOOSING.split()
} | {name: rule for rule, names in _LISTED for name in names.split()}
"""Plain name of a torch function, as `pnpxai.watch.plain_name` gives it, to rule."""
