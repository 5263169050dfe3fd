"""Operations that are neither linear nor element by element, as the operations they are made of."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:  # noqa: A002
    """``exp(x − log Σ exp x)``."""
    return log_softmax(input, dim, dtype=dtype).exp()


def log_softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:  # noqa: A002
    """``x − log Σ exp x``."""
    dim = (0 if input.ndim in (0, 1, 3) else 1) if dim is None else dim
    x = input if dtype is None else input.to(dtype)
    return x - x.logsumexp(dim, keepdim=True)


def softmin(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:  # noqa: A002
    """``softmax(−x)``."""
    return softmax(-input, dim, dtype=dtype)


def layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``w (x − mean x) / √(var x + ε) + b``."""
    return _affine(_standard(input, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """As `layer_norm`, over groups of channels."""
    grouped = input.reshape(len(input), num_groups, -1)
    return _affine(_standard(grouped, (2,), eps).reshape(input.shape), *_by_channel(input, weight, bias))


def instance_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `layer_norm`, over the positions of each channel; by running statistics as ``batch_norm``."""
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    normal = _standard(input, tuple(range(2, input.ndim)), eps)
    return _affine(normal, *_by_channel(input, weight, bias))


def rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``w x / √(mean x² + ε)``."""
    small = torch.finfo(input.dtype).eps if eps is None else eps
    squares = (input * input).mean(tuple(range(-len(normalized_shape), 0)), keepdim=True)
    return _affine(input * (squares + small).rsqrt(), weight, None)


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Tensor:  # noqa: A002
    """``x / max(‖x‖, ε)``."""
    return input / norm(input, p, dim, True).clamp_min(eps)


def norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:  # noqa: A002
    """``(Σ |x|^p)^(1/p)``, of vectors."""
    x = input if dtype is None else input.to(dtype)
    dim = tuple(range(x.ndim)) if dim is None else dim
    if p in (None, "fro", 2):
        return (x * x).sum(dim, keepdim=keepdim).sqrt()
    if p == math.inf:
        return x.abs().amax(dim, keepdim)
    return x.abs().pow(p).sum(dim, keepdim=keepdim).pow(1 / p)


def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:  # noqa: A002
    """``linalg.vector_norm``."""
    return norm(x, ord, dim, keepdim, dtype)


def var(
    input: Tensor,  # noqa: A002
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The mean squared distance from the mean, with Bessel's correction or another one."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = tuple(range(input.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    away = input - input.mean(dims, keepdim=True)
    total = math.prod(input.shape[each] for each in dims) - (int(unbiased) if correction is None else correction)
    return (away * away).sum(dims, keepdim=keepdim) / total


def std(*args: Any, **kwargs: Any) -> Tensor:
    """The root of `var`."""
    return var(*args, **kwargs).sqrt()


def _standard(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    away = x - x.mean(dims, keepdim=True)
    return away * ((away * away).mean(dims, keepdim=True) + eps).rsqrt()


def _by_channel(x: Tensor, *several: Tensor | None) -> list[Tensor | None]:
    shape = (1, -1, *[1] * (x.ndim - 2))
    return [None if each is None else each.reshape(shape) for each in several]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
