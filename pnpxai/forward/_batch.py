"""One call of a user's model: its arguments from changed versions of a batch, counted, its outputs checked."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pnpxai.batches import batch_shape
from pnpxai.callables import Model, model_name, module_of
from pnpxai.chunks import out_of_memory
from pnpxai.errors import InputError, ModelError, ParameterError, PnPXAIError
from pnpxai.forward._counting import count
from pnpxai.forward._tokens import Lookup, Substitution, Tokens, along
from pnpxai.outputs import output_tensor


@dataclass
class Batch:
    """A batch on the device of its model, of which changed versions go through the model.

    Attributes:
        model: the user's model.
        inputs: what is explained, each ``(n, …)``; of token ids their embeddings, ``(n, d, t)``.
        extra: further arguments of the model's forward, passed through (tensors of length ``n`` follow their sample):
            a tuple, or a mapping of those that are passed by keywords.
        names: of the arguments that are explained, where they are passed by keywords.
        lookups: for each of the inputs, where the model looks its ids up; None where it is no embedding of tokens.
        compile: call what ``torch.compile`` makes of the model where no gradient is asked for.
    """

    model: Model
    inputs: tuple[Tensor, ...]
    extra: tuple[Any, ...] | Mapping[str, Any]
    names: tuple[str, ...] = ()
    lookups: tuple[Lookup | None, ...] = ()
    compile: bool = False

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def module(self) -> nn.Module:
        """The model, for methods that read its modules or go backward through it.

        Raises:
            UnsupportedModelError: it is a function.
        """
        return module_of(self.model, "this method")

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

    @property
    def explained(self) -> Tensor | tuple[Tensor, ...]:
        """What is explained: a tensor, or several."""
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    @property
    def tokens(self) -> bool:
        """Whether the first of the inputs are the embeddings of token ids."""
        return self.lookup() is not None

    def lookup(self, number: int = 0) -> Lookup | None:
        """Where the model looks one of the inputs up; None where it is no embedding of tokens."""
        return self.lookups[number] if self.lookups else None

    @property
    def word_ids(self) -> bool:
        """Whether it is known which words the tokens of the first input belong to."""
        lookup = self.lookup()
        return lookup is not None and lookup.words is not None

    @property
    def passed(self) -> tuple[Tensor, ...]:
        """Tensors of the shapes that go through the model, each ``(n, …)``."""
        return self.inputs

    def rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The inputs of samples ``start`` to ``stop``."""
        return tuple(each[start:stop] for each in self.inputs)

    def first_sample(self, size: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """The first sample ``size`` times over, and its number as often."""
        repeated = tuple(each[:1].expand(size, *each.shape[1:]) for each in self.inputs)
        return repeated, torch.zeros(size, dtype=torch.long, device=self.inputs[0].device)

    def extra_for(self, index: Tensor) -> tuple[Any, ...] | dict[str, Any]:
        """The further arguments for samples picked by ``index`` ``(m,)``, with repetitions."""
        n = len(self)

        def pick(each: Any) -> Any:
            follows = isinstance(each, Tensor) and each.ndim and len(each) == n
            return each[index.to(each.device)] if follows else each

        if isinstance(self.extra, Mapping):
            return {name: pick(each) for name, each in self.extra.items()}
        return tuple(pick(each) for each in self.extra)

    def without_fixed(self, maps: Tensor, number: int = 0) -> Tensor:
        """Maps of one of the inputs, ``(n, …, t)``, with zeros at tokens that are never perturbed."""
        lookup = self.lookup(number)
        if lookup is None or lookup.fixed is None:
            return maps
        return maps.masked_fill(lookup.fixed[:, None].to(maps.device), 0.0)

    def of_explained(self, maps: Tensor, index: Tensor) -> Tensor:
        """Maps ``(m, …, t)`` of samples ``index`` ``(m,)``, at the positions of what is explained, ``(m, …, f)``."""
        places = self.lookups[0].places if self.lookups and self.lookups[0] is not None else None
        if places is None:
            return maps
        return maps.gather(-1, along(places[index.to(places.device)], maps))

    def explained_for(self, inputs: Sequence[Tensor], index: Tensor) -> Any:
        """What an extractor returns to have changed versions of the samples ``index`` ``(m,)`` explained."""
        made: list[Tensor | Tokens] = []
        for each, lookup in zip(inputs, self.lookups or (None,) * len(inputs), strict=True):
            made.append(each if lookup is None else lookup.changed(each, index))
        return dict(zip(self.names, made, strict=True)) if self.names else tuple(made)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """The model compiled, once in a process for each kind of pass; it changes the model until the guard is left."""
        if not isinstance(self.model, nn.Module):
            raise ParameterError(
                "a torch.nn.Module to be compiled", f"the function {model_name(self.model)}", "Set compile=False."
            )
        made: Callable[..., Any] = torch.compile(self.model)
        return made

    def call(
        self,
        inputs: Sequence[Tensor],
        index: Tensor | None = None,
        *,
        fresh: bool = False,
        channels_last: bool = False,
        within: contextlib.AbstractContextManager[object] | None = None,
    ) -> Tensor:
        """Ask the model once, in the caller's gradient mode, and count it.

        The model is given copies, which it may change in place.

        Args:
            inputs: tensors ``(m, …)``, changed versions of the request's inputs.
            index: ``(m,)``, which sample each row comes from; None where they are the samples themselves, in order.
            fresh: nobody else has the inputs, and the model may have them without a copy.
            channels_last: give it images in channels-last order.
            within: entered around what is computed with the inputs, and nothing else.

        Returns:
            ``(m, k)`` or ``(m,)``.
        """
        m, device = len(inputs[0]), inputs[0].device
        index = torch.arange(m, device=device) if index is None else index
        count(m)
        try:
            extra = self.extra_for(index)
            with within or contextlib.nullcontext():
                arguments, substitutes = self._arguments(inputs, index, fresh, channels_last)
                named = {name: _own(each) for name, each in extra.items()} if isinstance(extra, dict) else {}
                named |= dict(zip(self.names, arguments, strict=False))
                listed = () if isinstance(extra, dict) else tuple(map(_own, extra))
                compiled = self.compile and not substitutes and not torch.is_grad_enabled()
                model: Callable[..., Any] = self.compiled if compiled else self.model
                with Substitution(substitutes) if substitutes else contextlib.nullcontext():
                    returned = model(*(() if self.names else arguments), *listed, **named)
                if not isinstance(returned, Tensor):  # what is made of several tensors is computed with the inputs, too
                    returned = output_tensor(returned, device)
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
                f"{type(error).__name__} from {model_name(self.model)}: {error}",
                "Call the model on the same inputs yourself to see where it fails; the first dimension is the batch.",
            ) from error
        outputs = output_tensor(returned, device)
        if len(outputs) != m:
            raise ModelError(
                f"one row of outputs for each of {m} inputs",
                f"outputs of shape {tuple(outputs.shape)}",
                "Wrap the model so that the first dimension of its output is the batch.",
            )
        return outputs

    def _arguments(
        self, inputs: Sequence[Tensor], index: Tensor, fresh: bool, channels_last: bool
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor, Tensor]]]:
        """Copies the model may change, ids in the place of embeddings, and what looking these up has to give."""
        arguments, substitutes = list[Tensor](), list[tuple[Tensor, Tensor, Tensor]]()
        for i, each in enumerate(inputs):
            lookup = self.lookup(i)
            if lookup is None:
                arguments.append(_handed(each, fresh, channels_last))
            else:
                arguments.append(lookup.ids[index.to(lookup.ids.device)])
                substitutes.append((arguments[-1], lookup.table, lookup.perturbed(each, index)))
        return arguments, substitutes


def _own(argument: Any) -> Any:
    """A copy the model may change, of a tensor."""
    return argument.clone() if isinstance(argument, Tensor) else argument


def _handed(rows: Tensor, fresh: bool, channels_last: bool) -> Tensor:
    """Rows the model may change, copied unless they are ``fresh``; images in the order that is asked for."""
    if channels_last and rows.ndim == 4:
        return rows.to(memory_format=torch.channels_last, copy=not fresh)
    return rows if fresh else rows.clone()
