from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from pnpxai.errors import ParameterError
from pnpxai.explainers import RELAX, RISE, Explainer
from pnpxai.explainers._mask_basis import LARGEST_BASIS, GridBasis, mask_basis
from pnpxai.explainers._mask_ridge import PENALTIES, PRUDENCE
from pnpxai.explainers._masks import MaskBank
from pnpxai.forward import count_forwards
from tests.explainers.masks import draw_masks
from tests.explainers.test_rise import FirstOutput, mask_covariance
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "grid"), [((12, 9), (3, 2)), ((24,), (5,)), ((6,), None), ((300, 40), (4, 3)), ((9, 6, 5), (3, 2, 2))]
)
def test_a_mask_is_its_expectation_and_its_components(size: tuple[int, ...], grid: tuple[int, ...] | None) -> None:
    p = 0.3
    basis = mask_basis(size, grid, p, CPU)
    masks = draw_masks(0, 400, size, grid, p, seed=3).double().flatten(1)
    left_out = masks - p - basis.expand(basis.coordinates(*MaskBank(size, grid, p, 3).draw_bits(0, 400)))
    assert left_out.square().sum() < 1.5e-3 * (masks - p).square().sum()
    if grid is None:
        assert left_out.abs().max() < 1e-6


def test_components_have_the_masks_covariance() -> None:
    size, grid, p = (8, 6), (3, 2), 0.4
    basis = mask_basis(size, grid, p, CPU)
    scaled = basis.expand(torch.eye(len(basis.spread), dtype=torch.float64))  # (d, p)
    expected = mask_covariance(size, grid, p)
    gap = expected - scaled.T @ scaled
    assert 0 <= gap.trace() < 1e-3 * expected.trace()
    assert torch.linalg.eigvalsh(gap).min() > -1e-6  # what is left out is a covariance, too
    assert (basis.spread.diff() <= 0).all()


def test_coordinates_are_white() -> None:
    basis = mask_basis((16, 16), (4, 4), 0.5, CPU)
    n = 40_000
    z = basis.coordinates(*MaskBank((16, 16), (4, 4), 0.5, 0).draw_bits(0, n))
    assert z.mean(0).abs().max() < 5 / math.sqrt(n)
    covariance = z.T @ z / n
    assert (covariance - torch.eye(z.shape[1])).abs().max() < 0.1  # fourth moments up to 16: 5 · 4 / sqrt(n)


def test_large_bases_are_cut() -> None:
    basis = mask_basis((64, 64), (16, 16), 0.5, CPU)
    assert isinstance(basis, GridBasis)
    assert len(basis.spread) == LARGEST_BASIS
    assert mask_basis((LARGEST_BASIS + 1,), None, 0.5, CPU) is None
    x = batch(1, LARGEST_BASIS + 1)
    model = FirstOutput(batch(LARGEST_BASIS + 1, seed=1))
    maps = [
        RISE(model, n_masks=64, estimator=each).attribute(x, lambda outputs: outputs[:, 0])
        for each in ("ridge", "centered")
    ]
    assert torch.equal(*maps)


def by_sklearn(masks: Tensor, scores: Tensor, covariance: Tensor, largest: float, p_keep: float) -> Tensor:
    """Ridge on the masks' values, each penalty tried, the one with the least generalised cross-validation error."""
    fitted = fitted_by_sklearn(masks, scores, largest)
    return covariance @ torch.from_numpy(fitted.coef_) / p_keep


def fitted_by_sklearn(masks: Tensor, scores: Tensor, largest: float) -> Ridge:
    m, values, f = len(masks), masks.numpy(), scores.numpy()
    spectrum = np.linalg.eigvalsh(np.cov(values.T, bias=True) * m).clip(0)
    best, chosen = np.inf, Ridge()
    for penalty in PENALTIES.tolist():
        alpha = m * penalty * largest
        fitted = Ridge(alpha=alpha, solver="cholesky").fit(values, f)
        left = m - PRUDENCE * (1 + (spectrum / (spectrum + alpha)).sum())
        error = np.square(f - fitted.predict(values)).sum() / left**2
        if left > 0 and error < best:
            best, chosen = error, fitted
    return chosen


