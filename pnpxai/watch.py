"""Watches one forward pass: which torch functions a model calls, and from which of its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.batches import Extractor
from pnpxai.forward import Request
from pnpxai.guard import guard

MATMULS = frozenset({"matmul", "bmm", "baddbmm", "einsum", "__matmul__", "__rmatmul__", "mm"})
_KEEPS_SCORES = frozenset(
    {"add", "sub", "mul", "div", "masked_fill", "where", "to", "float", "type", "view", "reshape", "contiguous"}
    | {"dropout", "permute", "transpose", "unsqueeze", "squeeze", "expand", "flatten", "unflatten", "clamp", "tanh"}
    | {"__getitem__", "softcap", "type_as", "half", "bfloat16"}
)

_SYNONYMS = {"truediv": "div", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub"}


@dataclass(frozen=True)
class Operation:
    """One torch function a model called.

    Attributes:
        name: the function's name as `plain_name` gives it.
        path: the innermost module that was running, ``""`` for the model itself.
        module: that module.
        has_parameter: one of the arguments is a parameter of a module.
        attends: it multiplies by a softmax of a product, which is attention.
    """

    name: str
    path: str
    module: nn.Module
    has_parameter: bool
    attends: bool


@dataclass(frozen=True)
class Attending:
    """A product of attention weights and values.

    Attributes:
        scores: the product that the weights are a softmax of.
        weights: of the attention, ``(…, t, s)``.
        operands: of the product, in order; the weights are one of them.
        output: the product.
    """

    scores: Tensor
    weights: Tensor
    operands: tuple[Tensor, ...]
    output: Tensor


class AttentionTrail:
    """Follows products of matrices through a softmax to the product with values, which is attention.

    Attributes:
        n_softmaxes: softmaxes of products, ``(…, t, s)`` in at least three dimensions.
    """

    def __init__(self) -> None:
        self.n_softmaxes = 0
        self._scores: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._weights: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def follow(self, name: str, tensors: Sequence[Tensor], result: Any) -> Attending | None:
        """Look at one call; the attention it completes, if it does.

        Args:
            name: of the function, as of `plain_name`.
            tensors: among its arguments, in order.
            result: what it returned.
        """
        if not isinstance(result, Tensor):
            return None
        if name in MATMULS:
            for each in tensors:
                if each in self._weights:
                    return Attending(self._weights[each], each, tuple(tensors), result)
            self._scores[result] = None
        elif name == "softmax":
            if _hand_on(self._scores, self._weights, tensors, result) and result.ndim > 2:
                self.n_softmaxes += 1
        elif name in _KEEPS_SCORES:
            for known in (self._scores, self._weights):
                _hand_on(known, known, tensors, result)
        return None


def _hand_on(
    known: WeakIdKeyDictionary, others: WeakIdKeyDictionary, tensors: Sequence[Tensor], result: Tensor
) -> bool:
    """Enter a result of known tensors among others, with the product they come from (None for the product itself)."""
    for each in tensors:
        if each in known:
            product = each if known[each] is None else known[each]
            others[result] = None if product is result else product
            return True
    return False


class RunningModules:
    """Tells, during a forward pass, which module of a model is running; modules are known by their names in it."""

    def __init__(self, model: nn.Module) -> None:
        self._stack: list[tuple[str, nn.Module]] = [("", model)]
        self._names = list(model.named_modules())

    @property
    def modules(self) -> list[nn.Module]:
        """All modules, each once."""
        return [module for _, module in self._names]

    @property
    def innermost(self) -> tuple[str, nn.Module]:
        """The module that is running, of nested ones the innermost, with its name."""
        return self._stack[-1]

    @contextlib.contextmanager
    def watched(self) -> Iterator[RunningModules]:
        """Watch the block; the hooks that do it are removed on leaving."""
        handles = []
        try:
            for name, module in self._names:
                if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                    continue
                handles.append(module.register_forward_pre_hook(self._enter(name, module), prepend=True))
                handles.append(module.register_forward_hook(self._leave, always_call=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module) -> Any:
        def hook(*_: Any) -> None:
            self._stack.append((name, module))

        return hook

    def _leave(self, *_: Any) -> None:
        self._stack.pop()


class Watch(TorchFunctionMode):
    """Records every torch function called while it is active, with the module that called it.

    Use it by `running` around the forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._running = RunningModules(model)
        self._trail = AttentionTrail()

    @contextlib.contextmanager
    def running(self) -> Iterator[Watch]:
        """Watch what happens inside the block."""
        with self._running.watched(), self:
            yield self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the call, then make it."""
        result = func(*args, **(kwargs or {}))
        name = plain_name(getattr(func, "__name__", ""))
        tensors = tensors_of(args, kwargs or {})
        path, module = self._running.innermost
        has_parameter = any(isinstance(each, nn.Parameter) for each in tensors)
        attends = self._trail.follow(name, tensors, result) is not None
        self.operations.append(Operation(name, path, module, has_parameter, attends))
        return result


def plain_name(name: str) -> str:
    """The name of a torch function without marks for in-place and operator forms.

    Example:
        >>> plain_name("__iadd__"), plain_name("add_"), plain_name("__rmul__"), plain_name("truediv")
        ('add', 'add', 'mul', 'div')
    """
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        operators = ("add", "sub", "mul", "truediv", "matmul", "pow", "floordiv", "mod")
        inner = next((each for each in operators if inner in (each, f"i{each}", f"r{each}")), inner)
        name = inner if inner in operators else name
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return _SYNONYMS.get(name, name)


def watch(
    model: nn.Module,
    inputs: Any,
    *,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> Watch:
    """Run the model once on one sample of the inputs and return what it called."""
    with guard(model), torch.no_grad():
        request = Request.build(
            model,
            inputs,
            forward_arg_extractor=forward_arg_extractor,
            additional_forward_arg_extractor=additional_forward_arg_extractor,
            allow_integers=True,
        )
        with Watch(model).running() as watched:
            request.call(request.rows(0, 1))
    return watched


def tensors_of(args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among a call's arguments, in order, those in lists and tuples too."""
    return [each for each in _flat((*args, *kwargs.values())) if isinstance(each, Tensor)]


def _flat(args: Any) -> Iterator[Any]:
    for each in args:
        if isinstance(each, tuple | list):
            yield from _flat(each)
        else:
            yield each
