"""One operation under the rules, and its relevance worked out the slow way, without autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pnpxai.explainers import LRPUniformEpsilon
from pnpxai.relevance import MODULES, OPERATIONS, Account, AttentionRule, Propagation, Settings, Stabilizer

EPSILON = 1e-12
"""Small beside any denominator of these tests, and too small to show."""


class Function(nn.Module):
    """A function of tensors, as a model, with modules that it may use."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


@dataclass(frozen=True)
class Found:
    """What the rules made of a function: its output, the relevance of each input and the accounts."""

    output: Tensor
    relevance: tuple[Tensor, ...]
    accounts: list[Account]

    def absorbed(self, name: str) -> float:
        """The sum of a column of the accounts."""
        return sum(getattr(each, name) for each in self.accounts)

    def total(self) -> float:
        """Relevance of all inputs and all that was absorbed."""
        return float(sum(each.sum() for each in self.relevance)) + sum(each.absorbed for each in self.accounts)


def by_rules(
    model: nn.Module | Callable[..., Any],
    *inputs: Tensor,
    upper: Tensor | None = None,
    epsilon: float = EPSILON,
    relative: bool = False,
    attention: AttentionRule = "constant",
    composite: Any = None,
) -> Found:
    """Run a model under the rules and hand ``upper`` (by default the output) down to its inputs."""
    net = model if isinstance(model, nn.Module) else Function(model)
    net.requires_grad_(False)
    stabilizer = Stabilizer(epsilon, relative)
    chosen = composite or LRPUniformEpsilon(net, epsilon=epsilon, relative_epsilon=relative).zennit_composite
    propagation = Propagation(net, Settings(chosen, stabilizer, stabilizer, attention), measured=True)
    starts = [each.detach().clone().requires_grad_() for each in inputs]
    with torch.enable_grad(), propagation.ready(*starts), propagation:
        output = net(*starts)
    propagation.check(output, "at the end")
    given = output.detach() if upper is None else upper
    maps = torch.autograd.grad(output, starts, given, allow_unused=True)
    maps = tuple(torch.zeros_like(each) if found is None else found for each, found in zip(starts, maps, strict=True))
    return Found(output.detach(), maps, propagation.accounts)


def jacobian(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Of an affine function: what it adds that is constant, and its matrix for each input, unit vector by unit vector.

    Returns:
        The constant, flat, and for each input a matrix ``(outputs, inputs)``.
    """
    zeros = [torch.zeros_like(each) for each in inputs]
    with torch.no_grad():
        constant = function(*[each.clone() for each in zeros]).flatten()
        matrices = []
        for place, each in enumerate(inputs):
            columns = []
            for i in range(each.numel()):
                unit = [zero.clone() for zero in zeros]
                unit[place].view(-1)[i] = 1.0
                columns.append(function(*unit).flatten() - constant)
            matrices.append(torch.stack(columns, 1))
    return constant, matrices


def stabilized(z: Tensor, epsilon: float = EPSILON) -> Tensor:
    """The denominator of the ε-rule."""
    return z + epsilon * torch.where(z < 0, -torch.ones_like(z), 1.0)


def by_contribution(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], upper: Tensor, epsilon: float = EPSILON
) -> tuple[list[Tensor], float]:
    """The ε-rule of an affine function, contribution by contribution, and what its constants absorb."""
    constant, matrices = jacobian(function, *inputs)
    z = constant + sum(matrix @ each.flatten() for matrix, each in zip(matrices, inputs, strict=True))
    reached = sum(matrix.abs().sum(1) for matrix in matrices) > 0
    share = torch.where(z == 0, 0.0, upper.flatten() / stabilized(z, epsilon))
    constants = torch.where(reached, constant * share, upper.flatten())
    found = [
        (matrix * each.flatten() * share[:, None]).sum(0).reshape(each.shape)
        for matrix, each in zip(matrices, inputs, strict=True)
    ]
    return found, float(constants.sum())


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal, but for so much of the largest magnitude."""
    assert found.shape == expected.shape
    scale = float(expected.abs().max())
    assert torch.isfinite(found).all()
    assert float((found - expected).abs().max()) <= tolerance * max(scale, 1e-30)


def gaps(accounts: Sequence[Account]) -> float:
    """The largest share of an operation's relevance that is found nowhere."""
    shares = (
        abs(each.relevance_in - each.relevance_out - each.absorbed) / each.magnitude
        for each in accounts
        if each.magnitude
    )
    return max(shares, default=0.0)


@contextmanager
def table_kept() -> Iterator[None]:
    """Undo what the block registers."""
    before = dict(OPERATIONS), dict(MODULES)
    try:
        yield
    finally:
        for table, kept in zip((OPERATIONS, MODULES), before, strict=True):
            table.clear()
            table.update(kept)  # type: ignore[arg-type]
