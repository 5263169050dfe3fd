from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from pnpxai.baselines import baseline_for
from pnpxai.forward import count_forwards
from pnpxai.metrics import Infidelity
from pnpxai.metrics._subsets import random_subsets
from tests.metrics.oracles import linear_model
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 12), (3, 1, 11, 13)])
def test_none_for_the_exact_map_of_a_linear_model(shape: tuple[int, ...]) -> None:
    x, weights = batch(*shape, dtype=torch.float64), batch(*shape[1:], seed=2, dtype=torch.float64)
    baseline = batch(*shape, seed=3, dtype=torch.float64)
    exact = weights * (x - baseline)
    plain = Infidelity(linear_model(weights.flatten().tolist()), baseline_fn=baseline, score="logit")
    scaled = plain.set_kwargs(normalize=True)
    zeros = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(plain.evaluate(x, 0, exact), zeros, rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled.evaluate(x, 0, -3 * exact), zeros, rtol=0, atol=1e-12)
    lost = plain.evaluate(x, 0, 0 * exact)  # E[Δf²], which a map of zeros leaves
    torch.testing.assert_close(plain.evaluate(x, 0, 3 * exact), 4 * lost)
    torch.testing.assert_close(scaled.evaluate(x, 0, 0 * exact), lost)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("baseline_fn", ["zeros", "mean", "blur"])
@pytest.mark.parametrize(("net", "shape"), [(MLP, (3, 6)), (TimeCNN, (3, 2, 24)), (VGGLike, (3, 3, 16, 16))])
def test_against_captum(net: type, shape: tuple[int, ...], baseline_fn: str, normalize: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.metrics import infidelity
    model, x = seeded(net().double()), batch(*shape, dtype=torch.float64)
    phi, targets = batch(*shape, seed=4, dtype=torch.float64), torch.tensor([0, 2, 1])
    absent = baseline_for(baseline_fn, x)
    positions = shape[2:] or shape[1:]
    subsets = random_subsets(30, int(torch.tensor(positions).prod()), 5, seed=3).reshape(30, *positions)
    gone = subsets[:, None] if len(shape) > 2 else subsets

    def perturb(inputs: Tensor, baselines: Tensor) -> tuple[Tensor, Tensor]:
        removed = gone.repeat(3, *[1] * (gone.ndim - 1))
        moved = torch.where(removed, inputs - baselines, 0.0)
        return moved, inputs - moved

    expected = infidelity(
        lambda inputs: model(inputs).softmax(1),
        perturb,
        x,
        phi,
        baselines=absent,
        target=targets,
        n_perturb_samples=30,
        normalize=normalize,
    )
    f = subsets[0].numel()
    metric = Infidelity(
        model,
        n_perturbations=30,
        subset_share=5 / f,
        grid_size=None,
        baseline_fn=baseline_fn,
        normalize=normalize,
        seed=3,
    )
    torch.testing.assert_close(metric.evaluate(x, targets, phi * (x - absent)), expected, rtol=1e-9, atol=1e-12)


def test_normalizing_is_the_best_scale() -> None:
    model, x, maps = seeded(VGGLike().double()), batch(2, 3, 16, 16, dtype=torch.float64), batch(2, 16, 16, seed=4)
    best = Infidelity(model, normalize=True).evaluate(x, 1, maps)
    scales = torch.linspace(-0.02, 0.02, 401, dtype=torch.float64)
    plain = torch.stack([Infidelity(model).evaluate(x, 1, scale * maps) for scale in scales])
    assert (plain.amin(0) >= best - 1e-12).all()
    torch.testing.assert_close(plain.amin(0), best.double(), rtol=1e-3, atol=0)


def test_the_cost() -> None:
    with count_forwards() as counter:
        Infidelity(seeded(MLP()), n_perturbations=33).evaluate(batch(4, 6), None, batch(4, 6, seed=2))
    assert counter.n_samples == 4 * (1 + 33)
