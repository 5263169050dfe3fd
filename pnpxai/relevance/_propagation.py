"""One forward pass in which every operation is given its relevance rule."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.errors import UnsupportedOperationError
from pnpxai.relevance._call import (
    Account,
    AttentionRule,
    Call,
    Keeper,
    depends,
    flat,
)
from pnpxai.relevance._operations import MODULES, OPERATIONS
from pnpxai.relevance._refused import Barrier, Refused
from pnpxai.relevance._rule import RelevanceNode, Rule, Step
from pnpxai.relevance._stabilizer import Stabilizer
from pnpxai.relevance._weighted import WeightedStep
from pnpxai.watch import RunningModules

if TYPE_CHECKING:
    from zennit.core import Composite


@dataclass(frozen=True)
class Settings:
    """What the rules are to be.

    Attributes:
        composite: gives the rule of each linear map with weights, as `zennit` does for modules.
        epsilon: of the ε-rule for operations without weights that add contributions up: sums, norms, products of
            matrices.
        stabilizer: of averages, where it only keeps denominators from zero.
        attention: softmax held constant, or expanded to first order (AttnLRP, arXiv 2402.05602).
        operations: plain names of torch functions to rules that take the place of the listed ones.
    """

    composite: Composite
    epsilon: Stabilizer
    stabilizer: Stabilizer
    attention: AttentionRule = "constant"
    operations: Mapping[str, Rule] = field(default_factory=dict)


@dataclass(frozen=True)
class Trail:
    """What is known of a tensor that depends on the inputs.

    Attributes:
        gate: how surely it only scales what it is multiplied with, as of `Rule`.
        step: the call that made it, if by a rule of its own.
    """

    gate: int = 0
    step: Step | None = None


class Propagation(TorchFunctionMode):
    """Runs a model forward so that autograd, going backward, carries relevance.

    Every torch function that the model calls on tensors computed from the inputs is looked up, by its name, in the
    table of rules. Nothing in the model is replaced; forward hooks tell which module is running.

    Args:
        model: the user's model, inside `pnpxai.guard.guard` and without parameters that require gradients.
        settings: the rules' parameters.
        measured: keep an account for each operation of all that comes in and goes out.
        again: whether more than one backward pass is to be made.

    Attributes:
        accounts: of the operations, in order.
    """

    def __init__(self, model: nn.Module, settings: Settings, *, measured: bool = False, again: bool = False) -> None:
        super().__init__()
        self.settings, self.measured, self.again = settings, measured, again
        self.keeper = Keeper()
        self.accounts: list[Account] = []
        self.composite_context: dict[str, Any] = {}
        self._running = RunningModules(model)
        self._trails: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._in_one_operation = 0

    @contextlib.contextmanager
    def ready(self, *starts: Tensor) -> Iterator[Propagation]:
        """Inside the block it is known which module is running; what is called ``with`` this, too, is traced.

        Args:
            starts: tensors at which relevance ends.
        """
        for each in starts:
            self.know(each)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._running.watched())
            for module in self._running.modules:
                rule = next((MODULES[each] for each in type(module).__mro__ if each in MODULES), None)
                if rule is not None:
                    stack.enter_context(self._as_one_operation(module, rule))
            yield self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call by its rule."""
        kwargs = kwargs or {}
        call = None if self._in_one_operation else Call.of(func, tuple(args), kwargs, self._running.innermost)
        if call is None:
            return func(*args, **kwargs)
        if call.kwargs.get("out") is not None:
            raise UnsupportedOperationError(
                "operations that return their result",
                f"{call.name} in {call.place} with out=",
                "Leave out= away, so that what becomes of the inputs can be followed.",
            )
        rule = self.settings.operations.get(call.name) or OPERATIONS.get(call.name)
        if rule is None and getattr(func, "__name__", "") == "__get__":
            result = func(*args, **kwargs)
            if not depends(result):
                return result
        makers = [self._maker(each, call) for each in call.tensors]
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
            result = (rule or Refused()).trace(call, self)
        if call.name != "clone" and any(depends(each) for each in flat(result)):
            for maker, each in zip(makers, call.tensors, strict=True):
                if isinstance(maker, WeightedStep):
                    maker.used(each)
        return result

    def _maker(self, tensor: Tensor, call: Call) -> Step | None:
        """The step that made a tensor, which a call takes."""
        trail = self._trails.get(tensor)  # type: ignore[no-untyped-call]
        if trail is None or not _ours(tensor.grad_fn):
            self.check(tensor, f"before {call.name} in {call.place}")
        found: Step | None = trail.step
        return found

    def check(self, tensor: Tensor, where: str) -> None:
        """Refuse a tensor that was not made by an operation with a rule.

        Raises:
            UnsupportedOperationError: its gradient would be taken for relevance.
        """
        if tensor not in self._trails or not _ours(tensor.grad_fn):
            made = "a tensor" if tensor.grad_fn is None else tensor.grad_fn.name()
            raise UnsupportedOperationError(
                "a model in which every operation on the inputs is a call of a torch function",
                f"{made}, made out of sight, {where}",
                "Register a rule for the module that makes it with pnpxai.relevance.register_rule, or use a method "
                "without rules, such as IntegratedGradients, GradCam or RISE.",
            )

    def trail(self, tensor: Tensor) -> Trail:
        """What is known of a tensor."""
        found: Trail | None = self._trails.get(tensor)  # type: ignore[no-untyped-call]
        return found or Trail()

    def know(self, tensor: Tensor, gate: int = 0, step: Step | None = None) -> Tensor:
        """Remember how a tensor was made."""
        self._trails[tensor] = Trail(gate, step)
        return tensor

    def written(self, target: Tensor | None, result: Any) -> Any:
        """The result, written into the tensor that the call was to change, if there is one."""
        if target is None:
            return result
        self.keeper.before_change(target)
        with torch.enable_grad():
            target.copy_(result)
        return self.know(target, self.trail(result).gate) if depends(target) else target

    def open_account(self, call: Call) -> Account:
        """A new account for a call."""
        self.accounts.append(Account(call.name, call.place))
        return self.accounts[-1]

    def tapped(self, tensors: Sequence[Tensor], account: Account) -> list[Tensor]:
        """The tensors, under names of their own if what goes down to each from this call is to be measured."""
        if not self.measured:
            return list(tensors)
        with torch.enable_grad():
            taps = [each.view_as(each) for each in tensors]
        for each in taps:
            each.register_hook(lambda relevance: account.count(relevance_out=relevance))  # type: ignore[no-untyped-call]
        return taps

    def received(self, account: Account, relevance: Tensor) -> None:
        """Count what arrived at an operation."""
        if self.measured:
            account.count(relevance_in=relevance, magnitude=relevance.abs())

    @contextlib.contextmanager
    def _as_one_operation(self, module: nn.Module, rule: Rule) -> Iterator[None]:
        """Let a module be one operation: what it calls is not traced, its output is made by the rule."""

        def enter(*_: Any) -> None:
            self._in_one_operation += 1

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self._in_one_operation -= 1
            if output is None or self._in_one_operation:
                return output
            path, _ = self._running.innermost
            call = Call(module.forward, args, kwargs, type(module).__name__, path, module)
            if not call.tensors:
                return output
            self._in_one_operation += 1
            try:
                return rule.trace(call, self)
            finally:
                self._in_one_operation -= 1

        handles = [
            module.register_forward_pre_hook(enter, prepend=True),
            module.register_forward_hook(leave, with_kwargs=True, always_call=True, prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _ours(node: Any) -> bool:
    """Whether a node of autograd's graph is torch's or the package's, and not of a function somebody wrote."""
    return not isinstance(node, torch.autograd.function.BackwardCFunction) or vars(type(node))["_forward_cls"] in (
        RelevanceNode,
        Barrier,
    )
