"""The one place that calls a user's model: checked, counted, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor, Targets, batch_shape, check_inputs, check_targets, extracted, usable
from pnpxai.chunks import chunk_size_for, out_of_memory
from pnpxai.errors import InputError, ModelError, PnPXAIError
from pnpxai.forward._counting import count
from pnpxai.outputs import Score, TargetFunction, output_tensor, predicted, select
from pnpxai.precision import lowered

T = TypeVar("T")


@dataclass
class Request:
    """One batch to be explained, checked and on the model's device: what every method works on.

    Attributes:
        model: the user's model.
        inputs: what is explained, each ``(n, …)``.
        extra: further arguments of the model's forward, passed through (tensors of length ``n`` follow their sample).
        requested: the targets as class indices ``(n,)``, a function of the outputs, or None for the predicted class.
        chunk_size: samples that go through the model at once, if not as `chunk_size_for` has it.
        compile: ask what ``torch.compile`` makes of the model, in `stream`.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    extra: tuple[Any, ...]
    requested: Tensor | TargetFunction | None = None
    chunk_size: int | None = None
    compile: bool = False

    @classmethod
    def build(
        cls,
        model: nn.Module,
        inputs: Any,
        targets: Targets = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        chunk_size: int | None = None,
        allow_integers: bool = False,
    ) -> Request:
        """Check inputs and targets and move them to the model's device and dtype.

        Args:
            model: never changed.
            inputs: as given to an explainer.
            targets: as given to an explainer.
            forward_arg_extractor: as for explainers.
            additional_forward_arg_extractor: as for explainers.
            chunk_size: samples that go through the model at once; None for as many as fit.
            allow_integers: let inputs such as token ids through, which can be run but not perturbed.

        Raises:
            InputError: inputs that are no batch of finite floating-point tensors.
            TargetError: targets of the wrong length, type or range.
            ModelError: the model fails on the inputs or returns no usable tensor.
        """
        reference = model_reference(model)
        explained = extracted("forward_arg_extractor", forward_arg_extractor, inputs, inputs)
        explained = (explained,) if isinstance(explained, Tensor) else explained
        check_inputs(explained, allow_integers)
        extra = extracted("additional_forward_arg_extractor", additional_forward_arg_extractor, inputs, ())
        extra = extra if isinstance(extra, tuple) else (extra,)
        with torch.inference_mode(False):
            converted = tuple(
                each.detach().clone().to(reference.device, reference.dtype if each.is_floating_point() else each.dtype)
                for each in explained
            )
            if not all(torch.isfinite(each).all() for each in converted):
                raise InputError(
                    f"inputs that are finite in the model's {reference.dtype}",
                    f"larger values in {explained[0].dtype}",
                    "Scale the inputs, or convert the model with model.float().",
                )
            return cls(
                model,
                converted,
                tuple(usable(each).to(reference.device) if isinstance(each, Tensor) else each for each in extra),
                check_targets(targets, len(explained[0]), reference.device),
                chunk_size,
            )

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def input(self) -> Tensor:
        """The one tensor that is explained.

        Raises:
            InputError: the model takes several.
        """
        if len(self.inputs) != 1:
            raise InputError(
                "one tensor to be explained",
                f"{len(self.inputs)} tensors",
                "Choose one with forward_arg_extractor and pass the others by additional_forward_arg_extractor.",
            )
        return self.inputs[0]

    @cached_property
    def outputs(self) -> Tensor:
        """The model's outputs on the inputs themselves, ``(n, k)`` or ``(n,)``; asked once."""
        kept: list[Tensor] = []
        self.stream(
            len(self), lambda a, b: (self.rows(a, b), torch.arange(a, b)), lambda a, b, outputs: kept.append(outputs)
        )
        outputs = torch.cat(kept)
        if not torch.isfinite(outputs).all():
            raise ModelError(
                "a model with finite outputs on these inputs",
                "NaN or infinity in its outputs",
                "Check the model's weights and the scale of the inputs.",
            )
        return outputs

    @cached_property
    def targets(self) -> Tensor | TargetFunction:
        """Class indices ``(n,)``, the predicted ones where none were asked for, or a function of the outputs."""
        return predicted(self.outputs) if self.requested is None else self.requested

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The model compiled, once in a process for each kind of pass; it changes the model until the guard is left."""
        made: Callable[..., Any] = torch.compile(self.model)
        return made

    def rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The inputs of samples ``start`` to ``stop``."""
        return tuple(each[start:stop] for each in self.inputs)

    def extra_for(self, index: Tensor) -> tuple[Any, ...]:
        """The further arguments for samples picked by ``index`` ``(m,)``, with repetitions."""
        n = len(self)
        return tuple(
            each[index.to(each.device)] if isinstance(each, Tensor) and each.ndim and len(each) == n else each
            for each in self.extra
        )

    def targets_for(self, index: Tensor) -> Tensor | TargetFunction:
        """The targets for samples picked by ``index`` ``(m,)``, with repetitions."""
        return self.targets[index.to(self.targets.device)] if isinstance(self.targets, Tensor) else self.targets

    def call(self, inputs: Sequence[Tensor], index: Tensor | None = None) -> Tensor:
        """Ask the model once, in the caller's gradient mode, and count it.

        The model is given copies, which it may change in place.

        Args:
            inputs: tensors ``(m, …)``, changed versions of the request's inputs.
            index: ``(m,)``, which sample each row comes from; None where they are the samples themselves, in order.

        Returns:
            ``(m, k)`` or ``(m,)``.
        """
        m = len(inputs[0])
        index = torch.arange(m, device=inputs[0].device) if index is None else index
        count(m)
        try:
            extra = (each.clone() if isinstance(each, Tensor) else each for each in self.extra_for(index))
            model: Callable[..., Any] = self.compiled if self.compile and not torch.is_grad_enabled() else self.model
            returned = model(*(each.clone() for each in inputs), *extra)
        except PnPXAIError:
            raise
        except Exception as error:
            if out_of_memory(error):
                if m > 1:
                    raise
                raise ModelError(
                    "enough memory for one input", f"{error}", "Use smaller inputs or another device."
                ) from error
            raise ModelError(
                f"a model that runs on batches of inputs of shape {', '.join(map(batch_shape, inputs))}",
                f"{type(error).__name__} from {type(self.model).__name__}: {error}",
                "Call the model on the same inputs yourself to see where it fails; the first dimension is the batch.",
            ) from error
        outputs = output_tensor(returned)
        if len(outputs) != m:
            raise ModelError(
                f"one row of outputs for each of {m} inputs",
                f"outputs of shape {tuple(outputs.shape)}",
                "Wrap the model so that the first dimension of its output is the batch.",
            )
        return outputs

    def scores(self, inputs: Sequence[Tensor], index: Tensor | None = None, score: Score = "logit") -> Tensor:
        """Ask the model once and select each row's target: ``(m,)``."""
        outputs = self.call(inputs, index)
        index = torch.arange(len(outputs), device=outputs.device) if index is None else index
        return select(outputs, self.targets_for(index), score)

    def n_at_once(self, n_items: int, kind: Hashable, attempt: Callable[[int], object]) -> int:
        """How many samples go through the model at once, of ``n_items``: ``chunk_size``, or see `chunk_size_for`."""
        return self.chunk_size or chunk_size_for(self.model, self.inputs, kind, n_items, attempt)

    def first_sample(self, size: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """The first sample ``size`` times over, and its number as often."""
        repeated = tuple(each[:1].expand(size, *each.shape[1:]) for each in self.inputs)
        return repeated, torch.zeros(size, dtype=torch.long, device=self.inputs[0].device)

    def stream(
        self,
        n_items: int,
        build: Callable[[int, int], tuple[Sequence[Tensor], Tensor]],
        consume: Callable[[int, int, Tensor], object],
        *,
        lower: bool = False,
    ) -> None:
        """Ask the model about any number of items, a chunk at a time, without gradients.

        A chunk that runs out of memory is halved and asked again, and the smaller size is kept for the rest.

        Args:
            n_items: how many rows there are in all.
            build: from ``start, stop`` to the rows' inputs, and the samples ``(m,)`` they come from.
            consume: takes ``start, stop`` and the outputs of those rows.
            lower: ask in bfloat16 where the model computes in float32; the outputs come in its dtype all the same.

        Raises:
            ModelError: a single item does not fit in memory.
        """

        def attempt(size: int) -> None:
            with lowered(self.inputs[0].device, lower):
                self.call(*self.first_sample(size)).flatten()[0].item()

        def ask(start: int, stop: int) -> Tensor:
            rows, index = build(start, stop)
            with lowered(rows[0].device, lower):
                outputs = self.call(rows, index)
            return outputs.to(rows[0].dtype) if lower else outputs

        with torch.no_grad():
            size = self.n_at_once(n_items, ("forward", lower, self.compile), attempt)
            for start, stop, outputs in self.portions(n_items, size, ask):
                consume(start, stop, outputs)

    def portions(
        self,
        n_items: int,
        size: int,
        ask: Callable[[int, int], T],
        advice: str = "Use smaller inputs or another device.",
    ) -> Iterator[tuple[int, int, T]]:
        """Ask about any number of items, ``size`` at a time; what runs out of memory is halved and asked again.

        Args:
            n_items: how many there are in all.
            size: how many at once; where it is halved, the rest is asked in the smaller size, and later calls too.
            ask: from ``start, stop`` to what the model says about those items.
            advice: what to do where a single item is too large.

        Returns:
            ``start``, ``stop`` and the answer for each portion.

        Raises:
            ModelError: a single item does not fit in memory.
        """
        start = 0
        while start < n_items:
            stop = min(start + size, n_items)
            try:
                answer = ask(start, stop)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if stop - start == 1:
                    raise ModelError("enough memory for one input", f"{error}", advice) from error
                self.chunk_size = size = (stop - start) // 2
                continue
            yield start, stop, answer
            start = stop


def model_reference(model: object) -> Tensor:
    """A floating-point parameter of the model, whose device and dtype the inputs take.

    Raises:
        ModelError: not a module, or a module without parameters.
    """
    if not isinstance(model, nn.Module):
        raise ModelError("a torch.nn.Module", type(model).__name__, "Pass the model itself.")
    for each in model.parameters():
        if each.is_floating_point():
            return each
    raise ModelError(
        "a model with parameters",
        f"{type(model).__name__} with none",
        "Pass the trained network; a module without parameters has nothing to explain.",
    )
