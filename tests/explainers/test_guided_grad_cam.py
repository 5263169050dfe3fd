from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers import GradCam, Gradient, GuidedBackprop, GuidedGradCam
from tests.harm import untouched
from tests.nets import MLP, LSTMClassifier, TimeCNN, VGGLike, batch, seeded

warned = pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU", "ignore:Input Tensor 0 did not")


@warned
@pytest.mark.parametrize(("build", "shape"), [(VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (MLP, (6,))])
def test_guided_backpropagation_is_captums(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net, x, targets = seeded(build()), batch(3, *shape), torch.tensor([2, 0, 1])
    expected = captum.attr.GuidedBackprop(net).attribute(x, targets)
    torch.testing.assert_close(GuidedBackprop(net).attribute(x, targets), expected)
    assert not torch.allclose(expected, Gradient(net).attribute(x, targets))


@warned
@pytest.mark.parametrize("layer", ["features.0", "features.4"])
def test_guided_grad_cam_is_captums(layer: str) -> None:
    net, x, targets = seeded(VGGLike()), batch(3, 3, 16, 16), torch.tensor([4, 0, 2])
    peer = captum.attr.GuidedGradCam(net, net.get_submodule(layer))
    expected = peer.attribute(x, targets, interpolate_mode="bilinear")
    assert expected.any()
    torch.testing.assert_close(GuidedGradCam(net, layer=layer).attribute(x, targets), expected)
    if layer == "features.4":
        torch.testing.assert_close(GuidedGradCam(net).attribute(x, targets), expected)


def test_guided_grad_cam_is_the_product_of_the_two() -> None:
    net, x = seeded(TimeCNN()), batch(2, 2, 24)
    expected = GuidedBackprop(net).attribute(x, 1) * GradCam(net).attribute(x, 1)
    torch.testing.assert_close(GuidedGradCam(net).attribute(x, 1), expected)


class Three(nn.Module):
    """Three linear maps with rectifiers between them; ``(n, 5)`` to ``(n, 3)``."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 3)])
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        for each in self.linears[:2]:
            changed = self.rectify(each(x))
            x = changed
        return self.linears[2](x)


def _forgotten(x: Tensor) -> Tensor:
    F.relu(x, True)
    return x


RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "result not taken": _forgotten,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "relu": lambda x: x.relu(),
    "relu_": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(0),
    "torch.clip": lambda x: torch.clip(x, 0, None),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "F.threshold in place": lambda x: F.threshold(x, 0, 0, True),
    "torch.threshold": lambda x: torch.threshold(x, 0, 0),
    "nn.Threshold": nn.Threshold(0, 0),
    "torch.maximum": lambda x: torch.maximum(x, torch.zeros(1, dtype=x.dtype)),
    "torch.max": lambda x: torch.max(torch.zeros_like(x), x),
}
SIX: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6 in place": lambda x: F.relu6(x, True),
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp": lambda x: torch.clamp(x, 0, 6),
}


def by_hand(net: Three, x: Tensor, target: int, ceiling: float) -> Tensor:
    """Unit by unit, downwards from the score."""
    net = copy.deepcopy(net).requires_grad_(False)
    first, second, third = net.linears
    maps = torch.zeros_like(x)
    for row in range(len(x)):
        below = first(x[row])
        above = second(below.clamp(0, ceiling))
        for j in range(8):
            reaching = 0.0
            for i in range(7):
                if 0 < above[i] < ceiling and third.weight[target, i] > 0:
                    reaching += float(second.weight[i, j] * third.weight[target, i])
            if 0 < below[j] < ceiling and reaching > 0:
                maps[row] += reaching * first.weight[j]
    return maps


def _out_of_sight(x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return x.relu()


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_rectifier_is_seen_however_it_is_called(name: str) -> None:
    net, x = seeded(Three(RECTIFIERS[name]).double()), batch(3, 5, dtype=torch.float64)
    expected = by_hand(net, x, 1, torch.inf)
    with untouched(net, x):
        torch.testing.assert_close(GuidedBackprop(net).attribute(x, 1), expected)
    assert not torch.allclose(expected, Gradient(net).attribute(x, 1))


@pytest.mark.parametrize("name", SIX)
def test_a_rectifier_with_a_ceiling_is_off_above_it(name: str) -> None:
    net, x = seeded(Three(SIX[name]).double()), 9 * batch(4, 5, dtype=torch.float64)
    expected = by_hand(net, x, 1, 6.0)
    assert not torch.allclose(expected, by_hand(net, x, 1, torch.inf))
    torch.testing.assert_close(GuidedBackprop(net).attribute(x, 1), expected)


class Halved(torch.autograd.Function):
    """A function of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x / 2

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Tensor:
        return slopes / 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.GELU(), "Gelu"),
        (nn.GELU(approximate="tanh"), "Gelu"),
        (nn.SiLU(True), "Silu"),
        (nn.Tanh(), "Tanh"),
        (nn.LeakyReLU(), "LeakyRelu"),
        (nn.Hardtanh(), "Hardtanh"),
        (nn.Softsign(), "softsign"),
        (lambda x: 0.5 * x * (1 + torch.erf(x)), "Erf"),
        (lambda x: x * (x > 0), "comparison"),
        (lambda x: torch.where(x > 0, x, 0.0), "comparison"),
        (lambda x: x.masked_fill(~x.ge(0), 0.0), "comparison"),
        (lambda x: x * (x > 0).float(), "comparison"),
        (_out_of_sight, "Relu"),
        (Halved.apply, "Halved, which is a function of its own"),
    ],
)
def test_other_activations_are_refused(other: Callable[[Tensor], Tensor], said: str) -> None:
    x = batch(2, 5)
    net = seeded(Three(lambda x: other(x.relu() - 1)))
    with untouched(net, x), pytest.raises(UnsupportedModelError, match=f"received [^.]*{said}"):
        GuidedBackprop(net).attribute(x, 1)


def test_models_without_rectifiers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="received none"):
        GuidedBackprop(seeded(nn.Linear(4, 2))).attribute(batch(1, 4))
    with pytest.raises(UnsupportedModelError):
        GuidedBackprop(seeded(nn.Sequential(LSTMClassifier(), nn.ReLU()))).attribute(batch(1, 8, 4))


def test_gates_keep_their_gradient_and_targets_their_rectifiers() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([-1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x.relu() * torch.sigmoid(self.weight * x)

    net, x = Gated(), torch.tensor([[1.0, 2.0]])
    gates = torch.sigmoid(net.weight * x)
    expected = (gates + x * gates * (1 - gates) * net.weight).detach()  # of x times its gate, both above zero

    def negated(outputs: Tensor) -> Tensor:
        return -torch.relu(outputs.sum(1))

    torch.testing.assert_close(GuidedBackprop(net).attribute(x, lambda outputs: outputs.sum(1)), expected)
    torch.testing.assert_close(
        GuidedBackprop(net).attribute(x, negated), (-x * gates * (1 - gates) * net.weight).detach()
    )


def test_several_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.one(x).relu() - self.other(y).relu()).relu()

    net, x, y = seeded(Sum()), batch(4, 3), batch(4, 2)
    one, other = GuidedBackprop(net).attribute((x, y), lambda outputs: outputs.sum(1))
    on = net(x, y) > 0
    expected = ((net.one(x) > 0) & on).float() @ net.one.weight
    torch.testing.assert_close(one, expected.detach())
    assert expected.any()
    assert not other.any()  # it only speaks against
