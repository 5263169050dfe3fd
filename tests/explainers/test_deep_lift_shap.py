"""DeepLIFT's multipliers against captum, exact Shapley values, and the equations written out the slow way."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr import DeepLiftShap as CaptumDeepLiftShap
from torch import Tensor, nn

from pnpxai.errors import ModelError, RelevanceWarning, UnsupportedModelError, UnsupportedOperationError
from pnpxai.explainers import DeepLiftShap
from pnpxai.explainers._references import references_for
from pnpxai.explainers.deep_lift_shap import differences, multipliers
from pnpxai.forward import count_forwards
from pnpxai.guard import guard
from tests.harm import untouched
from tests.nets import MLP, LSTMClassifier, TinyTransformer, VGGLike, batch, seeded


class Net(nn.Module):
    """A function as a model; its one parameter is 1."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs) * self.one


def double(*shape: int, seed: int = 1) -> Tensor:
    return batch(*shape, seed=seed, dtype=torch.float64)


def against(net: nn.Module, x: Tensor, reference: Tensor, targets: int | Tensor = 0) -> Tensor:
    """The map against one reference (of one sample, or one for each)."""
    found: Tensor = DeepLiftShap(net, background=lambda inputs: reference.expand_as(inputs).clone()).attribute(
        x, targets
    )
    return found


def assert_complete(net: nn.Module, x: Tensor, reference: Tensor, target: int = 0, rtol: float = 1e-9) -> Tensor:
    """The map, after its sum was compared with the model's own difference."""
    found = against(net, x, reference, target)
    with torch.no_grad():
        change = (net(x) - net(reference.expand_as(x)))[:, target]
    scale = float(found.abs().flatten(1).sum(1).max())
    torch.testing.assert_close(found.flatten(1).sum(1), change, rtol=0, atol=rtol * scale)
    assert change.abs().max() > 1e-3
    return found


# Against captum, where captum is right: every non-linearity a module of its own, and no pooling next to it.


class Pooled(nn.Sequential):
    """Convolutions keep pooling and activations apart, which captum mistakes when adjacent; ``(3, 16, 16)`` to 3."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 6, 1), nn.MaxPool2d(3)),
            *(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)),
        )


class Series(nn.Sequential):
    """The same in one dimension; ``(2, 24)`` to 3."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv1d(2, 6, 3), nn.MaxPool1d(2), nn.Conv1d(6, 4, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(36, 3)),
        )


