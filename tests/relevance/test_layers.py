"""Linear maps with weights and normalisations, called as functions and as modules, contribution by contribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit import types
from zennit.attribution import Gradient as ZennitGradient
from zennit.composites import LayerMapComposite
from zennit.rules import Gamma as ZennitGamma

from pnpxai.errors import ModelError, UnsupportedOperationError
from pnpxai.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.relevance import Stabilizer
from pnpxai.relevance.zennit_rules import gamma_rule
from tests.nets import batch, seeded
from tests.relevance.explicit import EPSILON, Function, by_contribution, by_rules, close, gaps, jacobian, stabilized

D = torch.float64
TINY: dict[str, Any] = {"epsilon": EPSILON, "stabilizer": EPSILON}
GAMMA = 0.4


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return batch(*shape, seed=seed, dtype=D)


def share(contributions: Tensor, bias: Tensor) -> Tensor:
    """Of each output, what goes to each input; columns are inputs."""
    z = contributions.sum(1) + bias
    return torch.where((z == 0)[:, None], 0.0, contributions / stabilized(z)[:, None])


def gamma(contributions: Tensor, bias: Tensor) -> Tensor:
    """Positive contributions favoured where the output is positive, negative ones where it is negative."""
    z = contributions.sum(1) + bias
    up = share(contributions + GAMMA * contributions.clamp(min=0), bias + GAMMA * bias.clamp(min=0))
    down = share(contributions + GAMMA * contributions.clamp(max=0), bias + GAMMA * bias.clamp(max=0))
    return torch.where((z > 0)[:, None], up, down)


def plus(contributions: Tensor, bias: Tensor) -> Tensor:
    return share(contributions.clamp(min=0), bias.clamp(min=0))


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "epsilon": share,
    "plus": plus,
    "alpha2 beta1": lambda c, b: 2 * plus(c, b) - share(c.clamp(max=0), b.clamp(max=0)),
    "gamma": gamma,
}


def composite(rule: str) -> Any:
    net = nn.Identity()
    if rule == "gamma":
        hook = gamma_rule(GAMMA, Stabilizer(EPSILON))
        return LayerMapComposite([(types.Convolution, hook), (types.Linear, hook)])
    classes = {"epsilon": LRPUniformEpsilon, "plus": LRPEpsilonPlus, "alpha2 beta1": LRPEpsilonAlpha2Beta1}
    return classes[rule](net, **TINY).zennit_composite


def expected(rule: str, function: Callable[[Tensor], Tensor], x: Tensor, upper: Tensor) -> Tensor:
    bias, (matrix,) = jacobian(function, x)
    return (RULES[rule](matrix * x.flatten(), bias) * upper.flatten()[:, None]).sum(0).reshape(x.shape)


class Named(nn.Conv2d):
    """Another class of convolutions, which computes the same."""


class Scaled(nn.Conv2d):
    """Scales its output, as an operation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