@pytest.mark.parametrize("n_masks", [60, 300])
def test_it_is_ridge_regression_times_the_covariance(n_masks: int) -> None:
    size, grid, p = (16, 16), (4, 3), 0.4
    model, inputs = seeded(VGGLike()).double(), batch(2, 3, 16, 16, dtype=torch.float64)
    targets = torch.tensor([2, 1])
    explainer = RISE(model, n_masks=n_masks, grid_size=grid, p_keep=p, seed=5, estimator="ridge")
    maps = explainer.attribute(inputs, targets).flatten(1)
    masks = draw_masks(0, n_masks, size, grid, p, seed=5).double()
    covariance = mask_covariance(size, grid, p)
    largest = float(torch.linalg.eigvalsh(covariance).max())
    for found, x, target in zip(maps, inputs, targets, strict=True):
        scores = model(x * masks[:, None]).softmax(1)[:, target].detach()
        expected = by_sklearn(masks.flatten(1), scores, covariance, largest, p)
        assert (found - expected).norm() < 0.02 * expected.norm()  # a thousandth of the variance is left out


def test_means_of_relax_are_ridge_regression_too() -> None:
    model, inputs, p = seeded(MLP()).double().requires_grad_(False), batch(2, 6, dtype=torch.float64), 0.6
    found = RELAX(model, n_masks=80, p_keep=p, seed=1, estimator="ridge").explain(inputs)
    masks = draw_masks(0, 80, (6,), None, p, seed=1).double()
    covariance = p * (1 - p) * torch.eye(6, dtype=torch.float64)
    for i, x in enumerate(inputs):
        change = torch.cosine_similarity(model(x * masks), model(x[None])) - 1
        mean, squared = (
            each.mean() + by_sklearn(masks, each, covariance, p * (1 - p), p) for each in (change, change**2)
        )
        torch.testing.assert_close(found.importance[i], mean + 1, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(found.uncertainty[i], (squared - mean**2).clamp(min=0), rtol=1e-5, atol=1e-12)


def test_features_are_ridge_regression_too() -> None:
    model, inputs, p = seeded(MLP()).double(), batch(3, 6, dtype=torch.float64), 0.6
    maps = RISE(model, n_masks=50, p_keep=p, seed=1, estimator="ridge").attribute(inputs, 1)
    masks = draw_masks(0, 50, (6,), None, p, seed=1).double()
    covariance = p * (1 - p) * torch.eye(6, dtype=torch.float64)
    for found, x in zip(maps, inputs, strict=True):
        scores = model(x * masks).softmax(1)[:, 1].detach()
        torch.testing.assert_close(found, by_sklearn(masks, scores, covariance, p * (1 - p), p), rtol=1e-6, atol=1e-12)


def test_a_linear_model_has_its_closed_form_from_few_masks() -> None:
    """No noise but the masks': what the centred estimator needs thousands of masks for."""
    size, grid, p = (6, 5), (2, 2), 0.3
    weight = batch(2, *size, seed=3, dtype=torch.float64)
    x, baseline = batch(1, 2, *size, seed=4, dtype=torch.float64), 0.5
    slope = (weight * (x[0] - baseline)).sum(0).flatten()
    expected = mask_covariance(size, grid, p) @ slope / p
    errors = {}
    for estimator in ("ridge", "centered"):
        explainer = RISE(
            FirstOutput(weight), n_masks=100, grid_size=grid, p_keep=p, baseline_fn=baseline, estimator=estimator
        )
        found = explainer.attribute(x, lambda outputs: outputs[:, 0]).flatten()
        errors[estimator] = float((found - expected).norm() / expected.norm())
    assert errors["ridge"] < 0.02 < 0.08 < errors["centered"]


@pytest.mark.parametrize("kind", [RISE, RELAX])
@pytest.mark.parametrize(("make", "shape"), [(VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (MLP, (6,))])
def test_a_larger_budget_continues_a_smaller_one(make: type, shape: tuple[int, ...], kind: type[Explainer]) -> None:
    model, inputs = seeded(make()), batch(2, *shape)
    explainer = kind(model, n_masks=90, grid_size=3, estimator="ridge")
    steps = list(explainer.refine(inputs, 1, [20, 90]))
    for n, found in zip((20, 90), steps, strict=True):
        torch.testing.assert_close(found, explainer.set_kwargs(n_masks=n).attribute(inputs, 1), rtol=1e-4, atol=1e-6)


def test_nothing_is_found_where_nothing_changes() -> None:
    maps = RISE(FirstOutput(torch.zeros(2, 6, 6)), n_masks=30, grid_size=2, estimator="ridge")
    found = maps.attribute(batch(1, 2, 6, 6), lambda outputs: outputs[:, 0])
    assert found.abs().max() < 1e-15
    one = RISE(seeded(VGGLike()), n_masks=1, estimator="ridge").attribute(batch(1, 3, 16, 16))
    assert torch.equal(one, torch.zeros(1, 1, 16, 16))


def test_the_standard_error_is_that_of_the_posterior() -> None:
    """``σ²(XᵀX + λ)⁻¹``, inverted as it stands, with ``σ²`` from the residuals."""
    model, inputs, p, n = seeded(MLP()).double().requires_grad_(False), batch(2, 6, dtype=torch.float64), 0.6, 50
    found = RISE(model, n_masks=n, p_keep=p, seed=1, estimator="ridge").explain(inputs, 1)
    masks = draw_masks(0, n, (6,), None, p, seed=1).double()
    centred = masks - masks.mean(0)
    for i, x in enumerate(inputs):
        scores = model(x * masks).softmax(1)[:, 1]
        fitted = fitted_by_sklearn(masks, scores, p * (1 - p))
        precision = torch.linalg.inv(centred.T @ centred + fitted.alpha * torch.eye(6))
        freedom = 1 + torch.trace(centred @ precision @ centred.T)
        noise = np.square(scores.numpy() - fitted.predict(masks.numpy())).sum() / (n - freedom)
        expected = (noise * precision.diagonal()).sqrt() * (1 - p)  # effects are p(1 - p)/p of the coefficients
        torch.testing.assert_close(found.standard_error[i], expected, rtol=1e-6, atol=0.0)
        ratio = expected.square().mean().sqrt() / found.relevance[i].std(correction=0)
        torch.testing.assert_close(found.relative_error[i], ratio)


@pytest.mark.parametrize(("make", "shape"), [(VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (MLP, (6,))])
def test_standard_errors_cover_the_map_of_all_masks(make: type, shape: tuple[int, ...]) -> None:
    model, inputs = seeded(make()), batch(3, *shape)
    drawn = {"grid_size": 3, "sampling": "independent"}
    explainer = RISE(model, n_masks=20_000, seed=99, estimator="centered", **drawn)
    truth = explainer.attribute(inputs, 1)
    covered, errors, expected = [], [], []
    for seed in range(8):
        found = RISE(model, n_masks=300, seed=seed, estimator="ridge", **drawn).explain(inputs, 1)
        covered.append(((found.relevance - truth).abs() <= 1.96 * found.standard_error).float().mean())
        errors.append((found.relevance - truth).flatten(1).square().mean(1).sqrt() / truth.flatten(1).std(1))
        expected.append(found.relative_error)
    assert 0.82 < torch.stack(covered).mean() <= 1.0  # 0.95 if residuals spread alike under all masks
    assert 0.7 < torch.stack(errors).mean() / torch.stack(expected).mean() < 1.3


@pytest.mark.parametrize(("make", "shape"), [(VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (MLP, (6,))])
def test_sobol_masks_err_less_and_say_so(make: type, shape: tuple[int, ...]) -> None:
    model, inputs = seeded(make()), batch(3, *shape)
    truth = RISE(model, n_masks=2**15, grid_size=3, seed=99).attribute(inputs, 1)
    errors, expected, within = [], {}, []
    for seed in range(4):
        for sampling in ("independent", "sobol"):
            explainer = RISE(model, n_masks=256, grid_size=3, seed=seed, estimator="ridge", sampling=sampling)
            found = explainer.explain(inputs, 1)
            expected.setdefault(sampling, []).append(found.relative_error)
        errors.append((found.relevance - truth).flatten(1).square().mean(1).sqrt() / truth.flatten(1).std(1))
        within.append(((found.relevance - truth).abs() <= 1.96 * found.standard_error).float().mean())
    said = {sampling: torch.stack(each).mean() for sampling, each in expected.items()}
    assert torch.stack(errors).mean() < 1.1 * said["sobol"]
    assert said["sobol"] < 0.8 * said["independent"]
    assert torch.stack(within).mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("make", "shape"), [(VGGLike, (3, 16, 16)), (MLP, (6,))])
@pytest.mark.parametrize("n_masks", [1, 2, 15])
def test_errors_of_few_masks_are_not_known(
    make: type, shape: tuple[int, ...], dtype: torch.dtype, n_masks: int
) -> None:
    explainer = RISE(seeded(make()).to(dtype), n_masks=n_masks, estimator="ridge")
    found = explainer.explain(batch(2, *shape, dtype=dtype))
    assert torch.isinf(found.standard_error).all()
    assert torch.isinf(found.relative_error).all()


def test_what_no_mask_kept_is_not_sure() -> None:
    model = seeded(MLP()).double()
    found = RISE(model, n_masks=64, p_keep=0.02, estimator="ridge").explain(batch(1, 6, dtype=torch.float64))
    kept = draw_masks(0, 64, (6,), None, 0.02, seed=0).sum(0)
    assert kept.max() < 10
    assert torch.isinf(found.standard_error).all()


def test_an_error_is_asked_of_the_regression_alone() -> None:
    with count_forwards() as counter, pytest.raises(ParameterError, match="estimator='ridge'"):
        RISE(seeded(VGGLike()), n_masks=40).explain(batch(1, 3, 16, 16))
    assert counter.n_samples == 0


def test_inputs_in_a_tuple_and_half_precision() -> None:
    model, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    explainer = RISE(model, n_masks=60, grid_size=3, estimator="ridge")
    alone, packed = explainer.explain(inputs, 1), explainer.explain((inputs,), 1)
    assert torch.equal(packed.relevance[0], alone.relevance)
    assert torch.equal(packed.relative_error, alone.relative_error)
    assert (alone.relative_error > 0.01).all()
    half = explainer.set_kwargs(model=seeded(VGGLike()).half()).explain(inputs.half(), 1)
    torch.testing.assert_close(half.relative_error, alone.relative_error, rtol=0.1, atol=0.0)


@pytest.mark.parametrize("level", [0.0, 1e6, 1e9])
def test_a_large_mean_score_takes_nothing_away(level: float) -> None:
    """Only the last digits of the scores themselves are lost."""
    weight, x = batch(8, seed=1, dtype=torch.float64), batch(3, 8, seed=2, dtype=torch.float64)
    model = FirstOutput(weight)
    plain = RISE(model, n_masks=120, estimator="ridge").explain(x, lambda outputs: outputs[:, 0].sin())
    shifted = RISE(model, n_masks=120, estimator="ridge").explain(x, lambda outputs: outputs[:, 0].sin() + level)
    torch.testing.assert_close(shifted.relevance, plain.relevance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(shifted.standard_error, plain.standard_error, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("length", "cells"), [(1000, 100), (600, 200), (700, 5)])
def test_long_axes_have_their_components_too(length: int, cells: int) -> None:
    basis = mask_basis((length,), (cells,), 0.5, CPU)
    masks = draw_masks(0, 200, (length,), (cells,), 0.5, seed=3).double()
    left_out = masks - 0.5 - basis.expand(basis.coordinates(*MaskBank((length,), (cells,), 0.5, 3).draw_bits(0, 200)))
    assert left_out.square().sum() < 3e-3 * (masks - 0.5).square().sum()
