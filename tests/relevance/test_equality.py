"""The same maps as other libraries give where they are right, and as theorems say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import LRP as CaptumLRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from torchvision.models import resnet18, vgg16_bn
from zennit.attribution import Gradient
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    LayerMapComposite,
    SpecialFirstLayerMapComposite,
    layer_map_base,
)
from zennit.rules import AlphaBeta, Epsilon, Gamma, ZBox, ZPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Convolution
from zennit.types import Linear as AnyLinear

from pnpxai.explainers import (
    GradientXInput,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
)
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import VGGLike, batch, seeded
from tests.relevance.explicit import EPSILON, by_rules, close

D = torch.float64
SMALL = {"epsilon": 1e-6, "stabilizer": 1e-6}

PAIRS: dict[str, tuple[Any, Callable[[list[Any]], Any]]] = {
    "uniform epsilon": (
        LRPUniformEpsilon,
        lambda canonizers: LayerMapComposite([*layer_map_base(), (AnyLinear, Epsilon(1e-6))], canonizers=canonizers),
    ),
    "epsilon plus": (LRPEpsilonPlus, lambda canonizers: EpsilonPlus(canonizers=canonizers)),
    "epsilon alpha2 beta1": (LRPEpsilonAlpha2Beta1, lambda canonizers: EpsilonAlpha2Beta1(canonizers=canonizers)),
    "epsilon gamma box": (
        LRPEpsilonGammaBox,
        lambda canonizers: EpsilonGammaBox(torch.tensor(-3.0), torch.tensor(3.0), canonizers=canonizers),
    ),
}


def build(make: Callable[..., nn.Module]) -> nn.Module:
    """Random weights and statistics, of which each matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make(weights=None, num_classes=10).double()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for each, low in ((module.running_mean, -0.1), (module.running_var, 0.5), (module.weight, 0.5)):
                each.data.copy_(torch.rand(each.shape, generator=generator, dtype=D) * 0.4 + low)
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator, dtype=D) * 0.2 - 0.1)
            module.eps = 0.0  # zennit merges, but leaves behind a division by the root of 1 + eps
    return net.eval()


@pytest.fixture(scope="module")
def vgg16() -> nn.Module:
    net = build(vgg16_bn)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = seeded(nn.Sequential(nn.Linear(512, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10)).double())
    return net


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return build(resnet18)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("architecture", ["vgg16", "resnet"])
def test_zennits_own_canonised_composites(name: str, architecture: str, request: pytest.FixtureRequest) -> None:
    net: nn.Module = request.getfixturevalue(architecture)
    cls, composite = PAIRS[name]
    x = batch(1, 3, 32, 32, dtype=D).clamp(-3, 3)
    with untouched(net, x):
        found = cls(net, **SMALL).attribute(x, 7)
    canonizers = [VGGCanonizer() if architecture == "vgg16" else ResNetCanonizer()]
    with Gradient(copy.deepcopy(net), composite(canonizers)) as attributor:
        _, expected = attributor(x.clone().requires_grad_(), lambda out: out * torch.eye(10, dtype=D)[[7]])
    assert cosine(found, expected) > 0.9999
    close(found, expected, 1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_zennits_own_composites_to_the_last_digits(name: str) -> None:
    cls, composite = PAIRS[name]
    net, x = seeded(VGGLike(inplace=True).double()), batch(2, 3, 16, 16, dtype=D).clamp(-3, 3)
    with count_forwards() as counter:
        found = cls(net, **SMALL).attribute(x, 3)
    assert counter.n_samples == 2
    with Gradient(copy.deepcopy(net), composite([])) as attributor:
        _, expected = attributor(x.clone().requires_grad_(), lambda out: out * torch.eye(5, dtype=D)[[3, 3]])
    close(found, expected, 1e-10)


def without_biases(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    return net


def test_gradient_times_input_of_networks_without_biases(resnet: nn.Module) -> None:
    for net in (without_biases(copy.deepcopy(resnet)), without_biases(seeded(VGGLike().double()))):
        x = batch(1, 3, 16, 16, dtype=D)
        found = LRPUniformEpsilon(net, epsilon=1e-13, stabilizer=1e-13).attribute(x, 2)
        close(found, GradientXInput(net).attribute(x, 2), 1e-6)
        assert float(found.sum()) == pytest.approx(float(net(x)[0, 2].detach()), rel=1e-6)


def test_captum_on_the_layers_it_supports() -> None:
    net, x = seeded(VGGLike().double()), batch(2, 3, 16, 16, dtype=D)
    twin, epsilon = copy.deepcopy(net), 1e-4
    for module in twin.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = EpsilonRule(epsilon=epsilon)
        elif isinstance(module, nn.MaxPool2d | nn.Flatten):
            module.rule = EpsilonRule(epsilon=1e-12)
    expected = CaptumLRP(twin).attribute(x.clone().requires_grad_(), target=3).detach()
    assert cosine(LRPUniformEpsilon(net, epsilon=epsilon).attribute(x, 3), expected) > 0.9999


IMAGE = (2, 2, 5, 5)


def both(first: Any, second: Any) -> tuple[Tensor, Tensor]:
    """Maps of a network of two convolutions by two rules."""
    net = seeded(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 2)).double())
    x = batch(*IMAGE, dtype=D)
    found = [
        by_rules(net, x, composite=LayerMapComposite([(Convolution, rule)])).relevance[0] for rule in (first, second)
    ]
    return found[0], found[1]


def test_alpha1_beta0_is_z_plus() -> None:
    close(*both(AlphaBeta(alpha=1.0, beta=0.0, stabilizer=EPSILON), ZPlus(stabilizer=EPSILON)), 1e-12)


def test_gamma_zero_is_epsilon() -> None:
    close(*both(Gamma(0.0, EPSILON), Epsilon(EPSILON)), 1e-12)
    net, x = seeded(VGGLike().double()), batch(*(2, 3, 16, 16), dtype=D)
    ours = LRPEpsilonGammaBox(net, low=0.0, high=0.0, gamma=0.0, gamma_on_linear=True, **SMALL).attribute(x, 1)
    first = SpecialFirstLayerMapComposite(
        [*layer_map_base(), (AnyLinear, Epsilon(1e-6))], [(Convolution, ZBox(0.0, 0.0, 1e-6))]
    )
    with Gradient(copy.deepcopy(net), first) as attributor:
        _, expected = attributor(x.clone().requires_grad_(), lambda out: out * torch.eye(5, dtype=D)[[1, 1]])
    close(ours, expected, 1e-10)


def test_an_empty_box_is_epsilon_without_biases() -> None:
    net, x = without_biases(seeded(VGGLike().double())), batch(*(2, 3, 16, 16), dtype=D)
    found = LRPEpsilonGammaBox(net, low=0.0, high=0.0, gamma=0.0, **SMALL).attribute(x, 1)
    close(found, LRPUniformEpsilon(net, **SMALL).attribute(x, 1), 1e-12)
