from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ModelError, ParameterError
from pnpxai.explainers import RISE, _mask_sums
from pnpxai.forward import count_forwards
from tests.explainers.masks import draw_masks
from tests.explainers.test_masks import linear_value
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded

BY_SUMS = ["paper", "normalized", "centered"]
KINDS = {
    "image": (lambda: VGGLike(), (3, 16, 16), (4, 3)),
    "series": (lambda: TimeCNN(), (2, 24), (5,)),
    "features": (lambda: MLP(), (6,), None),
}


class ScarceMemory(nn.Module):
    """Runs out of memory above a number of rows, and tells how many rows it answered."""

    def __init__(self, net: nn.Module, most: int, tell: Callable[[int], object] = lambda rows: None) -> None:
        super().__init__()
        self.net, self.most, self.tell = net, most, tell

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.tell(len(x))
        return self.net(x)


def slow_map(
    model: nn.Module, x: Tensor, target: int, masks: Tensor, p_keep: float, baseline: float, estimator: str
) -> Tensor:
    """The definition, mask by mask."""
    scores = []
    for mask in masks:
        m = mask if x.ndim == 1 else mask[None]
        scores.append(model((x * m + baseline * (1 - m))[None]).softmax(1)[0, target].item())
    mean = sum(scores) / len(scores)
    total, weight = torch.zeros_like(masks[0]), torch.zeros_like(masks[0])
    for score, mask in zip(scores, masks, strict=True):
        total += (score - mean if estimator == "centered" else score) * mask
        weight += mask
    return total / weight if estimator == "normalized" else total / (len(masks) * p_keep)


