"""Conservation in networks that hypothesis puts together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pnpxai.explainers import LRPEpsilonPlus, LRPUniformEpsilon
from tests.nets import batch, seeded

D = torch.float64


class Part(nn.Module):
    """``(n, 4, 6, 6)`` to the same, without biases."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.pointwise = nn.Conv2d(4, 8, 1, bias=False)
        self.linear = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.attention = nn.MultiheadAttention(4, 2, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return PARTS[self.kind](self, x)


def tokens(part: Part, x: Tensor) -> Tensor:
    sequence = x.flatten(2).transpose(1, 2)
    return part.attention(sequence, sequence, sequence)[0].transpose(1, 2).reshape(x.shape)


PARTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "convolution": lambda part, x: part.conv(x),
    "relu": lambda part, x: F.leaky_relu(x, 0.1),
    "gelu in place of relu": lambda part, x: F.gelu(x),
    "in place": lambda part, x: F.silu(x.clone(), inplace=True),
    "residual": lambda part, x: x + part.conv(x).relu(),
    "residual in place": lambda part, x: part.conv(x).add_(x),
    "difference": lambda part, x: x - 0.5 * part.conv(x),
    "gate": lambda part, x: x * part.conv(x).sigmoid(),
    "squeeze and excite": lambda part, x: x * part.linear(x.mean((2, 3))).sigmoid()[:, :, None, None],
    "gated linear unit": lambda part, x: F.glu(part.pointwise(x), 1),
    "layer scale": lambda part, x: x + part.scale * part.conv(x),
    "product": lambda part, x: x * part.conv(x),
    "batch norm": lambda part, x: part.norm(part.conv(x)),
    "batch norm alone": lambda part, x: part.norm(x.relu() + x),
    "group norm": lambda part, x: part.group(x),
    "layer norm": lambda part, x: part.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "rms norm": lambda part, x: x * (x.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt(),
    "pooling": lambda part, x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    "average": lambda part, x: F.avg_pool2d(x, 3, 1, 1),
    "join": lambda part, x: torch.cat([part.conv(x)[:, :2], x[:, 2:]], 1),
    "attention": tokens,
    "over its norm": lambda part, x: x / (x.norm(dim=1, keepdim=True) + 1e-3),
    "maximum": lambda part, x: torch.maximum(x, part.conv(x)),
}


class Chain(nn.Sequential):
    """``(n, 4, 6, 6)`` to ``(n, 3)``."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__(*(Part(each) for each in kinds), nn.Flatten(), nn.Linear(144, 3, bias=False))


def chain(kinds: list[str], seed: int) -> nn.Module:
    net = seeded(Chain(kinds).double(), seed)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return net


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.integers(0, 2),
)
def test_relevance_adds_up_to_the_output(kinds: list[str], seed: int, target: int) -> None:
    net, x = chain(kinds, seed), batch(2, 4, 6, 6, seed=seed, dtype=D)
    explainer = LRPUniformEpsilon(net, epsilon=1e-14, stabilizer=1e-14, relative_epsilon=True)
    found = explainer.attribute(x, target).flatten(1)
    outputs = net(x).detach()[:, target]
    scale = found.abs().sum(1).clamp(min=outputs.abs())
    assert ((found.sum(1) - outputs).abs() <= 1e-6 * scale).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.sampled_from([LRPUniformEpsilon, LRPEpsilonPlus]),
    st.sampled_from(["constant", "attnlrp"]),
    st.sampled_from([1e-6, 1e-2]),
    st.booleans(),
)
def test_the_ledger_closes_with_any_epsilon(
    kinds: list[str], seed: int, cls: Any, attention: Any, epsilon: float, relative: bool
) -> None:
    net, x = seeded(Chain(kinds).double(), seed), batch(1, 4, 6, 6, seed=seed, dtype=D)
    explainer = cls(net, epsilon=epsilon, stabilizer=epsilon, attention=attention, relative_epsilon=relative)
    ledger = explainer.ledger(x, 1)
    assert ledger.largest_gap < 1e-6
    largest = max(each.magnitude for each in ledger.entries)
    assert ledger.unexplained == pytest.approx(0.0, abs=1e-6 * max(largest, abs(ledger.output)))
