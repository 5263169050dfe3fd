from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from pnpxai.errors import InputError, ModelError, ParameterError, UnsupportedModelError
from pnpxai.explainers import ExtremalPerturbation
from pnpxai.explainers.extremal_perturbation import (
    area_gap,
    blur_pyramid,
    blurred_by,
    cells_for,
    max_convolution,
)
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import VGGLike, batch, seeded

PATCH = slice(8, 20), slice(16, 28)
SHARE = 144 / 1024


class TextureInPatch(nn.Module):
    """Class 0 if there is fine texture inside the patch; texture elsewhere plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Parameter(torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None] / 4)

    def forward(self, x: Tensor) -> Tensor:
        energy = F.conv2d(x, self.edges, padding=1).square()[:, 0, PATCH[0], PATCH[1]].mean((1, 2))
        return torch.stack([8 * (energy - 0.5), torch.zeros_like(energy)], 1)


def test_the_mask_of_the_patches_area_covers_the_patch() -> None:
    model, inputs = TextureInPatch(), batch(2, 1, 32, 32, seed=7)
    explainer = ExtremalPerturbation(model, areas=SHARE)
    masks = explainer.masks(explainer.request(inputs, 0))
    patch = torch.zeros(32, 32, dtype=torch.bool)
    patch[PATCH] = True
    assert masks.shape == (2, 1, 32, 32)
    for each in masks[:, 0]:
        kept = each > 0.5
        assert (kept & patch).sum() / (kept | patch).sum() > 0.8
        assert each.mean().item() == pytest.approx(SHARE, abs=0.02)
        assert ((each > 0.2) & (each < 0.8)).float().mean() < 0.1  # its border alone has a share of .05
    pyramid = blur_pyramid(inputs, 0.1 * 32)
    generator = torch.Generator().manual_seed(0)
    found = model(blurred_by(pyramid, masks[:, 0])).softmax(1)[:, 0]
    assert (found > 0.9).all()
    for _ in range(20):
        elsewhere = [masks[:, 0].flatten(1)[:, torch.randperm(1024, generator=generator)].reshape(2, 32, 32)]
        rows, columns = torch.randint(32, (2,), generator=generator).tolist()
        elsewhere.append(masks[:, 0].roll((rows, columns), (1, 2)))
        for each in elsewhere:
            assert (model(blurred_by(pyramid, each)).softmax(1)[:, 0] <= found + 1e-6).all()


@pytest.mark.parametrize("areas", [(0.1, 0.3, 0.6), (0.2,)])
def test_masks_have_their_areas_and_the_map_is_their_mean(areas: tuple[float, ...]) -> None:
    model = seeded(VGGLike()).double()  # whose masks do not hang on rounding
    inputs = 3 * batch(2, 3, 32, 32, dtype=torch.float64)[:, :, ::2, ::2]
    explainer = ExtremalPerturbation(model, areas=areas, max_iter=80, smoothness=0.07)
    masks = explainer.masks(explainer.request(inputs, [1, 3]))
    expected = torch.tensor(areas, dtype=torch.float64).expand(2, -1)
    torch.testing.assert_close(masks.mean((2, 3)), expected, rtol=0, atol=0.05)
    maps = explainer.attribute(inputs, [1, 3])
    torch.testing.assert_close(maps[:, 0], masks.mean(1))
    assert maps.min() >= 0
    assert maps.max() <= 1
    for each, area in zip(masks.unbind(1), areas, strict=True):
        alone = explainer.set_kwargs(areas=area).attribute(inputs, [1, 3])
        torch.testing.assert_close(alone[:, 0], each, rtol=0, atol=1e-5)


def slow_maximum(cells: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Pixel by pixel, cell by cell."""
    step = max(1, round(radius))
    reach = math.ceil(radius * (1 + 2 * math.sqrt(math.log(10))) / step)
    found = torch.zeros(size, dtype=cells.dtype)
    for y, x in itertools.product(*map(range, size)):
        over, under = 0.0, 0.0
        for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
            row, column = y // step + i, x // step + j
            away = math.hypot(y - (row * step + (step - 1) / 2), x - (column * step + (step - 1) / 2))
            value = math.exp(-(max(0.0, away / radius - 1) ** 2) / 4) * cells[row + reach, column + reach].item()
            over += value * math.exp(20 * value)
            under += math.exp(20 * value)
        found[y, x] = over / under
    return found


@pytest.mark.parametrize(("size", "radius"), [((9, 7), 1.0), ((7, 10), 2.2), ((8, 5), 0.4), ((11, 11), 3.4)])
def test_the_max_convolution_against_a_loop(size: tuple[int, int], radius: float) -> None:
    cells = batch(2, *cells_for(size, radius), dtype=torch.float64).sigmoid()
    found = max_convolution(cells, size, radius)
    for mask, own in zip(found, cells, strict=True):
        torch.testing.assert_close(mask, slow_maximum(own, size, radius))


def test_one_cell_is_a_disc() -> None:
    cells = torch.zeros(1, *cells_for((40, 40), 4.0))
    at = cells.shape[1] // 2
    cells[0, at, at] = 1.0
    mask = max_convolution(cells, (40, 40), 4.0)[0]
    y, x = divmod(int(mask.argmax()), 40)
    assert mask.max() > 0.999
    assert mask[y, x + 3] > 0.99
    assert mask[y, x + 16] < 0.1


