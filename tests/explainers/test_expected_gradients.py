from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor, nn

from pnpxai.baselines import Blur, Mean
from pnpxai.errors import ParameterError
from pnpxai.explainers import ExpectedGradients
from pnpxai.explainers._references import references_for
from pnpxai.explainers.expected_gradients import draws
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import MLP, VGGLike, batch, seeded


class Cubic(nn.Module):
    """``f(x) = Σ_i a_i x_i³``, whose integral from ``x'`` is ``a (x³ − x'³)``, feature by feature."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x**3 @ self.a)[:, None]


class Product(nn.Module):
    """``f(a, b) = Σ a b``, whose integrals are ``(a − a')(b + b')/2`` and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True) * self.one


def test_a_linear_model_exactly() -> None:
    net, x, background = seeded(nn.Linear(6, 3).double()), batch(4, 6, dtype=torch.float64), batch(5, 6, seed=3)
    for n in (5, 20):  # whole rounds
        found = ExpectedGradients(net, n_samples=n, background=background).attribute(x, 1)
        torch.testing.assert_close(found, ((x - background.double().mean(0)) * net.weight[1]).detach())


def test_each_draw_alone_is_unbiased() -> None:
    m, seeds = 4, 4000
    drawn = [draws(seed, m, 0, 7) for seed in range(seeds)]
    which, alphas = (torch.stack(each) for each in zip(*drawn, strict=True))
    for draw in (0, 3, 5):
        counts = torch.bincount(which[:, draw], minlength=m) / seeds
        assert ((counts - 1 / m).abs() < 4 * (3 / 16 / seeds) ** 0.5).all()
        for reference in range(m):  # α is as uniform whichever reference is drawn
            own = alphas[which[:, draw] == reference, draw]
            assert (own.mean() - 0.5).abs() < 4 / (12 * len(own)) ** 0.5
            assert ((own**2).mean() - 1 / 3).abs() < 4 * (4 / 45 / len(own)) ** 0.5


def test_the_mean_over_seeds_is_the_expectation() -> None:
    net, x, background = Cubic(), batch(2, 3, dtype=torch.float64), batch(5, 3, seed=4, dtype=torch.float64)
    exact = (net.a * (x**3 - (background**3).mean(0))).detach()
    maps = torch.stack(
        [ExpectedGradients(net, n_samples=3, background=background, seed=s).attribute(x) for s in range(400)]
    )
    assert ((maps.mean(0) - exact).abs() < 4 * maps.std(0) / 20).all()


def test_the_error_is_a_fraction_of_that_of_independent_draws() -> None:
    """Which is the root of ``variance / n``, the variance taken over even α and all references."""
    net, x, background = Cubic(), batch(4, 3, dtype=torch.float64), batch(3, 3, seed=4, dtype=torch.float64)
    exact = (net.a * (x**3 - (background**3).mean(0))).detach()
    alphas = (torch.arange(1000, dtype=torch.float64)[:, None, None, None] + 0.5) / 1000
    way = x[:, None] - background
    terms = (way * 3 * net.a * (background + alphas * way) ** 2).detach()  # (α, n, m, d)
    independent = (terms.var((0, 2), correction=0) / 300).sqrt()
    errors = [
        ExpectedGradients(net, n_samples=300, background=background, seed=seed).attribute(x) - exact
        for seed in range(20)
    ]
    assert (torch.stack(errors).square().mean(0).sqrt() < independent / 4).all()


def smooth_net() -> nn.Module:
    return seeded(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(96, 4))
    ).double()


def captum_average(net: nn.Module, x: Tensor, references: list[Tensor], targets: Tensor) -> Tensor:
    """Integrated gradients from each reference by captum, averaged."""
    maps = [
        CaptumIntegratedGradients(net).attribute(x, each, target=targets, n_steps=50, method="gausslegendre")
        for each in references
    ]
    return torch.stack(maps).mean(0).detach()


def test_against_captum_from_one_baseline_and_from_several() -> None:
    net, x, targets = smooth_net(), batch(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 3, 1])
    background = batch(3, 3, 8, 8, seed=5, dtype=torch.float64)
    one = captum_average(net, x, [torch.full_like(x, -0.5)], targets)
    found = ExpectedGradients(net, n_samples=1000, background=-0.5).attribute(x, targets)
    torch.testing.assert_close(found, one, rtol=0, atol=3e-3 * float(one.abs().max()))
    several = captum_average(net, x, [each.expand_as(x) for each in background], targets)
    found = ExpectedGradients(net, n_samples=1500, background=background).attribute(x, targets)
    torch.testing.assert_close(found, several, rtol=0, atol=3e-3 * float(several.abs().max()))


