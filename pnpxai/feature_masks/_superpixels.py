"""The superpixels of an image."""

from __future__ import annotations

import warnings
from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.errors import InputError
from pnpxai.feature_masks._base import FeatureMaskFunction
from pnpxai.limits import WholeWithin, Within


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