class Deep(nn.Sequential):
    """Many kinds of activation, each a module; ``(n, 6)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        kinds = [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.LeakyReLU(0.2), nn.ELU()]
        layers = [each for kind in kinds for each in (nn.Linear(6, 6), kind)]
        super().__init__(*layers, nn.Linear(6, 3))


@pytest.mark.parametrize(("make", "shape"), [(Pooled, (3, 16, 16)), (Series, (2, 24)), (MLP, (6,)), (Deep, (6,))])
def test_against_captum(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net, x, targets = seeded(make()).double(), double(4, *shape), torch.tensor([1, 0, 2, 1])
    background = double(5, *shape, seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum's
        one = CaptumDeepLift(net).attribute(x, background[:1].expand_as(x).clone(), target=targets).detach()
        several = CaptumDeepLiftShap(net).attribute(x, background, target=targets).detach()
    torch.testing.assert_close(against(net, x, background[:1], targets), one)
    torch.testing.assert_close(DeepLiftShap(net, background=background).attribute(x, targets), several)


# Against exact Shapley values, where the two are the same.


def shapley(net: nn.Module, x: Tensor, reference: Tensor) -> Tensor:
    """Shapley values of one sample ``(d,)`` by all ``2^d`` coalitions, absent features taken from the reference."""
    d = len(x)
    found = torch.zeros(d, dtype=x.dtype)
    for size in range(d):
        weight = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
        for i in range(d):
            for present in itertools.combinations([each for each in range(d) if each != i], size):
                rows = reference.expand(2, d).clone()
                rows[:, list(present)] = x[list(present)]
                rows[1, i] = x[i]
                with torch.no_grad():
                    scores = net(rows)[:, 0]
                found[i] += weight * (scores[1] - scores[0])
    return found


A, B = double(6, seed=11), double(6, seed=12)
WITHOUT_INTERACTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: (A * F.relu(B * x + 0.3)).sum(1, keepdim=True),
    "gelu, silu in place": lambda x: (A * F.silu(F.gelu(B * x), inplace=True)).sum(1, keepdim=True),
    "tanh, exp, softplus": lambda x: (x.tanh() * A + torch.exp(B * x) - F.softplus(x)).sum(1, keepdim=True),
    "pairs multiplied": lambda x: (x[:, :3] * x[:, 3:]).sum(1, keepdim=True),
    "gates": lambda x: (F.glu(x) * A[:3]).sum(1, keepdim=True),
    "quotients": lambda x: (x[:, :3] / (x[:, 3:] ** 2 + 1)).sum(1, keepdim=True),
    "matrices": lambda x: x[:, :4].view(-1, 2, 2) @ x[:, 4:].view(-1, 2, 1) @ torch.ones(1, 1, dtype=x.dtype),
}


@pytest.mark.parametrize("name", WITHOUT_INTERACTIONS)
def test_against_exact_shapley_values(name: str) -> None:
    net = Net(lambda x: WITHOUT_INTERACTIONS[name](x).flatten(1).sum(1, keepdim=True))
    x, background = double(3, 6), double(4, 6, seed=3)
    expected = torch.stack([torch.stack([shapley(net, each, other) for other in background]).mean(0) for each in x])
    torch.testing.assert_close(DeepLiftShap(net, background=background).attribute(x, 0), expected)


# Completeness, where captum fails: functions, modules used twice, overlapping pools, and everything at once.


class Functional(nn.Module):
    """One activation module used three times, functions for the rest, overlapping pools, a residual sum."""

    def __init__(self, modules: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3)])
        self.norm = nn.BatchNorm2d(4)
        self.acts = nn.ModuleList([nn.ReLU(), nn.GELU(), nn.SiLU()]) if modules else [F.relu, F.gelu, F.silu]
        self.act = nn.Hardswish()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.acts[0](self.norm(self.convs[0](x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = x + self.act(self.acts[1](self.convs[1](self.act(x))))
        x = self.acts[2](self.convs[2](x))
        x += x.sigmoid()
        return self.head(F.adaptive_max_pool2d(x, 2).amax((2, 3)) + self.act(x).mean((2, 3)))


class Attentive(nn.Module):
    """Attention by its fused function and by hand, norms of all kinds, a gate; ``(n, 8, 4)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True), nn.RMSNorm(4)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = torch.ones(8, 8, dtype=torch.bool).tril()
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = torch.einsum("nqd,nkd->nqk", k, q).masked_fill(~mask, -math.inf)
        x = x + scores.softmax(-1) @ v
        for norm in self.norms:
            x = norm(x)
        return self.head(F.normalize(self.layer(x), dim=-1).max(1).values)


