"""What is asked about a batch: its targets, and any number of changed versions of it, in chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor, Targets, all_finite, check_targets
from pnpxai.callables import Model, check_model
from pnpxai.chunks import channels_last_for, chunk_size_for, default_chunk_size, keep_plain_order, out_of_memory
from pnpxai.errors import ModelError
from pnpxai.forward._batch import Batch
from pnpxai.forward._counting import uncounted
from pnpxai.forward._given import given, moved
from pnpxai.forward._tokens import Tokens, lookups
from pnpxai.outputs import Score, TargetFunction, joined, predicted, select
from pnpxai.precision import lowered
from pnpxai.targets import Target, is_open, take_targets

T = TypeVar("T")


@dataclass
class Request(Batch):
    """One batch to be explained, checked: what every method works on.

    Attributes:
        requested: the targets as class indices ``(n,)``, a function of the outputs (named ones know their samples),
            or None for the predicted class.
        chunk_size: samples that go through the model at once, if not as `chunk_size_for` has it.
    """

    requested: Tensor | TargetFunction | None = None
    chunk_size: int | None = None

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
        check_model(model)
        reference = _reference(model)
        found = given(inputs, forward_arg_extractor, additional_forward_arg_extractor, allow_integers)
        device = (found.tensors[0] if reference is None else reference).device
        with torch.inference_mode(False):
            request = cls(
                model,
                tuple(moved(each, device, None if reference is None else reference.dtype) for each in found.tensors),
                found.extra_on(device),
                found.names,
                requested=check_targets(targets, len(found.tensors[0]), device),
                chunk_size=chunk_size,
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

    @functools.cached_property
    def outputs(self) -> Tensor:
        """The model's outputs on the inputs themselves, ``(n, k)`` or ``(n,)``; asked once."""
        kept: list[Tensor] = []
        self.stream(
            len(self), lambda a, b: (self.rows(a, b), torch.arange(a, b)), lambda a, b, outputs: kept.append(outputs)
        )
        outputs = joined(kept)
        if not all_finite(outputs):
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

    def targets_for(self, index: Tensor) -> Tensor | TargetFunction:
        """The targets for samples picked by ``index`` ``(m,)``, with repetitions."""
        return take_targets(self.targets, index)

    def scores(self, inputs: Sequence[Tensor], index: Tensor | None = None, score: Score = "logit") -> Tensor:
        """Ask the model once and select each row's target: ``(m,)``."""
        outputs = self.call(inputs, index)
        index = torch.arange(len(outputs), device=outputs.device) if index is None else index
        return select(outputs, self.targets_for(index), score)

    def n_at_once(self, n_items: int, kind: Hashable, attempt: Callable[[int], object], rounds: int = 1) -> int:
        """How many samples go through the model at once, of ``n_items``: ``chunk_size``, or see `chunk_size_for`."""
        tried = uncounted()(attempt)
        return self.chunk_size or chunk_size_for(self.model, self.passed, kind, n_items, tried, rounds)

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
        kind = ("forward", lower, self.compile)

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
                outputs = answer(start, stop)
                keep_plain_order(self.model, self.passed, kind)
                return outputs

        with torch.no_grad():
            size = self.n_at_once(n_items, kind, attempt)
            tried = functools.partial(uncounted()(attempt), min(size, default_chunk_size(self.passed)))
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


def _reference(model: Model) -> Tensor | None:
    """A floating-point parameter or buffer, whose device and dtype the inputs take; None where they keep their own."""
    if not isinstance(model, nn.Module):
        return None
    return next((each for each in chain(model.parameters(), model.buffers()) if each.is_floating_point()), None)
