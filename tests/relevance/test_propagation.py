"""What models do besides operations on tensors: modes, hooks, changes in place, branches, types."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.errors import (
    DeclarationError,
    ParameterError,
    PnPXAIError,
    RelevanceWarning,
    UnsupportedOperationError,
)
from pnpxai.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.explainers.lrp import LRPBase
from pnpxai.forward import count_forwards
from pnpxai.relevance import OPERATIONS, Ledger, Pass, Proportional, Step, StepRule, register_rule
from pnpxai.relevance.ledger import Entry
from tests.harm import untouched
from tests.nets import LSTMClassifier, TinyTransformer, batch, seeded
from tests.relevance.explicit import Function, close, stabilized, table_kept

D = torch.float64
FOUR: list[type[LRPBase]] = [LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox]
each_of_four = pytest.mark.parametrize("cls", FOUR)
TINY: dict[str, Any] = {"epsilon": 1e-13, "stabilizer": 1e-13}


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return batch(*shape, seed=seed, dtype=D)


class Block(nn.Module):
    """A residual block with batch norm and squeeze-excitation."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace)
        self.gate = nn.Linear(4, 4)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x)))
        y = y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None].expand_as(y)
        if self.inplace:
            y += x
            return F.relu_(y)
        return F.relu(y + x)


class Residual(nn.Module):
    """``(n, 3, 8, 8)`` to ``(n, 4)``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = Block(inplace)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.block(self.stem(x))).mean((2, 3)))


def residual(inplace: bool = False) -> nn.Module:
    """With statistics that matter."""
    net = seeded(Residual(inplace))
    generator = torch.Generator().manual_seed(4)
    for each in (net.block.norm.running_mean, net.block.norm.running_var):
        each.copy_(torch.rand(each.shape, generator=generator) + 0.5)
    return net


GROUNDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (residual, (3, 8, 8)),
    "transformer": (lambda: seeded(TinyTransformer()), (8, 4)),
    "lstm": (lambda: seeded(LSTMClassifier()), (8, 4)),
}
each_ground = pytest.mark.parametrize("ground", GROUNDS)


@each_of_four
def test_changes_in_place_change_nothing(cls: type[LRPBase]) -> None:
    x = batch(3, 3, 8, 8)
    with untouched(net := residual(inplace=True), x):
        found = cls(net).attribute(x, 1)
    assert torch.equal(found, cls(residual()).attribute(x, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.relu_(),
        lambda x: x.sub_(0.1).div_(0.5),
        lambda x: x.__setitem__((slice(None), 0), 1.0),
        lambda x: x[:, :2].mul_(2.0),
    ],
)
def test_changes_in_place_of_the_inputs_themselves(change: Callable[[Tensor], Any]) -> None:
    def function(x: Tensor) -> Tensor:
        change(x)
        return net.l(x)  # noqa: F821

    def careful(x: Tensor) -> Tensor:
        return function(x.clone())

    linear, x = seeded(nn.Linear(4, 3).double()), numbers(2, 4)
    net = Function(function, l=linear)
    with untouched(net, x):
        found = LRPUniformEpsilon(net).attribute(x, 1)
    assert torch.equal(found, LRPUniformEpsilon(Function(careful, l=linear)).attribute(x, 1))


def test_one_module_three_times() -> None:
    """Each call has its own inputs, outputs and relevance; by hand, call by call."""
    linear, x, epsilon = seeded(nn.Linear(4, 4).double()), numbers(2, 4), 1e-3

    def function(x: Tensor) -> Tensor:
        for _ in range(3):
            x = linear(x).relu()
        return x

    values = [x]
    for _ in range(3):
        values.append(linear(values[-1]).relu().detach())
    relevance = torch.zeros_like(x)
    relevance[:, 2] = values[-1][:, 2]
    for value in reversed(values[:-1]):
        z = (value @ linear.weight.T + linear.bias).detach()
        relevance = value * ((relevance / stabilized(z, epsilon)) @ linear.weight.detach())
    for net in (Function(function, l=linear), nn.Sequential(*[linear, nn.ReLU()] * 3)):
        close(LRPUniformEpsilon(net, epsilon=epsilon).attribute(x, 2), relevance, 1e-12)


@each_of_four
def test_one_module_three_times_is_three_modules(cls: type[LRPBase]) -> None:
    conv, relu, head = seeded(nn.Conv2d(3, 3, 3, padding=1)), nn.ReLU(), seeded(nn.Linear(192, 2))
    again = nn.Sequential(conv, relu, conv, relu, conv, relu, nn.Flatten(), head)
    apart = copy.deepcopy(nn.Sequential(*(copy.deepcopy(each) for each in again)))
    x = batch(2, 3, 8, 8)
    with untouched(again, x):
        found = cls(again).attribute(x, 1)
    assert torch.equal(found, cls(apart).attribute(x, 1))


class Switches(nn.Module):
    """Computes with gradients switched off in parts of its forward pass."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Linear(4, 5), nn.Linear(5, 3), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "no_grad":
            with torch.no_grad():
                hidden = self.first(x).relu_()
        elif self.way == "inference_mode":
            with torch.inference_mode():
                hidden = self.first(x).relu()
        elif self.way == "detach":
            hidden = self.first(x).relu().detach()
        elif self.way == "data":
            hidden = self.first(x).relu().data
        elif self.way == "detach_":
            hidden = self.first(x).relu()
            hidden.detach_()
        elif self.way == "set_grad_enabled":
            with torch.set_grad_enabled(False):
                hidden = self.first(x).clamp(min=0)
        elif self.way == "requires_grad_":
            hidden = self.first(x).relu()
            hidden.requires_grad_()
        elif self.way == "checkpoint":
            hidden = torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=False).relu()
        else:
            hidden = self.first(x).relu()
        return self.second(hidden)


