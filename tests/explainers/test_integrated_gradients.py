from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor, nn

from pnpxai.baselines import Blur
from pnpxai.errors import ParameterError
from pnpxai.explainers import IntegratedGradients
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded


@pytest.mark.parametrize("baseline_fn", ["zeros", "mean", 0.7])
def test_a_linear_model_exactly(baseline_fn: str | float) -> None:
    net, x = seeded(nn.Linear(6, 3).double()), batch(4, 6, dtype=torch.float64)
    base = {"zeros": torch.zeros_like(x), "mean": x.mean(1, keepdim=True).expand_as(x), 0.7: torch.full_like(x, 0.7)}
    expected = (x - base[baseline_fn]) * net.weight[1]
    found = IntegratedGradients(net, n_steps=3, baseline_fn=baseline_fn).attribute(x, 1)
    torch.testing.assert_close(found, expected.detach())


def test_a_cubic_by_hand() -> None:
    """``f = x³ + y² z`` from zero: the integrals are ``x³``, ``2/3 y² z`` and ``1/3 y² z``.

    The midpoint rule's error is at most the integrand's second derivative over ``24 s²``; in ``u = √a`` the integrand
    of ``∫ a² da`` is ``2 u⁵``, which makes ``40 / (24 s²)`` for an integral of 1/3.
    """

    class Cubic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (x[:, 0] ** 3 + x[:, 1] ** 2 * x[:, 2])[:, None]

    x = batch(5, 3, dtype=torch.float64)
    a, b, c = x.T
    expected = torch.stack([a**3, 2 * b**2 * c / 3, b**2 * c / 3], 1)
    for n in (4, 40, 400):
        found = IntegratedGradients(Cubic(), n_steps=n).attribute(x)
        torch.testing.assert_close(found, expected, rtol=5 / n**2, atol=0)


def smooth_net() -> nn.Module:
    return seeded(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(96, 4))
    )


@pytest.mark.parametrize(("make", "shape"), [(smooth_net, (4, 3, 8, 8)), (lambda: seeded(MLP()), (4, 6))])
def test_completeness_of_a_smooth_and_of_a_piecewise_linear_net(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    net, x = make(), batch(*shape)
    n_steps = {} if make is smooth_net else {"n_steps": 1000}
    baseline = Blur(2.0)(x)
    sums = IntegratedGradients(net, baseline_fn=Blur(2.0), **n_steps).attribute(x, 2).flatten(1).sum(1)
    change = (net(x) - net(baseline))[:, 2]
    assert (sums - change).abs().max() < 1e-3 * change.abs().max()


def test_more_steps_come_nearer_to_completeness() -> None:
    net, x = seeded(TimeCNN().double()), batch(6, 2, 24, dtype=torch.float64)
    change = (net(x) - net(torch.zeros_like(x)))[:, 0]
    gaps = [
        (IntegratedGradients(net, n_steps=n).attribute(x, 0).flatten(1).sum(1) - change).abs().mean().item()
        for n in (5, 50, 500)
    ]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]
    with count_forwards() as counter:
        IntegratedGradients(net, n_steps=5).attribute(x, 0)
    assert counter.n_samples == 30


def test_against_captum() -> None:
    net, x = smooth_net().double(), batch(3, 3, 8, 8, dtype=torch.float64)
    targets = torch.tensor([0, 3, 1])
    theirs = CaptumIntegratedGradients(net).attribute(
        x.clone().requires_grad_(), torch.full_like(x, -0.5), target=targets, n_steps=50, method="gausslegendre"
    )
    ours = IntegratedGradients(net, n_steps=500, baseline_fn=-0.5).attribute(x, targets)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_every_chunk_size_and_neighbourhood_gives_the_same_map(set_chunk_size: Callable[[int], None]) -> None:
    net, x = seeded(VGGLike()), batch(4, 3, 16, 16)
    method = IntegratedGradients(net, n_steps=9, baseline_fn="blur")
    whole = method.attribute(x)
    torch.testing.assert_close(method.attribute(x[2:3]), whole[2:3])
    set_chunk_size(7)
    with untouched(net, x), torch.no_grad():
        torch.testing.assert_close(method.attribute(x), whole)


def test_several_inputs() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(1, keepdim=True)

    a, b = batch(3, 4), batch(3, 4, seed=2)
    for each in IntegratedGradients(Product()).attribute((a, b)):
        torch.testing.assert_close(each, a * b / 2, rtol=1e-3, atol=0)  # 12 / (24 s²) for 1/2


def test_impossible_arguments() -> None:
    with pytest.raises(ParameterError, match="n_steps"):
        IntegratedGradients(MLP(), n_steps=0)
    with pytest.raises(ParameterError, match="zeros"):
        IntegratedGradients(MLP(), baseline_fn="zero").attribute(batch(1, 6))
    with pytest.raises(ParameterError, match="baseline"):
        IntegratedGradients(MLP(), baseline_fn=torch.zeros(5)).attribute(batch(1, 6))
