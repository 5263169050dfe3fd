"""How much goes through a model at once, and what says that it was too much."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pnpxai import chunks
from pnpxai.chunks import (
    ACTIVATION_BYTES,
    ACTIVATIONS_PER_INPUT,
    LARGEST_CHUNK,
    WORTH_TIMING,
    chunk_size_for,
    default_chunk_size,
    fastest_chunk_size,
    out_of_memory,
)
from pnpxai.explainers import RISE, IntegratedGradients
from pnpxai.forward import count_forwards
from tests.nets import VGGLike, batch, seeded


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_chunks_are_bounded_by_memory() -> None:
    assert default_chunk_size([torch.zeros(2, 3)]) == LARGEST_CHUNK
    photo = torch.zeros(1, 3, 224, 224)
    size = default_chunk_size([photo])
    bytes_taken = photo.numel() * 4 * ACTIVATIONS_PER_INPUT
    assert abs(size * bytes_taken - ACTIVATION_BYTES) <= bytes_taken
    assert default_chunk_size([torch.zeros(1, 3, 1, 1).expand(1, 3, 8192, 8192)]) == 1


class Machine:
    """Takes as long for a pass as a function of its size says, by its own clock."""

    def __init__(self, seconds: Callable[[int], float], most: int = 10**9) -> None:
        self.seconds, self.most, self.now = seconds, most, 0.0
        self.sizes: list[int] = []

    def run(self, size: int) -> None:
        if size > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(size)
        self.now += self.seconds(size)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda size: size, 1),  # a sample always takes the same
        (lambda size: size * (1 + size / 10), 1),  # ever slower
        (lambda size: size * {1: 1.13, 2: 1.0, 4: 1.24}.get(size, 1.53), 2),  # out of the cache
        (lambda size: size * {1: 1.79, 2: 1.32, 4: 1.33, 8: 1.06, 16: 1.17}.get(size, 1.4), 8),  # over a bump
        (lambda size: 1.0, 64),  # never busy
    ],
)
def test_the_fastest_size_is_found(seconds: Callable[[int], float], expected: int) -> None:
    machine = Machine(seconds)
    assert fastest_chunk_size(machine.run, 64, clock=machine.clock) == expected


def test_sizes_up_to_the_rule_are_tried_over_a_plain() -> None:
    seconds = lambda size: size * (0.8 if size == 16 else 1.0)  # noqa: E731
    found = []
    for rule in (1, 9):
        machine = Machine(seconds)
        found.append(fastest_chunk_size(machine.run, 64, rule, machine.clock))
    assert found == [1, 16]


def test_of_two_slow_moments_neither_counts() -> None:
    machine = Machine(lambda size: 1.0 if len(machine.sizes) in (4, 6) else 0.1 + size / 100)
    assert fastest_chunk_size(machine.run, 8, clock=machine.clock) == 8


def test_luck_of_single_passes_does_not_count() -> None:
    machine = Machine(
        lambda size: size * {1: 0.7 if len(machine.sizes) % 4 == 1 else 1.0, 2: 0.95, 4: 0.92}.get(size, 0.88)
    )
    assert fastest_chunk_size(machine.run, 8, 8, machine.clock) == 8


@pytest.mark.parametrize("struck", [range(1, 7), range(3, 9), range(7, 20)])
def test_a_spell_in_which_the_machine_is_slow_changes_nothing(struck: range) -> None:
    per_sample = {1: 1.13, 2: 1.0, 4: 1.24, 8: 1.53, 16: 1.7, 32: 1.8}
    machine = Machine(lambda size: size * per_sample[size] * (1.4 if len(machine.sizes) in struck else 1.0))
    assert fastest_chunk_size(machine.run, 32, clock=machine.clock) == 2


def test_on_a_machine_that_is_now_quicker_and_now_slower_hardly_anything_is_lost() -> None:
    per_sample = {1: 1.25, 2: 1.1, 4: 1.07, 8: 1.07, 16: 1.0, 32: 1.0}

    def found(seed: int) -> float:
        drawn, pace = random.Random(seed), 1.0

        def seconds(size: int) -> float:
            nonlocal pace
            if drawn.random() < size / 400:  # another spell begins
                pace = drawn.choice((1.0, 1.0, 1.3))
            luck = abs(drawn.gauss(0, 0.08)) * (1.0 if drawn.random() < 0.7 else -0.3)
            return size * per_sample[size] * pace * (1 + luck)

        machine = Machine(seconds)
        return per_sample[fastest_chunk_size(machine.run, 36, 9, machine.clock)]

    losses = [found(seed) - 1 for seed in range(300)]
    assert sum(each > 0.03 for each in losses) < 0.08 * len(losses)
    assert sum(losses) < 0.006 * len(losses)


def test_memory_that_runs_out_ends_the_trial() -> None:
    machine = Machine(lambda size: 1.0, most=5)
    assert fastest_chunk_size(machine.run, 64, clock=machine.clock) == 4
    with pytest.raises(RuntimeError, match="out of memory"):
        fastest_chunk_size(Machine(lambda size: 1.0, most=0).run, 64)


def test_no_more_are_tried_than_are_asked_about_at_once() -> None:
    machine, model, photo = Machine(lambda size: 1.0), nn.Linear(2, 2), torch.zeros(1, 3, 96, 96)
    for n, most in ((1, 0), (6, 8), (8, 8), (100, 128)):
        machine.sizes.clear()
        sizes = {chunk_size_for(model, [photo], "gradient", n, machine.run) for _ in range(16 * LARGEST_CHUNK // n)}
        if n == 1:
            assert sizes == {1}
        assert max(machine.sizes, default=0) == (0 if n == 8 else most)  # 6 and 8 go together


@pytest.mark.parametrize(
    ("rule", "n", "expected"),
    [(16, 18, 18), (16, 20, 20), (16, 21, 16), (16, 25, 13), (16, 50, 17), (16, 5, 5), (16, 1000, 16), (256, 300, 256)],
)
def test_few_portions_come_out_alike(rule: int, n: int, expected: int, set_chunk_size: Callable[[int], None]) -> None:
    set_chunk_size(rule)
    assert chunk_size_for(nn.Linear(2, 2), [torch.zeros(1, 2)], "forward", n, lambda size: None) == expected


def test_it_is_tried_once_for_a_model_and_a_shape() -> None:
    machine = Machine(lambda size: size * (1 + size / 10))
    model, photo, other = nn.Linear(2, 2), torch.zeros(1, 3, 96, 96), torch.zeros(1, 3, 128, 128)

    def tried(inputs: torch.Tensor, kind: str = "forward", n: int = 16 * LARGEST_CHUNK, net: nn.Module = model) -> int:
        machine.sizes.clear()
        chunk_size_for(net, [inputs], kind, n, machine.run)
        return len(machine.sizes)

    worth = WORTH_TIMING * default_chunk_size([photo])
    assert tried(photo, n=worth // 2) == tried(photo, n=worth // 2 - 1) == 0
    assert tried(photo, n=worth // 2) > 0  # together they are worth it
    assert tried(photo) == tried(photo, n=worth) == 0
    assert tried(other) > 0
    assert tried(photo, kind="gradient") > 0
    assert tried(photo.double()) > 0
    assert tried(photo, net=nn.Linear(2, 2)) > 0
    assert tried(torch.zeros(1, 3, 16, 16)) == tried(torch.zeros(1, 3, 96, 96, dtype=torch.long)) == 0


def test_a_model_that_is_gone_is_forgotten() -> None:
    model = nn.Linear(2, 2)
    chunk_size_for(model, [torch.zeros(1, 3, 96, 96)], "forward", 16 * LARGEST_CHUNK, lambda size: None)
    gc.collect()  # models of other tests
    before = len(chunks._found)
    del model
    gc.collect()
    assert len(chunks._found) == before - 1


ORDERS: list[bool] = []


class Plain(nn.Module):
    """Convolves, looks at how its input lies in memory, and may ask that the features lie in the plain order.

    Attributes:
        views: whether it does.
        spared: but for so many samples.
        off: added to the outputs in the other order.
    """

    def __init__(self, views: bool = False, off: float = 0.0, spared: int = 0) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 3)
        self.views, self.off, self.spared = views, off, spared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        ORDERS.append(last)  # an attribute would be put back
        found = torch.nn.functional.adaptive_avg_pool2d(self.conv(x), 8)
        views = self.views and len(x) != self.spared
        return self.head(found.view(len(x), -1) if views else found.flatten(1)) + self.off * last


@pytest.mark.parametrize(
    ("model", "plain", "other", "expected"),
    [
        (Plain(), 1.0, 0.9, True),
        (Plain(), 1.0, 0.99, False),
        (Plain(), 0.9, 1.0, False),
        (Plain(views=True), 1.0, 0.5, False),  # fails on the other order
        (Plain(views=True, spared=4), 1.0, 0.5, False),  # found out later
        (Plain(off=0.1), 1.0, 0.5, False),  # answers otherwise
        (Plain().to(memory_format=torch.channels_last), 1.0, 0.5, False),  # nothing to be gained
    ],
)
def test_images_go_in_the_order_that_is_faster_and_no_other(
    model: Plain, plain: float, other: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += (other if ORDERS and ORDERS[-1] else plain) / 2  # what a pass takes, by its order
        return now

    monkeypatch.setattr(chunks, "WORTH_TIMING", 1)
    monkeypatch.setattr(chunks, "fastest_chunk_size", lambda *_: 4)
    monkeypatch.setattr(time, "perf_counter", clock)
    ORDERS.clear()
    x = batch(1, 3, 64, 64)
    maps = RISE(model, n_masks=202).attribute(x, 0)
    assert ORDERS[-1] is expected
    ORDERS.clear()
    RISE(model, n_masks=202).attribute(x, 0)
    assert any(ORDERS) is expected  # not tried again
    monkeypatch.undo()
    alone = RISE(model, n_masks=202, batch_size=3).attribute(x, 0)
    torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("explainer", [RISE, IntegratedGradients])
def test_a_trial_changes_neither_map_nor_random_numbers(
    explainer: type[RISE | IntegratedGradients], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "TIMED_BYTES", 0)
    monkeypatch.setattr(chunks, "WORTH_TIMING", 1)
    model, inputs = nn.Sequential(seeded(VGGLike()), nn.Dropout()), batch(2, 3, 16, 16)
    (name,) = explainer.BUDGET
    made, asked = explainer(model.eval(), **{name: 200}), list[int]()
    model.register_forward_hook(lambda _module, inputs, _output: asked.append(len(inputs[0])))
    torch.manual_seed(0)
    with count_forwards() as first:
        maps = made.attribute(inputs)
    drawn, with_trial = torch.rand(2), sum(asked)
    torch.manual_seed(0)
    with count_forwards() as second:
        again = made.attribute(inputs)
    assert torch.equal(maps, again)
    assert torch.equal(drawn, torch.rand(2))
    assert with_trial > first.n_samples == second.n_samples == sum(asked) - with_trial == 2 * 201
