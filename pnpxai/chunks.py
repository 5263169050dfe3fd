"""How much goes through a model at once, and in which layout: what is fastest, found by trying it once.

How much there may be is bounded by what memory allows.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.callables import Model, remembered
from pnpxai.errors import PnPXAIError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

ACTIVATION_BYTES = 320 * 2**20
"""What one chunk's activations may take by the rule of `default_chunk_size`."""
ACTIVATIONS_PER_INPUT = 64
"""How many times an input's size its activations are taken to be."""
LARGEST_CHUNK = 256
ROOM = 4
"""How many times the rule's chunk is tried at most on the CPU, where nothing says that memory is short."""
TIMED_BYTES = 2**13
"""Samples of fewer bytes go by the rule: their passes are too short to be timed well."""
WORTH_TIMING = 64
"""How many of the rule's chunks are asked about before a trial pays."""
REPEATS, ROUNDS, FINALS = 3, 2, 6
"""How often a size is timed in a row, how often those that may be the fastest are timed in turn, and how often of these
the ones that are close."""
EVENLY = 8
"""Samples of one timing in those rounds, at least: single passes of few samples would have more luck than others."""
HOPELESS, CLOSE = 1.6, 1.1
"""Sizes that took more than so many times the least are not timed in turn, or not in the end."""
FEW, LARGER = 4, 1.25
"""Fewer portions than these are made even, if that makes them so many times as large at most."""
SLOWER = 1.02
"""Sizes that take so many times the least are as good, and the smallest of them is taken."""
AGREES = 1e-3
"""How far outputs in another layout may be off, by the largest of them, or eight steps of their precision."""

_found: WeakIdKeyDictionary = WeakIdKeyDictionary()
_asked: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""For each model, what was found for inputs and kinds of passes, and how many samples were asked about before."""


def default_chunk_size(inputs: Sequence[Tensor]) -> int:
    """How many samples go through the model at once by rule of thumb: as many as fit `ACTIVATION_BYTES`."""
    return max(1, min(LARGEST_CHUNK, round(ACTIVATION_BYTES / (ACTIVATIONS_PER_INPUT * max(sample_bytes(inputs), 1)))))


def sample_bytes(inputs: Sequence[Tensor]) -> int:
    """What one sample takes."""
    return sum(each.shape[1:].numel() * each.element_size() for each in inputs)


def chunk_size_for(
    model: Model,
    inputs: Sequence[Tensor],
    kind: Hashable,
    n_samples: int,
    run: Callable[[int], object],
    rounds: int = 1,
) -> int:
    """How many samples go through the model at once.

    The rule's number where samples are small or whole numbers, and for an object that Python cannot refer to weakly.
    Else the fastest, which is tried once, as soon as what has been asked for makes it worth that, and remembered for
    the model, the inputs' shapes, dtypes and device, the number of threads, the kind of pass and, where few are asked
    about at once, how many; until then the rule's. Where two sizes are about equal another process may choose the
    other one; the model's answers then differ by rounding. On the CPU it is moved a little where that makes a few
    portions even, see `evened`.

    Args:
        model: the model.
        inputs: some samples, each ``(n, …)``.
        kind: what a pass does, such as going backward.
        n_samples: how many are to be asked about, one independent of the other.
        run: lets so many samples pass once, to the end.
        rounds: how often as many are.
    """
    if n_samples == 1:
        return 1
    rule, device = default_chunk_size(inputs), inputs[0].device
    most = min(LARGEST_CHUNK, ROOM * rule) if device.type == "cpu" else LARGEST_CHUNK
    full = min(most, 1 << (n_samples - 1).bit_length())  # a larger one would never be full
    n = n_samples * rounds
    size = _tried(model, inputs, ("size", kind, full), n, rule, lambda: fastest_chunk_size(run, full, rule))
    return evened(size, n_samples, most) if device.type == "cpu" else size


def evened(size: int, n_samples: int, most: int) -> int:
    """A size near another, of which a few portions come out alike; a small last one would take longer a sample.

    Args:
        size: the other.
        n_samples: in all portions.
        most: what it may be, unless ``size`` is more.

    Example:
        >>> evened(16, 18, most=64), evened(16, 50, most=64), evened(16, 18, most=16), evened(16, 1000, most=64)
        (18, 17, 16, 16)
    """
    even = -(-n_samples // max(1, round(n_samples / size)))
    return even if n_samples < FEW * size and even <= min(most, LARGER * size) else size


def channels_last_for(
    model: Model, inputs: Sequence[Tensor], kind: Hashable, n_samples: int, run: Callable[[bool], Tensor]
) -> bool:
    """Whether images go through the model faster in channels-last order, with the same outputs but for rounding.

    Tried, once, for modules with convolutions whose weights are in the plain order, as `chunk_size_for` tries sizes.

    Args:
        model: the model.
        inputs: some samples, each ``(n, …)``.
        kind: what a pass does.
        n_samples: how many are to be asked about.
        run: lets some samples pass, in channels-last order or not, and returns the outputs when they are there.
    """
    images = any(each.ndim == 4 for each in inputs) and _can_be_timed(inputs)
    if not (images and isinstance(model, nn.Module) and _convolves_plainly(model)):
        return False
    return _tried(model, inputs, ("channels last", kind), n_samples, False, lambda: _quicker_channels_last(run))


def keep_plain_order(model: Model, inputs: Sequence[Tensor], kind: Hashable) -> None:
    """Let `channels_last_for` say no from now on: on some samples the model fails in channels-last order."""
    known = remembered(_found, model)
    if known is not None:
        known[_key(inputs, ("channels last", kind))] = False


def _convolves_plainly(model: nn.Module) -> bool:
    """Whether a weight has the shape of a convolution's and is not in channels-last order."""
    return any(
        each.ndim == 4 and not each.is_contiguous(memory_format=torch.channels_last) for each in model.parameters()
    )


