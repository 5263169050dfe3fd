"""The one place that calls a user's model: checked, counted, in chunks."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pnpxai.errors import InputError, ModelError, PnPXAIError, TargetError
from pnpxai.outputs import Score, TargetFunction, output_tensor, predicted, select

Targets: TypeAlias = Tensor | Sequence[int] | int | TargetFunction | None

ACTIVATION_BYTES = 320 * 2**20
"""What one chunk's activations may take by the rule of `default_chunk_size`."""
ACTIVATIONS_PER_INPUT = 64
"""How many times an input's size its activations are taken to be."""
LARGEST_CHUNK = 256


@dataclass
class ForwardCounter:
    """What was asked of models while it was open.

    Attributes:
        n_samples: samples passed through a model (a batch of 8 counts 8).
        n_calls: calls of a model.
    """

    n_samples: int = 0
    n_calls: int = 0


_counters: ContextVar[tuple[ForwardCounter, ...]] = ContextVar("pnpxai_forward_counters", default=())


@contextlib.contextmanager
def count_forwards() -> Iterator[ForwardCounter]:
    """Count the model forwards inside the block; blocks may be nested.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> with count_forwards() as counter:
        ...     _ = Request.build(model, torch.zeros(5, 3)).outputs
        >>> counter.n_samples
        5
    """
    counter = ForwardCounter()
    token = _counters.set((*_counters.get(), counter))
    try:
        yield counter
    finally:
        _counters.reset(token)


def default_chunk_size(inputs: Sequence[Tensor]) -> int:
    """How many samples go through the model at once: as many as fit `ACTIVATION_BYTES` by rule of thumb."""
    size = sum(each[0].numel() * each.element_size() for each in inputs)
    return max(1, min(LARGEST_CHUNK, round(ACTIVATION_BYTES / (ACTIVATIONS_PER_INPUT * max(size, 1)))))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, PnPXAIError):
        return False
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


Extractor: TypeAlias = Callable[[Any], Any]