@pytest.mark.parametrize(
    "way",
    ["no_grad", "inference_mode", "detach", "data", "detach_", "set_grad_enabled", "requires_grad_", "checkpoint"],
)
def test_relevance_is_no_gradient_and_goes_on_where_gradients_end(way: str) -> None:
    net, x = seeded(Switches(way).double()), numbers(3, 4)
    with untouched(net, x):
        found = LRPUniformEpsilon(net).attribute(x, 1)
    assert torch.equal(found, LRPUniformEpsilon(seeded(Switches("plain").double())).attribute(x, 1))


def test_a_decorated_forward() -> None:
    class Decorated(Switches):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net, x = seeded(Decorated("plain").double()), numbers(3, 4)
    found = LRPUniformEpsilon(net).attribute(x, 1)
    assert torch.equal(found, LRPUniformEpsilon(seeded(Switches("plain").double())).attribute(x, 1))


def test_hooks_of_the_models_own() -> None:
    seen: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        hidden = net.l(x)  # noqa: F821
        hidden.register_hook(seen.append)
        hidden.retain_grad()
        return hidden.relu()

    linear, x = seeded(nn.Linear(4, 3).double()), numbers(2, 4)
    net = Function(function, l=linear)
    expected = LRPUniformEpsilon(nn.Sequential(linear, nn.ReLU())).attribute(x, 1)
    assert torch.equal(LRPUniformEpsilon(net).attribute(x, 1), expected)
    assert len(seen) == 1


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(1, 4))


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "function": Doubles,
    "script": scripted,
    "trace": traced,
    "full backward hook": lambda: _with_backward_hook(),
    "vmap": lambda: Function(lambda x: torch.func.vmap(torch.sin)(x)),
}


def _with_backward_hook() -> nn.Module:
    linear = nn.Linear(4, 4)
    linear.register_full_backward_hook(lambda *_: None)
    return linear


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", HIDDEN)
def test_operations_out_of_sight_are_refused(name: str, place: int) -> None:
    modules: list[nn.Module] = [nn.Linear(4, 4), nn.ReLU()]
    modules.insert(place, HIDDEN[name]())
    net, x = nn.Sequential(*modules), batch(2, 4)
    # What TorchScript keeps in a module cannot be looked at.
    watched = contextlib.nullcontext() if name in ("script", "trace") else untouched(net, x)
    with watched, pytest.raises(UnsupportedOperationError, match="IntegratedGradients"):
        LRPUniformEpsilon(net).attribute(x, 1)


@pytest.mark.parametrize("make", [scripted, traced])
def test_a_model_that_is_a_script_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(UnsupportedOperationError):
        LRPUniformEpsilon(make()).attribute(batch(2, 4), 1)