class Recurrent(nn.Module):
    """All recurrent layers, one of them with a first state of its own, and cells; ``(n, 8, 4)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.rnn = nn.RNN(4, 4, nonlinearity="relu")
        self.cells = nn.ModuleList([nn.LSTMCell(4, 3), nn.GRUCell(3, 3), nn.RNNCell(3, 3)])
        self.first = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.gru(self.lstm(x)[0], 0.5 * self.first.expand(1, len(x), 4).contiguous())
        x, _ = self.rnn(x.transpose(0, 1))
        h, c = self.cells[0](x[-1], (x[-2][:, :3], x[-3][:, :3]))
        return self.cells[2](self.cells[1](h, c), c)


class Odds(nn.Module):
    """What else a model may do; ``(n, 6)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        buffer = torch.zeros(len(x), 6, dtype=x.dtype)
        buffer[:, :3] = x[:, 3:].clamp(-0.5, 0.8)
        buffer[:, 3:] += torch.maximum(x[:, :3], x[:, 3:])
        y = torch.addcmul(buffer, x, buffer.detach(), value=0.5).relu_()
        y.mul_(1.5).sub_(x.min(1, keepdim=True).values)
        y = torch.cat([y[:, :3] - y.logsumexp(1, keepdim=True), (x[:, 3:] ** 3).atan()], 1)
        y = (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 0.1)
        with torch.no_grad():
            y = y * 2 + x.abs().sqrt() + 1 / (1 + x.square()) + torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return F.log_softmax(self.linear(y), 1)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "functional": (Functional, (3, 8, 8)),
    "attentive": (Attentive, (8, 4)),
    "transformer": (TinyTransformer, (8, 4)),
    "LSTM": (LSTMClassifier, (8, 4)),
    "recurrent": (Recurrent, (8, 4)),
    "odds": (Odds, (6,)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_map_sums_to_the_difference_and_turns_with_the_pair(name: str) -> None:
    make, shape = NETS[name]
    net, x, reference = seeded(make()).double(), double(3, *shape), double(1, *shape, seed=5)
    found = assert_complete(net, x, reference, 1)
    back = torch.cat([against(net, reference, each[None], 1) for each in x])
    torch.testing.assert_close(back, -found)


@pytest.mark.parametrize(("make", "shape"), [(Functional, (3, 8, 8)), (VGGLike, (3, 16, 16))])
def test_captum_misses_the_difference_there(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Functions and modules used twice; pooling next to an activation."""
    net, x, reference = seeded(make()).double(), double(3, *shape), double(1, *shape, seed=5)
    assert_complete(net, x, reference, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = CaptumDeepLift(net).attribute(x, reference.expand_as(x).clone(), target=1).detach()
        change = (net(x) - net(reference))[:, 1].detach()
    assert ((theirs.flatten(1).sum(1) - change).abs() > 0.05 * change.abs()).any()


def test_functions_and_modules_are_the_same() -> None:
    x, reference = double(3, 3, 8, 8), double(1, 3, 8, 8, seed=5)
    functions, modules = seeded(Functional()).double(), seeded(Functional(modules=True)).double()
    torch.testing.assert_close(against(functions, x, reference, 1), against(modules, x, reference, 1), rtol=0, atol=0)


# The equations, the slow way.


def quotient(y: Tensor, x: Tensor, y0: Tensor, x0: Tensor) -> Tensor:
    """A divided difference."""
    return (y - y0) / (x - x0)


def test_softmax_by_its_parts() -> None:
    """``s = exp(x − log S)`` with ``S = Σ exp x``: four multipliers, chained by hand."""
    x, x0 = double(4, 5), double(1, 5, seed=2).expand(4, 5)
    s, s0 = (each.exp().sum(1, keepdim=True) for each in (x, x0))
    of_log = quotient(s.log(), s, s0.log(), s0) * quotient(x.exp(), x, x0.exp(), x0)  # Δ(log S) = Σ m Δx
    y, y0 = x - s.log(), x0 - s0.log()
    of_exp = quotient(y.exp(), y, y0.exp(), y0)
    c = 2
    m = -of_exp[:, c : c + 1] * of_log
    m[:, c] += of_exp[:, c]
    torch.testing.assert_close(against(Net(lambda x: x.softmax(1)), x, x0[:1], c), m * (x - x0))


def test_layer_norm_by_its_parts() -> None:
    """``y = a r`` with ``a = x − mean x`` and ``r = (mean a² + ε)^(−1/2)``."""
    x, x0, eps, c = double(4, 5), double(1, 5, seed=2).expand(4, 5), 1e-5, 1
    a, a0 = (each - each.mean(1, keepdim=True) for each in (x, x0))
    v, v0 = ((each**2).mean(1, keepdim=True) + eps for each in (a, a0))
    r, r0 = v**-0.5, v0**-0.5
    m = (a + a0)[:, c : c + 1] / 2 * quotient(r, v, r0, v0) * (a + a0) / 5
    m[:, c] += ((r + r0) / 2)[:, 0]
    m = m - m.mean(1, keepdim=True)
    torch.testing.assert_close(against(Net(lambda x: F.layer_norm(x, (5,), eps=eps)), x, x0[:1], c), m * (x - x0))


def test_an_lstm_is_its_gates_and_products() -> None:
    lstm = seeded(LSTMClassifier()).double()

    def by_hand(x: Tensor) -> Tensor:
        each = lstm.lstm
        h = c = torch.zeros(len(x), 6, dtype=x.dtype)
        for t in range(x.shape[1]):
            gates = x[:, t] @ each.weight_ih_l0.T + h @ each.weight_hh_l0.T + each.bias_ih_l0 + each.bias_hh_l0
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h @ lstm.head.weight.T + lstm.head.bias

    x, reference = double(2, 8, 4), double(1, 8, 4, seed=5)
    lstm.requires_grad_(False)
    torch.testing.assert_close(against(Net(by_hand), x, reference, 1), against(lstm, x, reference, 1))


def test_the_winner_of_overlapping_windows_gets_all_by_hand() -> None:
    x, x0 = torch.tensor([[[1.0, 5.0, 2.0, 4.0]]]).double(), torch.tensor([[[0.0, 1.0, 6.0, 3.0]]]).double()
    net = Net(lambda x: F.max_pool1d(x, 3, stride=1).sum(2))
    # windows (1 5 2 | 0 1 6) and (5 2 4 | 1 6 3): 5 against 6, both lost by the third element
    expected = torch.tensor([[[0.0, 0.0, -2.0, 0.0]]]).double()
    torch.testing.assert_close(against(net, x, x0), expected)
    torch.testing.assert_close(against(net, x0, x), -expected)
    # against zeros both windows are won by the second element
    torch.testing.assert_close(against(net, x, 0 * x), torch.tensor([[[0.0, 10.0, 0.0, 0.0]]]).double())


def test_a_minimum_is_the_maximum_of_the_negative() -> None:
    x, reference = double(20, 4), double(1, 4, seed=5)
    pairs = [
        (lambda x: x.min(1, keepdim=True).values, lambda x: -(-x).max(1, keepdim=True).values),
        (lambda x: x.view(-1, 2, 2).amin((1, 2))[:, None], lambda x: -(-x).view(-1, 2, 2).amax((1, 2))[:, None]),
        (lambda x: torch.minimum(x[:, :2], x[:, 2:]), lambda x: -torch.maximum(-x[:, :2], -x[:, 2:])),
    ]
    for one, other in pairs:
        torch.testing.assert_close(against(Net(one), x, reference), against(Net(other), x, reference))


@pytest.mark.parametrize(
    "function", [F.relu, F.gelu, torch.sigmoid, F.silu, torch.exp, F.elu, F.hardswish, torch.rsqrt, torch.log]
)
def test_a_small_difference_has_the_gradient(function: Callable[[Tensor], Tensor]) -> None:
    """Between float32 neighbours the quotient is noise; the multiplier is the derivative."""
    x = torch.tensor([[0.5, 1.5, 2.0, 0.1]])
    near = x * (1 + torch.tensor([0.0, 1e-7, -3e-7, 1e-6]))
    net = Net(function).float()
    pair = references_for(lambda inputs: near, (x,))
    for target in range(4):
        request = DeepLiftShap(net).request(x, target)
        with guard(net):
            (m,), _ = multipliers(request, (x,), pair.rows(torch.tensor([0]), torch.tensor([0])), torch.tensor([0]))
        leaf = x.double().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf)[0, target], leaf)
        torch.testing.assert_close(m.double(), slope, rtol=1e-3, atol=1e-6)


def test_softmax_neither_overflows_nor_loses_its_digits() -> None:
    net = Net(lambda x: x.softmax(1)).float()
    for scale in (1e-6, 1.0, 300.0):
        x, x0 = scale * batch(3, 5) + 100, scale * batch(1, 5, seed=2) - 100
        found = against(net, x, x0, 1)
        exact = against(Net(lambda x: x.softmax(1)), x.double(), x0.double(), 1)
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-5 * float(exact.abs().max()) + 1e-30)


# What it takes, and what it does not.


def test_the_default_is_each_samples_own_baselines() -> None:
    net, x = seeded(VGGLike()).double(), double(2, 3, 16, 16)
    (own,) = (each.values[0] for each in [references_for(None, (x,))])
    expected = torch.stack(
        [torch.stack([against(net, x[i : i + 1], own[i, j][None], 1)[0] for j in range(3)]).mean(0) for i in range(2)]
    )
    torch.testing.assert_close(DeepLiftShap(net).attribute(x, 1), expected)
    with count_forwards() as counter:
        DeepLiftShap(net).attribute(x, 1)
    assert counter.n_samples == 2 * 2 * 3


def test_several_inputs_extra_arguments_and_no_harm() -> None:
    a, b, factor = double(3, 4), double(3, 4, seed=2), double(3, 1, seed=6)
    background = (double(2, 4, seed=3), double(2, 4, seed=4))
    net = Net(lambda a, b, factor: (a * b * factor).sum(1, keepdim=True))
    explainer = DeepLiftShap(net, additional_forward_arg_extractor=lambda _: factor, background=background)
    with untouched(net, a, b, factor, *background), torch.inference_mode():
        found = explainer.attribute((a, b))
    for each, (x, y, own, other) in zip(found, ((a, b, *background), (b, a, *background[::-1])), strict=True):
        expected = sum((x - x0) * (y + y0) / 2 * factor for x0, y0 in zip(own, other, strict=True)) / 2
        torch.testing.assert_close(each, expected)


def test_a_target_function_is_part_of_the_model() -> None:
    net, x, reference = seeded(MLP()).double(), double(3, 6), double(1, 6, seed=5)
    explainer = DeepLiftShap(net, background=reference)
    found = explainer.attribute(x, lambda outputs: outputs.softmax(1)[:, 2])
    with torch.no_grad():
        change = (net(x).softmax(1) - net(reference).softmax(1))[:, 2]
    torch.testing.assert_close(found.sum(1), change)


def test_chunks_and_neighbours_change_nothing(set_chunk_size: Callable[[int], None]) -> None:
    net, x, background = seeded(Functional()).double(), double(3, 3, 8, 8), double(4, 3, 8, 8, seed=5)
    explainer = DeepLiftShap(net, background=background)
    whole = explainer.attribute(x, 1)
    torch.testing.assert_close(explainer.attribute(x[[2, 2]], 1), whole[[2, 2]])
    for size in (1, 5):
        set_chunk_size(size)
        torch.testing.assert_close(explainer.attribute(x, 1), whole)


def steps(x: Tensor) -> Tensor:
    return torch.cat([torch.where(x > 0, x + 1, x), x * (x > 0)], 1).sum(1, keepdim=True)


def test_a_jump_that_belongs_to_no_input_is_measured_and_warned_of() -> None:
    net, x = Net(steps), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    positive = torch.tensor([[0.5, 1.0]]).double()
    assert_complete(net, x, positive)
    with pytest.warns(RelevanceWarning, match=r"2 of 2 maps .* sample \d misses 0.5 of ") as caught:
        against(net, x, -positive)
    assert caught[0].filename == __file__
    request = DeepLiftShap(net).request(x, 0)
    with guard(net):
        found = differences(request, references_for(-positive, (x,)))
    with torch.no_grad():
        change = (net(x) - net(-positive))[:, 0]
    torch.testing.assert_close(found.expected, change)
    torch.testing.assert_close(found.gaps, (found.maps[0].sum(1) - change).abs())


def test_rounding_alone_is_not_warned_of() -> None:
    """The difference of two scores near 100 in float32 is known to 1e-5 only, and here it is no larger."""
    net, x = seeded(MLP()), batch(4, 6)
    net[2].bias.data.fill_(100.0)
    with torch.no_grad():
        assert (net(x * (1 + 3e-6)) - net(x)).abs().max() < 1e-4
    DeepLiftShap(net, background=lambda inputs: inputs * (1 + 3e-6)).attribute(x, 1)  # warnings are errors


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x.sort(1).values, "sort in the model itself"),
        (lambda x: x.cumprod(1), "cumprod in the model itself"),
        (lambda x: x + torch.fft.fft(x).real, "in the model itself"),
        (lambda x: torch.pow(x.abs() + 1, x), "pow in the model itself.*of 2 tensors"),
        (lambda x: F.dropout(x, 0.5), "randomness.*dropout"),
        (lambda x: F.batch_norm(x, None, None, training=True), "neighbours.*batch_norm"),
        (lambda x: x * 2 if x.sum() > 0 else x, "same way.*__bool__"),
        (lambda x: x * float(x.max()), "same way.*__float__"),
        (lambda x: x * (1 + int(x.sum() > -1e9)), "same way.*__int__"),
        (lambda x: x * x.detach().numpy().max(), "same way.*numpy"),
        (lambda x: x[x > 0].sum() + x, "one shape.*__getitem__"),
        (lambda x: Doubled.apply(x), "DoubledBackward, made out of sight"),
    ],
    ids=[
        "sort",
        "cumprod",
        "complex",
        "power",
        "dropout",
        "batch norm",
        "branch",
        "float",
        "int",
        "numpy",
        "shape",
        "out of sight",
    ],
)
def test_what_has_no_rule_is_refused_by_name(function: Callable[[Tensor], Tensor], said: str) -> None:
    net, x = Net(lambda x: function(x).relu()), double(2, 6).abs()
    with untouched(net, x), pytest.raises(UnsupportedOperationError, match=f"(?s){said}"):
        against(net, x, -x[:1])


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, upper: Tensor) -> Tensor:
        return upper * 2


def test_what_has_no_rule_is_no_matter_where_it_does_not_count() -> None:
    def aside(x: Tensor) -> Tensor:
        assert not torch.isnan(x).any()
        assert x.sort(1).indices.shape == x.shape
        x.std(1).median()
        return x.relu() + 0 * float(x.shape[0])

    x = double(2, 6)
    torch.testing.assert_close(against(Net(aside), x, 0 * x[:1], 1), against(Net(F.relu), x, 0 * x[:1], 1))


def test_no_gradient_at_all_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="without a gradient"):
        against(Net(lambda x: (x > 0).double()), double(2, 3), double(1, 3, seed=2))
    with pytest.raises(ModelError, match="finite|runs on batches"):
        against(Net(lambda x: x.view(7, -1)), double(2, 3), double(1, 3, seed=2))