@dataclass
class Request:
    """One batch to be explained, checked and on the model's device: what every method works on.

    Attributes:
        model: the user's model.
        inputs: what is explained, each ``(n, …)``.
        extra: further arguments of the model's forward, passed through (tensors of length ``n`` follow their sample).
        requested: the targets as class indices ``(n,)``, a function of the outputs, or None for the predicted class.
        chunk_size: samples that go through the model at once, if not by rule.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    extra: tuple[Any, ...]
    requested: Tensor | TargetFunction | None = None
    chunk_size: int | None = None

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
        explained = _extracted("forward_arg_extractor", forward_arg_extractor, inputs, inputs)
        explained = (explained,) if isinstance(explained, Tensor) else explained
        check_inputs(explained, allow_integers)
        extra = _extracted("additional_forward_arg_extractor", additional_forward_arg_extractor, inputs, ())
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
                tuple(_usable(each).to(reference.device) if isinstance(each, Tensor) else each for each in extra),
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
        for counter in _counters.get():
            counter.n_samples += m
            counter.n_calls += 1
        try:
            extra = (each.clone() if isinstance(each, Tensor) else each for each in self.extra_for(index))
            returned = self.model(*(each.clone() for each in inputs), *extra)
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
                f"a model that runs on batches of inputs of shape {', '.join(map(_batch_shape, inputs))}",
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

    def stream(
        self,
        n_items: int,
        build: Callable[[int, int], tuple[Sequence[Tensor], Tensor]],
        consume: Callable[[int, int, Tensor], object],
    ) -> None:
        """Ask the model about any number of items, a chunk at a time, without gradients.

        A chunk that runs out of memory is halved and asked again, and the smaller size is kept for the rest.

        Args:
            n_items: how many rows there are in all.
            build: from ``start, stop`` to the rows' inputs, and the samples ``(m,)`` they come from.
            consume: takes ``start, stop`` and the outputs of those rows.

        Raises:
            ModelError: a single item does not fit in memory.
        """
        size = min(self.chunk_size or default_chunk_size(self.inputs), max(n_items, 1))
        start = 0
        with torch.no_grad():
            while start < n_items:
                stop = min(start + size, n_items)
                try:
                    outputs = self.call(*build(start, stop))
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    if size == 1:
                        raise ModelError(
                            "enough memory for one input", f"{error}", "Use smaller inputs or another device."
                        ) from error
                    size = max(1, size // 2)
                    self.chunk_size = size
                    continue
                consume(start, stop, outputs)
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


def check_inputs(inputs: object, allow_integers: bool = False) -> None:
    """Refuse what is no batch of finite floating-point tensors of one length.

    Raises:
        InputError: says which of these it is.
    """
    if not isinstance(inputs, tuple | list) or not inputs or not all(isinstance(each, Tensor) for each in inputs):
        raise InputError(
            "a tensor (n, …) or a tuple of tensors",
            type(inputs).__name__,
            "Convert the inputs to tensors, or pick the tensors with forward_arg_extractor.",
        )
    for each in inputs:
        if not (each.is_floating_point() or allow_integers):
            raise InputError(
                "floating-point inputs",
                f"{each.dtype}",
                "Convert with inputs.float(); explain token ids by their embeddings.",
            )
        if each.ndim < 2:
            raise InputError(
                "a batch of inputs (n, …) with at least 2 dimensions",
                f"{each.ndim} dimensions, shape {tuple(each.shape)}",
                "Add the batch dimension with inputs[None].",
            )
        if each.numel() == 0:
            raise InputError("at least one input", f"an empty batch, shape {tuple(each.shape)}", "Pass n ≥ 1 inputs.")
        if len(each) != len(inputs[0]):
            raise InputError(
                "tensors of one batch length", f"{len(inputs[0])} and {len(each)}", "Pass the same samples in each."
            )
        if not torch.isfinite(each).all():
            raise InputError("finite inputs", "NaN or infinity", "Clean the inputs first; every map would be NaN.")


def check_targets(targets: Targets, n: int, device: torch.device) -> Tensor | TargetFunction | None:
    """Class indices ``(n,)`` on ``device``, the function given, or None.

    Raises:
        TargetError: wrong type or length, or a negative class (one too high is found when the outputs are known).
    """
    if targets is None or (callable(targets) and not isinstance(targets, Tensor)):
        return targets
    if isinstance(targets, numbers.Integral) and not isinstance(targets, bool):
        targets = torch.full((n,), int(targets))
    if isinstance(targets, Sequence) and targets and all(isinstance(each, numbers.Integral) for each in targets):
        targets = torch.as_tensor(targets)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        raise TargetError(
            "targets as an int, whole numbers (n,), None (the predicted class) or a function of the outputs",
            f"{targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__,
            "Pass class indices, not scores or one-hot rows.",
        )
    if tuple(targets.shape) != (n,):
        raise TargetError(f"one target for each of {n} inputs", f"shape {tuple(targets.shape)}", "Pass shape (n,).")
    if int(targets.min()) < 0:
        raise TargetError("class indices from 0", f"{int(targets.min())}", "Count classes from 0.")
    return _usable(targets.detach()).to(device, torch.long)


def _extracted(name: str, extractor: Extractor | None, inputs: Any, default: Any) -> Any:
    if extractor is None:
        return default
    try:
        return extractor(inputs)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"a {name} of inputs of type {type(inputs).__name__}",
            f"{type(error).__name__}: {error}",
            "Call it on the same inputs yourself to see where it fails.",
        ) from error


def _usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd may save where it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def take_samples(batch: Any, index: Sequence[int]) -> Any:
    """Some samples of a batch: every tensor in a tuple, list or mapping is indexed, anything else passes through."""
    if isinstance(batch, Tensor):
        return batch[torch.as_tensor(list(index), dtype=torch.long, device=batch.device)]
    if isinstance(batch, Mapping):
        return {name: take_samples(each, index) for name, each in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(take_samples(each, index) for each in batch)
    return batch


def n_samples(batch: Any) -> int:
    """The length of the first tensor in a batch.

    Raises:
        InputError: there is no tensor in it.
    """
    for each in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]:
        if isinstance(each, Tensor) and each.ndim:
            return len(each)
    raise InputError("a tensor (n, …), or a tuple, list or dict of tensors", type(batch).__name__, "Pass tensors.")


def _batch_shape(inputs: Tensor) -> str:
    return "(" + ", ".join(["n", *map(str, inputs.shape[1:])]) + ")"