def test_without_a_background_it_is_each_samples_own_zeros_mean_and_blur() -> None:
    net, x, targets = smooth_net(), batch(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 3, 1])
    own = [torch.zeros_like(x), x.mean((2, 3), keepdim=True).expand_as(x), Blur()(x)]
    expected = captum_average(net, x, own, targets)
    found = ExpectedGradients(net, n_samples=1500).attribute(x, targets)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3 * float(expected.abs().max()))
    features = batch(2, 6)
    (rows,) = references_for(None, (features,)).rows(torch.tensor([1, 1]), torch.tensor([0, 1]))
    torch.testing.assert_close(rows, torch.stack([torch.zeros(6), features[1].mean().expand(6)]))


def test_draws_are_the_same_for_every_sample_chunk_and_neighbour(set_chunk_size: Callable[[int], None]) -> None:
    net, x = seeded(VGGLike()).double(), batch(5, 3, 16, 16, dtype=torch.float64)
    for background in (None, batch(4, 3, 16, 16, seed=9)):
        method = ExpectedGradients(net, n_samples=6, background=background, seed=2)
        whole = method.attribute(x)
        torch.testing.assert_close(method.attribute(x[[3, 3, 1]]), whole[[3, 3, 1]])
        for size in (1, 4, 64):
            set_chunk_size(size)
            torch.testing.assert_close(method.attribute(x), whole)


def test_several_inputs_and_no_harm() -> None:
    a, b = batch(3, 4, dtype=torch.float64), batch(3, 4, seed=2, dtype=torch.float64)
    background = (batch(2, 4, seed=3, dtype=torch.float64), batch(2, 4, seed=4, dtype=torch.float64))
    net = Product()
    expected = [
        sum((x - x0) * (y + y0) / 2 for x0, y0 in zip(*pair, strict=True)) / 2
        for x, y, pair in ((a, b, background), (b, a, background[::-1]))
    ]
    with untouched(net, a, b, *background), torch.inference_mode():
        found = ExpectedGradients(net, n_samples=2000, background=background).attribute((a, b))
    for each, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(each, exact, rtol=0, atol=2e-3)
    with_baselines = ExpectedGradients(net, n_samples=2000, background="zeros").attribute((a, b))
    torch.testing.assert_close(with_baselines[0], a * b / 2, rtol=0, atol=2e-3)


def test_up_to_the_number_of_references_none_comes_twice_and_the_budget_is_the_cost() -> None:
    for seed, n in itertools.product(range(3), (3, 8)):
        assert len(set(draws(seed, 8, 0, n)[0].tolist())) == n
    with count_forwards() as counter:
        ExpectedGradients(seeded(MLP()), n_samples=9, background=batch(100, 6)).attribute(batch(2, 6), 0)
    assert counter.n_samples == 18


def test_a_background_may_be_a_number_a_role_a_function_or_of_another_dtype() -> None:
    net, x = seeded(MLP()), batch(2, 6)
    same = [
        ExpectedGradients(net, n_samples=8, background=each).attribute(x, 1)
        for each in ("mean", Mean(), lambda inputs: inputs.mean(1, keepdim=True).expand_as(inputs))
    ]
    for each in same[1:]:
        torch.testing.assert_close(each, same[0])
    rows = [
        ExpectedGradients(net, n_samples=8, background=each).attribute(x, 1)
        for each in (torch.full((3, 6), 0.5), torch.full((3, 6), 0.5, dtype=torch.float64).requires_grad_())
    ]
    torch.testing.assert_close(rows[1], rows[0])


@pytest.mark.parametrize(
    ("background", "said"),
    [
        (torch.zeros(6), r"\(m, 6\).*\(6,\)"),
        (torch.zeros(3, 5), r"\(m, 6\).*\(3, 5\)"),
        (torch.zeros(0, 6), "m ≥ 1"),
        ((torch.zeros(3, 6), torch.zeros(3, 6)), "one tensor for each input"),
        ([[0.0] * 6], "one tensor for each input.*list"),
        ((), "one tensor for each input; received none"),
        (torch.full((2, 6), torch.nan), "NaN"),
        (torch.full((2, 6), 1e300, dtype=torch.float64), "infinity"),
        ("zero", "zeros"),
        (object(), "BaselineFunction"),
    ],
    ids=["sample", "features", "none", "two", "list", "empty", "nan", "overflow", "name", "object"],
)
def test_impossible_backgrounds(background: object, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        ExpectedGradients(seeded(MLP()), background=background).attribute(batch(1, 6))


def test_the_rows_of_several_backgrounds_belong_together() -> None:
    with pytest.raises(ParameterError, match="one m"):
        references_for((torch.zeros(2, 3), torch.zeros(3, 3)), (torch.zeros(1, 3), torch.zeros(1, 3)))


def test_impossible_arguments() -> None:
    for arguments in ({"n_samples": 0}, {"n_samples": 2.5}, {"seed": -1}):
        with pytest.raises(ParameterError):
            ExpectedGradients(Cubic(), **arguments)
