"""Extremal perturbation: of all regions of an area, the one that keeps the score highest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from pnpxai.baselines import Blur
from pnpxai.batches import Extractor
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._descent import Descent, optimise_masks
from pnpxai.explainers._gradients import differentiable
from pnpxai.forward import Request
from pnpxai.limits import OneOf, WholeWithin, Within
from pnpxai.outputs import Score
from pnpxai.tunable import choices

TEMPERATURE = 1 / 20
"""Of the soft maximum; the paper's."""
LEAST = 0.1
"""A kernel's value at the edge of the window that cells are looked for in."""
LEVELS = 6
"""Images of a blur pyramid, the sharp one among them."""
GROWTH = 1e6
"""How many times its first value the price of area is at the end: from next to nothing."""
TIE = 0.01
"""Values of a mask that differ by less from the one that divides kept from blurred count as equal to it."""


class ExtremalPerturbation(Explainer):
    """Extremal perturbations (Fong, Patrick, Vedaldi, ICCV 2019, arXiv 1910.08485).

    For each area ``a``, the smooth mask ``m`` of that area under which the score is highest. Adam minimises
    ``−f(m ⊗ x) + λ·‖vecsort(m) − r_a‖² / |Ω|``, ``r_a`` being a share ``1 − a`` of zeros, then ones: the second term is
    nothing for masks of zeros and ones of the area ``a``. ``λ`` grows by a constant factor a step, from a millionth of
    ``area_coeff``, so that the score has ranked the cells before the area divides them. ``m ⊗ x`` blurs each pixel by
    ``1 − m`` of the strongest blur. Masks are smooth by construction (see `max_convolution`).

    The map is the mean of the areas' masks: what the smallest region keeps is highest. Maps ``(n, 1, h, w)`` in [0, 1],
    in no unit. Images are independent of one another, and nothing is drawn at random.

    It costs ``max_iter`` forward and backward passes for each area, and keeps six blurred copies of the images.

    Args:
        model: a differentiable model of images ``(n, c, h, w)``.
        forward_arg_extractor: see `Explainer`.
        additional_forward_arg_extractor: see `Explainer`.
        areas: shares of the image that are kept, each by a mask of its own.
        max_iter: steps; more, and the masks are nearer to ones and zeros of their areas.
        smoothness: the radius of the kernel's flat top, as a share of the shorter side; larger, rounder regions.
        max_blur: the deviation of the strongest blur, as a share of the shorter side; larger removes more.
        lr: Adam's step.
        area_coeff: the price ``λ`` at the end; larger, areas closer to ``areas``, and less say for the score.
        score: ``"probability"`` or ``"logit"``. Functions as targets see the output itself.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(64, 2))
        >>> maps = ExtremalPerturbation(model, max_iter=20, areas=(0.25,)).attribute(torch.rand(1, 1, 8, 8))
        >>> maps.shape
        torch.Size([1, 1, 8, 8])
    """

    SUPPORTED_MODULES = ANY_MODULE
    INPUT_NDIMS = (4,)
    TUNABLES = {
        "areas": choices((0.05, 0.1, 0.2, 0.4), (0.1,), (0.2,), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)),
        "max_iter": IntDistribution(20, 500, log=True),
        "smoothness": FloatDistribution(0.01, 0.1, log=True),
        "max_blur": FloatDistribution(0.03, 0.3, log=True),
        "lr": FloatDistribution(0.01, 0.5, log=True),
        "score": choices("probability", "logit"),
    }
    BUDGET = ("max_iter",)
    LIMITS = {
        "areas": Within(0.0, 1.0, low_open=True, high_open=True),
        "max_iter": WholeWithin(1),
        "smoothness": Within(0.0, 1.0, low_open=True),
        "max_blur": Within(0.0, low_open=True),
        "lr": Within(0.0, low_open=True),
        "area_coeff": Within(0.0),
        "score": OneOf(("probability", "logit")),
    }

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        areas: float | Sequence[float] = (0.05, 0.1, 0.2, 0.4),
        max_iter: int = 100,
        smoothness: float = 0.03,
        max_blur: float = 0.1,
        lr: float = 0.1,
        area_coeff: float = 300.0,
        score: Score = "probability",
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.areas = areas
        self.max_iter = max_iter
        self.smoothness = smoothness
        self.max_blur = max_blur
        self.lr = lr
        self.area_coeff = area_coeff
        self.score = score

    def explain_request(self, request: Request) -> Tensor:
        """The mean of the areas' masks."""
        return self.masks(request).mean(1, keepdim=True)

    def masks(self, request: Request) -> Tensor:
        """The mask of each image for each area, ``(n, areas, h, w)``."""
        x = request.input
        size, side = (x.shape[2], x.shape[3]), min(x.shape[2:])
        dtype = torch.promote_types(x.dtype, torch.float32)
        given = self.areas if isinstance(self.areas, Sequence) else [self.areas]
        areas = torch.tensor(given, device=x.device, dtype=dtype)
        radius = self.smoothness * side
        pyramid = blur_pyramid(x, self.max_blur * side)

        def loss(cells: Tensor, index: Tensor, step: int) -> Tensor:
            sample, area = index // len(areas), areas[index % len(areas)]
            masks = max_convolution(cells, size, radius)
            mixed = blurred_by(pyramid[sample], masks.to(x.dtype))
            scores = request.scores([mixed], sample, self.score).to(dtype)
            differentiable(scores, request)
            price: float = self.area_coeff * GROWTH ** (step / self.max_iter - 1)
            return price * area_gap(masks, area) - scores

        a, b = cells_for(size, radius)
        start = torch.full((len(x) * len(areas), a, b), 0.5, device=x.device, dtype=dtype)
        found = optimise_masks(request, loss, Descent.of(start), self.lr, self.max_iter)
        smooth = [max_convolution(each[None], size, radius) for each in found.masks]
        masks: Tensor = torch.cat(smooth).reshape(len(x), len(areas), *size)
        return masks


