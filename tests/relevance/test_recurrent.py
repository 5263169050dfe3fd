"""Recurrent layers, against torch going forward and against an explicit loop over steps going backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from tests.nets import batch, seeded
from tests.relevance.explicit import Function, by_rules, close, gaps, stabilized

D = torch.float64
KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}
CELLS = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "rnn": nn.RNNCell,
    "rnn relu": lambda *a: nn.RNNCell(*a, nonlinearity="relu"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return batch(*shape, seed=seed, dtype=D)


def built(kind: str, *arguments: Any, **more: Any) -> Any:
    return seeded(KINDS[kind](*arguments, **more).double()).requires_grad_(False)


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "layers": {"num_layers": 3, "dropout": 0.5},
    "both ways": {"bidirectional": True},
    "layers both ways": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without biases": {"bias": False, "num_layers": 2},
    "projected": {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    "projected without biases": {"proj_size": 2, "bias": False},
}


@each_kind
@pytest.mark.parametrize("form", FORMS)
def test_going_forward_as_torch_does(kind: str, form: str) -> None:
    if "proj_size" in FORMS[form] and kind != "lstm":
        pytest.skip("only an LSTM is projected")
    net, x = built(kind, 3, 4, **FORMS[form]), numbers(5, 2, 3)
    output, last = net(x)
    states = last if isinstance(last, tuple) else (last,)
    for place, expected in enumerate((output, *states)):

        def function(x: Tensor, place: int = place) -> Tensor:
            output, last = net(x)
            return (output, *(last if isinstance(last, tuple) else (last,)))[place]

        found = by_rules(Function(function, net=net), x)
        close(found.output, expected, 1e-10)
        assert found.total() == pytest.approx(float(expected.sum()), rel=1e-8, abs=1e-8)
        assert gaps(found.accounts) < 1e-8


@each_kind
def test_states_of_ones_own_and_one_sequence(kind: str) -> None:
    net, x = built(kind, 3, 4, num_layers=2), numbers(5, 3)
    start: Any = numbers(2, 4, seed=2)
    start = (start, numbers(2, 4, seed=3)) if kind == "lstm" else start
    found = by_rules(Function(lambda x: net(x, start)[0], net=net), x)
    close(found.output, net(x, start)[0], 1e-10)
    assert found.total() == pytest.approx(float(found.output.sum()), rel=1e-8)


@each_kind
@pytest.mark.parametrize("both", [False, True])
def test_a_packed_batch_is_its_sequences(kind: str, both: bool) -> None:
    net = built(kind, 3, 4, num_layers=2, bidirectional=both, batch_first=True)
    x, lengths = numbers(3, 6, 3), [4, 6, 1]
    upper = numbers(3, 6, 8 if both else 4, seed=3)

    def packed(x: Tensor) -> Tensor:
        sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(net(sequence)[0], batch_first=True)[0]

    found = by_rules(Function(packed, net=net), x, upper=upper)
    close(found.output, packed(x), 1e-10)
    for i, length in enumerate(lengths):
        alone = by_rules(Function(lambda x: net(x)[0], net=net), x[i : i + 1, :length], upper=upper[i : i + 1, :length])
        close(found.relevance[0][i, :length], alone.relevance[0][0])
        assert not found.relevance[0][i, length:].any()


@each_kind
def test_the_last_states_of_a_packed_batch(kind: str) -> None:
    net, x, lengths = built(kind, 3, 4, bidirectional=True), [numbers(n, 3, seed=n) for n in (5, 3, 2)], (5, 3, 2)

    def last(*given: Tensor) -> Tensor:
        states = net(pack_sequence(list(given)))[1]
        return (states[0] if isinstance(states, tuple) else states).transpose(0, 1)

    found = by_rules(Function(last, net=net), *x)
    close(found.output, last(*x), 1e-10)
    for i in range(len(lengths)):
        alone = by_rules(Function(last, net=net), x[i])
        close(found.relevance[i], alone.relevance[0])


@each_kind
def test_cells_step_by_step_are_the_layer(kind: str) -> None:
    net, x, upper = built(kind, 3, 4), numbers(5, 2, 3), numbers(2, 4, seed=3)
    cell = CELLS[kind](3, 4).double()
    for name, parameter in cell.named_parameters():
        parameter.data.copy_(getattr(net, f"{name}_l0"))
    cell.requires_grad_(False)

    def steps(x: Tensor) -> Tensor:
        state: Any = None
        for each in x:
            state = cell(each, state)
        return state[0] if isinstance(state, tuple) else state

    layer = by_rules(Function(lambda x: net(x)[0][-1], net=net), x, upper=upper)
    found = by_rules(Function(steps, cell=cell), x, upper=upper)
    close(found.output, steps(x), 1e-10)
    close(found.relevance[0], layer.relevance[0])


@each_kind
def test_both_ways_is_one_way_and_the_other(kind: str) -> None:
    net, x, upper = built(kind, 3, 4, bidirectional=True), numbers(5, 2, 3), numbers(5, 2, 8, seed=3)
    ways = []
    for suffix in ("", "_reverse"):
        one = KINDS[kind](3, 4).double().requires_grad_(False)
        for name, parameter in one.named_parameters():
            parameter.copy_(getattr(net, name + suffix))
        ways.append(one)
    forth = by_rules(Function(lambda x: ways[0](x)[0], a=ways[0]), x, upper=upper[..., :4])
    back = by_rules(Function(lambda x: ways[1](x.flip(0))[0].flip(0), a=ways[1]), x, upper=upper[..., 4:])
    found = by_rules(Function(lambda x: net(x)[0], net=net), x, upper=upper)
    close(found.relevance[0], forth.relevance[0] + back.relevance[0])


def epsilon_rule(x: Tensor, weight: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
    """One sample: Σ_j x_i w_ji / z_j R_j, a loop over both."""
    found = torch.zeros_like(x)
    for j in range(len(z)):
        for i in range(len(x)):
            found[i] += x[i] * weight[j, i] / stabilized(z[j]) * relevance[j]
    return found


def loop_lstm(net: Any, x: Tensor, upper: Tensor) -> Tensor:
    """One sequence ``(t, d)``; gates get nothing, sums are shared in proportion."""
    size = net.hidden_size
    h, c = torch.zeros(size, dtype=D), torch.zeros(size, dtype=D)
    kept = []
    for each in x:
        mapped, turned = net.weight_ih_l0 @ each + net.bias_ih_l0, net.weight_hh_l0 @ h + net.bias_hh_l0
        i, f, g, o = (mapped + turned).split(size)
        i, f, o = (1 / (1 + (-gate).exp()) for gate in (i, f, o))
        new = f * c + i * g.tanh()
        cell = slice(2 * size, 3 * size)
        kept.append((each, h, mapped[cell], turned[cell], f * c, i * g.tanh(), new))
        h, c = o * new.tanh(), new
    found, at_h, at_c = [], upper, torch.zeros(size, dtype=D)
    w_ih, w_hh = net.weight_ih_l0[2 * size : 3 * size], net.weight_hh_l0[2 * size : 3 * size]
    for each, before, m, u, old, candidate, new in reversed(kept):
        at_c = at_c + at_h
        at_candidate = candidate / stabilized(new) * at_c
        at_c = old / stabilized(new) * at_c
        found.append(epsilon_rule(each, w_ih, m, m / stabilized(m + u) * at_candidate))
        at_h = epsilon_rule(before, w_hh, u, u / stabilized(m + u) * at_candidate)
    return torch.stack(found[::-1])


def loop_gru(net: Any, x: Tensor, upper: Tensor) -> Tensor:
    size = net.hidden_size
    h = torch.zeros(size, dtype=D)
    kept = []
    for each in x:
        mapped, turned = net.weight_ih_l0 @ each + net.bias_ih_l0, net.weight_hh_l0 @ h + net.bias_hh_l0
        r, z, m = mapped.split(size)
        r_h, z_h, u = turned.split(size)
        r, z = 1 / (1 + (-r - r_h).exp()), 1 / (1 + (-z - z_h).exp())
        new, old = (1 - z) * (m + r * u).tanh(), z * h
        kept.append((each, h, m, u, r * u, new, old))
        h = new + old
    found, at_h = [], upper
    w_ih, w_hh = net.weight_ih_l0[2 * size :], net.weight_hh_l0[2 * size :]
    for each, before, m, u, gated, new, old in reversed(kept):
        at_new, at_old = new / stabilized(new + old) * at_h, old / stabilized(new + old) * at_h
        found.append(epsilon_rule(each, w_ih, m, m / stabilized(m + gated) * at_new))
        at_h = at_old + epsilon_rule(before, w_hh, u, gated / stabilized(m + gated) * at_new)
    return torch.stack(found[::-1])


def loop_rnn(net: Any, x: Tensor, upper: Tensor) -> Tensor:
    h = torch.zeros(net.hidden_size, dtype=D)
    kept = []
    for each in x:
        m, u = net.weight_ih_l0 @ each + net.bias_ih_l0, net.weight_hh_l0 @ h + net.bias_hh_l0
        kept.append((each, h, m, u))
        h = (m + u).tanh() if net.mode == "RNN_TANH" else (m + u).clamp(min=0)
    found, at_h = [], upper
    for each, before, m, u in reversed(kept):
        found.append(epsilon_rule(each, net.weight_ih_l0, m, m / stabilized(m + u) * at_h))
        at_h = epsilon_rule(before, net.weight_hh_l0, u, u / stabilized(m + u) * at_h)
    return torch.stack(found[::-1])


LOOPS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "lstm": loop_lstm,
    "gru": loop_gru,
    "rnn": loop_rnn,
    "rnn relu": loop_rnn,
}


@each_kind
def test_going_backward_step_by_step(kind: str) -> None:
    net, x, upper = built(kind, 3, 4), numbers(5, 2, 3), numbers(2, 4, seed=3)
    found = by_rules(Function(lambda x: net(x)[0][-1], net=net), x, upper=upper)
    for sequence in range(2):
        close(found.relevance[0][:, sequence], LOOPS[kind](net, x[:, sequence], upper[sequence]), 1e-8)
