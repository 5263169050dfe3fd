from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zennit.attribution import Gradient as ZennitGradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.torchvision import ResNetCanonizer

from pnpxai.errors import ModelError, ParameterError, UnsupportedModelError, UnsupportedOperationError
from pnpxai.explainers import GradientXInput
from pnpxai.explainers.lrp import (
    LRPBase,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
)
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import (
    MLP,
    RaisesAt,
    TimeCNN,
    VGGLike,
    Wrapped,
    as_dict,
    batch,
    seeded,
)

FOUR = [LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox]
each_of_four = pytest.mark.parametrize("cls", FOUR)
TINY = {"epsilon": 1e-13, "stabilizer": 1e-13}


def without_biases(net: nn.Module) -> nn.Module:
    net = seeded(net.double())
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return net


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


class Net(nn.Module):
    """Convolution, whatever is put in the middle, pooling and a linear layer; ``(n, 3, 8, 8)`` to ``(n, 4)``."""

    def __init__(self, middle: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(16, 4)
        self.middle = middle
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.middle(self, self.conv(x))).flatten(1))


def join(net: Net, x: Tensor) -> Tensor:
    x = torch.cat([net.a(x), net.b(x.clone())], 1)
    left, right = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).chunk(2, 1)
    return F.max_pool2d(F.relu(torch.stack([right, left], 2).flatten(1, 2)), 2)[:, :4]


EXACT = {
    "mlp": lambda: (MLP(), (6,)),
    "vgg": lambda: (VGGLike(), (3, 16, 16)),
    "vgg in place": lambda: (VGGLike(inplace=True), (3, 16, 16)),
    "series": lambda: (TimeCNN(), (2, 24)),
    "average pool": lambda: (Net(lambda net, x: net.a(x.relu()), a=nn.AvgPool2d(3, 1, 1)), (3, 8, 8)),
    "branches": lambda: (Net(join, a=nn.Conv2d(4, 3, 1), b=nn.Conv2d(4, 5, 3, padding=1)), (3, 8, 8)),
    "linear over steps": lambda: (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)), (3, 4)),
    "functional relu in place": lambda: (Net(lambda net, x: F.relu(x, inplace=True)), (3, 8, 8)),
    "relu used twice": lambda: (
        Net(lambda net, x: net.relu(net.a(net.relu(x))), relu=nn.ReLU(), a=nn.Conv2d(4, 4, 3, padding=1)),
        (3, 8, 8),
    ),
    "functional dropout": lambda: (Net(lambda net, x: F.dropout(x, 0.5, net.training).relu()), (3, 8, 8)),
    "leaky": lambda: (Net(lambda net, x: net.act(x), act=nn.LeakyReLU(1.0)), (3, 8, 8)),
    "zero padding": lambda: (Net(lambda net, x: net.edge(x).relu(), edge=nn.ZeroPad2d(1)), (3, 8, 8)),
    "reflected padding": lambda: (Net(lambda net, x: F.pad(x, (1, 1, 1, 1), "reflect")), (3, 8, 8)),
}


@pytest.mark.parametrize("name", EXACT)
def test_small_epsilon_is_gradient_times_input_without_biases(name: str) -> None:
    net, shape = EXACT[name]()
    net = without_biases(net)
    x = batch(3, *shape, dtype=torch.float64)
    for targets in (1, None, torch.tensor([2, 0, 1])):
        found = LRPUniformEpsilon(net, **TINY).attribute(x, targets)
        same(found, GradientXInput(net).attribute(x, targets))
    same(found.flatten(1).sum(1), net(x)[torch.arange(3), [2, 0, 1]].detach())


def test_epsilon_rule_with_biases_by_hand() -> None:
    net, x, epsilon = seeded(MLP().double()), batch(4, 6, dtype=torch.float64), 0.3
    (v, b), (w, c) = ((each.weight.detach(), each.bias.detach()) for each in (net[0], net[2]))
    expected = torch.zeros(4, 6, dtype=torch.float64)
    for image in range(4):
        z = [sum(v[j, i] * x[image, i] for i in range(6)) + b[j] for j in range(12)]
        a = [max(each, torch.zeros_like(each)) for each in z]
        out = sum(w[2, j] * a[j] for j in range(12)) + c[2]
        for j in range(12):
            relevance = w[2, j] * a[j] * out / (out + epsilon * out.sign())
            for i in range(6):
                expected[image, i] += v[j, i] * x[image, i] * relevance / (z[j] + epsilon * z[j].sign())
    same(LRPUniformEpsilon(net, epsilon=epsilon).attribute(x, 2), expected, 1e-12)


