from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ParameterError
from pnpxai.explainers import Gradient, SmoothGrad, VarGrad
from pnpxai.explainers._noise import standard_noise
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import VGGLike, batch, seeded


class Cubic(nn.Module):
    """``f(x) = Σ_i a_i x_i³``: under noise of deviation σ the gradient ``3 a (x + ε)²`` has known mean and variance."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return ((x**3 + self.offset * x) @ self.a)[:, None]


def slow_gradients(x: Tensor, net: Cubic, n_samples: int, noise_level: float, seed: int) -> Tensor:
    """``(s, n, d)``, one image and one noise at a time, by the formula of the derivative."""
    rows = []
    for i in range(n_samples):
        (noise,) = standard_noise((x,), seed, i)
        rows.append(
            torch.stack([3 * net.a * (each + noise * noise_level * (max(each) - min(each))) ** 2 for each in x])
        )
    return torch.stack(rows).detach() + net.offset * net.a.detach()


def test_against_the_formulas_on_the_same_noise() -> None:
    net, x = Cubic(), batch(4, 3, dtype=torch.float64)
    slow = slow_gradients(x, net, 7, 0.3, seed=5)
    torch.testing.assert_close(SmoothGrad(net, n_samples=7, noise_level=0.3, seed=5).attribute(x), slow.mean(0))
    expected = (slow**2).mean(0) - slow.mean(0) ** 2
    torch.testing.assert_close(VarGrad(net, n_samples=7, noise_level=0.3, seed=5).attribute(x), expected)


def test_against_the_expectation_over_all_noise() -> None:
    net, x, n = Cubic(), torch.tensor([[1.0, -0.5, 0.25]], dtype=torch.float64), 4000
    sigma = 0.2 * 1.5
    a = net.a.detach()
    mean = 3 * a * (x**2 + sigma**2)
    variance = 9 * a**2 * (4 * x**2 * sigma**2 + 2 * sigma**4)
    found = SmoothGrad(net, n_samples=n, noise_level=0.2).attribute(x)
    assert ((found - mean).abs() < 4 * (variance / n).sqrt()).all()
    squares = VarGrad(net, n_samples=n, noise_level=0.2).attribute(x)
    # a squared Gaussian's kurtosis is at most 15, so that the variance of the variance is at most 14 V² / n
    assert ((squares - variance).abs() < 4 * variance * (14 / n) ** 0.5).all()


def test_the_variance_survives_a_large_mean() -> None:
    net, x = Cubic(offset=1e4).float(), batch(2, 3)
    exact = slow_gradients(x.double(), Cubic(offset=1e4), 20, 0.1, seed=0).var(0, unbiased=False)
    torch.testing.assert_close(
        VarGrad(net, n_samples=20, noise_level=0.1).attribute(x).double(), exact, rtol=0.02, atol=1e-6
    )


def test_noise_is_the_same_for_every_image_chunk_and_neighbour(set_chunk_size: Callable[[int], None]) -> None:
    net, x = seeded(VGGLike()).double(), batch(5, 3, 16, 16, dtype=torch.float64)
    for method in (SmoothGrad(net, n_samples=6, seed=2), VarGrad(net, n_samples=6, seed=2)):
        whole = method.attribute(x)
        torch.testing.assert_close(method.attribute(x[[3, 3, 1]]), whole[[3, 3, 1]])
        for size in (1, 4, 64):
            set_chunk_size(size)
            torch.testing.assert_close(method.attribute(x), whole)


def test_seed_level_and_number_matter() -> None:
    net, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    for cls in (SmoothGrad, VarGrad):
        map_of = {repr(e): e.attribute(x) for e in [cls(net), cls(net, seed=1), cls(net, noise_level=0.4)]}
        for each in map_of.values():
            assert sum(torch.allclose(each, other) for other in map_of.values()) == 1
        with count_forwards() as counter:
            cls(net, n_samples=9).attribute(x, 0)
        assert counter.n_samples == 18


def test_little_noise_is_the_gradient() -> None:
    net, x = Cubic(), batch(4, 3, dtype=torch.float64)
    torch.testing.assert_close(SmoothGrad(net, noise_level=1e-9).attribute(x), Gradient(net).attribute(x))


def test_several_inputs_and_no_harm() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Cubic()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.net(a) + 2 * self.net(b)

    net, a, b = Sum(), batch(2, 3, dtype=torch.float64), batch(2, 3, seed=7, dtype=torch.float64)
    noises = [standard_noise((a, b), 0, i) for i in range(4)]
    with untouched(net, a, b), torch.inference_mode():
        found = SmoothGrad(net, n_samples=4, noise_level=0.1).attribute((a, b))
    for place, (x, factor) in enumerate(((a, 1), (b, 2))):
        spread = (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)) * 0.1
        expected = sum(3 * factor * net.net.a * (x + spread * noise[place]) ** 2 for noise in noises) / 4
        torch.testing.assert_close(found[place], expected.detach())


def test_impossible_arguments() -> None:
    for arguments in ({"n_samples": 0}, {"noise_level": 0.0}, {"noise_level": -0.1}, {"seed": -1}):
        with pytest.raises(ParameterError):
            SmoothGrad(Cubic(), **arguments)
    with pytest.raises(ParameterError):
        VarGrad(Cubic(), n_samples=1)