@pytest.mark.parametrize("rule", ["mm", "mul"])
def test_results_that_are_written_elsewhere_are_refused(rule: str) -> None:
    linear = seeded(nn.Linear(4, 4))

    def forward(x: Tensor) -> Tensor:
        written = torch.empty(len(x), 4)
        getattr(torch, rule)(x, linear.weight.T if rule == "mm" else 2, out=written)
        return linear(x) + written

    net, x = Function(forward, l=linear), batch(2, 4)
    with untouched(net, x), pytest.raises(UnsupportedOperationError, match="out="):
        LRPUniformEpsilon(net).attribute(x, 1)


def test_what_leaves_torch_is_refused() -> None:
    net = Function(lambda x: net.l(torch.from_numpy(x.relu().detach().numpy())), l=nn.Linear(4, 3))
    with pytest.raises(UnsupportedOperationError, match="numpy in the model itself"):
        LRPUniformEpsilon(net).attribute(batch(2, 4), 1)


def test_branches_that_depend_on_the_data() -> None:
    def branch(x: Tensor) -> Tensor:
        y = net.l(x)
        if float(y.sum()) > 1e6 or bool((x > 1e6).any()) or y.max().item() > 1e6:
            return y.cos()
        shape = y.shape[0], y.size(1), y.numel() // len(y), y.dim()
        assert shape[1] == shape[2]
        return y.relu()[torch.arange(len(y))] if y.argmax(1).sum() >= 0 else y

    linear, x = seeded(nn.Linear(4, 3)), batch(2, 4)
    net = Function(branch, l=linear)
    expected = LRPUniformEpsilon(nn.Sequential(linear, nn.ReLU())).attribute(x, 1)
    assert torch.equal(LRPUniformEpsilon(net).attribute(x, 1), expected)


@each_of_four
@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
@each_ground
def test_half_precision_is_right_within_its_precision(
    cls: type[LRPBase], dtype: torch.dtype, precision: float, ground: str
) -> None:
    """Of the largest magnitude, after some tens of roundings; and without a warning."""
    build, shape = GROUNDS[ground]
    net, x = build().to(dtype), batch(2, *shape).to(dtype)
    found = cls(net, epsilon=0.01, stabilizer=0.01).attribute(x, 1)
    expected = cls(copy.deepcopy(net).double(), epsilon=0.01, stabilizer=0.01).attribute(x.double(), 1)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    close(found.double(), expected, 40 * precision)


@each_of_four
@each_ground
def test_the_ledger_closes_at_every_operation(cls: type[LRPBase], ground: str) -> None:
    build, shape = GROUNDS[ground]
    net, x = build().double(), numbers(1, *shape)
    for attention in ("constant", "attnlrp"):
        explainer = cls(net, attention=attention)
        with untouched(net, x):
            ledger = explainer.ledger(x, 1)
        assert ledger.largest_gap < 1e-6
        assert ledger.output == pytest.approx(float(net(x)[0, 1].detach()))
        assert ledger.explained == pytest.approx(float(explainer.attribute(x, 1).sum()))
        absorbed = ledger.bias + ledger.epsilon + ledger.constants
        assert ledger.explained + absorbed == pytest.approx(ledger.output, rel=1e-6)
        assert len(str(ledger).splitlines()) == len(ledger.entries) + 2
        assert len(ledger.to_frame()) == len(ledger.entries)


def entries(ledger: Ledger) -> list[Entry]:
    """Without copies, which change nothing."""
    return [each for each in ledger.entries if each.operation != "clone"]


def test_the_ledger_of_an_mlp_by_hand() -> None:
    net, x, epsilon = seeded(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()), numbers(1, 4), 0.01
    (w, b), (v, c) = ((each.weight.detach(), each.bias.detach()) for each in (net[0], net[2]))
    z = w @ x[0] + b
    a = z.clamp(min=0)
    out = v[1] @ a + c[1]
    upper = out / stabilized(out, epsilon)
    relevance = v[1] * a * upper
    lower = relevance / stabilized(z, epsilon)
    first, act, second = entries(LRPUniformEpsilon(net, epsilon=epsilon).ledger(x, 1))
    assert [each.operation for each in (first, act, second)] == ["linear", "relu", "linear"]
    assert [each.place for each in (first, act, second)] == ["0 (Linear)", "1 (ReLU)", "2 (Linear)"]
    assert second.relevance_in == pytest.approx(float(out))
    assert second.relevance_out == pytest.approx(float(relevance.sum()))
    assert second.bias == pytest.approx(float(c[1] * upper))
    assert second.epsilon == pytest.approx(float(out - out * upper))
    assert (act.relevance_in, act.relevance_out) == pytest.approx((float(relevance.sum()),) * 2)
    assert first.bias == pytest.approx(float((b * lower).sum()))
    assert first.epsilon == pytest.approx(float((relevance - z * lower).sum()))
    assert first.magnitude == pytest.approx(float(relevance.abs().sum()))


