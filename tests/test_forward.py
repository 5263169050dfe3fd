from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pnpxai.chunks import out_of_memory
from pnpxai.errors import InputError, ModelError, TargetError, UnsupportedModelError
from pnpxai.explainers import (
    RISE,
    DeepLiftShap,
    Explainer,
    GradCam,
    IntegratedGradients,
    KernelShap,
    LRPEpsilonPlus,
    Occlusion,
    SobolAttribution,
)
from pnpxai.forward import Request, count_forwards
from tests.harm import untouched
from tests.nets import MLP, RaisesAt, VGGLike, Wrapped, as_dict, as_tuple, batch, seeded


class Limited(nn.Module):
    """Runs out of memory above a number of rows, and remembers the rows it answered."""

    def __init__(self, net: nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.net = net
        self.most = most
        self.error = error
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.net(x)


class WithExtra(nn.Module):
    """Outputs depend on a second argument that follows the sample and a third that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, offset: Tensor, scale: Tensor, name: str) -> Tensor:
        assert name == "name"
        return self.weight * x * scale + offset


def test_inputs_are_copied_and_follow_the_model() -> None:
    model, inputs = seeded(MLP()).double(), batch(2, 6)
    with untouched(model, inputs):
        request = Request.build(model, inputs)
        request.input.add_(1.0)
    assert request.input.dtype == torch.float64
    assert torch.equal(request.input, inputs.double() + 1)
    assert len(request) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_the_model_gets_inputs_in_its_dtype(dtype: torch.dtype, given: torch.dtype) -> None:
    model, inputs = seeded(MLP()).to(dtype), batch(4, 6, dtype=given)
    outputs = Request.build(model, inputs).outputs
    assert outputs.dtype == dtype
    assert torch.equal(outputs, model(inputs.to(dtype)))


def test_values_too_large_for_the_models_dtype_are_refused() -> None:
    with pytest.raises(InputError, match=r"finite in the model's torch\.float16"):
        Request.build(seeded(MLP()).half(), torch.full((1, 6), 1e6))


@pytest.mark.parametrize("function", [as_dict, as_tuple, lambda outputs: [outputs]])
def test_outputs_of_any_form(function: Any) -> None:
    net, inputs = seeded(MLP()), batch(4, 6)
    assert torch.equal(Request.build(Wrapped(net, function), inputs).outputs, net(inputs))


def test_several_inputs_and_arguments_by_extractors() -> None:
    data = {"x": batch(3, 6), "offset": batch(3, 1, seed=2), "scale": batch(1, 6, seed=3)}
    request = Request.build(
        WithExtra(),
        data,
        forward_arg_extractor=lambda each: each["x"],
        additional_forward_arg_extractor=lambda each: (each["offset"], each["scale"], "name"),
        chunk_size=2,
    )
    assert torch.equal(request.outputs, 2 * data["x"] * data["scale"] + data["offset"])
    index = torch.tensor([2, 0, 2, 2])
    outputs = request.call((data["x"][index],), index)
    assert torch.equal(outputs, 2 * data["x"][index] * data["scale"] + data["offset"][index])


def test_one_argument_needs_no_tuple() -> None:
    class Add(MLP):
        def forward(self, x: Tensor, offset: Tensor) -> Tensor:
            return super().forward(x) + offset

    offset = batch(2, 3, seed=4)
    request = Request.build(
        seeded(Add()),
        (batch(2, 6), offset),
        forward_arg_extractor=lambda each: each[0],
        additional_forward_arg_extractor=lambda each: each[1],
    )
    assert torch.equal(request.outputs, seeded(MLP())(batch(2, 6)) + offset)


def test_several_explained_tensors() -> None:
    class Both(MLP):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x * y)

    inputs = (batch(2, 6), batch(2, 6, seed=2))
    request = Request.build(seeded(Both()), inputs)
    assert torch.equal(request.outputs, seeded(MLP())(inputs[0] * inputs[1]))
    with pytest.raises(InputError, match="2 tensors"):
        _ = request.input


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (2, [2, 2, 2]),
        (np.int64(2), [2, 2, 2]),
        ([0, 1, 2], [0, 1, 2]),
        ((0, 1, 2), [0, 1, 2]),
        (torch.tensor([0, 1, 2], dtype=torch.uint8), [0, 1, 2]),
    ],
)
def test_targets(targets: Any, expected: list[int]) -> None:
    request = Request.build(seeded(MLP()), batch(3, 6), targets)
    assert isinstance(request.targets, Tensor)
    assert request.targets.tolist() == expected
    assert request.targets.dtype == torch.long
    with torch.no_grad():
        outputs = seeded(MLP())(batch(3, 6))
        assert torch.equal(request.scores(request.inputs), outputs[torch.arange(3), expected])


def test_no_targets_are_the_predicted_classes() -> None:
    request = Request.build(seeded(MLP()), batch(8, 6))
    expected = seeded(MLP())(batch(8, 6)).argmax(1)
    assert len(expected.unique()) > 1
    assert isinstance(request.targets, Tensor)
    assert torch.equal(request.targets, expected)
    index = torch.tensor([7, 0, 0])
    with torch.no_grad():
        scores = request.scores((batch(8, 6)[index],), index, "probability")
        assert torch.equal(scores, seeded(MLP())(batch(8, 6)[index]).softmax(1).amax(1))


def test_a_function_of_the_outputs() -> None:
    request = Request.build(seeded(MLP()), batch(3, 6), lambda outputs: outputs[:, 0] - outputs[:, 1])
    outputs = seeded(MLP())(batch(3, 6))
    assert torch.equal(request.scores(request.inputs), outputs[:, 0] - outputs[:, 1])


def test_targets_may_come_from_inference_mode() -> None:
    with torch.inference_mode():
        inputs, targets, offset = batch(2, 6), torch.tensor([0, 1]), batch(2, 6, seed=2)
    request = Request.build(
        WithExtra(),
        (inputs, offset),
        targets,
        forward_arg_extractor=lambda each: each[0],
        additional_forward_arg_extractor=lambda each: (each[1], each[1], "name"),
    )
    x = request.input.requires_grad_()
    request.scores((x,)).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * offset * torch.eye(6)[:2])


def _stream(request: Request, n_items: int) -> tuple[Tensor, list[tuple[int, int]]]:
    kept, spans = [], []

    def build(start: int, stop: int) -> tuple[tuple[Tensor, ...], Tensor]:
        index = torch.arange(start, stop) % len(request)
        return (request.input[index] * torch.arange(start, stop)[:, None],), index

    def consume(start: int, stop: int, outputs: Tensor) -> None:
        kept.append(outputs)
        spans.append((start, stop))

    request.stream(n_items, build, consume)
    return torch.cat(kept), spans


@given(n_items=st.integers(1, 40), size=st.integers(1, 50))
def test_every_item_is_consumed_once_in_order(n_items: int, size: int) -> None:
    model, inputs = seeded(MLP()), batch(3, 6)
    with count_forwards() as counter:
        outputs, spans = _stream(Request.build(model, inputs, chunk_size=size), n_items)
    i = torch.arange(n_items)
    assert torch.allclose(outputs, model(inputs[i % 3] * i[:, None]), rtol=1e-5, atol=1e-5)
    assert [number for start, stop in spans for number in range(start, stop)] == list(range(n_items))
    assert (counter.n_samples, counter.n_calls) == (n_items, -(-n_items // size))
    assert not outputs.requires_grad


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        torch.cuda.OutOfMemoryError("no"),
        MemoryError(),
    ],
    ids=lambda each: str(each)[:9] or "MemoryError",
)
def test_a_chunk_that_does_not_fit_is_halved(error: Exception) -> None:
    net, inputs = seeded(MLP()).double(), batch(3, 6, dtype=torch.float64)
    limited = Limited(net, 5, error)
    outputs, spans = _stream(Request.build(limited, inputs, chunk_size=32), 40)
    i = torch.arange(40)
    assert torch.allclose(outputs, net(inputs[i % 3] * i[:, None]), rtol=1e-12)
    assert limited.sizes == [32, 16, 8] + [4] * 10
    assert spans == [(start, start + 4) for start in range(0, 40, 4)]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    limited = Limited(seeded(MLP()), 0, MemoryError("full"))
    with pytest.raises(ModelError, match="memory for one input") as caught:
        _ = Request.build(limited, batch(4, 6)).outputs
    assert isinstance(caught.value.__cause__, MemoryError)


class OneAtATime(nn.Module):
    """Has its batch size written in."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(VGGLike())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.reshape(1, 3, 16, 16))


@pytest.mark.parametrize(
    "explainer",
    [RISE, IntegratedGradients, KernelShap, LRPEpsilonPlus, DeepLiftShap, GradCam],
    ids=lambda each: each.__name__,
)
def test_a_model_of_one_sample_at_a_time_is_explained_like_any_other(explainer: type[Explainer]) -> None:
    model, x = OneAtATime(), batch(3, 3, 16, 16)
    budget = {name: 64 for name in explainer.BUDGET}
    maps = explainer(model, **budget).attribute(x)
    assert torch.allclose(maps, explainer(model.net, **budget).attribute(x), rtol=1e-4, atol=1e-5)


def test_a_failure_that_does_not_come_again_is_not_hidden() -> None:
    for at in (1, 2, 3):
        request = Request.build(RaisesAt(seeded(MLP()), at), batch(6, 6), chunk_size=2)
        with pytest.raises(ModelError, match="the network broke here"):
            _ = request.outputs


def test_counters_nest_and_close() -> None:
    request = Request.build(seeded(MLP()), batch(4, 6))
    with count_forwards() as outer:
        request.call(request.inputs)
        with count_forwards() as inner:
            request.call(request.rows(0, 1))
        with pytest.raises(KeyError), count_forwards():
            raise KeyError
        request.call(request.rows(0, 2))
    request.call(request.inputs)
    assert (outer.n_samples, outer.n_calls) == (7, 3)
    assert (inner.n_samples, inner.n_calls) == (1, 1)


def test_the_outputs_are_asked_for_once() -> None:
    request = Request.build(seeded(MLP()), batch(4, 6))
    with count_forwards() as counter:
        _ = request.targets, request.outputs, request.targets
    assert counter.n_samples == 4


def test_the_models_own_error_is_shown() -> None:
    inputs = batch(2, 6)
    model = RaisesAt(seeded(MLP()), 1, KeyError)
    with untouched(model, inputs), pytest.raises(ModelError) as caught:
        _ = Request.build(model, inputs).outputs
    assert isinstance(caught.value.__cause__, KeyError)
    assert all(word in str(caught.value) for word in ("(n, 6)", "KeyError from RaisesAt", "the network broke here"))


def test_a_deliberate_error_of_the_model_passes_through() -> None:
    class Refuses(MLP):
        def forward(self, x: Tensor) -> Tensor:
            raise UnsupportedModelError("a", "b", "c")

    with pytest.raises(UnsupportedModelError):
        _ = Request.build(Refuses(), batch(2, 6)).outputs


def test_outputs_that_are_not_one_row_an_input() -> None:
    with pytest.raises(ModelError, match=r"each of 4 inputs.*\(1, 3\)"):
        _ = Request.build(Wrapped(seeded(MLP()), lambda outputs: outputs[:1]), batch(4, 6)).outputs


def test_outputs_that_are_not_finite() -> None:
    with pytest.raises(ModelError, match="NaN or infinity"):
        _ = Request.build(Wrapped(seeded(MLP()), torch.log), batch(4, 6)).outputs


def test_a_class_too_high_is_found_with_the_outputs() -> None:
    request = Request.build(seeded(VGGLike()), batch(2, 3, 16, 16), 5)
    with pytest.raises(TargetError, match="from 0 to 4"):
        request.scores(request.inputs)


class ChangesItsInputs(nn.Module):
    """Standardises its inputs in place, and doubles a further argument in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(nn.Linear(6, 3))

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        x.sub_(0.5).div_(0.2)
        return self.net(x if offset is None else x + offset.mul_(2))


def test_a_model_that_changes_its_inputs_changes_nothing_of_ours() -> None:
    model, inputs, offset = ChangesItsInputs(), batch(4, 6), batch(6, seed=2)
    expected = model.net((inputs - 0.5) / 0.2 + 2 * offset)
    with untouched(model, inputs, offset):
        request = Request.build(model, inputs, additional_forward_arg_extractor=lambda _: offset)
        _ = request.outputs
        again = request.call(request.inputs)
    torch.testing.assert_close(request.inputs[0], inputs, rtol=0, atol=0)
    torch.testing.assert_close(again, expected, rtol=1e-6, atol=1e-6)


def test_one_row_that_does_not_fit_is_an_error_outside_a_stream_too() -> None:
    request = Request.build(Limited(MLP(), 0, MemoryError("out of memory")), batch(1, 6))
    with pytest.raises(ModelError, match="enough memory for one input"):
        request.call(request.inputs)
    assert not out_of_memory(ModelError("enough memory", "out of memory", "Use less."))


@pytest.mark.parametrize("name", ["forward_arg_extractor", "additional_forward_arg_extractor"])
def test_an_extractor_that_fails_is_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"a {name} of inputs of type dict; received KeyError: 'y'"):
        Request.build(MLP(), {"x": batch(2, 6)}, **{"forward_arg_extractor": lambda b: b["x"], name: lambda b: b["y"]})


def test_fresh_inputs_are_not_copied_and_others_are() -> None:
    given_to_model: list[int] = []

    def model(x: Tensor) -> Tensor:
        given_to_model.append(x.data_ptr())
        return x.mul_(2)  # in place

    request = Request.build(model, batch(2, 6))
    built: list[Tensor] = []

    def build(start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        built.append(request.input[start:stop] + 1)
        return [built[-1]], torch.arange(start, stop)

    for fresh in (True, False):
        request.stream(2, build, lambda start, stop, outputs: None, fresh=fresh)
    assert [each.data_ptr() for each in built][0] == given_to_model[0]
    assert built[1].data_ptr() != given_to_model[1]
    torch.testing.assert_close(request.input, batch(2, 6), rtol=0, atol=0)


@pytest.mark.parametrize(
    "made",
    [
        lambda model: RISE(model, n_masks=40),
        lambda model: Occlusion(model),
        lambda model: KernelShap(model, n_samples=40),
        lambda model: SobolAttribution(model, n_designs=4),
        lambda model: RISE(model, n_masks=40, feature_mask_fn="slic"),
    ],
)
def test_a_model_that_changes_its_inputs_gets_the_same_map(made: Callable[[Any], Explainer]) -> None:
    net, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)

    def changing(x: Tensor) -> Tensor:
        outputs = net(x)
        x.fill_(torch.nan)
        return outputs

    with torch.no_grad():
        targets = net(inputs).argmax(1)
    torch.testing.assert_close(
        made(changing).attribute(inputs, targets), made(net).attribute(inputs, targets), rtol=1e-6, atol=1e-7
    )
