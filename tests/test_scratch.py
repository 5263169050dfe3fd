"""Memory of changed inputs is written again, but never what somebody still holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import pnpxai.explainers as explainers
import pnpxai.metrics as metrics
from pnpxai.callables import Model
from pnpxai.scratch import ALIGNED, Scratch
from tests.nets import VGGLike, batch, seeded

PERTURBING = ("RISE", "RELAX", "SobolAttribution", "Occlusion", "Lime", "KernelShap", "AbPC", "MuFidelity")


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnpxai.scratch.MAPPED_BYTES", 0)


HOLDING: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda x: x,
    "a view": lambda x: x[0, 1:],
    "a view of a detached one": lambda x: x.detach().permute(0, 2, 3, 1),
    "an array": lambda x: x.numpy()[::2],
    "its storage": lambda x: x.untyped_storage(),
}


def numbers(kept: Any) -> Tensor:
    """What is held, copied."""
    return torch.tensor(kept.tolist()) if isinstance(kept, torch.UntypedStorage) else torch.as_tensor(kept).clone()


def listening(net: nn.Module, keep: Callable[[Tensor], Any]) -> tuple[Callable[[Tensor], Tensor], list[Any]]:
    """A network with somebody who keeps what it was given, in some way and as a copy."""
    kept: list[Any] = []

    def answer(x: Tensor) -> Tensor:
        kept.append((keep(x), keep(x.clone())))
        return net(x)

    return answer, kept


def runs(model: Model, name: str, x: Tensor | None = None) -> Tensor:
    """Something that asks about many changed inputs, five at a time."""
    x = batch(2, 3, 16, 16) if x is None else x
    with mock.patch("pnpxai.forward._request.chunk_size_for", return_value=5):
        if hasattr(explainers, name):
            return getattr(explainers, name)(model).attribute(x, [0, 1])
        return getattr(metrics, name)(model).evaluate(x, torch.tensor([0, 1]), batch(2, *x.shape[2:], seed=3))


@pytest.mark.parametrize("way", HOLDING)
def test_what_is_held_is_not_written_to(way: str) -> None:
    scratch, like = Scratch(), batch(1, 3, 4, 4)
    rows = scratch.rows(like, 2).copy_(batch(2, 3, 4, 4))
    kept, before = HOLDING[way](rows), numbers(HOLDING[way](rows.clone()))
    del rows
    scratch.rows(like, 2).fill_(5.0)
    assert torch.equal(numbers(kept), before)


def test_what_a_graph_reads_is_not_written_to() -> None:
    scratch, weight = Scratch(), torch.ones((), requires_grad=True)
    product = scratch.rows(torch.empty(1, 3), 1).fill_(2.0) * weight
    scratch.rows(torch.empty(1, 3), 1).fill_(5.0)
    (gradient,) = torch.autograd.grad(product.sum(), weight)
    assert gradient == 6.0


def test_what_nobody_holds_is_written_to() -> None:
    scratch, like = Scratch(), batch(1, 3, 4, 4)
    places = set()
    for n in (4, 2, 4, 3):
        rows = scratch.rows(like, n)
        places.add(rows.data_ptr())
        assert rows.shape == (n, 3, 4, 4)
        assert rows.data_ptr() % ALIGNED == 0
        assert not rows._is_view()  # a model may turn gradients on and change it in place
        del rows
    assert len(places) == 1


def test_a_larger_portion_has_room() -> None:
    scratch, like = Scratch(), batch(1, 3, 4, 4)
    for n in (1, 2, 50, 3):
        assert torch.equal(scratch.rows(like, n).copy_(batch(n, 3, 4, 4)), batch(n, 3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((3,), torch.contiguous_format),
        ((3, 5), torch.contiguous_format),
        ((3, 4, 5), torch.contiguous_format),
        ((3, 4, 5), torch.channels_last),
        ((3, 2, 4, 5), torch.channels_last_3d),
    ],
)
def test_rows_lie_as_the_inputs_do(dtype: torch.dtype, shape: tuple[int, ...], order: torch.memory_format) -> None:
    like = batch(2, *shape, dtype=dtype).contiguous(memory_format=order)
    rows = Scratch().rows(like, 5)
    assert rows.shape == (5, *shape)
    assert rows.dtype == dtype
    assert rows.is_contiguous(memory_format=order)


class Marked(Tensor):
    """A tensor of another class."""


def test_other_classes_of_tensors_stay_what_they_are() -> None:
    like, scratch = batch(1, 3, 4, 4).as_subclass(Marked), Scratch()
    assert isinstance(scratch.rows(like, 2), Marked)
    assert type(scratch.rows(torch.nn.Parameter(batch(1, 3, 4, 4)), 2)) is Tensor


def test_memory_of_larger_portions_is_given_back() -> None:
    """Such as of those that were too large for the model."""
    scratch, like = Scratch(), batch(1, 3, 4, 4)
    for n, held in ((64, 64), (32, 64), (8, 8)):
        assert scratch.rows(like, n).untyped_storage().nbytes() == held * 3 * 4 * 4 * 4


LAID: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "channels last": ((2, 16, 16, 3), (0, 3, 1, 2)),
    "columns before rows": ((2, 3, 16, 16), (0, 1, 3, 2)),
    "batch last": ((3, 16, 16, 2), (3, 0, 1, 2)),
    "frames before channels": ((2, 4, 3, 4, 4), (0, 2, 1, 3, 4)),
    "time before channels": ((2, 12, 3), (0, 2, 1)),
}


@pytest.mark.parametrize("laid", LAID)
@pytest.mark.parametrize("name", PERTURBING)
def test_a_model_may_view_inputs_as_they_lie(name: str, laid: str) -> None:
    """Such as one that reads ``(n, c, t, h, w)`` frame by frame, where frames lie one behind the other."""
    shape, axes = LAID[laid]
    x, back = batch(*shape).permute(axes), [axes.index(axis) for axis in range(len(axes))]
    weight = batch(x[0].numel(), 5, seed=2)

    def views(rows: Tensor) -> Tensor:
        lying = rows.permute(back)
        assert lying.is_contiguous()
        return rows.flatten(1) @ weight

    torch.testing.assert_close(runs(views, name, x), runs(lambda rows: rows.flatten(1) @ weight, name, x.contiguous()))


@pytest.mark.parametrize("way", ["itself", "a view", "an array"])
@pytest.mark.parametrize("name", PERTURBING)
def test_a_model_may_keep_its_inputs(name: str, way: str) -> None:
    model, kept = listening(seeded(VGGLike()), HOLDING[way])
    runs(model, name)
    assert len(kept) > 3
    for one, copied in kept:
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(copied))


@pytest.mark.parametrize("name", PERTURBING)
def test_a_model_may_write_into_its_inputs(name: str) -> None:
    net = seeded(VGGLike())

    def writes(x: Tensor) -> Tensor:
        outputs: Tensor = net(x)
        x.fill_(7.0)
        return outputs

    torch.testing.assert_close(runs(writes, name), runs(net, name), rtol=0, atol=0)


@pytest.mark.parametrize("name", PERTURBING)
def test_portions_share_their_memory(name: str) -> None:
    model, kept = listening(seeded(VGGLike()), lambda x: (x.data_ptr(), len(x)))
    runs(model, name)
    places = [place for (place, n), _ in kept if n == 5]
    assert len(places) > 3
    assert max(map(places.count, places)) >= len(places) - 1  # not those of the inputs themselves
