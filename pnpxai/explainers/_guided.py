"""Rectifiers that hand back only what is positive, however they are called."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers._gradients import backward_errors, differentiable
from pnpxai.explainers._graph import children_first
from pnpxai.forward import Request
from pnpxai.outputs import select
from pnpxai.watch import plain_name

_OTHERS = frozenset(
    {
        "Relu",
        "Hardtanh",
        "Threshold",
        "LeakyRelu",
        "PreluKernel",
        "RreluWithNoise",
        "Elu",
        "Celu",
        "Gelu",
        "Silu",
        "Mish",
    }
    | {"Softplus", "Hardswish", "Tanh", "Erf", "LogSigmoid", "Glu", "Softshrink", "Hardshrink"}
    | {"MkldnnRnnLayer", "CudnnRnn", "ThnnFusedLstmCell", "ThnnFusedGruCell"}
)
"""Nodes of autograd's graph that activations leave which are no rectifiers, or rectifiers called out of sight. Sigmoids
and softmax, which gate, norms and pooling have their own gradients."""
_COMPOSED = frozenset({"softsign", "tanhshrink"})
"""Activations that leave no node of their own."""
_COMPARISONS = frozenset({"gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"})
_IN_PLACE = {"relu": 1, "relu6": 1, "hardtanh": 3, "_threshold": 3}
"""Where the argument ``inplace`` is."""


class Rectified(torch.autograd.Function):
    """``min(max(x, 0), ceiling)``, with the gradient ``g · 1[0 < x < ceiling] · 1[g > 0]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward((x > 0) & (x < ceiling))
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        (active,) = ctx.saved_tensors
        return slopes.clamp(min=0) * active, None


class Guided(TorchFunctionMode):
    """Makes a rectifier of each call that is one: ReLU, ReLU6, and clamps, thresholds and maxima at zero."""

    def __init__(self) -> None:
        super().__init__()
        self._signs: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; the result of a rectifier has the gradient of `Rectified`."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        matters = any(each.requires_grad for each in tensors)
        masked = any(each in self._signs for each in tensors)
        if matters and (masked or name in _COMPOSED):
            raise _refused("a rectifier made of a comparison with zero" if masked else name)
        x, ceiling = _rectified(plain_name(name), args, kwargs) if matters else (None, 0.0)
        if x is None or not x.requires_grad:
            result = func(*args, **kwargs)
            compared = matters and name.strip("_") in _COMPARISONS and len(args) > 1 and _zero(args[1])
            if isinstance(result, Tensor) and (masked or compared):
                self._signs[result] = True
            return result
        result = Rectified.apply(x, ceiling)
        place = _IN_PLACE.get(name, len(args))
        in_place = name.endswith("_") or kwargs.get("inplace", args[place] if len(args) > place else False)
        return x.copy_(result) if in_place else result


def guided_gradients(request: Request, start: int, stop: int) -> tuple[Tensor, ...]:
    """The gradients of some samples' scores by guided backpropagation, one for each of ``request.inputs``.

    Raises:
        UnsupportedModelError: the model has no rectifier, or an activation that is none.
    """
    index = torch.arange(start, stop, device=request.inputs[0].device)
    leaves = [each.detach().requires_grad_() for each in request.rows(start, stop)]
    with torch.enable_grad():
        with Guided():
            outputs = request.call(leaves, index)
        score = differentiable(select(outputs, request.targets_for(index)), request).sum()
        _check(outputs)
        with backward_errors(request):
            found = torch.autograd.grad(score, leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if each is None else each for leaf, each in zip(leaves, found, strict=True))


def _check(outputs: Tensor) -> None:
    """Refuse outputs that were not computed by rectifiers, or by other activations too."""
    nodes = [] if outputs.grad_fn is None else children_first(outputs.grad_fn)
    own = {each: vars(type(each))["_forward_cls"] for each in nodes if isinstance(each, BackwardCFunction)}
    for node in nodes:
        name = own[node].__name__ if node in own else node.name().partition("Backward")[0]
        if name in _OTHERS or (node in own and own[node] is not Rectified):
            raise _refused(f"{name}, which is a function of its own" if node in own else name)
    if Rectified not in own.values():
        raise _refused("none")


def _refused(received: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "a model whose activations are rectifiers such as ReLU, called as torch functions",
        received,
        "Use a method that takes any activation, e.g. GradCam, Gradient or IntegratedGradients.",
    )


def _rectified(name: str, args: Any, kwargs: Any) -> tuple[Tensor | None, float]:
    """What a call rectifies and where it stops growing; None for a call that is no rectifier."""

    def argument(position: int, *names: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else next((kwargs[n] for n in names if n in kwargs), default)

    x = argument(0, "input")
    if name in ("relu", "relu6"):
        return x, 6.0 if name == "relu6" else math.inf
    if name in ("threshold", "_threshold") and _zero(argument(1, "threshold")) and _zero(argument(2, "value")):
        return x, math.inf
    if name == "hardtanh" and _zero(argument(1, "min_val", default=-1.0)):
        return x, float(argument(2, "max_val", default=1.0))
    if name in ("clamp", "clip", "clamp_min") and _zero(argument(1, "min")):
        ceiling = argument(2, "max")
        return (x, math.inf if ceiling is None else float(ceiling)) if not _many(ceiling) else (None, 0.0)
    if name in ("maximum", "max"):
        other = argument(1, "other")
        for one, zero in ((x, other), (other, x)):
            if isinstance(zero, Tensor) and _zero(zero) and (one + zero).shape == one.shape:
                return one, math.inf
    return None, 0.0


def _zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, int | float) and value == 0


def _many(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1