@each_of_four
@each_ground
def test_a_batch_is_its_samples(cls: type[LRPBase], ground: str) -> None:
    build, shape = GROUNDS[ground]
    net, x = build().double(), numbers(32, *shape)
    for relative in (False, True):
        explainer = cls(net, relative_epsilon=relative, epsilon=0.01)
        found = explainer.attribute(x, 1)
        alone = torch.cat([explainer.attribute(x[i : i + 1], 1) for i in range(32)])
        close(found, alone, 1e-9)


@each_of_four
@each_ground
def test_several_targets_in_one_forward_pass(cls: type[LRPBase], ground: str) -> None:
    build, shape = GROUNDS[ground]
    net, x = build().double(), numbers(3, *shape)
    explainer = cls(net)
    targets: list[Any] = [0, torch.tensor([2, 1, 0]), lambda outputs: outputs[:, 1] - outputs[:, 2], [1, 1, 2]]
    with untouched(net, x), count_forwards() as counter:
        found = explainer.attribute_each(x, targets)
    assert counter.n_samples == 3
    for each, target in zip(found, targets, strict=True):
        close(each, explainer.attribute(x, target), 1e-12)
    predicted, given = explainer.attribute_each(x, [None, 2])
    close(predicted, explainer.attribute(x), 1e-12)
    close(given, explainer.attribute(x, 2), 1e-12)


def test_several_targets_at_a_layer() -> None:
    net, x = residual().double(), numbers(3, 3, 8, 8)
    explainer = LRPEpsilonPlus(net, layer="block")
    for each, target in zip(explainer.attribute_each(x, [0, 1]), (0, 1), strict=True):
        close(each, explainer.attribute(x, target), 1e-12)


def above(net: nn.Module, path: str, x: Tensor) -> tuple[Tensor, nn.Module]:
    """A layer's output, and a model from there on: the same, with the layer's output given."""
    layer, kept = net.get_submodule(path), []
    handle = layer.register_forward_hook(lambda *each: kept.append(each[2]))
    with torch.no_grad():
        net(x)
    handle.remove()
    value = kept[0][0] if isinstance(kept[0], tuple) else kept[0]

    class Above(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(net)
            self.given = Given(isinstance(kept[0], tuple))
            parent, _, name = f"net.{path}".rpartition(".")
            setattr(self.get_submodule(parent), name, self.given)

        def forward(self, value: Tensor) -> Tensor:
            self.given.value = value
            return self.net(x[: len(value)])

    return value.detach(), Above()


class Given(nn.Module):
    value: Tensor

    def __init__(self, several: bool) -> None:
        super().__init__()
        self.several = several

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self.value, None) if self.several else self.value


@each_of_four
@pytest.mark.parametrize(
    ("ground", "path"),
    [
        *(("residual", "stem"), ("residual", "block.norm"), ("residual", "block"), ("residual", "pool")),
        *(("transformer", "norm"), ("residual", "block.act")),
    ],
)
def test_relevance_at_a_layer(cls: type[LRPBase], ground: str, path: str) -> None:
    """It is what the rest of the model, as a model of its own, hands down to its input."""
    build, shape = GROUNDS[ground]
    net, x = build().double(), numbers(2, *shape)
    value, rest = above(net, path, x)
    if (
        cls is LRPEpsilonGammaBox
    ):  # The box is on the first convolution that runs: the stem, which is no part of the rest.
        rest = nn.Sequential(Stem(), rest)
    with untouched(net, x):
        found = cls(net, layer=path).attribute(x, lambda outputs: outputs[:, 1])
    close(found, cls(rest).attribute(value, 1), 1e-9)
    close(cls(net, layer=net.get_submodule(path)).attribute(x, 1), found, 1e-12)