def _quicker_channels_last(run: Callable[[bool], Tensor]) -> bool:
    try:
        plain, other = run(False), run(True)
        near = max(AGREES, 8 * torch.finfo(plain.dtype).eps) * float(plain.abs().max())
        agree = torch.allclose(plain, other, rtol=0, atol=near)
    except Exception:  # such as a view of features that lie in another order, or outputs that are whole numbers
        return False
    if not agree:
        return False
    taken = _in_turn({way: functools.partial(run, way) for way in (False, True)}, ROUNDS + FINALS, time.perf_counter)
    return statistics.median(taken[True]) * SLOWER < statistics.median(taken[False])


def _tried(
    model: Model, inputs: Sequence[Tensor], kind: Hashable, n_samples: int, otherwise: T, trial: Callable[[], T]
) -> T:
    """What a trial found, once as many samples have been asked about as make it worth its time; see `chunk_size_for`.

    Args:
        model: what it is remembered for.
        inputs: some samples, each ``(n, …)``.
        kind: what is tried.
        n_samples: how many are to be asked about.
        otherwise: what holds without a trial.
        trial: finds it.
    """
    device = inputs[0].device
    if not _can_be_timed(inputs):
        return otherwise
    known, asked = remembered(_found, model), remembered(_asked, model)
    if known is None or asked is None:
        return otherwise
    what = _key(inputs, kind)
    if what not in known:
        asked[what] = asked.get(what, 0) + n_samples
        if asked[what] < WORTH_TIMING * default_chunk_size(inputs):
            return otherwise
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            known[what] = trial()
    found: T = known[what]
    return found


def _can_be_timed(inputs: Sequence[Tensor]) -> bool:
    return sample_bytes(inputs) >= TIMED_BYTES and all(each.is_floating_point() for each in inputs)


def _key(inputs: Sequence[Tensor], kind: Hashable) -> Hashable:
    """What a finding holds for."""
    return kind, inputs[0].device, torch.get_num_threads(), tuple((each.shape[1:], each.dtype) for each in inputs)


def fastest_chunk_size(
    run: Callable[[int], object], most: int, rule: int = 1, clock: Callable[[], float] = time.perf_counter
) -> int:
    """The size at which a sample takes least, among 1, 2, 4 … until two sizes in turn gain nothing.

    Args:
        run: lets so many samples pass once, to the end; a size above 1 that fails, as where memory runs out, ends the
            trial.
        most: the largest size that is tried.
        rule: a size up to which, and one step beyond, all are tried.
        clock: the time in seconds.

    Example:
        >>> now = [0.0]
        >>> def run(size):  # a third of a second a call, and a tenth for each sample
        ...     now[0] += 1 / 3 + size / 10
        >>> fastest_chunk_size(run, 1024, clock=lambda: now[0])
        128
    """
    taken: dict[int, float] = {}
    size, without_gain = 1, 0
    while size <= most and (without_gain < 2 or size < 2 * rule):
        try:
            seconds = min(_in_turn({size: functools.partial(run, size)}, REPEATS, clock)[size]) / size
        except Exception:
            if size == 1:
                raise
            break
        gains = not taken or seconds * SLOWER < min(taken.values())
        without_gain = 0 if gains else without_gain + 1
        taken[size] = seconds
        size *= 2
    for rounds, within, middle in ((ROUNDS, HOPELESS, min), (FINALS, CLOSE, statistics.median)):
        passes = {size: max(1, EVENLY // size) for size in _close(taken, within)}
        if len(passes) == 1:
            return min(passes)
        calls = {size: functools.partial(_repeated, run, size, n) for size, n in passes.items()}
        taken = {size: middle(each) / (size * passes[size]) for size, each in _in_turn(calls, rounds, clock).items()}
    return min(_close(taken, SLOWER))


def _close(taken: Mapping[int, float], within: float) -> list[int]:
    """The sizes that take at most so many times the least."""
    return [size for size, seconds in taken.items() if seconds <= within * min(taken.values())]


def _repeated(run: Callable[[int], object], size: int, n: int) -> None:
    for _ in range(n):
        run(size)


def _in_turn(calls: Mapping[K, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[K, list[float]]:
    """Seconds that each call takes in each round; a spell in which the machine is slow strikes all calls."""
    taken: dict[K, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            taken[name].append(clock() - start)
    return taken


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, PnPXAIError):
        return False
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )
