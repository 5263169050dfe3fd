"""Which features move together: cells of a grid, the superpixels of an image, single positions."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.errors import InputError, ParameterError
from pnpxai.forward import Lookup
from pnpxai.limits import WholeWithin, Within
from pnpxai.tunable import Role


class FeatureMaskFunction(Role):
    """Groups the positions of inputs into features; the channels of a position share one unless it says otherwise."""

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """Feature ids ``(n, *positions)`` of ``inputs`` ``(n, c, *positions)``: whole numbers from 0, none left out.

        Of features that differ between channels, ids ``(n, c, *positions)``.

        Ids of each sample from itself alone.

        Raises:
            InputError: inputs of a kind this function cannot group.
        """

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """Feature ids ``(n, t)`` of the embeddings ``(n, d, t)`` of tokens, whose ids are known."""
        return self(inputs)


class Each(FeatureMaskFunction):
    """Every position by itself: each token, step or pixel.

    Example:
        >>> Each()(torch.zeros(1, 3, 4)).tolist()
        [[0, 1, 2, 3]]
    """

    NAME = "each"

    def __call__(self, inputs: Tensor) -> Tensor:
        """The number of each position."""
        shape = inputs.shape[1 if inputs.ndim == 2 else 2 :]
        alone = torch.arange(shape.numel(), device=inputs.device).reshape(shape)
        return alone.expand(len(inputs), *shape).clone()


def grid_cells(positions: Sequence[int], size: int) -> Tensor:
    """The cell of each position when every axis is cut into ``size`` nearly equal parts (or its length, if less).

    Args:
        positions: the lengths of the axes.
        size: cells along each axis.

    Returns:
        Ids of shape ``positions``, in raster order.

    Example:
        >>> grid_cells((2, 5), 2).tolist()
        [[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]]
    """
    ids = torch.zeros(tuple(positions), dtype=torch.long)
    for axis, length in enumerate(positions):
        cells = min(size, length)
        along = torch.arange(length) * cells // length
        ids = ids * cells + along.reshape([-1 if each == axis else 1 for each in range(len(positions))])
    return ids


class Grid(FeatureMaskFunction):
    """Cells of a regular grid over series ``(n, c, t)``, images ``(n, c, h, w)`` or volumes ``(n, c, d, h, w)``.

    Features ``(n, d)`` have no order in which they could be neighbours: each stands alone, whatever the ``size``.

    Args:
        size: cells along each axis, or positions, if those are fewer; larger makes smaller features.
        by_channel: each channel in each cell is a feature of its own, such as one sensor in one segment of time.

    Example:
        >>> Grid(2)(torch.zeros(1, 3, 2, 4)).tolist(), Grid(2)(torch.zeros(1, 3)).tolist()
        ([[[0, 0, 1, 1], [2, 2, 3, 3]]], [[0, 1, 2]])
        >>> Grid(2, by_channel=True)(torch.zeros(1, 2, 4)).tolist()
        [[[0, 0, 1, 1], [2, 2, 3, 3]]]
    """

    NAME = "grid"
    TUNABLES = {"size": IntDistribution(3, 16)}
    LIMITS = {"size": WholeWithin(1)}

    def __init__(self, size: int = 7, by_channel: bool = False) -> None:
        self.size = size
        self.by_channel = by_channel

    def __call__(self, inputs: Tensor) -> Tensor:
        """The same cells for every sample.

        Raises:
            InputError: inputs without features.
        """
        if inputs.ndim < 2:
            raise InputError(
                "features (n, d), or inputs (n, c, …) to lay a grid over",
                f"shape {tuple(inputs.shape)}",
                "Add the missing dimensions, batch and channels first.",
            )
        alone = torch.arange(inputs.shape[1])
        cells = (alone if inputs.ndim == 2 else grid_cells(inputs.shape[2:], self.size)).to(inputs.device)
        if self.by_channel and inputs.ndim > 2:
            first = alone.to(inputs.device).reshape(-1, *[1] * cells.ndim) * (cells.max() + 1)
            cells = first + cells
        return cells.expand(len(inputs), *cells.shape).clone()


class Groups(FeatureMaskFunction):
    """Columns of a table ``(n, d)`` that are one feature, such as the one-hot columns of a category.

    Args:
        groups: the columns of each group, by number; a column of none stands alone.

    Example:
        >>> Groups([[1, 3]])(torch.zeros(1, 5)).tolist()
        [[0, 1, 2, 1, 3]]
    """

    NAME = "groups"

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self.groups = groups

    def __call__(self, inputs: Tensor) -> Tensor:
        """The same groups for every sample, in the order of their first columns.

        Raises:
            InputError: inputs that are no table.
            ParameterError: a column that is not there, or is in two groups.
        """
        if inputs.ndim != 2:
            raise InputError("features (n, d) for Groups", f"shape {tuple(inputs.shape)}", "Use Grid for positions.")
        d, columns = inputs.shape[1], [column for group in self.groups for column in group]
        if len(set(columns)) < len(columns) or not all(0 <= column < d for column in columns):
            raise ParameterError(
                f"groups of columns from 0 to {d - 1}, each in one group at most", f"{self.groups}", "Correct them."
            )
        first = torch.arange(d)
        for group in self.groups:
            first[list(group)] = min(group, default=0)
        ids: Tensor = ((first == torch.arange(d)).cumsum(0) - 1)[first].to(inputs.device)
        return ids.expand(len(inputs), d).clone()


class _Superpixels(FeatureMaskFunction):
    """Segments each image by itself, stretched to [0, 1] over its channels together."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Each image's own segments.

        Raises:
            InputError: inputs that are no images ``(n, c, h, w)``.
        """
        if inputs.ndim != 4:
            raise InputError(
                f"images (n, c, h, w) for {type(self).__name__}",
                f"{inputs.ndim} dimensions, shape {tuple(inputs.shape)}",
                "Use Grid for series, and for (n, d) inputs, each feature of which it leaves alone.",
            )
        return torch.stack([self._ids(each) for each in inputs]).to(inputs.device)

    def _ids(self, image: Tensor) -> Tensor:
        values = image.detach().double().cpu()
        low, high = values.min(), values.max()
        scaled = (values - low) / (high - low if high > low else 1.0)
        segments = self._segment(scaled.permute(1, 2, 0).contiguous().numpy())  # (h, w, c)
        ids = np.unique(segments, return_inverse=True)[1].reshape(segments.shape)
        return torch.from_numpy(ids).long()

    @abstractmethod
    def _segment(self, image: NDArray[np.float64]) -> NDArray[np.int64]:
        """Labels ``(h, w)`` of an image ``(h, w, c)`` in [0, 1]."""


class SLIC(_Superpixels):
    """Clusters colour and place by k-means (Achanta et al., 2012): compact superpixels of like size.

    Args:
        n_segments: about how many superpixels.
        compactness: weight of place against colour; larger makes squarer superpixels.
        sigma: width in pixels of the Gaussian that smooths the image first.
    """

    NAME = "slic"
    TUNABLES = {
        "n_segments": IntDistribution(20, 200, log=True),
        "compactness": FloatDistribution(1.0, 100.0, log=True),
    }
    LIMITS = {"n_segments": WholeWithin(1), "compactness": Within(0.0, low_open=True), "sigma": Within(0.0)}

    def __init__(self, n_segments: int = 64, compactness: float = 10.0, sigma: float = 1.0) -> None:
        self.n_segments = n_segments
        self.compactness = compactness
        self.sigma = sigma

    def _segment(self, image: NDArray[np.float64]) -> NDArray[np.int64]:
        from skimage.segmentation import slic

        labels: NDArray[np.int64] = slic(
            image, n_segments=self.n_segments, compactness=self.compactness, sigma=self.sigma, channel_axis=-1
        )
        return labels


class Felzenszwalb(_Superpixels):
    """Merges pixels along a minimum spanning tree (Felzenszwalb & Huttenlocher, 2004): superpixels follow the content.

    Args:
        scale: how much contrast a border needs; larger makes larger superpixels.
        sigma: width in pixels of the Gaussian that smooths the image first.
        min_size: pixels of the smallest superpixel.
    """

    NAME = "felzenszwalb"
    TUNABLES = {"scale": FloatDistribution(10.0, 1000.0, log=True), "min_size": IntDistribution(10, 500, log=True)}
    LIMITS = {"scale": Within(0.0, low_open=True), "sigma": Within(0.0), "min_size": WholeWithin(1)}

    def __init__(self, scale: float = 250.0, sigma: float = 0.8, min_size: int = 100) -> None:
        self.scale = scale
        self.sigma = sigma
        self.min_size = min_size

    def _segment(self, image: NDArray[np.float64]) -> NDArray[np.int64]:
        from skimage.segmentation import felzenszwalb

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)
            labels: NDArray[np.int64] = felzenszwalb(
                image, scale=self.scale, sigma=self.sigma, min_size=self.min_size, channel_axis=-1
            )
        return labels


class Quickshift(_Superpixels):
    """Climbs to the modes of the density of colour and place (Vedaldi & Soatto, 2008).

    Args:
        kernel_size: width of the density's Gaussian; larger makes fewer superpixels and takes longer.
        max_dist: how far apart modes stay unmerged; larger makes fewer superpixels.
        ratio: weight of colour against place, 0 to 1.
        seed: breaks ties between equally dense pixels.
    """

    NAME = "quickshift"
    TUNABLES = {"kernel_size": FloatDistribution(2.0, 6.0), "max_dist": FloatDistribution(4.0, 20.0, log=True)}
    LIMITS = {
        "kernel_size": Within(1.0),
        "max_dist": Within(0.0, low_open=True),
        "ratio": Within(0.0, 1.0),
        "seed": WholeWithin(0),
    }

    def __init__(self, kernel_size: float = 4.0, max_dist: float = 10.0, ratio: float = 0.2, seed: int = 0) -> None:
        self.kernel_size = kernel_size
        self.max_dist = max_dist
        self.ratio = ratio
        self.seed = seed

    def _segment(self, image: NDArray[np.float64]) -> NDArray[np.int64]:
        from skimage.segmentation import quickshift

        labels: NDArray[np.int64] = quickshift(  # type: ignore[no-untyped-call]  # scikit-image has no types
            image,
            ratio=self.ratio,
            kernel_size=self.kernel_size,
            max_dist=self.max_dist,
            convert2lab=image.shape[-1] == 3,
            rng=self.seed,
            channel_axis=-1,
        )
        return labels


FeatureMask: TypeAlias = str | FeatureMaskFunction | Callable[[Tensor], Tensor] | None


def feature_mask_for(feature_mask_fn: FeatureMask, inputs: Tensor, lookup: Lookup | None = None) -> Tensor:
    """The features of ``inputs`` by whatever groups them: a name, an object, a function, or None for `Grid`.

    Args:
        feature_mask_fn: a function is called with the inputs, and may number each sample's features as it likes.
        inputs: ``(n, d)`` or ``(n, c, *positions)``.
        lookup: of inputs that are the embeddings of tokens, where the model looks them up.

    Returns:
        Ids ``(n, d)``, ``(n, *positions)`` or ``(n, c, *positions)``; in each sample whole numbers from 0, none left
        out.

    Raises:
        UnknownNameError: a name that is no feature mask.
        ParameterError: a function that returns something else.
        InputError: inputs that cannot be grouped in this way.

    Example:
        >>> feature_mask_for(lambda x: torch.tensor([[5, 5, 2]]), torch.zeros(1, 3)).tolist()
        [[1, 1, 0]]
    """
    chosen = "grid" if feature_mask_fn is None else feature_mask_fn
    function = chosen if callable(chosen) else FeatureMaskFunction.resolve(chosen)
    if lookup is not None and isinstance(function, FeatureMaskFunction):
        made = function.of_tokens(inputs, lookup)
    else:
        made = function(inputs)
    wanted = (len(inputs), *inputs.shape[1 if inputs.ndim == 2 else 2 :])
    fits = isinstance(made, Tensor) and tuple(made.shape) in (wanted, tuple(inputs.shape))
    if not fits or made.is_floating_point() or made.is_complex():
        shown = f"{tuple(made.shape)} of {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise ParameterError(
            f"whole numbers of shape {wanted} from the feature mask, for inputs of shape {tuple(inputs.shape)}",
            shown,
            "Return the number of the feature of each position, or of each channel at each position.",
        )
    return torch.stack([each.unique(return_inverse=True)[1] for each in made]).to(inputs.device)


def sums_by_feature(maps: Tensor, features: Tensor) -> Tensor:
    """What the positions of each feature have together: ``(n, f)``, zero where a sample has fewer features than others.

    Args:
        maps: one number a position, ``(n, *positions)``.
        features: ids, likewise, as of `feature_mask_for`.

    Example:
        >>> sums_by_feature(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, 1]])).tolist()
        [[3.0, 4.0]]
    """
    ids = features.flatten(1)
    sums = maps.new_zeros(len(maps), int(ids.max()) + 1)
    return sums.scatter_add_(1, ids.to(maps.device), maps.flatten(1))
