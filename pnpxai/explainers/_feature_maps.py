"""The feature maps that a score is read from: found by running the model, kept with their gradient's way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers._following import Following
from pnpxai.explainers._gradients import backward_errors, differentiable, frozen
from pnpxai.explainers._graph import passed_by_all
from pnpxai.explainers._places import Layout, Places
from pnpxai.forward import Request
from pnpxai.modules import Convolution
from pnpxai.outputs import select
from pnpxai.watch import plain_name

_ELSE = "Name a layer with layer=, or use a method that needs none, e.g. IntegratedGradients or RISE."


@dataclass
class Kept:
    """One tensor of a forward pass.

    Attributes:
        value: as it was made, whatever was done to it in place later.
        edge: where its gradient arrives; None where it has none.
        calls: the names of all calls, where these are what it was found by.
    """

    value: Tensor | None = None
    edge: GradientEdge | None = None
    calls: list[str] = field(default_factory=list)

    def keep(self, tensor: Tensor) -> None:
        """Keep a tensor as it is now."""
        self.value = tensor.detach().clone()
        self.edge = get_gradient_edge(tensor) if tensor.requires_grad else None


@dataclass(frozen=True)
class OfCall:
    """Feature maps made by one call of a torch function.

    Attributes:
        layout: how they are read.
        number: of the call.
        calls: the names of all calls of the pass it was found in.
    """

    layout: Layout
    number: int
    calls: tuple[str, ...]

    @property
    def title(self) -> str:
        """What they are, for people."""
        return "the feature maps that were found"

    @contextlib.contextmanager
    def kept(self, model: nn.Module) -> Iterator[Kept]:
        """Keep them while the block runs."""
        kept = Kept()
        with _KeepsCall(self.number, kept):
            yield kept

    def found_in(self, kept: Kept, n: int) -> bool:
        """Whether the model called what it called when they were found."""
        return tuple(kept.calls) == self.calls and kept.value is not None and self.layout.fits(kept.value, n)


@dataclass(frozen=True)
class OfLayer:
    """Feature maps that a layer returned the last time it was called.

    Attributes:
        layout: how they are read.
        layer: its name.
        number: of the tensor among those it returned.
    """

    layout: Layout
    layer: str
    number: int

    @property
    def title(self) -> str:
        """What they are, for people."""
        return f"layer {self.layer!r}"

    @contextlib.contextmanager
    def kept(self, model: nn.Module) -> Iterator[Kept]:
        """Keep them while the block runs."""
        kept = Kept()

        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            several = returned(output)
            if self.number < len(several):
                kept.keep(several[self.number])

        handle = model.get_submodule(self.layer).register_forward_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    def found_in(self, kept: Kept, n: int) -> bool:
        """Whether the layer returned the shape it returned when they were found."""
        return kept.value is not None and self.layout.fits(kept.value, n)


class _KeepsCall(TorchFunctionMode):
    """Counts the calls and keeps the result of one."""

    def __init__(self, number: int, kept: Kept) -> None:
        super().__init__()
        self._number, self._kept = number, kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if len(self._kept.calls) == self._number and isinstance(result, Tensor):
            self._kept.keep(result)
        self._kept.calls.append(plain_name(getattr(func, "__name__", "")))
        return result


def returned(output: object) -> list[Tensor]:
    """The tensors in what a module returned, in order: a tensor, a tuple or list, a mapping or a ``ModelOutput``."""
    if isinstance(output, Tensor):
        return [output]
    inner = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return [tensor for each in inner for tensor in returned(each)]


def last_feature_maps(request: Request, row: int) -> tuple[OfCall, bool]:
    """The last feature maps that the score of a sample is read from.

    Of all that convolutions, norms, activations, sums and concatenations made, in the layout of a grid over the inputs,
    the last that every way from the inputs to the score leads through and that the score depends on at one of the
    grid's places. Where only a class token is read in the end, that is the last block's input.

    Returns:
        The feature maps, and whether the score of the sample depends on anything; where not, they may be others' of
        another sample.

    Raises:
        UnsupportedModelError: there are none, or a convolution or attention goes on after the places were lost.
    """
    leaf = request.input[row : row + 1].detach().requires_grad_()
    index = torch.tensor([row], device=leaf.device)
    with torch.enable_grad(), frozen(request.model):
        with Following(request.module).following(leaf) as seen:
            outputs = request.call((leaf,), index)
        score = differentiable(select(outputs, request.targets_for(index)), request).sum()
    through = passed_by_all(score, leaf)
    candidates = [
        (each, layout)
        for each in reversed(seen.made)
        if each.edge.node in through and (layout := Layout.of(each.places))
    ]
    if not candidates:
        raise UnsupportedModelError(
            "feature maps with more than one position, between inputs (n, channels, positions …) and the score",
            f"none in {type(request.model).__name__} that all of the score is read from",
            _ELSE,
        )
    last, layout = candidates[0]
    lost_by = seen.lost_by(last.number)
    if lost_by is not None:
        operation = seen.operations[last.number]
        raise UnsupportedModelError(
            "feature maps whose positions can be followed to the end",
            f"{lost_by} after positions were last known, in {operation.path or type(request.model).__name__!r}",
            _ELSE,
        )
    calls = tuple(each.name for each in seen.operations)
    for each, own in candidates:
        with backward_errors(request):
            (slopes,) = torch.autograd.grad(score, (each.edge,), retain_graph=True)
        if own.read(slopes).any():
            return OfCall(own, each.number, calls), True
        if not slopes.any():  # and so nothing below matters either
            break
    return OfCall(layout, last.number, calls), False


def feature_maps_of(request: Request, layer: str, row: int) -> OfLayer:
    """The feature maps that a layer returns for a sample; of several tensors, the first that are.

    What a convolution returns are feature maps whatever came before it.

    Raises:
        UnsupportedModelError: it is not called, or returns none.
    """
    start = request.input[row : row + 1]
    outputs: list[tuple[tuple[int, ...], Places | None]] = []
    following = Following(request.module)

    def look(module: nn.Module, _inputs: object, output: object) -> None:
        outputs[:] = [(tuple(each.shape), following.places(each)) for each in returned(output)]
        if isinstance(module, Convolution) and outputs[0][1] is None and len(outputs[0][0]) == start.ndim:
            outputs[:] = [(outputs[0][0], Places.even(returned(output)[0]))]

    handle = request.module.get_submodule(layer).register_forward_hook(look)
    try:
        with torch.no_grad(), following.following(start):
            request.call((start,), torch.tensor([row], device=start.device))
    finally:
        handle.remove()
    for number, (_, places) in enumerate(outputs):
        layout = None if places is None else Layout.of(places)
        if layout is not None:
            return OfLayer(layout, layer, number)
    raise UnsupportedModelError(
        f"an output of layer {layer!r} whose elements belong to positions of the inputs (n, channels, positions …)",
        f"shape {', '.join(str(shape) for shape, _ in outputs)}" if outputs else "that it was not called",
        "Choose a convolution, or a layer that keeps positions.",
    )