@pytest.mark.parametrize("estimator", BY_SUMS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_slow_loop(kind: str, estimator: str) -> None:
    make, shape, grid = KINDS[kind]
    model, inputs = seeded(make()).double(), batch(2, *shape, dtype=torch.float64)
    targets = torch.tensor([2, 1])
    explainer = RISE(
        model, n_masks=70, grid_size=grid or 7, p_keep=0.4, baseline_fn=0.3, seed=5, estimator=estimator, batch_size=9
    )
    maps = explainer.attribute(inputs, targets)
    size = shape if grid is None else shape[1:]
    assert maps.shape == (2, *(() if grid is None else (1,)), *size)
    masks = draw_masks(0, 70, size, grid, 0.4, seed=5).double()
    for found, x, target in zip(maps, inputs, targets.tolist(), strict=True):
        expected = slow_map(model, x, target, masks, 0.4, 0.3, estimator)
        torch.testing.assert_close(found.reshape(size), expected, rtol=1e-5, atol=1e-8 * float(expected.abs().max()))


class FirstOutput(nn.Module):
    """``w·x + b`` of everything in ``x``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return ((x * self.weight).flatten(1).sum(1) + 2.0)[:, None]


def mask_covariance(size: tuple[int, int], grid: tuple[int, int], p_keep: float) -> Tensor:
    """``Cov(M_a, M_b)`` in closed form: p(1-p) times the mean over shifts of the overlap of the cells' weights."""
    factors = [-(-length // s) for length, s in zip(size, grid, strict=True)]
    weights = [
        torch.tensor([[linear_value(cell, t, factor) for t in range((s + 1) * factor)] for cell in torch.eye(s)])
        for s, factor in zip(grid, factors, strict=True)
    ]  # (s, length) along each axis
    total = torch.zeros(size[0] * size[1], size[0] * size[1], dtype=torch.float64)
    shifts = list(itertools.product(*(range(factor) for factor in factors)))
    for a, b in shifts:
        rows, columns = weights[0][:, a : a + size[0]].double(), weights[1][:, b : b + size[1]].double()
        cells = torch.einsum("iy,jx->ijyx", rows, columns).flatten(2).flatten(0, 1)  # (cells, positions)
        total += cells.T @ cells
    return p_keep * (1 - p_keep) * total / len(shifts)


@pytest.mark.parametrize("estimator", BY_SUMS)
def test_a_linear_model_has_its_closed_form(estimator: str) -> None:
    size, grid, p, n = (6, 5), (2, 2), 0.3, 4096
    weight = batch(2, *size, seed=3, dtype=torch.float64)
    x, baseline = batch(1, 2, *size, seed=4, dtype=torch.float64), 0.5
    slope = (weight * (x[0] - baseline)).sum(0).flatten()  # f = constant + Σ slope·M
    model = FirstOutput(weight)
    found = RISE(model, n_masks=n, grid_size=grid, p_keep=p, baseline_fn=baseline, estimator=estimator, seed=2)
    found = found.attribute(x, lambda outputs: outputs[:, 0]).flatten()

    covariance = mask_covariance(size, grid, p) @ slope
    mean_score = (weight * baseline).sum().item() + 2.0 + p * slope.sum().item()
    expected = covariance / p + (0.0 if estimator == "centered" else mean_score)

    masks = draw_masks(0, n, size, grid, p, seed=2).double().flatten(1)
    scores = (weight * baseline).sum() + 2.0 + masks @ slope
    if estimator == "paper":
        terms = scores[:, None] * masks / p
    elif estimator == "centered":
        terms = (scores - mean_score)[:, None] * (masks - p) / p
    else:  # to first order in 1/n, a ratio of means varies like its linearisation
        terms = (scores[:, None] - expected) * masks / p
    error = terms.std(0) / n**0.5
    assert ((found - expected).abs() < 4.5 * error).all()
    assert expected.sub(expected.mean()).abs().max() > 10 * error.max() or estimator == "paper"


def test_features_have_their_closed_form() -> None:
    """Independent bits: the centred map is ``(1 - p)·w·(x - baseline)``."""
    weight, x = batch(8, seed=1, dtype=torch.float64), batch(1, 8, seed=2, dtype=torch.float64)
    n, p = 8000, 0.7
    found = RISE(FirstOutput(weight), n_masks=n, p_keep=p, baseline_fn="mean")
    found = found.attribute(x, lambda outputs: outputs[:, 0])[0]
    slope = weight * (x[0] - x.mean())
    # Var[(f - Ef)(M - p)]/p² ≤ |slope|²·p(1-p)·max((1-p)², p²)/p²
    error = slope.norm() * (p * (1 - p)) ** 0.5 * max(p, 1 - p) / p / n**0.5
    assert (found - (1 - p) * slope).abs().max() < 4.5 * error
    assert error < 0.02 * slope.abs().max()


def test_the_score_is_the_probability() -> None:
    model, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    explainer = RISE(model, n_masks=40)
    by_class = explainer.attribute(inputs, 3)
    by_function = explainer.attribute(inputs, lambda outputs: outputs.softmax(1)[:, 3])
    torch.testing.assert_close(by_class, by_function)
    predicted = explainer.attribute(inputs)
    torch.testing.assert_close(predicted, explainer.attribute(inputs, model(inputs).argmax(1)))


@pytest.mark.parametrize("estimator", [*BY_SUMS, "ridge"])
def test_chunks_and_neighbours_do_not_matter(estimator: str) -> None:
    model, inputs = seeded(VGGLike()).double(), batch(5, 3, 16, 16, dtype=torch.float64)
    explainer = RISE(model, n_masks=50, grid_size=3, estimator=estimator)
    whole = explainer.attribute(inputs, [0, 1, 2, 3, 4])
    for size in (1, 2, 7, 64, 1000):
        again = explainer.set_kwargs(batch_size=size).attribute(inputs, [0, 1, 2, 3, 4])
        torch.testing.assert_close(again, whole, rtol=1e-10, atol=1e-14)
    for sample in range(5):
        alone = explainer.attribute(inputs[sample : sample + 1], sample)
        torch.testing.assert_close(alone, whole[sample : sample + 1], rtol=1e-10, atol=1e-14)


def test_each_masked_sample_is_asked_once() -> None:
    model, inputs = seeded(VGGLike()), batch(3, 3, 16, 16)
    with count_forwards() as counter:
        RISE(model, n_masks=33, batch_size=8).attribute(inputs, 1)
    assert counter.n_samples == 33 * 3
    with count_forwards() as counter:
        RISE(model, n_masks=33, batch_size=8).attribute(inputs)
    assert counter.n_samples == 34 * 3


def test_a_chunk_that_does_not_fit_is_halved() -> None:
    net, inputs = seeded(VGGLike()).double(), batch(3, 3, 16, 16, dtype=torch.float64)
    answered: list[int] = []
    scarce = ScarceMemory(net, 5, answered.append)
    found = RISE(scarce, n_masks=30, batch_size=64).attribute(inputs, 1)
    torch.testing.assert_close(found, RISE(net, n_masks=30).attribute(inputs, 1), rtol=1e-10, atol=1e-14)
    assert sum(answered) == 90


def test_one_input_that_does_not_fit_is_an_error() -> None:
    scarce = ScarceMemory(seeded(MLP()), most=0)
    with pytest.raises(ModelError, match="enough memory for one input"):
        RISE(scarce, n_masks=4).attribute(batch(2, 6), 1)


def test_a_feature_no_mask_keeps_gets_the_mean_score() -> None:
    model, inputs = seeded(MLP()).double(), batch(1, 6, dtype=torch.float64)
    masks = draw_masks(0, 3, (6,), None, 0.2, seed=0).double()
    never = masks.sum(0) == 0
    assert 0 < never.sum() < 6
    found = RISE(model, n_masks=3, p_keep=0.2, estimator="normalized").attribute(inputs, 0)[0]
    mean = model(inputs * masks).softmax(1)[:, 0].mean()
    torch.testing.assert_close(found[never], mean.expand(int(never.sum())))


def test_centring_takes_the_offset_out() -> None:
    """A score that never changes: nothing is relevant by the centred map, everything varies by the paper's."""
    model = nn.Linear(6, 2).double()
    constant = lambda outputs: outputs[:, 0] * 0 + 0.9  # noqa: E731
    inputs = batch(1, 6, dtype=torch.float64)
    assert RISE(model, n_masks=50).attribute(inputs, constant).abs().max() < 1e-12
    paper = RISE(model, n_masks=50, estimator="paper", sampling="independent").attribute(inputs, constant)
    assert paper.std() > 0.01


@pytest.mark.parametrize("shape", [(1, 3, 5, 9), (2, 1, 1, 1), (1, 2, 3)])
def test_inputs_smaller_than_the_grid_work(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Flatten(), seeded(nn.Linear(int(torch.Size(shape[1:]).numel()), 3)))
    found = RISE(model, n_masks=60, grid_size=16).attribute(batch(*shape), 0)
    assert found.shape == (shape[0], 1, *shape[2:])
    assert (found != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_full(dtype: torch.dtype) -> None:
    inputs = batch(1, 3, 16, 16)
    full = RISE(seeded(VGGLike()), n_masks=60, grid_size=3).attribute(inputs, 2)
    half = RISE(seeded(VGGLike()).to(dtype), n_masks=60, grid_size=3).attribute(inputs.to(dtype), 2)
    assert half.dtype == dtype
    assert torch.corrcoef(torch.stack([full.flatten(), half.float().flatten()]))[0, 1] > 0.99


class NaNWithoutCorner(nn.Linear):
    """NaN as soon as the first feature is missing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x[:, :1] != 0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"estimator": "best"}, ParameterError, "estimator of RISE to be one of 'paper'"),
        ({"n_masks": 0}, ParameterError, "n_masks"),
        ({"p_keep": 1.0}, ParameterError, "p_keep"),
        ({"grid_size": 0}, ParameterError, "grid_size"),
        ({"baseline_fn": "zeroes"}, ParameterError, "Did you mean 'zeros'"),
        ({}, ModelError, "finite outputs on masked inputs"),
    ],
)
def test_bad_parameters_and_models_say_so(change: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RISE(NaNWithoutCorner(6, 2), **{"n_masks": 20, **change}).attribute(torch.ones(1, 6), 0)


@pytest.mark.parametrize("estimator", ["paper", "centered", "normalized"])
def test_masks_are_added_up_part_by_part(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = RISE(seeded(VGGLike()), n_masks=70, estimator=estimator), batch(3, 3, 16, 16)
    whole = made.attribute(x, 1)
    monkeypatch.setattr(_mask_sums, "COLUMNS", 37)  # 256 positions in seven parts
    torch.testing.assert_close(made.attribute(x, 1), whole, rtol=1e-6, atol=1e-9)