class Standardized(nn.Conv2d):
    """Computes its weight as it runs."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def patched() -> nn.Module:
    conv = nn.Conv2d(2, 3, 2)
    conv.forward = lambda x: F.conv2d(x, conv.weight, conv.bias)  # type: ignore[method-assign]
    return conv


class Doubled(Tensor):
    """A weight that is kept at half its value, as quantised ones are kept in other numbers."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Double it where it is a layer's."""
        if func is F.linear:
            x, weight, *rest = args
            return func(x, 2 * weight.as_subclass(Tensor), *rest, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


W = numbers(3, 2, 2, 2, seed=8)
B = numbers(3, seed=9)
IMAGE = (1, 2, 4, 4)
CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module | Callable[[Tensor], Tensor]], tuple[int, ...]]] = {
    "module": (lambda: nn.Conv2d(2, 3, 2, stride=2, padding=1), IMAGE),
    "without bias": (lambda: nn.Conv2d(2, 3, 2, bias=False), IMAGE),
    "functional": (lambda: lambda x: F.conv2d(x, W, B, padding=1), IMAGE),
    "by keywords": (lambda: lambda x: F.conv2d(input=x, weight=W, bias=B, dilation=2), IMAGE),
    "groups": (lambda: nn.Conv2d(2, 4, 2, groups=2), IMAGE),
    "padding by words": (lambda: nn.Conv2d(2, 3, 3, padding="same"), IMAGE),
    "one dimension": (lambda: nn.Conv1d(2, 3, 3), (2, 2, 5)),
    "three dimensions": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), IMAGE),
    "transposed in one dimension": (lambda: lambda x: F.conv_transpose1d(x, W[0], B[:2], stride=2), (1, 2, 4)),
    "subclass": (lambda: Named(2, 3, 2), IMAGE),
    "subclass that scales": (lambda: Scaled(2, 3, 2), IMAGE),
    "subclass with its own weights": (lambda: Standardized(2, 3, 2), IMAGE),
    "patched forward": (patched, IMAGE),
    "parametrized": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 2)), IMAGE),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)), IMAGE),
}
LINEARS: dict[str, tuple[Callable[[], nn.Module | Callable[[Tensor], Tensor]], tuple[int, ...]]] = {
    "module": (lambda: nn.Linear(4, 3), (2, 4)),
    "over steps": (lambda: nn.Linear(4, 3, bias=False), (2, 3, 4)),
    "over steps with bias": (lambda: nn.Linear(4, 3), (2, 3, 4)),
    "one vector": (lambda: lambda x: F.linear(x[0], W[:, 0].reshape(3, 4), B)[None], (1, 4)),
    "functional": (lambda: lambda x: F.linear(x, W[:, 0].reshape(3, 4), B), (2, 4)),
    "matmul": (lambda: lambda x: x @ W[:, 0].reshape(4, 3), (2, 3, 4)),
    "matmul by keywords": (lambda: lambda x: torch.matmul(input=x, other=W[:, 0].reshape(4, 3)), (2, 4)),
    "mm": (lambda: lambda x: torch.mm(x, W[:, 0].reshape(4, 3)), (2, 4)),
    "addmm": (lambda: lambda x: torch.addmm(B, x, W[:, 0].reshape(4, 3)), (2, 4)),
    "lazy": (lambda: nn.LazyLinear(3), (2, 4)),
    "one bias": (lambda: lambda x: F.linear(x, W[:, 0].reshape(3, 4), B[0]), (2, 4)),
    "one bias in a row": (lambda: lambda x: F.linear(x, W[:, 0].reshape(3, 4), B[:1]), (2, 3, 4)),
    "to one number": (lambda: lambda x: F.linear(x, W[0, 0].flatten()), (2, 4)),
    "to one number, as many as features": (lambda: lambda x: F.linear(x, W[0, 0].flatten()), (4, 4)),
    "a weight with a way of its own": (
        lambda: lambda x: F.linear(x, W[:, 0].reshape(3, 4).as_subclass(Doubled), B),
        (2, 4),
    ),
}


def built(make: Callable[[], Any], x: Tensor) -> nn.Module:
    found = make()
    net = found if isinstance(found, nn.Module) else Function(found)
    net = net.double()
    net(x)
    return seeded(net).requires_grad_(False)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, rule: str) -> None:
    make, shape = CONVOLUTIONS[name]
    x = numbers(*shape)
    net = built(make, x)
    upper = numbers(*net(x).shape, seed=3)
    found = by_rules(net, x, upper=upper, composite=composite(rule))
    close(found.relevance[0], expected(rule, net, x, upper))
    assert gaps(found.accounts) < 1e-9
    assert found.total() == pytest.approx(float(upper.sum()))


def test_padding_by_reflection() -> None:
    net, x = built(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), numbers(*IMAGE)), numbers(*IMAGE)
    found = by_rules(net, x, upper=(upper := numbers(1, 3, 4, 4, seed=3)))
    close(found.relevance[0], by_contribution(net, [x], upper)[0][0])


@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("name", LINEARS)
def test_linear_layers(name: str, rule: str) -> None:
    make, shape = LINEARS[name]
    x = numbers(*shape)
    net = built(make, x)
    upper = numbers(*net(x).shape, seed=3)
    found = by_rules(net, x, upper=upper, composite=composite(rule))
    close(found.relevance[0], expected(rule, net, x, upper))
    bias, (matrix,) = jacobian(net, x)
    if rule == "epsilon":
        absorbed = float((bias / stabilized(matrix @ x.flatten() + bias) * upper.flatten()).sum())
        assert found.absorbed("bias") == pytest.approx(absorbed, abs=1e-9)
    assert gaps(found.accounts) < 1e-9


