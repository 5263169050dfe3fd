"""Meaningful perturbation: the smallest region whose blur destroys the class, or whose sharpness keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.errors import ParameterError
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._descent import Descent, optimise_masks
from pnpxai.explainers._gradients import differentiable
from pnpxai.explainers._seeds import generator_for
from pnpxai.forward import Request
from pnpxai.limits import OneOf, OrNone, WholeWithin, Within
from pnpxai.tunable import choices

NOISE = 0.2
"""Deviation of the noise of ``add_noise``, in deviations of the image."""
JITTER = 56
"""``add_noise`` shifts an image by up to this fraction of its sides: 4 of 224 pixels."""


class MP(Explainer):
    """Meaningful perturbation (Fong and Vedaldi, ICCV 2017, arXiv 1704.03296).

    Adam optimises a low-resolution mask ``m``, from kept (1) to blurred (0), starting half blurred, with ``f`` the
    target's probability and ``Φ(m) = up(m)·x + (1 - up(m))·blur(x)``:

    * ``"destructive"`` minimises ``f(Φ(m)) + l1_coeff·A(1 - m) + tv_coeff·V(m)``; the map is ``1 - up(m)``.
    * ``"constructive"`` minimises ``-f(Φ(m)) + l1_coeff·A(m) + tv_coeff·V(m)``; the map is ``up(m)``.

    ``A`` is the mean absolute value over the mask's cells; ``V`` the mean of ``|difference|^tv_beta`` over vertical
    neighbours plus that over horizontal ones. Means, so that a coefficient is worth the same in probability at every
    ``mask_shape``. Maps ``(n, 1, h, w)`` in [0, 1], high where relevant. Images are independent of one another.

    Args:
        model: a differentiable model of images ``(n, c, h, w)``.
        forward_arg_extractor: see `Explainer`.
        additional_forward_arg_extractor: see `Explainer`.
        tv_beta: exponent of the differences; above 1, one sharp edge costs more than a ramp.
        lr: Adam's step.
        max_iter: steps; each costs a forward and a backward pass.
        l1_coeff: price of area; larger, smaller regions.
        tv_coeff: price of edges; larger, smoother regions.
        mask_shape: cells of the mask.
        add_noise: at each step, shift the images by up to a 56th of their sides (the paper's jitter) and add noise of
            0.2 of their deviation: less adversarial masks.
        kernel_size: the blur's window in pixels (odd); cut to what the image allows.
        sigma: the blur's deviation in pixels; larger removes more.
        convention: ``"destructive"`` or ``"constructive"``.
        seed: of the noise.
        tol: an image is left as it is once ten steps lower its mean loss by less than this, in probability; None to
            make all steps. On four photographs under EfficientNet-Lite0 .001 stopped after 52 to 62 of 100 steps, with
            losses .001 above those at the end.

    Presets: the paper's prices (of sums over 28 × 28 cells there, of means here) and step size, in either convention.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(64, 2))
        >>> maps = MP(model, max_iter=10, mask_shape=(4, 4)).attribute(torch.ones(1, 1, 8, 8))
        >>> maps.shape, maps.max().item()  # blurring a flat image changes nothing, so nothing is worth its area
        (torch.Size([1, 1, 8, 8]), 0.0)
    """

    SUPPORTED_MODULES = ANY_MODULE
    INPUT_NDIMS = (4,)
    TUNABLES = {
        "tv_beta": FloatDistribution(1.0, 5.0),
        "lr": FloatDistribution(0.01, 1.0, log=True),
        "max_iter": IntDistribution(20, 500, log=True),
        "l1_coeff": FloatDistribution(1e-4, 1.0, log=True),
        "tv_coeff": FloatDistribution(1e-4, 10.0, log=True),
        "mask_shape": choices((7, 7), (14, 14), (28, 28), (56, 56)),
        "sigma": FloatDistribution(1.0, 20.0, log=True),
        "convention": choices("destructive", "constructive"),
    }
    PRESETS = (
        {"lr": 0.1, "l1_coeff": 0.08, "tv_coeff": 7.5},
        {"lr": 0.1, "l1_coeff": 0.08, "tv_coeff": 7.5, "convention": "constructive"},
    )
    BUDGET = ("max_iter",)
    NESTED = True
    LIMITS = {
        "tv_beta": Within(1.0),
        "lr": Within(0.0, low_open=True),
        "max_iter": WholeWithin(1),
        "l1_coeff": Within(0.0),
        "tv_coeff": Within(0.0),
        "mask_shape": WholeWithin(2),
        "add_noise": OneOf((False, True)),
        "kernel_size": WholeWithin(1),
        "sigma": Within(0.0, low_open=True),
        "convention": OneOf(("destructive", "constructive")),
        "seed": WholeWithin(0),
        "tol": OrNone(Within(0.0, low_open=True)),
    }

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        tv_beta: float = 3,
        lr: float = 0.2,
        max_iter: int = 100,
        l1_coeff: float = 0.01,
        tv_coeff: float = 0.02,
        mask_shape: int | Sequence[int] = (28, 28),
        add_noise: bool = False,
        kernel_size: int | Sequence[int] = (11, 11),
        sigma: float = 5,
        convention: str = "destructive",
        seed: int = 0,
        tol: float | None = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.tv_beta = tv_beta
        self.lr = lr
        self.max_iter = max_iter
        self.l1_coeff = l1_coeff
        self.tv_coeff = tv_coeff
        self.mask_shape = mask_shape
        self.add_noise = add_noise
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.convention = convention
        self.seed = seed
        self.tol = tol

    def explain_further(self, request: Request, budget: int, state: Descent | None) -> tuple[Tensor, Descent]:
        """The map of the optimised masks."""
        found = self.optimise(request, budget, state)
        kept = upsample_masks(found.masks, request.input)
        return 1 - kept if self.convention == "destructive" else kept, found

    def optimise(self, request: Request, max_iter: int, known: Descent | None = None) -> Descent:
        """One optimisation of all images, its masks ``(n, 1, *mask_shape)``: to step ``max_iter``, from a known one."""
        x, destructive = request.input, self.convention == "destructive"
        blurred = blur(x, _pair("kernel_size", self.kernel_size), self.sigma)

        def loss(masks: Tensor, index: Tensor, step: int) -> Tensor:
            images, background = x[index], blurred[index]
            if self.add_noise:
                images, background = disturb((images, background), self.seed, step)
            mixed = torch.lerp(background, images, upsample_masks(masks, x).to(x.dtype))
            scores = request.scores([mixed], index, "probability").float()
            differentiable(scores, request)
            area = (1 - masks if destructive else masks).mean((1, 2, 3))
            penalty = self.l1_coeff * area + self.tv_coeff * total_variation(masks, self.tv_beta)
            return (scores if destructive else -scores) + penalty

        masks = torch.full((len(x), 1, *_pair("mask_shape", self.mask_shape)), 0.5, device=x.device)
        return optimise_masks(request, loss, known or Descent.of(masks), self.lr, max_iter, self.tol)


def upsample_masks(masks: Tensor, images: Tensor) -> Tensor:
    """Masks ``(n, 1, a, b)`` at the resolution of images ``(n, c, h, w)``, bilinearly."""
    return F.interpolate(masks, images.shape[2:], mode="bilinear", align_corners=False)


def total_variation(masks: Tensor, beta: float) -> Tensor:
    """Mean of ``|difference|^beta`` between vertical neighbours, plus that between horizontal ones: ``(n,)``.

    Example:
        >>> total_variation(torch.tensor([[[[0.0, 0.5], [0.0, 0.5]]]]), 3).item()
        0.125
    """
    vertical, horizontal = masks.diff(dim=2), masks.diff(dim=3)
    return vertical.abs().pow(beta).mean((1, 2, 3)) + horizontal.abs().pow(beta).mean((1, 2, 3))


def blur(images: Tensor, kernel_size: tuple[int, int], sigma: float) -> Tensor:
    """A Gaussian blur with mirrored borders; the window is cut to what a side allows.

    Raises:
        ParameterError: an even window.
    """
    from torchvision.transforms.functional import gaussian_blur

    if kernel_size[0] % 2 == 0 or kernel_size[1] % 2 == 0:
        raise ParameterError("an odd kernel_size of MP", f"{kernel_size}", "Add 1 to the even number.")
    window = [min(k, 2 * side - 1) for k, side in zip(kernel_size, images.shape[2:], strict=True)]
    blurred: Tensor = gaussian_blur(images, window[::-1], sigma)
    return blurred


def disturb(batches: Sequence[Tensor], seed: int, step: int) -> list[Tensor]:
    """Shift batches of images alike, up to `JITTER`, and add the same noise; a function of seed and step alone."""
    like = batches[0]
    generator = generator_for(seed, step)
    noise = torch.randn(like.shape[1:], generator=generator).to(like)
    reach = [side // JITTER for side in like.shape[2:]]
    shift = [int(torch.randint(-r, r + 1, (), generator=generator)) for r in reach]
    deviation = NOISE * like.std((1, 2, 3), keepdim=True)
    return [torch.roll(each, shift, (2, 3)) + deviation * noise for each in batches]


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ParameterError(f"{name} of MP to be two whole numbers", f"{value!r}", "Pass (rows, columns).")
    return pair[0], pair[1]
