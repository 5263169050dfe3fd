"""One forward pass in which the places of elements are followed from call to call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.explainers._places import Layout, Places
from pnpxai.modules import Activation, Attention, Convolution, Norm, Pool
from pnpxai.watch import Watch


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JOINS = _words("cat concat concatenate")
_MOVES = _JOINS | _words(
    "view reshape flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis t T "
    "mT __getitem__ select narrow index_select chunk split split_with_sizes tensor_split unbind stack expand repeat "
    "roll flip fliplr flipud rot90 unfold tile channel_shuffle native_channel_shuffle pad view_as reshape_as expand_as"
)
_COPIES = _words(
    "clone contiguous to type type_as float half double bfloat16 cpu cuda requires_grad dropout alpha_dropout "
    "feature_dropout feature_alpha_dropout dropout1d dropout2d dropout3d"
)
_RESAMPLES = Pool.FUNCTIONS | _words("interpolate upsample pixel_shuffle pixel_unshuffle")
_ELEMENTWISE = (_COPIES | Activation.FUNCTIONS | Norm.FUNCTIONS) | _words(
    "add sub rsub mul div pow neg abs exp log sqrt rsqrt square reciprocal sin cos erf clamp clip clamp_min clamp_max "
    "maximum minimum max min where lerp addcmul addcdiv masked_fill nan_to_num normalize softmax log_softmax "
    "hardshrink softshrink tanhshrink"
)
_PRODUCTS = _words("matmul bmm mm")
_BY_LAST_DIM = _words("linear addmm lstm gru rnn_tanh rnn_relu") | Attention.FUNCTIONS
_REDUCES = _words("sum mean amax amin max min logsumexp")
_MAKES = _JOINS | Convolution.FUNCTIONS | (_ELEMENTWISE - _COPIES) | {"sum"}


@dataclass(frozen=True)
class Made:
    """What may be feature maps.

    Attributes:
        number: of the call that made them, among all calls.
        edge: where their gradient arrives.
        places: of their elements.
    """

    number: int
    edge: GradientEdge
    places: Places


class Following(Watch):
    """A forward pass on one sample ``(1, c, …)`` in which places are followed; use it by `following`.

    What moves elements (views, permutations, slices, concatenations) is done to their places too. Convolutions,
    pooling and resizing of ``(1, k, …)`` give an even grid of their own; linear maps, sums and maxima the mean place of
    what they take together; what attention gives belongs where its query does; elementwise calls and norms keep places.
    All else loses them; a sum with what has kept them, as at the end of a residual block, brings them back.

    Attributes:
        made: what convolutions, norms, activations, sums and concatenations gave, in order: feature maps. Pooling,
            resizing, moves, and the linear maps of tokens, which come before one of those, make none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.made: list[Made] = []
        self._places: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._lost: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._unfollowed: list[int] = []
        self._at_one_place: set[int] = set()
        self._n_axes = 0

    @contextlib.contextmanager
    def following(self, start: Tensor) -> Iterator[Following]:
        """Follow the places of a tensor's elements while the block runs."""
        self._n_axes = start.ndim - 2
        self._places[start] = Places.even(start)
        with self.running():
            yield self

    def places(self, tensor: Tensor) -> Places | None:
        """The places of a tensor's elements; None where they were lost."""
        found: Places | None = self._places.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def lost_by(self, after: int) -> str | None:
        """What went on without known places after a call: a convolution, or attention but for one that pools.

        Attention at one place alone, as where an image has shrunk to a single position, moves nothing.
        """
        attended = sum(
            each.attends or each.name in Attention.FUNCTIONS
            for number, each in enumerate(self.operations)
            if number > after and number not in self._at_one_place
        )
        convolved = any(number > after for number in self._unfollowed)
        return "a convolution" if convolved else "attention" if attended > 1 else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call and follow the places of its arguments to its results."""
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        sources = [(each, self._places[each]) for each in tensors if each in self._places]
        if not sources and not any(each in self._lost for each in tensors):
            result = super().__torch_function__(func, types, args, kwargs)
            if self.operations[-1].name in Convolution.FUNCTIONS and self._is_grid(result):
                self._follow(self.operations[-1].name, result, Places.even(result))
            return result
        result = super().__torch_function__(func, types, args, kwargs)
        name = _name(func, self.operations[-1].name)
        with torch.no_grad():
            move = self._moved if name in _MOVES else self._computed
            try:
                found = move(name, func, args, kwargs, sources, result) if sources else []
            except (RuntimeError, TypeError):  # e.g. a view as another dtype: their places are lost
                found = []
        for each in [*_tensors(result), *(tensors[:1] if name == "__setitem__" else [])]:
            self._places.pop(each, None)  # type: ignore[no-untyped-call]
            self._lost[each] = True
        for tensor, places in found:
            self._follow(name, tensor, places)
            if places.single:
                self._at_one_place.add(len(self.operations) - 1)
        if name in Convolution.FUNCTIONS and not found and result.shape[2:].numel() > 1:
            self._unfollowed.append(len(self.operations) - 1)
        return result

    def _follow(self, name: str, tensor: Tensor, places: Places) -> None:
        self._places[tensor] = places
        self._lost.pop(tensor, None)  # type: ignore[no-untyped-call]
        if name in _MAKES and tensor.requires_grad:
            self.made.append(Made(len(self.operations) - 1, get_gradient_edge(tensor), places))

    def _moved(
        self, name: str, func: Any, args: Any, kwargs: Any, sources: list[tuple[Tensor, Places]], result: Any
    ) -> list[tuple[Tensor, Places]]:
        """The results of a call that moves elements, with their places moved alike."""
        results = list(_tensors(result))
        grid = results[0].shape[2:]
        if name in _JOINS and all(each.regular and tensor.shape[2:] == grid for tensor, each in sources):
            return [(results[0], Places.even(results[0]))]
        if name == "pad":
            args, kwargs = _padded_with_none(*args, **kwargs)
        func = _WITHOUT_STRIDES.get(name, func)
        axes = []
        for number in range(self._n_axes):
            swapped, named = _mapped((args, kwargs), functools.partial(self._axis, number))
            axes.append(list(_tensors(func(*swapped, **named))))
        return [(each, Places(tuple(group))) for each, *group in zip(results, *axes, strict=True)]

    def _axis(self, number: int, tensor: Tensor) -> Tensor:
        """What stands for a tensor among the arguments of a call on places; indices stand for themselves."""
        if tensor in self._places:
            axis: Tensor = self._places[tensor].axes[number]
            return axis.detach()
        return torch.full_like(tensor, torch.nan, dtype=torch.float32) if tensor.is_floating_point() else tensor

    def _computed(
        self, name: str, func: Any, args: Any, kwargs: Any, sources: list[tuple[Tensor, Places]], result: Any
    ) -> list[tuple[Tensor, Places]]:
        """The result of a call that computes something, with its places where the call is known to keep them."""
        value, (source, places) = next(_tensors(result), None), sources[0]
        if value is None:
            return []
        if name in _ELEMENTWISE - _REDUCES or (name in _REDUCES and len(args) > 1 and isinstance(args[1], Tensor)):
            agreed = _agreed([each for tensor, each in sources if tensor.shape == value.shape])
            return [] if agreed is None else [(value, agreed)]
        first = source is next(_tensors((args, kwargs)))
        if name in _PRODUCTS:
            return [(value, places.mean(-1 if first else -2, value.shape))]
        if not first and name != "addmm":
            return []
        if name in _BY_LAST_DIM:
            return [(value, places.mean(-1, value.shape))]
        if name in _REDUCES and (reduced := _reduced(places, *args[1:3], **kwargs)) is not None:
            return [(value, reduced)]
        convolves = name in Convolution.FUNCTIONS
        if (convolves or name in _RESAMPLES) and places.upright and self._is_grid(value):
            return [(value, Places.even(value))]
        if convolves and value.shape[2:] == source.shape[2:] and _pointwise(args, kwargs):
            return [(value, places.mean(1, value.shape))]
        return []

    def _is_grid(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.ndim == 2 + self._n_axes and len(tensor) == 1


_WITHOUT_STRIDES: dict[str, Callable[..., Tensor]] = {"view": Tensor.reshape, "view_as": Tensor.reshape_as}
"""Calls that mind how a tensor lies in memory, which its places do in another way."""


def _name(function: Any, name: str) -> str:
    """The plain name of a function, of a property its own."""
    return str(getattr(function.__self__, "__name__", name)) if name == "__get__" else name


def _agreed(several: list[Places]) -> Places | None:
    """The places that all, or all that can be read as feature maps, have; None where they differ."""
    if any(not several[0].agree(each) for each in several[1:]):
        several = [each for each in several if Layout.of(each) is not None]
    return several[0] if several and all(several[0].agree(each) for each in several[1:]) else None


def _pointwise(args: Any, kwargs: Any) -> bool:
    """Whether a convolution takes one position at a time."""
    weight = args[1] if len(args) > 1 else kwargs.get("weight")
    return isinstance(weight, Tensor) and weight[0, 0].numel() == 1


def _reduced(places: Places, dim: Any = None, keepdim: Any = False, **_: Any) -> Places | None:
    """The mean places over the dimensions of a reduction; None where it is not over some of them."""
    if not isinstance(dim, int | tuple | list) or not isinstance(keepdim, bool):
        return None
    return Places(tuple(each.nanmean(dim, keepdim) for each in places.axes))


def _padded_with_none(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> tuple[Any, Any]:
    """The arguments of padding with constants, which have no place, or with what they were."""
    return (input, pad), {"value": torch.nan} if mode == "constant" else {"mode": mode}


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested tuples, lists and dicts with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(each, change) for each in value)
    if type(value) is dict:
        return {key: _mapped(each, change) for key, each in value.items()}
    return value