def test_the_area_gap_is_that_of_sorted_values() -> None:
    masks = batch(5, 20, 10, seed=3, dtype=torch.float64).sigmoid()
    masks = torch.arange(200).double()[torch.stack([each.flatten().argsort() for each in masks])].reshape(5, 20, 10) / 8
    areas = torch.tensor([0.05, 0.1, 0.5, 0.9, 0.995], dtype=torch.float64)
    reference = torch.zeros(5, 200, dtype=torch.float64)
    for each, area in zip(reference, areas.tolist(), strict=True):
        each[200 - round(200 * area) :] = 1
    expected = (masks.flatten(1).sort(1).values - reference).square().mean(1)
    torch.testing.assert_close(area_gap(masks, areas), expected)


def test_equal_values_are_drawn_alike() -> None:
    masks = torch.full((1, 4, 5), 0.5, dtype=torch.float64)
    masks[0, 0] = 0.9
    masks.requires_grad_()
    gap = area_gap(masks, torch.tensor([0.4], dtype=torch.float64))
    assert gap.item() == pytest.approx((5 * 0.1**2 + 15 * (0.5 - 3 / 15) ** 2) / 20)
    (slope,) = torch.autograd.grad(gap.sum(), masks)
    torch.testing.assert_close(slope[0, 1:], torch.full((3, 5), 2 * (0.5 - 0.2) / 20, dtype=torch.float64))


def test_the_pyramid_blurs_less_and_less() -> None:
    images = batch(2, 3, 12, 9, dtype=torch.float64)
    pyramid = blur_pyramid(images, 5.0)
    for level, sigma in enumerate([5.0, 4.0, 3.0, 2.0, 1.0]):
        expected = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")
        torch.testing.assert_close(pyramid[:, level], torch.from_numpy(expected))
    assert torch.equal(pyramid[:, 5], images)
    masks = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    expected = [pyramid[:, 0], pyramid[:, 1], pyramid[:, 2:4].mean(1), pyramid[:, 4:].mean(1), images]
    for each, blurred in zip(masks, expected, strict=True):
        found = blurred_by(pyramid, each.expand(2, 12, 9))
        torch.testing.assert_close(found, blurred)


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_it_is_adam_on_the_objective(score: str) -> None:
    model, inputs = seeded(VGGLike()).double(), 3 * batch(2, 3, 16, 16, dtype=torch.float64)
    explainer = ExtremalPerturbation(
        model, areas=(0.1, 0.4), max_iter=12, smoothness=0.1, max_blur=0.2, lr=0.07, area_coeff=50.0, score=score
    )
    found = explainer.masks(explainer.request(inputs, [2, 4]))
    pyramid = blur_pyramid(inputs, 3.2)
    for (i, target), (j, area) in itertools.product(enumerate([2, 4]), enumerate([0.1, 0.4])):
        cells = torch.full((1, *cells_for((16, 16), 1.6)), 0.5, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([cells], lr=0.07)
        for step in range(12):
            mask = max_convolution(cells, (16, 16), 1.6)
            outputs = model(blurred_by(pyramid[i : i + 1], mask))[0]
            value = (outputs.softmax(0) if score == "probability" else outputs)[target]
            price = 50 * 10 ** (-6 * (12 - step) / 12)
            adam.zero_grad()
            (price * area_gap(mask, torch.tensor([area], dtype=torch.float64)).sum() - value).backward()
            adam.step()
            with torch.no_grad():
                cells.clamp_(0, 1)
        expected = max_convolution(cells.detach(), (16, 16), 1.6)[0]
        assert expected.std() > 0.05
        torch.testing.assert_close(found[i, j], expected, rtol=0, atol=1e-6)


def test_the_price_chunks_and_neighbours(set_chunk_size: Callable[[int], None]) -> None:
    model, inputs = seeded(VGGLike()).double(), 3 * batch(3, 3, 16, 16, dtype=torch.float64)
    explainer = ExtremalPerturbation(model, areas=(0.1, 0.3), max_iter=6)
    with count_forwards() as counter:
        expected = explainer.attribute(inputs, [1, 0, 2])
    assert counter.n_samples == 3 * 2 * 6
    with untouched(model, inputs):
        alone = explainer.attribute(inputs[1:2], 0)
    torch.testing.assert_close(alone, expected[1:2], rtol=0, atol=1e-9)
    for size in (1, 4):
        set_chunk_size(size)
        torch.testing.assert_close(explainer.attribute(inputs, [1, 0, 2]), expected, rtol=0, atol=1e-9)


class Detached(VGGLike):
    """Outputs without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class NaNWhenBlurred(VGGLike):
    """NaN for everything but the input itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x.amax() > 3.9)


def test_bad_models_inputs_and_parameters_say_so() -> None:
    inputs = batch(1, 3, 16, 16)
    inputs[0, 0, 5, 5] = 4.0
    with pytest.raises(UnsupportedModelError, match="score without a gradient"):
        ExtremalPerturbation(Detached(), max_iter=2).attribute(inputs, 0)
    with pytest.raises(ModelError, match="finite outputs on blurred inputs"):
        ExtremalPerturbation(seeded(NaNWhenBlurred()), max_iter=6).attribute(inputs, 0)
    with pytest.raises(InputError, match="inputs with 4 dimensions for ExtremalPerturbation"):
        ExtremalPerturbation(nn.Linear(3, 2)).attribute(batch(1, 3))
    for areas in (0.0, 1.0, (0.1, 1.5), ()):
        with pytest.raises(ParameterError, match="areas of ExtremalPerturbation to be a number in"):
            ExtremalPerturbation(VGGLike(), areas=areas)
