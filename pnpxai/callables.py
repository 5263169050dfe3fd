"""What can be explained: a torch module, or any function from a batch to outputs."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.errors import ModelError, UnsupportedModelError

Model: TypeAlias = nn.Module | Callable[..., Any]
"""A module, or a function, bound method, partial or object with ``__call__`` that is asked for outputs alone."""


def check_model(model: object) -> None:
    """Refuse what cannot be asked for outputs.

    Raises:
        ModelError: no function, or a class.
    """
    if isinstance(model, type):
        raise ModelError("a model", f"the class {model.__name__}", "Build the model first, or load it.")
    if not callable(model):
        raise ModelError(
            "a torch.nn.Module, or a function from a batch of inputs to outputs",
            type(model).__name__,
            "Pass the module itself, or a function that asks the model, such as model.predict_proba.",
        )


def module_of(model: Model, who: str) -> nn.Module:
    """The model, for those that need a module.

    Args:
        model: the user's.
        who: asks for more than outputs.

    Raises:
        UnsupportedModelError: it is a function.
    """
    if isinstance(model, nn.Module):
        return model
    raise UnsupportedModelError(
        f"a torch.nn.Module for {who}, which needs gradients or the modules inside "
        "(a class that needs neither declares OUTPUTS_ONLY = True)",
        f"{model_name(model)}, a function with neither",
        "Use what asks for outputs alone, such as RISE; if torch computes the function, make it a module's forward.",
    )


def model_name(model: Model) -> str:
    """What to call a model: its class, or the function's name.

    Example:
        >>> model_name(nn.Linear(2, 1)), model_name(functools.partial(sum, start=1)), model_name([].count)
        ('Linear', 'sum', 'list.count')
    """
    if isinstance(model, functools.partial):
        return model_name(model.func)
    if isinstance(model, types.MethodType | types.BuiltinMethodType):
        owner = model.__self__
        bound = owner is not None and not isinstance(owner, types.ModuleType)
        return f"{type(owner).__name__}.{model.__name__}" if bound else model.__name__
    return model.__name__ if isinstance(model, types.FunctionType) else type(model).__name__


def same_model(one: object, other: object) -> bool:
    """Whether two are one model; a bound method is another object each time it is looked up.

    Example:
        >>> counted = [1, 2]
        >>> same_model(counted.count, counted.count), same_model([].count, [].count)
        (True, False)
    """
    if isinstance(one, types.MethodType | types.BuiltinMethodType):
        return one == other
    return one is other


def remembered(memory: WeakIdKeyDictionary, model: object) -> dict[Hashable, Any] | None:
    """What is remembered for a model, to be added to; None for an object that Python cannot refer to weakly."""
    try:
        if model not in memory:
            memory[model] = {}
    except TypeError:  # as with __slots__
        return None
    found: dict[Hashable, Any] = memory[model]
    return found


def modules_in(model: object) -> list[nn.Module]:
    """The modules that can be seen in a model.

    These are the model itself; else those that a function names (its own variables or global ones), that a method
    belongs to, that a partial was made of, or that an object has as attributes. What these call in turn is not seen.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> modules_in(lambda x: net(x).sigmoid())
        [Linear(in_features=2, out_features=1, bias=True)]
    """
    if isinstance(model, nn.Module):
        return [model]
    if isinstance(model, functools.partial):
        return _distinct(model.func, *model.args, *model.keywords.values())
    if isinstance(model, types.MethodType):
        return _distinct(model.__self__, model.__func__)
    held: list[Any] = []
    if isinstance(model, types.FunctionType):
        with contextlib.suppress(ValueError):  # a variable that is not set yet
            named = inspect.getclosurevars(model)
            held = [*named.nonlocals.values(), *named.globals.values()]
    elif callable(model) and not isinstance(model, type):
        held = list(getattr(model, "__dict__", {}).values())
    return _distinct(*(each for each in held if isinstance(each, nn.Module)))


def _distinct(*parts: object) -> list[nn.Module]:
    return list(dict.fromkeys(module for each in parts for module in modules_in(each)))
