"""Recurrent layers written out step by step, so that each gate, sum and product goes by its own rule.

A gate (what a sigmoid gives) is held constant, as in Arras et al., 2017 (arXiv 1706.07206): the cell state and the
candidate get all relevance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from pnpxai.relevance._call import depends

State: TypeAlias = tuple[Tensor, ...]
Weights: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""``w_hh``, ``b_hh`` and an LSTM's projection ``w_hr``."""
Cell: TypeAlias = Callable[[Tensor, State, Weights], State]


def lstm(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.lstm`` on padded or packed sequences."""
    output, (h, c) = _layers(_lstm, args)
    return output, h, c


def gru(*args: Any) -> tuple[Tensor, Tensor]:
    """``torch.gru`` on padded or packed sequences."""
    output, (h,) = _layers(_gru, args)
    return output, h


def rnn_tanh(*args: Any) -> tuple[Tensor, Tensor]:
    """``torch.rnn_tanh`` on padded or packed sequences."""
    output, (h,) = _layers(_rnn(torch.tanh), args)
    return output, h


def rnn_relu(*args: Any) -> tuple[Tensor, Tensor]:
    """``torch.rnn_relu`` on padded or packed sequences."""
    output, (h,) = _layers(_rnn(torch.relu), args)
    return output, h


def lstm_cell(x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> State:
    """``torch.lstm_cell``."""
    return _lstm(F.linear(x, w_ih, b_ih), tuple(state), (w_hh, b_hh, None))


def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    """``torch.gru_cell``."""
    return _gru(F.linear(x, w_ih, b_ih), (h,), (w_hh, b_hh, None))[0]


def rnn_tanh_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    """``torch.rnn_tanh_cell``."""
    return _rnn(torch.tanh)(F.linear(x, w_ih, b_ih), (h,), (w_hh, b_hh, None))[0]


def rnn_relu_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    """``torch.rnn_relu_cell``."""
    return _rnn(torch.relu)(F.linear(x, w_ih, b_ih), (h,), (w_hh, b_hh, None))[0]


def _lstm(mapped: Tensor, state: State, weights: Weights) -> State:
    w_hh, b_hh, w_hr = weights
    i, f, g, o = (mapped + F.linear(state[0], w_hh, b_hh)).chunk(4, -1)
    c = _gated(f.sigmoid(), state[1]) + _gated(i.sigmoid(), g.tanh())
    h = _gated(o.sigmoid(), c.tanh())
    return (h if w_hr is None else F.linear(h, w_hr)), c


def _gru(mapped: Tensor, state: State, weights: Weights) -> State:
    w_hh, b_hh, _ = weights
    r, z, n = mapped.chunk(3, -1)
    r_h, z_h, n_h = F.linear(state[0], w_hh, b_hh).chunk(3, -1)
    z = (z + z_h).sigmoid()
    new = (n + _gated((r + r_h).sigmoid(), n_h)).tanh()
    return (_gated(1 - z, new) + _gated(z, state[0]),)


def _gated(gate: Tensor, value: Tensor) -> Tensor:
    """Their product; also where the value is constant, as at the first step, the gate gets no relevance."""
    if depends(value):
        return gate * value
    with torch._C.DisableTorchFunction():
        return gate.detach() * value


def _rnn(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(mapped: Tensor, state: State, weights: Weights) -> State:
        w_hh, b_hh, _ = weights
        return (activation(mapped + F.linear(state[0], w_hh, b_hh)),)

    return cell


def _layers(cell: Cell, args: Sequence[Any]) -> tuple[Tensor, State]:
    """All layers and directions.

    Args:
        cell: one step.
        args: of ``torch.lstm`` and its kin: ``(input, state, weights, has_biases, n_layers, dropout, training,
            bidirectional, batch_first)``, or with packed data ``(data, batch_sizes, state, weights, …,
            bidirectional)``.
    """
    packed = isinstance(args[3], tuple | list)
    data, sizes = args[0], args[1].tolist() if packed else None
    state, weights, has_biases, n_layers, dropout, training, both = args[2 if packed else 1 :][:7]
    first = not packed and args[8]
    states = tuple(state) if isinstance(state, tuple | list) else (state,)
    xs = list(data.split(sizes) if sizes else data.unbind(1 if first else 0))
    n_directions = 2 if both else 1
    each_has = len(weights) // (n_layers * n_directions)
    last: list[State] = []
    for layer in range(n_layers):
        ways = []
        for way in range(n_directions):
            place = layer * n_directions + way
            own = list(weights[place * each_has : (place + 1) * each_has])
            start = tuple(each[place] for each in states)
            out, end = _direction(cell, xs, start, own, has_biases, reverse=way == 1)
            ways.append(out)
            last.append(end)
        xs = [torch.cat(each, -1) for each in zip(*ways, strict=True)] if both else ways[0]
        if training and dropout and layer < n_layers - 1:
            xs = [F.dropout(each, dropout) for each in xs]
    output = torch.cat(xs) if sizes else torch.stack(xs, 1 if first else 0)
    return output, tuple(torch.stack(each) for each in zip(*last, strict=True))


def _direction(
    cell: Cell, xs: Sequence[Tensor], state: State, weights: Sequence[Tensor], has_biases: bool, *, reverse: bool
) -> tuple[list[Tensor], State]:
    """One direction of one layer over steps ``(b, d)``, of which packed ones get fewer sequences."""
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = weights[2:4] if has_biases else (None, None)
    w_hr = weights[-1] if len(weights) in (3, 5) else None
    outputs = []
    for x in reversed(xs) if reverse else xs:
        b = len(x)
        new = cell(F.linear(x, w_ih, b_ih), tuple(each[:b] for each in state), (w_hh, b_hh, w_hr))
        outputs.append(new[0])
        state = (
            new
            if b == len(state[0])
            else tuple(torch.cat([changed, each[b:]]) for changed, each in zip(new, state, strict=True))
        )
    return outputs[::-1] if reverse else outputs, state
