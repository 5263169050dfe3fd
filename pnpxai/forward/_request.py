"""The one place that calls a user's model: checked, counted, in chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor, Targets, batch_shape, check_targets
from pnpxai.callables import Model, check_model, model_name, module_of
from pnpxai.chunks import channels_last_for, chunk_size_for, default_chunk_size, out_of_memory
from pnpxai.errors import InputError, ModelError, ParameterError, PnPXAIError
from pnpxai.forward._counting import count
from pnpxai.forward._given import given, moved
from pnpxai.forward._tokens import Lookup, Tokens, along, lookups, substituted
from pnpxai.outputs import Score, TargetFunction, joined, output_tensor, predicted, select
from pnpxai.precision import lowered
from pnpxai.targets import Target, is_open, take_targets

T = TypeVar("T")


@dataclass
class Request:
    """One batch to be explained, checked and on the model's device: what every method works on.

    Attributes:
        model: the user's model.
        inputs: what is explained, each ``(n, …)``; of token ids their embeddings, ``(n, d, t)``.
        extra: further arguments of the model's forward, passed through (tensors of length ``n`` follow their sample):
            a tuple, or a mapping of those that are passed by keywords.
        requested: the targets as class indices ``(n,)``, a function of the outputs (named ones know their samples),
            or None for the predicted class.
        chunk_size: samples that go through the model at once, if not as `chunk_size_for` has it.
        compile: ask what ``torch.compile`` makes of the model, in `stream`.
        names: of the arguments that are explained, where they are passed by keywords.
        lookups: for each of the inputs, where the model looks its ids up; None where it is no embedding of tokens.
    """

    model: Model
    inputs: tuple[Tensor, ...]
    extra: tuple[Any, ...] | Mapping[str, Any]
    requested: Tensor | TargetFunction | None = None
    chunk_size: int | None = None
    compile: bool = False
    names: tuple[str, ...] = ()
    lookups: tuple[Lookup | None, ...] = ()

    @classmethod
    def build(
        cls,
        model: Model,
        inputs: Any,
        targets: Targets = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        chunk_size: int | None = None,
        allow_integers: bool = False,
    ) -> Request:
        """Check inputs and targets and move them to the device and dtype of the model, if it has weights.

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
        found = given(inputs, forward_arg_extractor, additional_forward_arg_extractor, allow_integers)
        device = (found.tensors[0] if reference is None else reference).device
        with torch.inference_mode(False):
            request = cls(
                model,
                tuple(moved(each, device, None if reference is None else reference.dtype) for each in found.tensors),
                found.extra_on(device),
                check_targets(targets, len(found.tensors[0]), device),
                chunk_size,
                names=found.names,
            )
            return request._embedded({i: each.on(device) for i, each in found.tokens.items()})

    def _embedded(self, tokens: Mapping[int, Tokens]) -> Request:
        """The same about the embeddings of its tokens, which are known by the numbers of the inputs."""
        if not tokens:
            return self

        def run(ids: Sequence[Tensor]) -> None:
            rows = dict(zip(tokens, ids, strict=True))
            self.call([rows.get(i, each) for i, each in enumerate(self.rows(0, 1))])

        found = dict(zip(tokens, lookups(run, list(tokens.values())), strict=True))
        inputs = list(self.inputs)
        for i, lookup in found.items():
            own = tokens[i].embeddings
            inputs[i] = lookup.embeddings if own is None else own
        return replace(self, inputs=tuple(inputs), lookups=tuple(found.get(i) for i in range(len(inputs))))

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

    @functools.cached_property
    def outputs(self) -> Tensor:
        """The model's outputs on the inputs themselves, ``(n, k)`` or ``(n,)``; asked once."""
        kept: list[Tensor] = []
        self.stream(
            len(self), lambda a, b: (self.rows(a, b), torch.arange(a, b)), lambda a, b, outputs: kept.append(outputs)
        )
        outputs = joined(kept)
        if not torch.isfinite(outputs).all():
            raise ModelError(
                "a model with finite outputs on these inputs",
                "NaN or infinity in its outputs",
                "Check the model's weights and the scale of the inputs.",
            )
        return outputs

    @functools.cached_property
    def targets(self) -> Tensor | TargetFunction:
        """Class indices ``(n,)``, the predicted ones where none were asked for, or a function of the outputs."""
        return self.settled(self.requested)

    def settled(self, requested: Tensor | TargetFunction | None) -> Tensor | TargetFunction:
        """Targets with what they leave to the model's outputs on the inputs themselves in place."""
        if requested is None:
            return predicted(self.outputs)
        if isinstance(requested, Target) and is_open(requested):
            return requested.fixed(self.outputs)
        return requested

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """The model compiled, once in a process for each kind of pass; it changes the model until the guard is left."""
        if not isinstance(self.model, nn.Module):
            raise ParameterError(
                "a torch.nn.Module to be compiled", f"the function {model_name(self.model)}", "Set compile=False."
            )
        made: Callable[..., Any] = torch.compile(self.model)
        return made

    def rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The inputs of samples ``start`` to ``stop``."""
        return tuple(each[start:stop] for each in self.inputs)

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

    def targets_for(self, index: Tensor) -> Tensor | TargetFunction:
        """The targets for samples picked by ``index`` ``(m,)``, with repetitions."""
        return take_targets(self.targets, index)

    def call(
        self,
        inputs: Sequence[Tensor],
        index: Tensor | None = None,
        *,
        fresh: bool = False,
        channels_last: bool = False,
    ) -> Tensor:
        """Ask the model once, in the caller's gradient mode, and count it.

        The model is given copies, which it may change in place.

        Args:
            inputs: tensors ``(m, …)``, changed versions of the request's inputs.
            index: ``(m,)``, which sample each row comes from; None where they are the samples themselves, in order.
            fresh: nobody else has the inputs, and the model may have them without a copy.
            channels_last: give it images in channels-last order.

        Returns:
            ``(m, k)`` or ``(m,)``.
        """
        m = len(inputs[0])
        index = torch.arange(m, device=inputs[0].device) if index is None else index
        count(m)
        try:
            arguments, substitutes = self._arguments(inputs, index, fresh, channels_last)
            extra = self.extra_for(index)
            named = {name: _own(each) for name, each in extra.items()} if isinstance(extra, dict) else {}
            named |= dict(zip(self.names, arguments, strict=False))
            listed = () if isinstance(extra, dict) else tuple(map(_own, extra))
            compiled = self.compile and not substitutes and not torch.is_grad_enabled()
            model: Callable[..., Any] = self.compiled if compiled else self.model
            with substituted(substitutes):
                returned = model(*(() if self.names else arguments), *listed, **named)
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
        outputs = output_tensor(returned, inputs[0].device)
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

    def scores(self, inputs: Sequence[Tensor], index: Tensor | None = None, score: Score = "logit") -> Tensor:
        """Ask the model once and select each row's target: ``(m,)``."""
        outputs = self.call(inputs, index)
        index = torch.arange(len(outputs), device=outputs.device) if index is None else index
        return select(outputs, self.targets_for(index), score)

    @property
    def passed(self) -> tuple[Tensor, ...]:
        """Tensors of the shapes that go through the model, each ``(n, …)``."""
        return self.inputs

    def n_at_once(self, n_items: int, kind: Hashable, attempt: Callable[[int], object]) -> int:
        """How many samples go through the model at once, of ``n_items``: ``chunk_size``, or see `chunk_size_for`."""
        return self.chunk_size or chunk_size_for(self.model, self.passed, kind, n_items, attempt)

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
        fresh: bool = False,
    ) -> None:
        """Ask the model about any number of items, a chunk at a time, without gradients.

        A chunk that runs out of memory is halved and asked again, and the smaller size is kept for the rest.

        Args:
            n_items: how many rows there are in all.
            build: from ``start, stop`` to the rows' inputs, and the samples ``(m,)`` they come from.
            consume: takes ``start, stop`` and the outputs of those rows.
            lower: ask in bfloat16 where the model computes in float32; the outputs come in its dtype all the same.
            fresh: ``build`` makes new tensors, which it does not keep.

        Raises:
            ModelError: a single item does not fit in memory.
        """
        channels_last = False

        def attempt(size: int, channels_last: bool = False) -> Tensor:
            with lowered(self.inputs[0].device, lower):
                rows, index = self.first_sample(size)
                outputs = self.call(rows, index, channels_last=channels_last)
            outputs.flatten()[0].item()  # they are there
            return outputs

        def answer(start: int, stop: int) -> Tensor:
            rows, index = build(start, stop)
            with lowered(rows[0].device, lower):
                outputs = self.call(rows, index, fresh=fresh, channels_last=channels_last)
            return outputs.to(rows[0].dtype) if lower else outputs

        def ask(start: int, stop: int) -> Tensor:
            nonlocal channels_last
            try:
                return answer(start, stop)
            except ModelError:
                if not channels_last:
                    raise
                channels_last = False  # the sample it was tried on may have taken another way through the model
                return answer(start, stop)

        with torch.no_grad():
            kind = ("forward", lower, self.compile)
            size = self.n_at_once(n_items, kind, attempt)
            tried = functools.partial(attempt, min(size, default_chunk_size(self.passed)))
            # a compiled model has layouts of its own
            channels_last = not self.compile and channels_last_for(self.model, self.passed, kind, n_items, tried)
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

        A model that fails on several items, twice, is asked about one at a time: in exported models the batch size may
        be written in.

        Args:
            n_items: how many there are in all.
            size: how many at once; where it is lowered, the rest is asked in the smaller size, and later calls too.
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
                    if stop - start == 1 or not _fails_again(error, ask, start, stop):
                        raise
                    self.chunk_size = size = 1
                    continue
                if stop - start == 1:
                    raise ModelError("enough memory for one input", f"{error}", advice) from error
                self.chunk_size = size = (stop - start) // 2
                continue
            yield start, stop, answer
            start = stop


def _fails_again(error: Exception, ask: Callable[[int, int], object], start: int, stop: int) -> bool:
    """Whether the model itself failed on these items, and does so when it is asked again."""
    if not isinstance(error, ModelError) or error.__cause__ is None:
        return False
    try:
        ask(start, stop)
    except ModelError:
        return True
    return False


def _own(argument: Any) -> Any:
    """A copy the model may change, of a tensor."""
    return argument.clone() if isinstance(argument, Tensor) else argument


def _handed(rows: Tensor, fresh: bool, channels_last: bool) -> Tensor:
    """Rows the model may change, copied unless they are ``fresh``; images in the order that is asked for."""
    if channels_last and rows.ndim == 4:
        return rows.to(memory_format=torch.channels_last, copy=not fresh)
    return rows if fresh else rows.clone()


def model_reference(model: Model) -> Tensor | None:
    """A floating-point parameter or buffer, whose device and dtype the inputs take; None where they keep their own.

    Raises:
        ModelError: no model.
    """
    check_model(model)
    if not isinstance(model, nn.Module):
        return None
    return next((each for each in chain(model.parameters(), model.buffers()) if each.is_floating_point()), None)
