from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from pnpxai.errors import InputError, ModelError, ParameterError, UnsupportedModelError
from pnpxai.explainers import MP
from pnpxai.explainers.mp import blur, disturb, total_variation
from pnpxai.forward import count_forwards
from tests.nets import VGGLike, batch, seeded

PATCH = slice(8, 20), slice(16, 28)


class TextureInPatch(nn.Module):
    """Class 0 if there is fine texture inside the patch; texture elsewhere plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Parameter(torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None] / 4)

    def forward(self, x: Tensor) -> Tensor:
        energy = F.conv2d(x, self.edges, padding=1).square()[:, 0, PATCH[0], PATCH[1]].mean((1, 2))
        return torch.stack([8 * (energy - 0.5), torch.zeros_like(energy)], 1)


class ScarceMemory(nn.Module):
    """Runs out of memory above a number of rows."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most = net, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.net(x)


def slow_optimisation(
    model: nn.Module, x: Tensor, target: int, destructive: bool, steps: int
) -> tuple[Tensor, list[float]]:
    """One image, torch's own Adam, sums written out."""
    axis = torch.arange(-2, 3, dtype=x.dtype)
    bell = torch.exp(-(axis**2) / (2 * 1.5**2))
    bell = bell / bell.sum()
    kernel = (bell[:, None] * bell[None]).expand(x.shape[0], 1, 5, 5)
    blurred = F.conv2d(F.pad(x[None], (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[0])
    mask = torch.full((1, 1, 4, 6), 0.5, requires_grad=True)
    adam, losses = torch.optim.Adam([mask], lr=0.1), []
    for _ in range(steps):
        kept = F.interpolate(mask, x.shape[1:], mode="bilinear", align_corners=False).to(x.dtype)
        score = model(kept * x + (1 - kept) * blurred).softmax(1)[0, target]
        cells = mask[0, 0]
        rows = sum((abs(cells[i] - cells[i + 1]) ** 2.5).sum() for i in range(3)) / 18
        columns = sum((abs(cells[:, j] - cells[:, j + 1]) ** 2.5).sum() for j in range(5)) / 20
        area = (1 - cells).sum() / 24 if destructive else cells.sum() / 24
        loss = (score if destructive else -score) + 0.05 * area + 0.3 * (rows + columns)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return mask.detach(), losses


@pytest.mark.parametrize("convention", ["destructive", "constructive"])
def test_it_is_adam_on_the_objective(convention: str) -> None:
    model, inputs = seeded(VGGLike()).double(), 3 * batch(2, 3, 16, 16, dtype=torch.float64)
    explainer = MP(
        model,
        tv_beta=2.5,
        lr=0.1,
        max_iter=15,
        l1_coeff=0.05,
        tv_coeff=0.3,
        mask_shape=(4, 6),
        kernel_size=5,
        sigma=1.5,
        convention=convention,
    )
    targets = model(inputs).argmax(1)
    found = explainer.optimise(explainer.request(inputs, targets), 15)
    masks, losses = found.masks, found.losses
    maps = explainer.attribute(inputs, targets)
    for sample, target in enumerate(targets.tolist()):
        mask, expected = slow_optimisation(model, inputs[sample], target, convention == "destructive", 15)
        assert mask.std() > 0.05
        torch.testing.assert_close(masks[sample], mask[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(losses[:, sample], torch.tensor(expected), rtol=1e-4, atol=1e-5)
        kept = F.interpolate(mask, (16, 16), mode="bilinear", align_corners=False)[0].double()
        expected_map = 1 - kept if convention == "destructive" else kept
        torch.testing.assert_close(maps[sample], expected_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("add_noise", [False, True])
@pytest.mark.parametrize("convention", ["destructive", "constructive"])
def test_it_finds_the_patch_and_its_loss_falls(convention: str, add_noise: bool) -> None:
    model, inputs = TextureInPatch(), batch(2, 1, 32, 32, seed=7)
    assert (model(inputs).softmax(1)[:, 0] > 0.95).all()
    assert (model(blur(inputs, (11, 11), 5.0)).softmax(1)[:, 0] < 0.05).all()
    explainer = MP(
        model, max_iter=200, l1_coeff=0.3, lr=0.05, mask_shape=(16, 16), convention=convention, add_noise=add_noise
    )
    maps = explainer.attribute(inputs, 0)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[PATCH] = True
    near = F.max_pool2d(inside[None].float(), 5, 1, 2)[0] > 0
    for each in maps[:, 0]:
        assert each[inside].sum() / each.sum() > 0.7  # the patch is 14 % of the image
        assert each[~near].mean() < 0.05
    windows = explainer.optimise(explainer.request(inputs, 0), 200).losses.mean(1).reshape(8, 25).mean(1)
    assert (windows.diff() < (0.01 if add_noise else 1e-4)).all()
    assert windows[-1] < windows[0] - 0.04


def test_an_image_whose_loss_falls_no_further_is_left_as_it_is() -> None:
    model, inputs = seeded(VGGLike()).double(), 3 * batch(4, 3, 16, 16, dtype=torch.float64)
    targets, tol = model(inputs).argmax(1), 2e-3
    arguments = {"mask_shape": (5, 4), "kernel_size": 5}
    whole = MP(model, max_iter=90, **arguments)
    losses = whole.optimise(whole.request(inputs, targets), 90).losses
    stops = [
        next((s for s in range(20, 90) if losses[s - 20 : s - 10, i].mean() - losses[s - 10 : s, i].mean() < tol), 90)
        for i in range(4)
    ]
    assert len(set(stops)) > 1
    assert min(stops) < 60
    explainer = MP(model, max_iter=90, tol=tol, **arguments)
    with count_forwards() as counter:
        maps = explainer.attribute(inputs, targets)
    assert counter.n_samples == sum(stops)
    for i, stop in enumerate(stops):
        alone = MP(model, max_iter=stop, **arguments).attribute(inputs[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(maps[i : i + 1], alone, rtol=0, atol=1e-5)
    *_, continued = explainer.refine(inputs, targets, (30, 55, 90))
    torch.testing.assert_close(continued, maps, rtol=0, atol=1e-5)


def test_a_batch_is_its_images_and_chunks_do_not_matter(set_chunk_size: Callable[[int], None]) -> None:
    model, inputs = seeded(VGGLike()).double(), 3 * batch(5, 3, 16, 16, dtype=torch.float64)
    targets = model(inputs).argmax(1).tolist()
    explainer = MP(model, max_iter=8, mask_shape=(5, 4), kernel_size=5, add_noise=True, seed=3)
    whole = explainer.attribute(inputs, targets)
    assert whole.flatten(1).std(1).median() > 0.1
    for sample in range(5):
        alone = explainer.attribute(inputs[sample : sample + 1], targets[sample])
        torch.testing.assert_close(alone, whole[sample : sample + 1], rtol=0, atol=1e-5)
    for size in (1, 2, 4):
        set_chunk_size(size)
        torch.testing.assert_close(explainer.attribute(inputs, targets), whole, rtol=0, atol=1e-5)


def test_a_chunk_that_does_not_fit_is_halved() -> None:
    net, inputs = seeded(VGGLike()).double(), batch(5, 3, 16, 16, dtype=torch.float64)
    settings = {"max_iter": 4, "mask_shape": (4, 4), "kernel_size": 5}
    expected = MP(net, **settings).attribute(inputs, 1)
    with count_forwards() as counter:
        found = MP(ScarceMemory(net, most=2), **settings).attribute(inputs, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert counter.n_samples == 4 * 5 + 5  # five rows at once failed, and were not tried again
    with pytest.raises(ModelError, match="enough memory for one input"):
        MP(ScarceMemory(net, most=0), **settings).attribute(inputs, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode: type[torch.no_grad]) -> None:
    model = seeded(VGGLike()).requires_grad_(False)
    expected = MP(model, max_iter=3, mask_shape=(4, 4)).attribute(batch(2, 3, 16, 16))
    with mode():
        found = MP(model, max_iter=3, mask_shape=(4, 4)).attribute(batch(2, 3, 16, 16))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not found.requires_grad


def test_no_gradient_reaches_the_parameters() -> None:
    model = seeded(VGGLike())
    MP(model, max_iter=2, mask_shape=(4, 4)).attribute(batch(1, 3, 16, 16))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_half_precision_follows_full() -> None:
    inputs = batch(1, 1, 32, 32, seed=7)
    settings = {"max_iter": 40, "mask_shape": (8, 8), "l1_coeff": 0.3}
    full = MP(TextureInPatch(), **settings).attribute(inputs, 0)
    half = MP(TextureInPatch().bfloat16(), **settings).attribute(inputs.bfloat16(), 0)
    assert half.dtype == torch.bfloat16
    assert torch.corrcoef(torch.stack([full.flatten(), half.float().flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("kernel", [(3, 7), (9, 1), (11, 11)])
def test_the_blur_is_a_mirrored_gaussian(kernel: tuple[int, int]) -> None:
    images = batch(2, 3, 12, 9, dtype=torch.float64)
    expected = images.numpy()
    for axis, width in zip((2, 3), kernel, strict=True):
        at = np.arange(width) - width // 2
        bell = np.exp(-0.5 * (at / 2.0) ** 2)
        expected = ndimage.correlate1d(expected, bell / bell.sum(), axis, mode="mirror")
    torch.testing.assert_close(blur(images, kernel, 2.0), torch.from_numpy(expected), rtol=1e-6, atol=1e-7)


def test_the_window_is_cut_to_the_image() -> None:
    images = batch(1, 1, 3, 20)
    assert torch.equal(blur(images, (11, 11), 5.0), blur(images, (5, 11), 5.0))
    assert blur(torch.ones(1, 1, 1, 1), (11, 11), 5.0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation_is_the_sum_over_neighbours(beta: float) -> None:
    masks = batch(2, 1, 4, 3, dtype=torch.float64)
    for mask, found in zip(masks[:, 0], total_variation(masks, beta), strict=True):
        rows = [abs(mask[i, j] - mask[i + 1, j]).item() ** beta for i in range(3) for j in range(3)]
        columns = [abs(mask[i, j] - mask[i, j + 1]).item() ** beta for i in range(4) for j in range(2)]
        assert found.item() == pytest.approx(sum(rows) / 9 + sum(columns) / 8)


def test_noise_is_shared_and_of_the_stated_size() -> None:
    images = batch(3, 2, 112, 168, seed=2) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    deviations = images.std((1, 2, 3))
    shifts = set()
    for step in range(40):
        noisy, black = disturb((images, torch.zeros_like(images)), seed=4, step=step)
        noise = black / deviations[:, None, None, None]
        torch.testing.assert_close(noise[0], noise[1])
        torch.testing.assert_close(noise[0], noise[2])
        assert noise.std().item() == pytest.approx(0.2, rel=0.02)
        moved = noisy - black
        (shift,) = (
            (a, b)
            for a in range(-2, 3)
            for b in range(-3, 4)
            if torch.allclose(moved, images.roll((a, b), (2, 3)), atol=1e-4)
        )
        shifts.add(shift)
    assert {a for a, _ in shifts} == set(range(-2, 3))
    assert {b for _, b in shifts} == set(range(-3, 4))
    alone = disturb((images[1:2],), seed=4, step=0)[0]
    torch.testing.assert_close(alone, disturb((images,), seed=4, step=0)[0][1:2], rtol=0, atol=0)


def test_the_seed_is_of_the_noise() -> None:
    model, inputs = seeded(VGGLike()), batch(1, 3, 16, 16)
    explainer = MP(model, max_iter=5, mask_shape=(4, 4))
    assert torch.equal(explainer.attribute(inputs, 0), explainer.set_kwargs(seed=1).attribute(inputs, 0))
    noisy = explainer.set_kwargs(add_noise=True)
    assert torch.equal(noisy.attribute(inputs, 0), noisy.attribute(inputs, 0))
    assert not torch.equal(noisy.attribute(inputs, 0), noisy.set_kwargs(seed=1).attribute(inputs, 0))


class Detached(VGGLike):
    """Outputs without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class NaNWhenBlurred(VGGLike):
    """NaN for everything but the input itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x.amax() > 3.0)


def test_bad_models_inputs_and_parameters_say_so() -> None:
    inputs = batch(1, 3, 16, 16)
    inputs[0, 0, 5, 5] = 4.0
    with pytest.raises(UnsupportedModelError, match="score without a gradient"):
        MP(Detached(), max_iter=2).attribute(inputs, 0)
    with pytest.raises(ModelError, match="finite outputs on blurred inputs"):
        MP(seeded(NaNWhenBlurred()), max_iter=6).attribute(inputs, 0)
    with pytest.raises(InputError, match="inputs with 4 dimensions for MP"):
        MP(nn.Linear(3, 2)).attribute(batch(1, 3))
    with pytest.raises(ParameterError, match="an odd kernel_size"):
        MP(VGGLike(), kernel_size=(10, 11)).attribute(inputs, 0)
    with pytest.raises(ParameterError, match="mask_shape of MP to be two whole numbers"):
        MP(VGGLike(), mask_shape=(7, 7, 7)).attribute(inputs, 0)
    with pytest.raises(ParameterError, match="convention of MP to be one of 'destructive', 'constructive'"):
        MP(VGGLike(), convention="preserve")