def area_gap(masks: Tensor, areas: Tensor) -> Tensor:
    """``‖vecsort(m) − r_a‖² / |Ω|``, ``(n,)``: how far each mask is from ones and zeros of its area.

    Sorting pairs a mask's highest values with ones, its others with zeros. Values on the border between the two that
    are equal (see `TIE`) are paired with the share of ones among them, where a sort would take them by position.

    Args:
        masks: ``(n, h, w)``.
        areas: shares of the pixels, ``(n,)``.

    Example:
        >>> area_gap(torch.tensor([[[0.9, 0.2], [0.1, 0.5]]]), torch.tensor([0.25])).item()  # .31 / 4
        0.077...
    """
    values = masks.flatten(1)
    with torch.no_grad():
        kept = areas * values.shape[1]
        rank = kept.ceil().long().clamp(1, values.shape[1]) - 1
        least = values.sort(1, descending=True).values.gather(1, rank[:, None])
        above, tied = values > least + TIE, (values - least).abs() <= TIE
        share = (kept - above.sum(1)) / tied.sum(1)
        paired = torch.where(tied, share[:, None], above.to(values))
    return (values - paired).square().mean(1)


def cell_step(radius: float) -> int:
    """Pixels from one cell to the next: about a kernel's radius."""
    return max(1, round(radius))


def _reach(radius: float) -> int:
    """How many cells away a pixel looks: as far as the kernel is above `LEAST`."""
    return math.ceil(radius * (1 + math.sqrt(-4 * math.log(LEAST))) / cell_step(radius))


def cells_for(size: tuple[int, int], radius: float) -> tuple[int, int]:
    """Cells along each axis of an image, those beyond its borders that its pixels look at among them."""
    step, reach = cell_step(radius), _reach(radius)
    return -(-size[0] // step) + 2 * reach, -(-size[1] // step) + 2 * reach


def max_convolution(cells: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Smooth masks ``m(u) = smax_i k(‖u − u_i‖)·c_i`` of cells ``c_i`` at ``u_i`` (Fong et al., section 3.2).

    ``k(z) = exp(−max(0, z/radius − 1)²/4)``: flat as far as the radius. ``smax f = Σ f exp(f/T) / Σ exp(f/T)`` with
    ``T`` of 1/20, over the square of cells around the pixel's that holds all of `LEAST` or more. A cell of 1 is a disc
    of about 1, whatever its neighbours are: unlike under a blur, ones stay ones.

    Args:
        cells: in [0, 1], ``(n, *cells_for(size, radius))``.
        size: ``(h, w)``.
        radius: in pixels.

    Returns:
        ``(n, h, w)`` in [0, 1].
    """
    step, reach = cell_step(radius), _reach(radius)
    within = torch.arange(step, device=cells.device, dtype=cells.dtype) - (step - 1) / 2
    away = torch.arange(-reach, reach + 1, device=cells.device, dtype=cells.dtype) * step
    squares = (within[:, None] - away).square()  # (step, window)
    distance = (squares[:, None, :, None] + squares[None, :, None, :]).sqrt()
    kernel = torch.exp(-(distance / radius - 1).clamp(min=0).square() / 4).reshape(step**2, -1)
    near = F.unfold(cells[:, None], 2 * reach + 1)  # (n, window², pixels / step²)
    values = near[:, None] * kernel[:, :, None]
    soft = (values * (values / TEMPERATURE).softmax(2)).sum(2)
    rows, columns = (side - 2 * reach for side in cells.shape[1:])
    masks = F.pixel_shuffle(soft.reshape(-1, step**2, rows, columns), step)
    return masks[:, 0, : size[0], : size[1]]


def blur_pyramid(images: Tensor, sigma: float) -> Tensor:
    """Images ``(n, c, h, w)`` blurred with deviations from ``sigma`` evenly down to none: ``(n, LEVELS, c, h, w)``."""
    blurred = [Blur(sigma * (LEVELS - 1 - level) / (LEVELS - 1))(images) for level in range(LEVELS - 1)]
    return torch.stack([*blurred, images], 1)


def blurred_by(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Each pixel at the level of its mask ``(n, h, w)``, 0 for the first and 1 for the last, between two a blend."""
    level = masks * (pyramid.shape[1] - 1)
    at = torch.arange(pyramid.shape[1], device=masks.device)[:, None, None]
    shares = (1 - (level[:, None] - at).abs()).clamp(min=0)
    return (shares[:, :, None] * pyramid).sum(1)