@pytest.mark.parametrize("name", ["module", "functional", "transposed", "subclass", "patched forward", "groups"])
def test_the_box_on_the_first_convolution(name: str) -> None:
    make, shape = CONVOLUTIONS[name]
    x = numbers(*shape).clamp(-3, 3)
    net = built(make, x)
    upper = numbers(*net(x).shape, seed=3)
    bias, (matrix,) = jacobian(net, x)
    shares = share(matrix * x.flatten() + 3 * matrix.clamp(min=0) - 3 * matrix.clamp(max=0), torch.zeros_like(bias))
    chosen = LRPEpsilonGammaBox(net, low=-3.0, high=3.0, **TINY).zennit_composite
    found = by_rules(net, x, upper=upper, composite=chosen)
    # What low and high contribute is relevance of the input too.
    close(found.relevance[0], (shares * upper.flatten()[:, None]).sum(0).reshape(x.shape), 1e-8)


def test_first_is_what_runs_first() -> None:
    """Whatever the order in which the convolutions are defined."""

    class Crossed(nn.Module):
        def __init__(self, names: tuple[str, str]) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, nn.Conv2d(2, 2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    x, maps = numbers(*IMAGE), []
    for names in (("first", "second"), ("second", "first")):
        net = Crossed(names).double()
        for i, name in enumerate(("first", "second")):
            seeded(getattr(net, name), i)
        maps.append(by_rules(net, x, composite=LRPEpsilonGammaBox(net, **TINY).zennit_composite).relevance[0])
    close(maps[0], maps[1], 1e-14)


def test_weights_that_depend_on_the_inputs() -> None:
    x, y = numbers(1, 2, 4, 4), numbers(3, 2, 2, 2)
    with pytest.raises(UnsupportedOperationError, match="weights that do"):
        by_rules(lambda x, y: F.conv2d(x, y), x, y)


def norm(channels: int, dims: int = 2, **arguments: Any) -> nn.Module:
    """A batch norm with statistics and parameters that matter."""
    found = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels, **arguments).double()
    generator = torch.Generator().manual_seed(4)
    for each in (found.running_mean, found.running_var, found.weight, found.bias):
        if each is not None:
            each.data.copy_(torch.rand(each.shape, generator=generator, dtype=D) + 0.5)
    return found.eval().requires_grad_(False)


MERGED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2), norm(3)), IMAGE),
    "without bias": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), norm(3)), IMAGE),
    "without weight": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2), norm(3, affine=False)), IMAGE),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(2, 3, 2), norm(3, 1)), (2, 2, 4)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), norm(4)), IMAGE),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), norm(3, 1)), (2, 4)),
    "identity between": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.Identity(), norm(3)), IMAGE),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MERGED)
def test_batch_norm_merges_with_the_linear_map_before_it(name: str, rule: str) -> None:
    make, shape = MERGED[name]
    net, x = make().double().eval(), numbers(*shape)
    seeded(net[0])
    if name == "linear" and rule in ("plus", "alpha2 beta1"):
        rule = "epsilon"
    upper = numbers(*net(x).shape, seed=3)
    found = by_rules(net, x, upper=upper, composite=composite(rule))
    close(found.relevance[0], expected(rule, net, x, upper))
    assert found.total() == pytest.approx(float(upper.sum()))
    assert gaps(found.accounts) < 1e-9


def test_batch_norm_on_its_own_shares_with_its_shift() -> None:
    """Before a convolution, after an activation: two maps, one after the other."""
    bn, conv, x = norm(2), seeded(nn.Conv2d(2, 3, 2).double()), numbers(*IMAGE)
    upper = numbers(1, 3, 3, 3, seed=3)
    middle = bn(x)
    for rule in RULES:
        relevance = expected(rule, conv, middle, upper)
        for net in (nn.Sequential(bn, conv), nn.Sequential(bn, nn.ReLU(), conv)):
            relevance = expected(rule, conv, net[:-1](x), upper)
            (first,), _ = by_contribution(bn, [x], relevance)
            close(by_rules(net, x, upper=upper, composite=composite(rule)).relevance[0], first, 1e-8)


