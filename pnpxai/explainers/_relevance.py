"""One pass of relevance through a model, from the targets' outputs to the inputs or to a layer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from pnpxai.errors import RelevanceWarning, UnsupportedModelError
from pnpxai.explainers._gradients import backward_errors, differentiable
from pnpxai.explainers._layers import LayerOutput
from pnpxai.forward import Request
from pnpxai.outputs import TargetFunction, select
from pnpxai.relevance import Account, Ledger, Propagation, Settings
from pnpxai.targets import take_targets

UNEXPLAINED = 0.01
"""The share of the outputs' relevance that may be neither in the map nor absorbed before there is a warning.

In half precision it is eight times the dtype's precision, which is what rounding alone can do.
"""


def start_relevance(outputs: Tensor, targets: Tensor | TargetFunction, request: Request) -> Tensor:
    """What relevance starts from: ``outputs ⊙ ∂score/∂outputs``, the score itself at the output of a class.

    Args:
        outputs: ``(n, k)`` or ``(n,)``.
        targets: class indices ``(n,)`` or a function of the outputs.
        request: named in errors.

    Example:
        >>> start_relevance(torch.tensor([[3.0, -2.0]]), torch.tensor([1]), None).tolist()
        [[0.0, -2.0]]
    """
    if isinstance(targets, Tensor):
        own = select(outputs.detach(), targets)
        return (
            own if own.shape == outputs.shape else torch.zeros_like(outputs).scatter(1, targets[:, None], own[:, None])
        )
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        scores = differentiable(select(leaf, targets), request)
        (slope,) = torch.autograd.grad(scores.sum(), (leaf,))
    return outputs.detach() * slope


@dataclass
class Books:
    """The accounts of all chunks of a batch.

    Attributes:
        measured: whether every operation's relevance in and out is counted, and not only what is absorbed.
        accounts: by operation, in order.
        output: relevance that started at the outputs.
        explained: relevance that reached the inputs.
        magnitude: Σ|R| of what started.
        precision: of the outputs' dtype.
    """

    measured: bool = False
    accounts: list[Account] = field(default_factory=list)
    output: float = 0.0
    explained: float = 0.0
    magnitude: float = 0.0
    precision: float = 0.0

    def add(self, accounts: Sequence[Account], relevance: Tensor, explained: Sequence[Tensor]) -> None:
        """Add a chunk's; operations that are the same in every chunk are one entry."""
        self.precision = torch.finfo(relevance.dtype).eps
        self.output += float(relevance.sum(dtype=torch.float64))
        self.magnitude += float(relevance.abs().sum(dtype=torch.float64))
        self.explained += sum(float(each.sum(dtype=torch.float64)) for each in explained)
        names = [[(each.operation, each.place) for each in several] for several in (self.accounts, accounts)]
        if names[0] != names[1]:
            self.accounts += accounts
            return
        for mine, new in zip(self.accounts, accounts, strict=True):
            for each in fields(Account)[2:]:
                setattr(mine, each.name, getattr(mine, each.name) + getattr(new, each.name))

    def ledger(self) -> Ledger:
        """What was counted."""
        return Ledger.of(self.accounts, self.output, self.explained)

    def warn(self, explainer: str) -> None:
        """Warn if too much of the outputs' relevance is found nowhere."""
        lost = self.output - self.explained - sum(each.absorbed for each in self.accounts)
        if not abs(lost) <= max(UNEXPLAINED, 8 * self.precision) * self.magnitude:
            warnings.warn(
                f"{explainer}: {lost:.3g} of {self.output:.3g} of the outputs' relevance is neither in the map nor "
                "absorbed by biases, stabilizers or constants. Look at .ledger(inputs, targets); a larger epsilon or "
                "stabilizer helps where it is rounding, model.double() too.",
                RelevanceWarning,
                stacklevel=5,
            )


def relevance_of_chunk(
    request: Request,
    settings: Settings,
    start: int,
    stop: int,
    targets: Sequence[Tensor | TargetFunction],
    layer: str | None,
    books: Books,
) -> list[tuple[Tensor, ...]]:
    """Relevance of some samples, for each target from one forward pass.

    Args:
        request: the batch; its model's parameters require no gradients.
        settings: the rules.
        start: the first of the samples.
        stop: one past the last.
        targets: each class indices ``(n,)`` of the whole batch or a function of the outputs.
        layer: where relevance ends, if not at the inputs.
        books: the accounts are added to.

    Returns:
        For each target, relevance in the shape of each input, or of the layer's output.
    """
    index = torch.arange(start, stop, device=request.inputs[0].device)
    leaves = [each.detach() for each in request.rows(start, stop)]
    starts = [each.requires_grad_() for each in leaves if each.is_floating_point()]
    propagation = Propagation(request.module, settings, measured=books.measured, again=len(targets) > 1)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(propagation.ready(*starts))
        recorded: LayerOutput | _LayerStart | None = None
        if layer is not None:
            recorded = LayerOutput(layer) if starts else _LayerStart(layer, propagation)
            stack.enter_context(recorded.recorded(request.module))
        rows = [each.clone() for each in leaves]  # which the model may change
        for each in rows:
            propagation.know(each)
        outputs = request.call(rows, index, fresh=True, within=propagation)
        reached = tuple(starts) if recorded is None else (recorded.tensor,)
    differentiable(outputs, request)
    propagation.check(outputs, f"at the end of {type(request.model).__name__}")
    _compare(outputs, start, stop, request)
    found = []
    for place, target in enumerate(targets):
        relevance = start_relevance(outputs, take_targets(target, index), request)
        last = place == len(targets) - 1
        with backward_errors(request):
            maps = torch.autograd.grad(outputs, reached, relevance, retain_graph=not last, allow_unused=True)
        maps = tuple(torch.zeros_like(end) if each is None else each for end, each in zip(reached, maps, strict=True))
        found.append(maps)
        books.add(propagation.accounts if last else (), relevance, maps)
    return found


def _compare(outputs: Tensor, start: int, stop: int, request: Request) -> None:
    """Warn if the model gives other outputs now than it gave without rules, where it has been asked."""
    if "outputs" not in vars(request):
        return
    plain, found = request.outputs[start:stop], outputs.detach()
    tolerance = max(1e-3, 32 * torch.finfo(found.dtype).eps) * plain.abs().max()
    if not ((plain - found).abs() <= tolerance).all():
        warnings.warn(
            f"{type(request.model).__name__} gives outputs that differ by {(plain - found).abs().max():.3g} when it "
            "is run with gradients; its relevance is that of the outputs with gradients.",
            RelevanceWarning,
            stacklevel=6,
        )


class _LayerStart:
    """Lets relevance end at the output of a layer, above inputs that have no gradient."""

    def __init__(self, name: str, propagation: Propagation) -> None:
        self.name, self.propagation = name, propagation
        self._output: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The layer's output.

        Raises:
            UnsupportedModelError: it was not called, or returned no floating-point tensor.
        """
        if self._output is None:
            raise UnsupportedModelError(
                f"a floating-point tensor from layer {self.name!r}", "none", "Choose the embedding of the inputs."
            )
        return self._output

    @contextlib.contextmanager
    def recorded(self, model: nn.Module) -> Iterator[_LayerStart]:
        """Start at the layer's output while the block runs."""

        def start(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return None
            with torch.inference_mode(False), torch.enable_grad():
                self._output = output.detach().clone().requires_grad_()
                self.propagation.know(self._output)
                clone: Tensor = self._output.clone()
            return clone

        handle = model.get_submodule(self.name).register_forward_hook(start)
        try:
            yield self
        finally:
            handle.remove()
