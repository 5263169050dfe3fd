"""One call of a torch function in a forward pass, and what its relevance needs to know."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pnpxai.watch import plain_name

AttentionRule = Literal["constant", "attnlrp"]


@dataclass(eq=False)
class Call:
    """One call of a torch function.

    Attributes:
        function: what was called.
        args: its arguments; those in `tensors` depend on what is explained.
        kwargs: likewise.
        name: of the operation, as the table in `pnpxai.relevance._operations` lists it.
        path: the innermost module that was running, ``""`` for the model itself.
        module: that module.
        target: the argument that the call changes in place, if it does.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str
    path: str
    module: nn.Module
    target: Tensor | None = None

    @classmethod
    def of(
        cls, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], running: tuple[str, nn.Module]
    ) -> Call | None:
        """A call from the module that is running, by its name; None if no argument depends on what is explained."""
        tensors = _dependent(args, kwargs)
        if not tensors:
            return None
        target = changed_in_place(function, args, kwargs)
        call = cls(function, args, kwargs, operation_name(function), *running, target)
        vars(call)["tensors"] = tensors  # what the property would find again
        return call

    @property
    def place(self) -> str:
        """The module it was called from, for people."""
        return f"{self.path or 'the model itself'} ({type(self.module).__name__})"

    def stripped(self) -> Call:
        """The call without its arguments, which would keep memory."""
        return Call(self.function, (), {}, self.name, self.path, self.module)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The arguments that depend on what is explained, in order, with repetitions."""
        return _dependent(self.args, self.kwargs)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its position or its name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def run(self) -> Any:
        """Make the call."""
        return self.function(*self.args, **self.kwargs)

    def swapped(self, swap: Callable[[Tensor], Tensor]) -> Call:
        """The same call with the tensors it depends on replaced."""

        def change(value: Any) -> Any:
            return swap(value) if depends(value) else value

        args, kwargs = mapped(self.args, change), mapped(dict(self.kwargs), change)
        return Call(self.function, args, kwargs, self.name, self.path, self.module, self.target)

    def out_of_place(self) -> Call:
        """The same call without its change of the first argument."""
        if self.target is None:
            return self
        if "inplace" in parameters(self.function):
            place = parameters(self.function).index("inplace")
            args = tuple(False if i == place else each for i, each in enumerate(self.args))
            kwargs = {key: each for key, each in self.kwargs.items() if key != "inplace"}
            return replace(self, args=args, kwargs=kwargs, target=None)
        function = getattr(torch.Tensor, self.name, None) or getattr(torch, self.name)
        return replace(self, function=function, target=None)


@dataclass
class Account:
    """Where the relevance that arrived at one operation went; sums over the batch.

    Attributes:
        operation: its plain name.
        place: the module it was called from.
        relevance_in: arrived from above.
        relevance_out: handed down to what was computed from the inputs.
        bias: absorbed by biases.
        epsilon: absorbed by stabilizers (negative where a rule creates relevance).
        constants: absorbed by tensors that do not depend on the inputs.
        magnitude: Σ|R| of what arrived.
    """

    operation: str
    place: str
    relevance_in: float = 0.0
    relevance_out: float = 0.0
    bias: float = 0.0
    epsilon: float = 0.0
    constants: float = 0.0
    magnitude: float = 0.0

    @property
    def absorbed(self) -> float:
        """Absorbed by anything."""
        return self.bias + self.epsilon + self.constants

    def count(self, **amounts: Tensor) -> None:
        """Add the sums of tensors to fields of these names."""
        for name, amount in amounts.items():
            exact = amount if amount.dtype in (torch.float32, torch.float64) else amount.float()
            setattr(self, name, getattr(self, name) + float(exact.sum() if exact.ndim else exact))


@dataclass
class Kept:
    """A value needed on the way back; replaced by a copy when the model is about to change its memory."""

    tensor: Tensor


@dataclass
class Keeper:
    """Keeps values for the way back without copying them, unless they are changed in place."""

    _by_memory: dict[int, list[weakref.ref[Kept]]] = field(default_factory=dict)

    def keep(self, tensor: Tensor) -> Kept:
        """Keep a tensor as it is now."""
        kept = Kept(tensor.detach())
        self._by_memory.setdefault(tensor.untyped_storage().data_ptr(), []).append(weakref.ref(kept))
        return kept

    def before_change(self, tensor: Tensor) -> None:
        """Copy what is kept in the memory of a tensor that is about to be changed."""
        for reference in self._by_memory.pop(tensor.untyped_storage().data_ptr(), []):
            kept = reference()
            if kept is not None:
                kept.tensor = kept.tensor.clone()


def depends(value: Any) -> bool:
    """Whether a value is a tensor computed from what is explained."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return False
    return type(value) is Tensor or not isinstance(value, nn.Parameter)


def _dependent(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [each for each in flat((*args, *kwargs.values())) if depends(each)]


def held(call: Call, tensor: Tensor) -> Call:
    """The call with one of its tensors held constant."""
    return call.swapped(lambda each: each.detach() if each is tensor else each)


def all_held_but(call: Call, tensor: Tensor) -> Call:
    """The call with all but one of its tensors held constant."""
    return call.swapped(lambda each: each if each is tensor else each.detach())


def flat(value: Any) -> list[Any]:
    """Everything in nested tuples, lists and dicts."""
    found: list[Any] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    if isinstance(value, _SEQUENCES):
        for each in value:
            _collect(each, found)
    elif isinstance(value, dict):
        for each in value.values():
            _collect(each, found)
    else:
        found.append(value)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and dicts with everything in them changed."""
    if isinstance(value, _SEQUENCES):
        changed = [mapped(each, change) for each in value]
        return changed if isinstance(value, list) else tuple(changed)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    return change(value)


_SEQUENCES = (tuple, list)


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a Python function's parameters; none for functions of torch's own language."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


@cache
def operation_name(function: Any) -> str:
    """The name under which a torch function is listed.

    Example:
        >>> operation_name(torch.Tensor.add_), operation_name(torch.Tensor.T.__get__), operation_name(torch.relu)
        ('add', 'T', 'relu')
    """
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return str(getattr(function.__self__, "__name__", name))
    return plain_name(name)


def changed_in_place(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The argument that a call changes in place, if it does."""
    return args[0] if args and isinstance(args[0], Tensor) and _in_place(function, args, kwargs) else None


def _in_place(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name in ("__setitem__", "__set__") or (
            name[2] == "i" and name not in ("__invert__", "__index__", "__int__")
        )
    if name.endswith("_"):
        return True
    names = parameters(function)
    if "inplace" not in names:
        return False
    place = names.index("inplace")
    return bool(kwargs.get("inplace", args[place] if len(args) > place else False))