def test_batch_norm_is_not_merged_where_the_convolution_is_used_twice() -> None:
    bn, conv, x = norm(3), seeded(nn.Conv2d(2, 3, 2).double()), numbers(*IMAGE)
    upper = numbers(1, 3, 3, 3, seed=3)

    def before(x: Tensor) -> Tensor:
        y = conv(x)
        z = y.relu()
        return bn(y) + z

    def after(x: Tensor) -> Tensor:
        y = conv(x)
        z = bn(y)
        return z + y.relu()

    y = conv(x).detach()
    z, a = bn(y), y.relu()
    above_norm, above_relu = upper * z / (z + a), upper * a / (z + a)
    (through_norm,), _ = by_contribution(bn, [y], above_norm)
    for rule in RULES:
        right = expected(rule, conv, x, through_norm + above_relu)
        for function in (before, after):
            net = Function(function, bn=bn, conv=conv)
            found = by_rules(net, x, upper=upper, composite=composite(rule))
            close(found.relevance[0], right, 1e-8)
            assert gaps(found.accounts) < 1e-8


def test_batch_norm_over_steps_of_a_linear_layer() -> None:
    """Channels are steps there, so nothing can be merged."""
    bn, linear, x = norm(3, 1), seeded(nn.Linear(4, 5).double()), numbers(2, 3, 4)
    upper = numbers(2, 3, 5, seed=3)
    (above,), _ = by_contribution(bn, [linear(x).detach()], upper)
    (right,), _ = by_contribution(linear, [x], above)
    close(by_rules(nn.Sequential(linear, bn), x, upper=upper).relevance[0], right)


def test_batch_norm_after_a_transposed_convolution() -> None:
    bn, conv, x = norm(3), seeded(nn.ConvTranspose2d(2, 3, 2).double()), numbers(*IMAGE)
    upper = numbers(1, 3, 5, 5, seed=3)
    (above,), _ = by_contribution(bn, [conv(x).detach()], upper)
    (right,), _ = by_contribution(conv, [x], above)
    close(by_rules(nn.Sequential(conv, bn), x, upper=upper).relevance[0], right, 1e-8)


def test_a_change_in_place_between_convolution_and_batch_norm() -> None:
    bn, conv, x = norm(3), seeded(nn.Conv2d(2, 3, 2).double()), numbers(*IMAGE)
    upper = numbers(1, 3, 3, 3, seed=3)
    y = conv(x).relu().detach()
    (above,), _ = by_contribution(bn, [y], upper)
    right = expected("plus", conv, x, above)
    net = nn.Sequential(conv, nn.ReLU(inplace=True), bn)
    close(by_rules(net, x, upper=upper, composite=composite("plus")).relevance[0], right, 1e-8)


def test_two_batch_norms_after_another_and_two_after_one_convolution() -> None:
    first, second, conv, x = norm(3), norm(3), seeded(nn.Conv2d(2, 3, 2).double()), numbers(*IMAGE)
    second.running_mean.mul_(-2)
    upper = numbers(1, 3, 3, 3, seed=3)
    middle = first(conv(x)).detach()
    (above,), _ = by_contribution(second, [middle], upper)
    right = expected("plus", nn.Sequential(conv, first), x, above)
    net = nn.Sequential(conv, first, second)
    close(by_rules(net, x, upper=upper, composite=composite("plus")).relevance[0], right, 1e-8)
    both = Function(lambda x: (y := conv(x), first(y) + second(y))[1], conv=conv, first=first, second=second)
    y = conv(x).detach()
    (above,), _ = by_contribution(lambda y: first(y) + second(y), [y], upper)
    close(
        by_rules(both, x, upper=upper, composite=composite("plus")).relevance[0], expected("plus", conv, x, above), 1e-8
    )


@pytest.mark.parametrize("kind", ["training", "no statistics"])
def test_batch_statistics_are_held_constant(kind: str) -> None:
    x, weight, bias = numbers(5, 3), numbers(3, seed=4), numbers(3, seed=5)
    mean = torch.stack([x[:, i].sum() / 5 for i in range(3)])
    variance = torch.stack([((x[:, i] - mean[i]) ** 2).sum() / 5 for i in range(3)])
    statistics = (torch.zeros(3, dtype=D), torch.ones(3, dtype=D)) if kind == "training" else (None, None)
    upper = numbers(5, 3, seed=3)
    found = by_rules(lambda x: F.batch_norm(x, *statistics, weight, bias, True), x, upper=upper)
    deviation = (variance + 1e-5).sqrt()
    y = weight * (x - mean) / deviation + bias
    close(found.relevance[0], upper * weight * x / deviation / y)
    assert found.total() == pytest.approx(float(upper.sum()))


