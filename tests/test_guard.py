from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pnpxai.errors import ModelError
from pnpxai.explainers import Gradient
from pnpxai.guard import guard
from tests.harm import untouched
from tests.nets import BatchNormNet, VGGLike, batch, seeded


def _train_and_eval(model: nn.Module) -> None:
    assert not any(module.training for module in model.modules())
    model.train()
    next(iter(model.children())).eval()


def _requires_grad(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)


def _fill_grad(model: nn.Module) -> None:
    model(batch(2, 3, 8, 8)).sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


def _zero_grad(model: nn.Module) -> None:
    model.zero_grad(set_to_none=True)


def _add_hooks(model: nn.Module) -> None:
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)


def _remove_hooks(model: nn.Module) -> None:
    for module in model.modules():
        module._forward_hooks.clear()


def _attributes(model: BatchNormNet) -> None:
    model.new = "new"
    model.conv.stride = (2, 2)
    del model.last
    model.forward = lambda x: x
    model.seen.append(3)


def _modules(model: BatchNormNet) -> None:
    model.extra = nn.Linear(2, 2)
    model.conv = nn.Identity()


def _buffers(model: BatchNormNet) -> None:
    model(batch(4, 3, 8, 8))
    model.norm.register_buffer("more", torch.zeros(3), persistent=False)
    model.norm.running_mean = torch.full((4,), torch.nan)
    model.table.mul_(2)


def _random(model: nn.Module) -> None:
    random.random()
    np.random.rand(3)  # noqa: NPY002
    torch.rand(3)
    torch.manual_seed(5)


CHANGES = [
    _train_and_eval,
    _requires_grad,
    _fill_grad,
    _zero_grad,
    _add_hooks,
    _remove_hooks,
    _attributes,
    _modules,
    _buffers,
    _random,
]


@pytest.fixture
def model() -> BatchNormNet:
    """A network in a mixed mode, with a hook, a frozen parameter and gradients of its own."""
    net = seeded(BatchNormNet())
    net.train()
    net.norm.eval()
    net.conv.register_forward_hook(lambda *_: None)
    net.norm.bias.requires_grad_(False)
    net.table = torch.arange(3.0)
    net.norm.weight.grad = torch.full((4,), 0.5)
    net.norm.running_var[0] = torch.nan
    return net


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__.strip("_"))
@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_as_it_was(model: BatchNormNet, change: Callable[[nn.Module], None], raises: bool) -> None:
    with untouched(model):
        if raises:
            with pytest.raises(KeyError, match="in the middle"):
                _change_and_raise(model, change)
        else:
            with guard(model):
                change(model)


def _change_and_raise(model: nn.Module, change: Callable[[nn.Module], None]) -> None:
    with guard(model):
        change(model)
        raise KeyError("in the middle")


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__.strip("_"))
def test_each_change_is_one_that_the_tests_see(model: BatchNormNet, change: Callable[[nn.Module], None]) -> None:
    model.eval()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with pytest.raises(AssertionError, match="changed"), untouched(model):
            change(model)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def test_gradients_are_not_added_to(model: BatchNormNet) -> None:
    with guard(model):
        model(batch(2, 3, 8, 8)).sum().backward()
        assert model.norm.weight.grad is not None
    assert model.norm.weight.grad.tolist() == [0.5] * 4
    assert model.conv.weight.grad is None


def test_blocks_may_be_nested(model: BatchNormNet) -> None:
    with untouched(model), guard(model):
        model.conv.weight.requires_grad_(False)
        with guard(model):
            model(batch(2, 3, 8, 8))
            model.conv.weight.requires_grad_(True)
        assert not model.conv.weight.requires_grad
        assert model.calls == 0


def test_another_generator_of_numpys_is_taken_out_again(model: BatchNormNet) -> None:
    own = np.random.get_bit_generator()
    try:
        with untouched(model), guard(model):
            np.random.set_bit_generator(np.random.PCG64(1))
            np.random.standard_normal()  # noqa: NPY002
        assert np.random.get_bit_generator() is own
    finally:
        np.random.set_bit_generator(own)


def test_the_model_is_in_eval_mode_inside() -> None:
    net = seeded(VGGLike()).train()
    inputs = batch(2, 3, 16, 16)
    expected = seeded(VGGLike())(inputs)
    with guard(net):
        assert torch.equal(net(inputs), expected)
    assert all(module.training for module in net.modules())


def test_scripted_modules_keep_their_flags() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.script(seeded(VGGLike()).train())
    with guard(net):
        assert not net.training
        assert not net.classifier.training
    assert net.training
    assert net.classifier.training


def test_parameters_are_not_copied() -> None:
    net = seeded(VGGLike())
    held = {each.data_ptr() for each in net.parameters()}
    copies: list[int] = []

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if getattr(func, "__name__", "") in ("clone", "copy_", "deepcopy"):
                copies.append(args[0].data_ptr())
            return func(*args, **(kwargs or {}))

    with Count(), guard(net):
        net(batch(1, 3, 16, 16))
    assert not held & set(copies)


class Elsewhere:
    """Something done in another thread, and the error it ended with."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.function()
        except Exception as error:
            self.error = error

    def end(self) -> Exception | None:
        self.thread.start()
        self.thread.join()
        return self.error


def _enter(model: nn.Module) -> None:
    with guard(model), guard(model):
        pass


def test_a_second_thread_is_refused_while_another_holds_the_model() -> None:
    model, other = seeded(VGGLike()), seeded(VGGLike())
    with untouched(model):
        with guard(model):
            refused = Elsewhere(lambda: _enter(model)).end()
            assert isinstance(refused, ModelError)
            assert "one thread at a time" in str(refused)
            assert "VGGLike" in str(refused)
            assert "workers" in str(refused)
            assert "copy" in str(refused)
            assert Elsewhere(lambda: _enter(other)).end() is None
            with guard(model):
                assert isinstance(Elsewhere(lambda: _enter(model)).end(), ModelError)
            assert isinstance(Elsewhere(lambda: _enter(model)).end(), ModelError)
        assert Elsewhere(lambda: _enter(model)).end() is None


def test_nothing_stays_locked_after_an_error() -> None:
    model = seeded(VGGLike())
    with pytest.raises(KeyError):
        _change_and_raise(model, lambda _: None)
    with guard(model), pytest.raises(KeyError):
        _change_and_raise(model, lambda _: None)
    assert Elsewhere(lambda: _enter(model)).end() is None


def test_of_two_threads_that_explain_at_once_one_is_refused_and_the_other_undisturbed() -> None:
    model, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    expected = Gradient(model).attribute(inputs, [1, 2])
    inside, finished = threading.Barrier(2), threading.Barrier(2)
    found: list[torch.Tensor] = []

    def meet(*_: object) -> None:
        inside.wait(10)
        finished.wait(10)

    handle = model.features[0].register_forward_hook(meet)
    first = threading.Thread(target=lambda: found.append(Gradient(model).attribute(inputs, [1, 2])))
    with untouched(model):
        first.start()
        inside.wait(10)
        with pytest.raises(ModelError, match="another thread"):
            Gradient(model).attribute(inputs, [1, 2])
        handle_is_set = len(model.features[0]._forward_hooks)
        finished.wait(10)
        first.join(30)
    handle.remove()
    assert handle_is_set == 1
    assert torch.equal(found[0], expected)