class Stem(nn.Module):
    """Hands its input on, and runs a convolution that no relevance reaches."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            F.conv2d(x, torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype))
        return x


@each_of_four
def test_a_convolution_is_one_with_the_batch_norm_after_it(cls: type[LRPBase]) -> None:
    net, x = residual().double(), numbers(2, 3, 8, 8)
    found = cls(net, layer="block.conv").attribute(x, 1)
    close(found, cls(net, layer="block.norm").attribute(x, 1), 1e-12)


@each_of_four
@pytest.mark.parametrize("attention", ["constant", "attnlrp"])
def test_relevance_at_an_attention(cls: type[LRPBase], attention: Any) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x)[0]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = Attends(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x).mean(1))

    net, x = seeded(Net().double()), numbers(2, 5, 4)
    value = net.attention(x).detach()
    rest = Function(lambda x: net.head(x.mean(1)), head=net.head)
    found = cls(net, layer="attention", attention=attention).attribute(x, 1)
    close(found, cls(rest, attention=attention).attribute(value, 1), 1e-12)
    inner = cls(net, layer="attention.inner", attention=attention)  # which returns a tuple: its first
    close(inner.attribute(x, 1), found, 1e-12)


class Tokens(nn.Module):
    """An embedding with positions, attention and a linear layer; whole numbers ``(n, t)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.positions = nn.Parameter(torch.zeros(1, 8, 4))
        self.body = TinyTransformer()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.embedding(tokens) + self.positions[:, : tokens.shape[1]])


@each_of_four
@pytest.mark.parametrize("attention", ["constant", "attnlrp"])
def test_relevance_of_token_embeddings(cls: type[LRPBase], attention: Any) -> None:
    net, tokens = seeded(Tokens().double()), torch.tensor([[1, 2, 3, 0], [4, 4, 10, 5]])
    embedded = net.embedding(tokens).detach()
    positions = net.positions.detach()[:, :4]
    rest = Function(lambda x: net.body(x + positions), body=net.body)
    with untouched(net, tokens):
        found = cls(net, layer="embedding", attention=attention).attribute(tokens, 1)
        ledger = cls(net, layer="embedding", attention=attention).ledger(tokens[:1], 1)
    close(found, cls(rest, attention=attention).attribute(embedded, 1), 1e-12)
    close(cls(net, attention=attention).attribute(tokens, 1), found.mT, 1e-12)
    assert ledger.largest_gap < 1e-6
    assert ledger.explained == pytest.approx(float(found[0].sum()))
    assert ledger.unexplained == pytest.approx(0.0, abs=1e-6 * abs(ledger.output))


def test_layers_that_cannot_be() -> None:
    net, x = residual(), batch(1, 3, 8, 8)
    with pytest.raises(PnPXAIError, match="block"):
        LRPUniformEpsilon(net, layer="blok").attribute(x)
    with pytest.raises(ParameterError, match="no part"):
        LRPUniformEpsilon(net, layer=nn.ReLU()).attribute(x)
    with pytest.raises(PnPXAIError, match="looks up nowhere|fails on"):
        LRPUniformEpsilon(net).attribute(torch.tensor([[1, 2]]))


class Hidden(nn.Module):
    """A function of one's own, out of sight."""

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        return Doubled.apply(x) * factor


def test_a_rule_for_an_operation_in_three_lines() -> None:
    linear, x = seeded(nn.Linear(4, 3).double()), numbers(2, 4)
    net = Function(lambda x: torch.special.erfcx(linear(x)), l=linear)
    with pytest.raises(UnsupportedOperationError, match="register_rule"):
        LRPUniformEpsilon(net).attribute(x, 1)
    with table_kept():
        register_rule(torch.special.erfcx, Pass())
        found = LRPUniformEpsilon(net).attribute(x, 1)
    start = net(x).detach() * torch.tensor([0.0, 1.0, 0.0], dtype=D)
    z = linear(x).detach()
    close(found, x * ((start / stabilized(z, 0.25)) @ linear.weight.detach()), 1e-12)
    assert "special_erfcx" not in OPERATIONS