def normalised(x: Tensor, groups: list[list[int]], weight: Tensor, bias: Tensor, relevance: Tensor, eps: float) -> Any:
    """Output and relevance, group by group: y_j = w_j (x_j - Σ_i x_i / d) / σ + b_j, σ constant; all flat."""
    y, found = torch.zeros_like(x), torch.zeros_like(x)
    for group in groups:
        d = len(group)
        mean = sum(float(x[i]) for i in group) / d
        deviation = (sum((float(x[i]) - mean) ** 2 for i in group) / d + eps) ** 0.5
        for j in group:
            y[j] = weight[j] * (x[j] - mean) / deviation + bias[j]
            for i in group:
                contribution = weight[j] * x[i] * ((i == j) - 1 / d) / deviation
                found[i] += contribution / y[j] * relevance[j]
    return y, found


W4, B4 = numbers(4, seed=11), numbers(4, seed=12)
W34, B34 = numbers(3, 4, seed=13), numbers(3, 4, seed=14)
ROWS = [[i * 4 + j for j in range(4)] for i in range(6)]
HALVES = [[*range(12)], [*range(12, 24)]]
PAIRS = [[*range(8)], [*range(8, 16)], [*range(16, 24)]]
ONE, NO = torch.ones(24, dtype=D), torch.zeros(24, dtype=D)
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], list[list[int]], Tensor, Tensor]] = {
    "layer": (lambda x: F.layer_norm(x, (4,), W4, B4), (2, 3, 4), ROWS, W4.repeat(6), B4.repeat(6)),
    "layer, plain": (lambda x: F.layer_norm(x, [4]), (2, 3, 4), ROWS, ONE, NO),
    "layer, two dims": (
        lambda x: F.layer_norm(x, (3, 4), W34, B34),
        (2, 3, 4),
        HALVES,
        W34.flatten().repeat(2),
        B34.flatten().repeat(2),
    ),
    "layer, module": (lambda x: nn.LayerNorm(4, dtype=D).requires_grad_(False)(x), (2, 3, 4), ROWS, ONE, NO),
    "layer, keywords": (
        lambda x: F.layer_norm(input=x, normalized_shape=(4,), bias=B4, weight=W4),
        (2, 3, 4),
        ROWS,
        W4.repeat(6),
        B4.repeat(6),
    ),
    "group": (
        lambda x: F.group_norm(x, 3, numbers(6, seed=15), numbers(6, seed=16)),
        (1, 6, 4),
        PAIRS,
        numbers(6, seed=15).repeat_interleave(4),
        numbers(6, seed=16).repeat_interleave(4),
    ),
    "group, module": (lambda x: nn.GroupNorm(1, 3, dtype=D).requires_grad_(False)(x), (2, 3, 4), HALVES, ONE, NO),
    "instance": (
        lambda x: F.instance_norm(x, weight=W4[:3], bias=B4[:3]),
        (2, 3, 4),
        ROWS,
        W4[:3].repeat_interleave(4).repeat(2),
        B4[:3].repeat_interleave(4).repeat(2),
    ),
    "instance, module": (lambda x: nn.InstanceNorm2d(3, dtype=D)(x), (2, 3, 2, 2), ROWS, ONE, NO),
    "local, written out": (
        lambda x: W4 * (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt(),
        (2, 3, 4),
        ROWS,
        W4.repeat(6),
        NO,
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisations_element_by_element(name: str) -> None:
    function, shape, groups, weight, bias = NORMS[name]
    x, upper = numbers(*shape), numbers(*shape, seed=3)
    y, right = normalised(x.flatten(), groups, weight, bias, upper.flatten(), 1e-5)
    close(function(x).flatten(), y)
    found = by_rules(function, x, upper=upper)
    close(found.relevance[0].flatten(), right)
    assert found.absorbed("bias") == pytest.approx(float((bias / y * upper.flatten()).sum()), rel=1e-8, abs=1e-9)
    assert found.total() == pytest.approx(float(upper.sum()))
    assert gaps(found.accounts) < 1e-9


def test_instance_norm_with_running_statistics_is_affine() -> None:
    net = nn.InstanceNorm1d(3, affine=True, track_running_stats=True).double().eval()
    net.running_mean.copy_(numbers(3, seed=4))
    net.running_var.copy_(numbers(3, seed=5).abs() + 0.5)
    net.bias.data.copy_(numbers(3, seed=6))
    x, upper = numbers(2, 3, 4), numbers(2, 3, 4, seed=3)
    (right,), constants = by_contribution(net, [x], upper)
    found = by_rules(net, x, upper=upper)
    close(found.relevance[0], right)
    assert found.absorbed("bias") == pytest.approx(constants)


class TestGamma:
    """Two maps in place of five."""

    @pytest.mark.parametrize("value", [0.0, 0.25, 3.0])
    @pytest.mark.parametrize(
        "make", [lambda: nn.Conv2d(2, 3, 2), lambda: nn.Conv2d(2, 3, 2, bias=False), lambda: nn.Linear(4, 3)]
    )
    def test_equals_zennits_own(self, value: float, make: Callable[[], nn.Module]) -> None:
        net, x = seeded(make().double()), numbers(*IMAGE, seed=3) + 0.2
        upper = numbers(*net(x).shape, seed=4)
        stabilizer = Stabilizer(1e-3)
        maps = [
            by_rules(
                net, x, upper=upper, composite=LayerMapComposite([(types.Convolution, hook), (types.Linear, hook)])
            )
            for hook in (gamma_rule(value, stabilizer), ZennitGamma(value, stabilizer))
        ]
        close(maps[0].relevance[0], maps[1].relevance[0], 1e-12)
        for name in ("bias", "epsilon"):
            assert maps[0].absorbed(name) == pytest.approx(maps[1].absorbed(name), abs=1e-10)

    def test_is_a_hook_of_zennit_too(self) -> None:
        net, x = (
            seeded(nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).double()),
            numbers(*IMAGE),
        )
        upper, maps = numbers(1, 2, seed=3), []
        for hook in (gamma_rule(0.3, Stabilizer(1e-6)), ZennitGamma(0.3, Stabilizer(1e-6))):
            chosen = LayerMapComposite([(types.Convolution, hook), (types.Linear, hook)])
            with ZennitGradient(net, chosen) as attributor:
                maps.append(attributor(x.clone().requires_grad_(), upper)[1])
        close(maps[0], maps[1], 1e-13)


class Mixed(nn.Module):
    """Every kind of linear map, in half precision under autocast or all in single precision."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.first, self.convolution, self.second = nn.Linear(6, 8), nn.Conv1d(1, 4, 3), nn.Linear(24, 3)
        self.weight = nn.Parameter(torch.empty(3, 3))
        self.half = half

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 3)``."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
            x = self.convolution(self.first(x).relu()[:, None]).flatten(1).relu()
            x = torch.addmm(torch.ones(3), self.second(x).relu(), self.weight)
            return (x @ self.weight).float()


@pytest.mark.parametrize(
    "explainer",
    [LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox],
    ids=lambda each: each.__name__,
)
def test_under_autocast_relevance_is_that_of_single_precision_but_for_rounding(explainer: Any) -> None:
    x, targets = batch(4, 6), torch.tensor([0, 1, 2, 0])
    half, exact = (explainer(seeded(Mixed(way)), epsilon=0.25).attribute(x, targets) for way in (True, False))
    assert 0 < (half - exact).abs().max() < 0.05 * exact.abs().max()  # bfloat16 has 8 bits


@pytest.mark.parametrize("product", [F.linear, torch.matmul], ids=["linear", "matmul"])
def test_a_weight_that_is_changed_after_use_is_refused(product: Function) -> None:
    class Fading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.eye(3))

        def forward(self, x: Tensor) -> Tensor:
            found = product(x, self.weight)
            self.weight *= 0.5
            return found

    with pytest.raises(ModelError, match="changed after use"):
        LRPUniformEpsilon(Fading()).attribute(batch(2, 3), 0)
