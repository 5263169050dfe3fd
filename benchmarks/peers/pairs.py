"""What is set against what: the same work, once by this package and once by another library as its documentation says.

The other libraries are imported where they are called: they are installed for the benchmark alone, and each runs in a
process without the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pnpxai.baselines import baseline_for
from pnpxai.explainers import MP, RELAX, RISE, IntegratedGradients, SmoothGrad
from pnpxai.metrics import AbPC

GRID, P_KEEP, NOISE_LEVEL = 7, 0.5, 0.15
RELAX_BATCH = 100
"""Masks that relax-xai lets through the model at once unless it is told otherwise."""
N_PIXELS = 224 * 224


@dataclass(frozen=True)
class Size:
    """How much is asked.

    Attributes:
        n_masks: of RISE and RELAX.
        n_iterations: of MP.
        n_steps: of integrated gradients.
        n_noises: of SmoothGrad.
        n_points: of each perturbation curve; three times the pixels' number has to be a multiple of it.
    """

    n_masks: int = 1000
    n_iterations: int = 100
    n_steps: int = 50
    n_noises: int = 25
    n_points: int = 21


SMALLEST = Size(2, 2, 2, 2, 3)
"""Loads what is loaded late, and asks next to nothing."""

Run: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Size], Tensor]
"""From model, inputs ``(n, c, h, w)``, targets ``(n,)`` and size to maps, or to scores ``(n,)``."""


@dataclass(frozen=True)
class Pair:
    """The same work twice.

    Attributes:
        method: what is done.
        package: the other library, by its name in the package index.
        ours: by this package.
        theirs: by the other library.
        work: the work in words, with the numbers of a size to be filled in.
        called: how the other library is called.
        repair: what it takes to make the other library run, or do what it says.
        goes_back: whether the gradient is asked for.
        scores: whether it gives scores of a map and no map.
    """

    method: str
    package: str
    ours: Run
    theirs: Run
    work: str
    called: str
    repair: str = ""
    goes_back: bool = False
    scores: bool = False

    def work_of(self, size: Size) -> str:
        """The work in words."""
        return self.work.format(**vars(size), grid=GRID, p_keep=P_KEEP, noise_level=NOISE_LEVEL)


def one_by_one(explain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Maps ``(n, 1, h, w)`` by something that takes one image at a time."""
    return torch.cat([explain(each).detach().reshape(1, 1, *each.shape[2:]) for each in x.split(1)])