@each_of_four
@pytest.mark.parametrize(("make", "shape"), [(VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (MLP, (6,))])
def test_against_zennit(cls: type[LRPBase], make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net, x = seeded(make().double()), batch(3, *shape, dtype=torch.float64)
    explainer = cls(net, epsilon=0.05)
    one_hot = torch.eye(net(x).shape[1], dtype=torch.float64)[[1, 1, 1]]
    with ZennitGradient(net, explainer.zennit_composite, attr_output=lambda out: out * one_hot) as attributor:
        _, expected = attributor(x.clone().requires_grad_())
    same(explainer.attribute(x, 1), expected, 1e-12)


def conv_relevance(x: Tensor, relevance: Tensor, weights: Tensor, rule: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One image ``(c, h, w)`` by a rule on contributions, output by output; convolution without padding or bias."""
    found = torch.zeros_like(x)
    k, _, rows, columns = weights.shape
    for out in range(k):
        for i in range(relevance.shape[1]):
            for j in range(relevance.shape[2]):
                window = (slice(None), slice(i, i + rows), slice(j, j + columns))
                found[window] += rule(x[window], weights[out]) * relevance[out, i, j]
    return found


def share(z: Tensor) -> Tensor:
    return z / z.sum() if z.sum() else torch.zeros_like(z)


RULES: dict[type[LRPBase], tuple[Any, Any]] = {
    LRPEpsilonPlus: (lambda x, w: share((x * w).clamp(min=0)),) * 2,
    LRPEpsilonAlpha2Beta1: (lambda x, w: 2 * share((x * w).clamp(min=0)) - share((x * w).clamp(max=0)),) * 2,
    LRPEpsilonGammaBox: (
        lambda x, w: share(x * w + 3 * w.clamp(min=0) - 3 * w.clamp(max=0)),
        lambda x, w: (
            share(x * (w + 0.25 * w.clamp(min=0))) * ((x * w).sum() > 0)
            + share(x * (w + 0.25 * w.clamp(max=0))) * ((x * w).sum() < 0)
        ),
    ),
}


@pytest.mark.parametrize("cls", RULES)
def test_rules_on_convolutions_contribution_by_contribution(cls: type[LRPBase]) -> None:
    net = without_biases(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    )
    x = batch(2, 2, 6, 6, dtype=torch.float64).clamp(-3, 3)
    found = cls(net, **TINY).attribute(x, 0)
    for image in range(2):
        hidden = net[:2](x[image : image + 1])[0].detach()
        upper = net[:4](x[image : image + 1])[0].detach()
        relevance = (upper.flatten() * net[5].weight[0].detach()).reshape(upper.shape)
        first, second = RULES[cls]
        relevance = conv_relevance(hidden, relevance, net[2].weight.detach(), second)
        same(found[image], conv_relevance(x[image], relevance, net[0].weight.detach(), first), 1e-9)


def test_gamma_zero_and_an_empty_box_are_the_epsilon_rule() -> None:
    net, x = without_biases(VGGLike()), batch(2, 3, 16, 16, dtype=torch.float64)
    rest = {"epsilon": 1e-3, "stabilizer": 1e-3}
    found = LRPEpsilonGammaBox(net, low=0.0, high=0.0, gamma=0.0, **rest).attribute(x, 1)
    same(found, LRPUniformEpsilon(net, **rest).attribute(x, 1), 1e-12)


def test_relevance_of_a_target_function() -> None:
    """Relevance starts at outputs times the gradient of the score, so that maps add up as scores do."""
    net, x = seeded(VGGLike().double()), batch(2, 3, 16, 16, dtype=torch.float64)
    explainer = LRPUniformEpsilon(net, epsilon=1e-3)
    contrast = explainer.attribute(x, lambda outputs: outputs[:, 0] - 2 * outputs[:, 3])
    same(contrast, explainer.attribute(x, 0) - 2 * explainer.attribute(x, 3), 1e-10)


def test_relevance_of_a_layers_output() -> None:
    net, x = without_biases(VGGLike(inplace=True)), batch(2, 3, 16, 16, dtype=torch.float64)
    activations = net.features[:4](x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(net.classifier(net.features[4:](activations.clone()))[:, 1].sum(), activations)
    for layer in ("features.3", net.features[3]):
        same(LRPUniformEpsilon(net, layer=layer, **TINY).attribute(x, 1), (activations * slope).detach())
    assert LRPUniformEpsilon(net, layer="classifier.1").attribute(x).shape == (2, 16)
    with pytest.raises(ParameterError, match="features"):
        LRPUniformEpsilon(net, layer="feature").attribute(x)


@each_of_four
def test_every_parameter_changes_the_map(cls: type[LRPBase]) -> None:
    net = seeded(Net(lambda net, x: net.b(x.relu()).relu(), b=nn.Conv2d(4, 4, 3, padding=1)))
    net.pool = nn.AvgPool2d(4)
    x = batch(2, 3, 8, 8)
    changes: dict[str, Any] = {"epsilon": 0.7, "stabilizer": 0.1}
    if cls is LRPEpsilonGammaBox:
        changes |= {"gamma": 0.9, "low": -4.0, "high": torch.tensor([3.0, 4.0, 5.0]).reshape(1, 3, 1, 1)}
    default = cls(net).attribute(x, 1)
    for name, value in changes.items():
        changed = cls(net).set_kwargs(**{name: value})
        assert (changed.attribute(x, 1) - default).abs().max() > 1e-4 * default.abs().max(), name
        assert torch.equal(changed.attribute(x, 1), cls(net, **{name: value}).attribute(x, 1))


def test_impossible_arguments() -> None:
    net, x = seeded(VGGLike()), batch(1, 3, 16, 16)
    for cls, arguments in (
        *((cls, {"epsilon": 0.0}) for cls in FOUR),
        (LRPEpsilonPlus, {"stabilizer": -1e-6}),
        (LRPEpsilonGammaBox, {"gamma": -0.1}),
        (LRPUniformEpsilon, {"n_classes": 0}),
    ):
        with pytest.raises(ParameterError):
            cls(net, **arguments)
    with pytest.raises(ParameterError, match="n_classes"):
        LRPUniformEpsilon(net, n_classes=4).attribute(x)
    assert torch.equal(LRPUniformEpsilon(net, n_classes=5).attribute(x), LRPUniformEpsilon(net).attribute(x))
    with pytest.raises(ParameterError, match="low"):
        LRPEpsilonGammaBox(net, low=1.0, high=0.0).attribute(x)
    with pytest.raises(ParameterError, match="attention"):
        LRPUniformEpsilon(net, attention="none")


EXACT_NOW: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "residual sum": lambda: (Net(lambda net, x: x + net.a(x).relu(), a=nn.Conv2d(4, 4, 1)), (3, 8, 8)),
    "in-place sum": lambda: (Net(lambda net, x: net.a(x).add_(x), a=nn.Conv2d(4, 4, 1)), (3, 8, 8)),
    "scaling": lambda: (Net(lambda net, x: x / 2), (3, 8, 8)),
    "functional average": lambda: (Net(lambda net, x: F.avg_pool2d(x, 2)), (3, 8, 8)),
    "mean": lambda: (Net(lambda net, x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1)), (3, 8, 8)),
    "functional convolution": lambda: (Net(lambda net, x: F.conv2d(x, TILES).relu()), (3, 8, 8)),
    "functional linear": lambda: (Net(lambda net, x: F.linear(x, SQUARE)), (3, 8, 8)),
    "written in place": lambda: (Net(lambda net, x: x.clone().masked_fill_(x < 0, 0.0)), (3, 8, 8)),
    "batch norm": lambda: (Net(lambda net, x: net.a(x), a=nn.BatchNorm2d(4)), (3, 8, 8)),
    "transposed convolution": lambda: (Net(lambda net, x: net.a(x), a=nn.ConvTranspose2d(4, 4, 1)), (3, 8, 8)),
    "module called twice": lambda: (Net(lambda net, x: net.a(net.a(x).relu()), a=nn.Conv2d(4, 4, 1)), (3, 8, 8)),
    "parametrized": lambda: (
        Net(lambda net, x: net.a(x), a=parametrizations.weight_norm(nn.Conv2d(4, 4, 1))),
        (3, 8, 8),
    ),
}
TILES = batch(4, 4, 1, 1, seed=3, dtype=torch.float64)
SQUARE = batch(8, 8, seed=4, dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT_NOW)
def test_operations_of_piecewise_linear_networks(name: str) -> None:
    """Without biases, what relevance starts from is the output, and gradient times input is the ε-rule."""
    net, shape = EXACT_NOW[name]()
    net = without_biases(net)
    x = batch(3, *shape, dtype=torch.float64)
    same(LRPUniformEpsilon(net, **TINY).attribute(x, 1), GradientXInput(net).attribute(x, 1))


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "cosine": (torch.cos, r"cos in the model itself \(Net\)"),
    "exponential": (lambda x: x.exp(), "exp in the model"),
    "reciprocal": (lambda x: 1 / x, "div.* in the model"),
    "norm": (lambda x: x.norm(dim=1, keepdim=True).expand(-1, 4, -1, -1), "norm in the model"),
    "in place": (lambda x: x.clone().sin_(), "sin in the model"),
    "weights from the inputs": (lambda x: F.conv2d(x, x[:1, :, :1, :1].repeat(4, 1, 1, 1)), "weights that do"),
}


@pytest.mark.parametrize("name", REFUSED)
@each_of_four
def test_refused_with_the_operation_and_its_place(cls: type[LRPBase], name: str) -> None:
    function, message = REFUSED[name]
    x, net = batch(2, 3, 8, 8), seeded(Net(lambda net, x: function(x)))
    with untouched(net, x), pytest.raises(UnsupportedOperationError, match=message):
        cls(net).attribute(x, 1)


def test_the_place_is_the_innermost_module() -> None:
    net = seeded(nn.Sequential(MLP(), nn.Sequential(nn.ReLU(), Net(lambda net, x: x))))
    net[1][1].forward = lambda x: net[1][1].middle(net[1][1], x).sin()
    with pytest.raises(UnsupportedOperationError, match=r"sin in 1\.1 \(Net\).*register_rule\('sin'"):
        LRPEpsilonPlus(net).attribute(batch(2, 6), 1)


def test_what_does_not_reach_the_output_is_not_held_against_a_model() -> None:
    def branch(net: Net, x: Tensor) -> Tensor:
        net_sees = (x * x).exp().mean() > 1e300
        return x.cos() if net_sees else F.relu(x)

    plain, branching = Net(lambda net, x: F.relu(x)), Net(branch)
    x = batch(2, 3, 8, 8)
    found = LRPEpsilonPlus(seeded(branching)).attribute(x, 1)
    assert torch.equal(found, LRPEpsilonPlus(seeded(plain)).attribute(x, 1))


@each_of_four
def test_canonizers_are_not_needed(cls: type[LRPBase]) -> None:
    """Batch norm is merged as a canonizer merges it; zennit's leaves a division by the root of 1 + eps behind."""
    net = norms(
        nn.Sequential(
            seeded(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )
    ).double()
    x = batch(3, 3, 8, 8, dtype=torch.float64)
    found = cls(net).attribute(x, 1)
    same(found, cls(net, zennit_canonizers=[SequentialMergeBatchNorm()]).attribute(x, 1), 1e-9)


def norms(net: nn.Module) -> nn.Module:
    """Give batch norms statistics that matter, without any shift of the whole."""
    generator = torch.Generator().manual_seed(4)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.eval()


@each_of_four
def test_canonizers_work_on_a_copy(cls: type[LRPBase]) -> None:
    net = norms(
        nn.Sequential(seeded(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    )
    x = batch(3, 3, 8, 8)
    norm, conv = net[1], net[0]
    merged = nn.Sequential(nn.Conv2d(3, 4, 3), *net[2:]).eval()
    scale = norm.weight.data / (norm.running_var + norm.eps).sqrt()
    merged[0].weight.data = conv.weight.data * scale[:, None, None, None]
    merged[0].bias.data = (conv.bias.data - norm.running_mean) * scale + norm.bias.data
    with untouched(net, x):
        found = cls(net, zennit_canonizers=[SequentialMergeBatchNorm()]).attribute(x, 1)
    same(found, cls(merged).attribute(x, 1), 1e-4)


def test_a_residual_network_with_zennits_canonizer() -> None:
    from torchvision.models.resnet import BasicBlock, ResNet

    net = without_biases(norms(seeded(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4))))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.eps = 0.0
    x = batch(2, 3, 32, 32, dtype=torch.float64)
    with untouched(net, x):
        found = LRPUniformEpsilon(net, zennit_canonizers=[ResNetCanonizer()], **TINY).attribute(x, 1)
    same(found, GradientXInput(net).attribute(x, 1))
    same(LRPUniformEpsilon(net, zennit_canonizers=[SequentialMergeBatchNorm()], **TINY).attribute(x, 1), found, 1e-9)
    same(LRPUniformEpsilon(net, **TINY).attribute(x, 1), found, 1e-9)


def test_canonizers_that_do_not_fit_are_found_out() -> None:
    class Backwards(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[2](self[0](self[1](x)).flatten(1))

    net = norms(Backwards(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Linear(108, 2)))
    with pytest.raises(ModelError, match="leave the model's outputs"):
        LRPEpsilonPlus(net, zennit_canonizers=[SequentialMergeBatchNorm()]).attribute(batch(1, 3, 8, 8))
    unequal = norms(Backwards(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3), nn.Linear(144, 2)))
    with pytest.raises(ModelError, match="from one of them"):
        LRPEpsilonPlus(unequal, zennit_canonizers=[SequentialMergeBatchNorm()]).attribute(batch(1, 3, 8, 8))


class Shifted(nn.Module):
    """Adds a parameter, which needs no memory of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(3))

    def forward(self, x: Tensor) -> Tensor:
        """Of the inputs' shape."""
        return (x + self.shift).relu()


@each_of_four
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_harm_in_any_mode(
    cls: type[LRPBase], mode: Callable[[], torch.no_grad], set_chunk_size: Callable[[int], None]
) -> None:
    net, x = seeded(VGGLike(inplace=True)).train(), batch(5, 3, 16, 16)
    net.features[0].weight.requires_grad_(False)
    whole = cls(net).attribute(x)
    set_chunk_size(2)
    with mode(), untouched(net, x):
        same(cls(net).attribute(x), whole, 1e-5)
    same(cls(net).attribute(x[3:4]), whole[3:4], 1e-5)
    same(cls(Wrapped(net, as_dict).eval()).attribute(x), whole, 1e-5)


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        net, x = seeded(Shifted()), batch(2, 3)
        with untouched(net, x):
            found = LRPUniformEpsilon(net, epsilon=1e-9).attribute(x, 0)
    assert torch.equal(found, LRPUniformEpsilon(seeded(Shifted()), epsilon=1e-9).attribute(batch(2, 3), 0))


@each_of_four
@pytest.mark.parametrize("call", [1, 2])
def test_no_harm_when_the_model_raises(cls: type[LRPBase], call: int, set_chunk_size: Callable[[int], None]) -> None:
    net, x = RaisesAt(seeded(VGGLike()), call).eval(), batch(4, 3, 16, 16)
    set_chunk_size(2)
    with untouched(net, x), pytest.raises(ModelError, match="broke here"):
        cls(net).attribute(x, 1)


def test_relevance_goes_through_detach_and_ends_at_constants() -> None:
    net, x = seeded(MLP()), batch(2, 6)
    found = LRPEpsilonPlus(Wrapped(net, Tensor.detach).eval()).attribute(x, 1)
    assert torch.equal(found, LRPEpsilonPlus(net).attribute(x, 1))
    with pytest.raises(UnsupportedModelError, match="without a gradient"):
        LRPEpsilonPlus(Wrapped(net, torch.zeros_like).eval()).attribute(x, 1)


def test_the_composite_follows_the_parameters() -> None:
    explainer = LRPUniformEpsilon(MLP())
    assert explainer.zennit_composite is not explainer.zennit_composite
    explainer.epsilon = 0.5
    rule = explainer.zennit_composite.module_map({}, "", nn.Linear(1, 1))
    one = torch.ones(1)
    assert rule.gradient_mapper(one, [one]).item() == pytest.approx(1 / 1.5)


@pytest.fixture(scope="module")
def vgg11() -> nn.Module:
    from torchvision.models import vgg11 as build

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(weights=None, num_classes=10).eval()


@each_of_four
def test_vgg11_of_torchvision(cls: type[LRPBase], vgg11: nn.Module) -> None:
    x = batch(1, 3, 64, 64)
    explainer = cls(vgg11)
    with count_forwards() as counter:
        found = explainer.attribute(x, 7)
    assert counter.n_samples == 1
    with ZennitGradient(vgg11, explainer.zennit_composite) as attributor:
        _, expected = attributor(x.clone().requires_grad_(), lambda out: out * torch.eye(10)[[7]])
    same(found, expected, 1e-5)