def test_a_rule_for_a_module_in_three_lines() -> None:
    head, x = seeded(nn.Linear(4, 3).double()), numbers(2, 4)
    net = nn.Sequential(Hidden(), head)
    with table_kept():
        register_rule(Hidden, Pass())
        with untouched(net, x):
            found = LRPUniformEpsilon(net).attribute(x, 1)
            ledger = LRPUniformEpsilon(net).ledger(x, 1)
    close(found, LRPUniformEpsilon(head).attribute(2 * x, 1), 1e-12)
    assert [each.operation for each in entries(ledger)] == ["Hidden", "linear"]
    assert ledger.largest_gap < 1e-9


class Half(StepRule):
    """Hands down half and says nothing of the rest, or says it."""

    def __init__(self, told: bool) -> None:
        self.told = told

    def share(self, step: Step, relevance: Tensor) -> list[Tensor]:
        if self.told:
            step.absorb(constants=relevance / 2)
        return [relevance / 2]


@pytest.mark.parametrize("told", [False, True])
def test_a_warning_where_a_rule_loses_relevance(told: bool) -> None:
    head, x = seeded(nn.Linear(4, 3).double()), numbers(2, 4)
    net, x = nn.Sequential(Hidden(), head), x[:1]
    expected = LRPUniformEpsilon(head, **TINY).attribute(2 * x, 1) / 2
    with table_kept(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        register_rule(Hidden, Half(told))
        close(LRPUniformEpsilon(net, **TINY).attribute(x, 1), expected, 1e-12)
        entry = entries(LRPUniformEpsilon(net, **TINY).ledger(x, 1))[0]
    if told:
        assert not caught
        assert entry.constants == pytest.approx(float(expected.sum()))
        assert entry.gap < 1e-9
    else:
        assert [each.category for each in caught][:1] == [RelevanceWarning]
        assert "ledger" in str(caught[0].message)
        assert entry.unexplained == pytest.approx(float(expected.sum()))


class Returned(nn.Module):
    """Gives back what it got, and more."""

    def forward(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """What it got."""
        return x, x.shape


def test_a_rule_for_a_module_that_returns_several_is_not_passed_by() -> None:
    returned, head = Returned(), seeded(nn.Linear(4, 3))
    with table_kept():
        register_rule(Returned, Pass())
        with pytest.raises(UnsupportedOperationError, match="made out of sight"):
            LRPUniformEpsilon(Function(lambda x: head(returned(x)[0]), r=returned, h=head)).attribute(batch(2, 4), 1)


def test_the_ledger_of_no_operation() -> None:
    ledger = LRPUniformEpsilon(nn.Identity()).ledger(batch(2, 4), 1)
    assert str(ledger).startswith("no operation that relevance reached\noutput")


def test_rules_that_are_none() -> None:
    with table_kept():
        for operation, rule in (("erf", Pass), (3, Pass()), ("erf", None)):
            with pytest.raises(DeclarationError):
                register_rule(operation, rule)  # type: ignore[arg-type]
        register_rule("no such operation", Proportional())
        assert OPERATIONS["no such operation"] is not None


@each_of_four
def test_models_are_untouched_when_relevance_is_refused(cls: type[LRPBase]) -> None:
    net = nn.Sequential(nn.Linear(4, 4), Function(torch.cos), nn.Linear(4, 2)).train()
    net[0].weight.requires_grad_(False)
    x = batch(2, 4)
    with untouched(net, x), pytest.raises(UnsupportedOperationError, match="cos in 1"):
        cls(net).attribute(x, 1)


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.a(x).relu() + self.b(y).relu())

    net, x, y = seeded(Two().double()), numbers(2, 4), numbers(2, 3, seed=2)
    found = LRPUniformEpsilon(net, **TINY).attribute((x, y), 1)
    left, right = net.a(x).relu().detach(), net.b(y).relu().detach()
    v = net.head.weight.detach()[1]
    start = net(x, y)[:, 1:].detach() / (net(x, y)[:, 1:].detach())
    for value, layer, hidden, each in ((x, net.a, left, found[0]), (y, net.b, right, found[1])):
        z = layer(value).detach()
        relevance = v * (left + right) * start * hidden / (left + right)
        relevance = torch.where(left + right == 0, 0.0, relevance)
        close(each, value * ((relevance / stabilized(z)) @ layer.weight.detach()), 1e-8)
