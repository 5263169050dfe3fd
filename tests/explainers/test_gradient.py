from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ModelError, TargetError, UnsupportedModelError
from pnpxai.explainers import Gradient, GradientXInput
from pnpxai.forward import ForwardCounter, count_forwards
from tests.harm import untouched
from tests.nets import RaisesAt, VGGLike, Wrapped, as_dict, as_tuple, batch, breaks_in_backward, seeded


class Quadratic(nn.Module):
    """``f_k(x) = x' A_k x`` on ``(n, d)``; its gradient is ``(A_k + A_k') x``."""

    def __init__(self, d: int = 5, k: int = 3) -> None:
        super().__init__()
        self.matrices = nn.Parameter(batch(k, d, d, seed=3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,kij,nj->nk", x, self.matrices, x)


class Product(nn.Module):
    """``f(a, b) = Σ a · b``, of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True)


def test_gradient_of_a_quadratic_form() -> None:
    net, x = Quadratic(), batch(4, 5, dtype=torch.float64)
    expected = x @ (net.matrices[2] + net.matrices[2].T)
    torch.testing.assert_close(Gradient(net).attribute(x, 2), expected.detach())
    torch.testing.assert_close(GradientXInput(net).attribute(x, 2), (expected * x).detach())


def test_gradient_by_finite_differences() -> None:
    net = seeded(VGGLike().double())
    x = batch(2, 3, 16, 16, dtype=torch.float64)
    maps = Gradient(net).attribute(x, torch.tensor([1, 4]))
    for image, channel, row, column in [(0, 0, 3, 5), (1, 2, 8, 8), (1, 1, 15, 0)]:
        step = torch.zeros_like(x)
        step[image, channel, row, column] = 1e-6
        slope = (net(x + step) - net(x - step))[image, [1, 4][image]] / 2e-6
        assert maps[image, channel, row, column].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


def test_no_target_is_the_predicted_class_and_a_function_chooses_its_own_score() -> None:
    net, x = Quadratic(), batch(6, 5, dtype=torch.float64)
    predicted = net(x).argmax(1)
    torch.testing.assert_close(Gradient(net).attribute(x), Gradient(net).attribute(x, predicted))
    contrast = Gradient(net).attribute(x, lambda outputs: outputs[:, 0] - 2 * outputs[:, 1])
    expected = Gradient(net).attribute(x, 0) - 2 * Gradient(net).attribute(x, 1)
    torch.testing.assert_close(contrast, expected)


def test_several_inputs_get_a_map_each() -> None:
    a, b = batch(3, 4), batch(3, 4, seed=2)
    slopes = Gradient(Product()).attribute((a, b))
    assert torch.equal(slopes[0], b)
    assert torch.equal(slopes[1], a)


def test_an_input_without_influence_gets_zeros() -> None:
    class First(Product):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sum(1, keepdim=True)

    slopes = Gradient(First()).attribute((batch(2, 3), batch(2, 3)))
    assert slopes[0].tolist() == [[1.0] * 3] * 2
    assert slopes[1].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("wrap", [as_dict, as_tuple])
def test_structured_outputs(wrap: Callable[[Tensor], object]) -> None:
    net, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    assert torch.equal(Gradient(Wrapped(net, wrap).eval()).attribute(x, 1), Gradient(net).attribute(x, 1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_in_every_gradient_mode_and_leaves_the_model_alone(mode: Callable[[], torch.no_grad]) -> None:
    net, x = seeded(VGGLike(inplace=True)).train(), batch(2, 3, 16, 16)
    expected = Gradient(net).attribute(x, 1)
    with mode(), untouched(net, x):
        assert torch.equal(Gradient(net).attribute(x, 1), expected)


def test_every_chunk_size_and_neighbourhood_gives_the_same_map(set_chunk_size: Callable[[int], None]) -> None:
    net, x = seeded(VGGLike()), batch(7, 3, 16, 16)
    whole = Gradient(net).attribute(x)
    set_chunk_size(3)
    torch.testing.assert_close(Gradient(net).attribute(x), whole)
    torch.testing.assert_close(Gradient(net).attribute(x[4:5]), whole[4:5])


class FailsAbove(nn.Module):
    """Runs out of memory on more than two samples."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


def test_a_chunk_that_does_not_fit_is_halved() -> None:
    net, x = seeded(VGGLike()), batch(8, 3, 16, 16)
    with count_forwards() as counter:
        maps = Gradient(FailsAbove(net).eval()).attribute(x, 1)
    torch.testing.assert_close(maps, Gradient(net).attribute(x, 1))
    assert counter == ForwardCounter(n_samples=8 + 4 + 2 + 2 + 2 + 2, n_calls=6), "8 and 4 fail"


def test_failures_say_what_to_do() -> None:
    net, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    with pytest.raises(ModelError, match="the gradient broke here"):
        Gradient(Wrapped(net, breaks_in_backward).eval()).attribute(x, 1)
    broken = RaisesAt(net, 2).eval()
    with untouched(broken, x), pytest.raises(ModelError, match="the network broke here"):
        Gradient(broken).attribute(x)
    with pytest.raises(UnsupportedModelError, match="without a gradient"):
        Gradient(Wrapped(net, Tensor.detach).eval()).attribute(x, 1)
    with pytest.raises(TargetError, match="0 to 4"):
        Gradient(net).attribute(x, 5)
