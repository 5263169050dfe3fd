"""A forward pass of samples with their references beside them, operation by operation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.errors import UnsupportedOperationError
from pnpxai.relevance._call import Call, changed_in_place, depends, flat, mapped, operation_name
from pnpxai.relevance._refused import Barrier
from pnpxai.watch import RunningModules

PairRule: TypeAlias = Callable[[Call, "Pairs"], Any]
"""Makes a call for samples and references; autograd, going backward, then carries multipliers in place of gradients."""

INSTEAD = "Use a method without rules, such as IntegratedGradients, ExpectedGradients or RISE."


def unsupported(call: Call, expected: str, received: str = "") -> UnsupportedOperationError:
    """The error for a call that has no multipliers."""
    return UnsupportedOperationError(expected, f"{call.name} in {call.place}{received}", INSTEAD)


class Valued(torch.autograd.Function):
    """A value in place of another tensor's, which keeps what autograd does going backward."""

    @staticmethod
    def forward(ctx: Any, value: tuple[Tensor], carrier: Tensor) -> Tensor:
        return value[0]

    @staticmethod
    def backward(ctx: Any, multipliers: Tensor) -> tuple[None, Tensor]:
        return None, multipliers


class Pairs(TorchFunctionMode):
    """Makes every call of a model twice, for the samples and for the references.

    The model runs once and sees the samples only. Every tensor computed from them has the same of the references kept
    beside it as long as it lives. How the samples' gradient is to be changed is up to the rules.

    Args:
        model: the user's model, inside `pnpxai.guard.guard` and without parameters that require gradients.
        rules: for calls by the names of operations.
        otherwise: for any other call.
    """

    def __init__(self, model: nn.Module, rules: Mapping[str, PairRule], otherwise: PairRule) -> None:
        super().__init__()
        self._rules, self._otherwise = rules, otherwise
        self._running = RunningModules(model)
        self._references: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @contextlib.contextmanager
    def running(self, starts: Sequence[Tensor], references: Sequence[Tensor]) -> Iterator[Pairs]:
        """Follow what is computed from ``starts`` inside the block."""
        for each, reference in zip(starts, references, strict=True):
            self.know(each, reference)
        with self._running.watched(), self:
            yield self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call by its rule."""
        kwargs = kwargs or {}
        tensors = [each for each in flat((args, kwargs)) if isinstance(each, Tensor)]
        known = [each for each in tensors if each in self._references]
        if not known and not any(map(depends, tensors)):
            return func(*args, **kwargs)
        path, module = self._running.innermost
        target = changed_in_place(func, args, kwargs)
        call = Call(func, tuple(args), kwargs, operation_name(func), path, module, target)
        for each in tensors:
            self.check(each, f"before {call.name} in {call.place}")
        with torch.inference_mode(False), torch.enable_grad():
            return self._rules.get(call.name, self._otherwise)(call, self)

    def check(self, tensor: Tensor, where: str) -> None:
        """Refuse a tensor that depends on the inputs and was not made by a torch function.

        Raises:
            UnsupportedOperationError: its gradient would be taken for multipliers.
        """
        node: Any = tensor.grad_fn
        foreign = isinstance(node, torch.autograd.function.BackwardCFunction) and vars(type(node))[
            "_forward_cls"
        ] not in (Valued, Barrier)
        if depends(tensor) and (foreign or not self.knows(tensor)):
            raise UnsupportedOperationError(
                "a model in which every operation on the inputs is a call of a torch function",
                f"{'a tensor' if node is None else node.name()}, made out of sight, {where}",
                INSTEAD,
            )

    def know(self, tensor: Tensor, reference: Tensor) -> Tensor:
        """Keep a reference beside a tensor."""
        self._references[tensor] = reference
        return tensor

    def knows(self, value: object) -> bool:
        """Whether a value is a tensor with a reference beside it."""
        return isinstance(value, Tensor) and value in self._references

    def reference(self, tensor: Tensor) -> Tensor:
        """What is beside a tensor."""
        found: Tensor = self._references[tensor]
        return found

    def varying(self, call: Call) -> list[Tensor]:
        """The floating-point arguments that are computed from the inputs, in order, with repetitions."""
        return [each for each in flat((call.args, call.kwargs)) if self.knows(each) and each.is_floating_point()]

    def of_references(self, call: Call) -> Any:
        """The call made for the references."""
        with torch.no_grad():
            return replaced(call, lambda each: self.reference(each) if self.knows(each) else each).run()

    def paired(self, call: Call, result: Any, reference: Any) -> Any:
        """A result, with that for the references beside each tensor in it.

        Raises:
            UnsupportedOperationError: the two are not of one form.
        """
        for own, other in zip(flat(result), flat(reference), strict=False):
            if isinstance(own, Tensor):
                if own.shape != other.shape:
                    shapes = f": {tuple(own.shape)} and {tuple(other.shape)}"
                    raise unsupported(call, "operations that give samples and references one shape", shapes)
                self.know(own, other)
        return result

    def carried(self, call: Call, value: Tensor, reference: Tensor, carrier: Tensor) -> Tensor:
        """The result of a call whose gradient is that of ``carrier``, written where the call writes."""
        result: Tensor = Valued.apply((value.detach(),), carrier)
        return self.written(call.target, self.know(result, reference))

    def written(self, target: Tensor | None, result: Tensor) -> Tensor:
        """A result, in the tensor that the call was to change if there is one."""
        if target is None:
            return result
        self.before_change(target)
        target.copy_(result)
        self.reference(target).copy_(self.reference(result))
        return target

    def before_change(self, target: Tensor | None) -> None:
        """Let a tensor of the model's own, which is about to be changed, have a reference that can be changed."""
        if target is not None and not self.knows(target):
            self.know(target, target.detach().clone())


def replaced(call: Call, change: Callable[[Any], Any]) -> Call:
    """The same call with its arguments changed."""
    return replace(call, args=mapped(call.args, change), kwargs=mapped(dict(call.kwargs), change))