def our_rise(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    found: Tensor = RISE(model, n_masks=size.n_masks, grid_size=GRID, p_keep=P_KEEP).attribute(x, targets)
    return found


def captum_rise(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    from rise import RISE as Theirs

    explainer = Theirs(nn.Sequential(model, nn.Softmax(1)))
    found: Tensor = explainer.attribute(x, size.n_masks, initial_mask_shapes=((GRID, GRID),), target=targets)
    return found[:, None]


def muppet_rise(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    from muppet.explainers import RISEExplainer

    explainer = RISEExplainer(model, nmasks=size.n_masks, mask_dim=GRID, mask_proba=P_KEEP, seed=0)
    return one_by_one(lambda each: explainer(example=each), x)


def our_relax(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    batch_size, n_batches = relax_batches(size.n_masks)
    return RELAX(model, n_masks=batch_size * n_batches, grid_size=GRID, p_keep=P_KEEP).explain(x).importance


def relax_batches(n_masks: int) -> tuple[int, int]:
    """How many masks a batch has and how many batches there are, so that they are at least ``n_masks``."""
    batch_size = min(RELAX_BATCH, n_masks)
    return batch_size, -(-n_masks // batch_size)


def relax_xai(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    from relax_xai.relax import RELAX as Theirs

    batch_size, n_batches = relax_batches(size.n_masks)

    def explain(each: Tensor) -> Tensor:
        with torch.no_grad():
            explainer = Theirs(each, model, batch_size=batch_size, num_batches=n_batches)
            explainer(num_cells=GRID, probablity_of_drop=P_KEEP)
        importance: Tensor = explainer.importance
        return importance

    return one_by_one(explain, x)


def muppet_relax(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    from muppet.explainers import RELAXExplainer

    batch_size, n_batches = relax_batches(size.n_masks)

    def explain(each: Tensor) -> Tensor:
        # a new one for each image: it keeps the first one's embedding
        explainer = RELAXExplainer(model, nmasks=batch_size * n_batches, mask_dim=GRID, mask_proba=P_KEEP, seed=0)
        with torch.no_grad():
            found: Tensor = explainer(example=each)
        return found

    return one_by_one(explain, x)


def our_mp(convention: str) -> Run:
    def run(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
        found: Tensor = MP(model, max_iter=size.n_iterations, convention=convention).attribute(x, targets)
        return found

    return run


def muppet_mp(convention: str, repaired: bool = False) -> Run:
    def run(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
        from muppet.explainers import MPExplainer

        explainer = MPExplainer(model, max_iter=size.n_iterations, convention=convention)
        if repaired:
            for part in (explainer.attributor, explainer.aggregator):
                part._convention = "descructive"  # as the library spells it where it compares
        return one_by_one(lambda each: explainer(example=each), x)

    return run


def our_integrated_gradients(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    found: Tensor = IntegratedGradients(model, n_steps=size.n_steps).attribute(x, targets)
    return found


def captum_integrated_gradients(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    from captum.attr import IntegratedGradients as Theirs

    found: Tensor = Theirs(model).attribute(x, target=targets, n_steps=size.n_steps)
    return found.detach()


def our_smooth_grad(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    explainer = SmoothGrad(model, n_samples=size.n_noises, noise_level=NOISE_LEVEL)
    found: Tensor = explainer.attribute(x, targets)
    return found


def captum_smooth_grad(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    from captum.attr import NoiseTunnel, Saliency

    found: Tensor = NoiseTunnel(Saliency(model)).attribute(
        x,
        nt_type="smoothgrad",
        nt_samples=size.n_noises,
        stdevs=NOISE_LEVEL * float(x.max() - x.min()),
        target=targets,
        abs=False,
    )
    return found.detach()


@functools.lru_cache(maxsize=1)  # made once for both sides and all turns
def edges(x: Tensor) -> Tensor:
    """Maps ``(n, 1, h, w)`` without a model: how far a pixel is from its surroundings."""
    return (x - baseline_for("blur", x)).abs().sum(1, keepdim=True)


def our_abpc(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    return AbPC(model, n_steps=size.n_points).evaluate(x, targets, edges(x))


def quantus_pixel_flipping(model: nn.Module, x: Tensor, targets: Tensor, size: Size) -> Tensor:
    import quantus

    channels = x.shape[1]
    metric = quantus.PixelFlipping(
        features_in_step=channels * N_PIXELS // size.n_points,
        perturb_baseline=0.0,
        disable_warnings=True,
    )
    maps = edges(x)
    backwards = maps.amax((1, 2, 3), keepdim=True) - maps  # a map of negative numbers alone is refused
    curves = []
    for each in (maps, backwards):
        given: Mapping[str, Any] = {"x_batch": x.numpy(), "y_batch": targets.numpy(), "a_batch": each.numpy()}
        curves.append(torch.tensor(metric(model=model, channel_first=True, softmax=True, **given)))
    return between(*curves)


def between(morf: Tensor, lerf: Tensor) -> Tensor:
    """The area between two curves ``(n, s)`` without their common first point, whose last point is common: ``(n,)``.

    Example:
        >>> between(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])).tolist()
        [1.0]
    """
    return (lerf - morf)[:, :-1].sum(1) / morf.shape[1]


MASKS = "{n_masks} masks of {grid} × {grid} cells, kept with probability {p_keep}, the rest zero"
NO_GRAPH = "run under `torch.no_grad()`: alone it keeps the graphs of all masked passes in memory"
MUPPET = "installed without its dependencies, plus loguru; "
PAIRS: Mapping[str, Pair] = {
    "rise/captum-rise": Pair(
        "RISE",
        "captum-rise",
        our_rise,
        captum_rise,
        MASKS,
        "`RISE(Sequential(model, Softmax)).attribute(x, n_masks, ((7, 7),), target=…)`",
    ),
    "rise/muppet": Pair(
        "RISE",
        "muppet-xai",
        our_rise,
        muppet_rise,
        MASKS,
        "`RISEExplainer(model, nmasks=…, mask_dim=7, mask_proba=.5, seed=0)(example=x)`",
        MUPPET,
    ),
    "relax/relax-xai": Pair(
        "RELAX",
        "relax-xai",
        our_relax,
        relax_xai,
        MASKS + "; importance and uncertainty of the logits",
        "`RELAX(x, model, batch_size=100, num_batches=…)(num_cells=7, probablity_of_drop=.5)`",
        NO_GRAPH,
    ),
    "relax/muppet": Pair(
        "RELAX",
        "muppet-xai",
        our_relax,
        muppet_relax,
        MASKS + "; importance (here uncertainty too) of the logits",
        "`RELAXExplainer(model, nmasks=…, mask_dim=7, mask_proba=.5, seed=0)(example=x)`; squared distances",
        MUPPET + NO_GRAPH,
    ),
    "mp/muppet": Pair(
        "MP, destructive",
        "muppet-xai",
        our_mp("destructive"),
        muppet_mp("destructive"),
        "{n_iterations} iterations, 28 × 28 cells, each library's defaults",
        "`MPExplainer(model, max_iter=…)(example=x)`",
        MUPPET,
        goes_back=True,
    ),
    "mp/muppet, repaired": Pair(
        "MP, destructive",
        "muppet-xai",
        our_mp("destructive"),
        muppet_mp("destructive", repaired=True),
        "{n_iterations} iterations, 28 × 28 cells, each library's defaults",
        "`MPExplainer(model, max_iter=…)(example=x)`",
        MUPPET + "its loss compares the convention with a misspelt word, so that it never is the destructive one; "
        "here the convention is set to that spelling",
        goes_back=True,
    ),
    "mp/muppet, constructive": Pair(
        "MP, constructive",
        "muppet-xai",
        our_mp("constructive"),
        muppet_mp("constructive"),
        "{n_iterations} iterations, 28 × 28 cells, each library's defaults",
        '`MPExplainer(model, max_iter=…, convention="constructive")(example=x)`',
        MUPPET,
        goes_back=True,
    ),
    "ig/captum": Pair(
        "IntegratedGradients",
        "captum",
        our_integrated_gradients,
        captum_integrated_gradients,
        "{n_steps} steps from zeros",
        "`IntegratedGradients(model).attribute(x, target=…, n_steps=…)`",
        goes_back=True,
    ),
    "smoothgrad/captum": Pair(
        "SmoothGrad",
        "captum",
        our_smooth_grad,
        captum_smooth_grad,
        "{n_noises} noises of {noise_level} of the image's range",
        "`NoiseTunnel(Saliency(model)).attribute(x, nt_samples=…, stdevs=…, target=…, abs=False)`",
        goes_back=True,
    ),
    "abpc/quantus": Pair(
        "AbPC",
        "quantus",
        our_abpc,
        quantus_pixel_flipping,
        "both perturbation curves of a map at {n_points} points each, zeros for what is removed",
        "`PixelFlipping(features_in_step=…, perturb_baseline=0.0)(model, x, y, a, softmax=True)` of the map and of "
        "its maximum less the map, and the area between the two curves",
        scores=True,
    ),
}
"""All pairs, by the names that ``--pairs`` takes."""
