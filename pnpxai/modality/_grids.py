"""Data on a grid of positions: images, volumes, series and their spectra."""

from __future__ import annotations

from pnpxai.baselines import BaselineFunction, Blur, Invert, Mean, Zeros
from pnpxai.feature_masks import (
    SLIC,
    FeatureMaskFunction,
    Felzenszwalb,
    Grid,
    Quickshift,
)
from pnpxai.modality._base import NORMALIZATIONS, POOLINGS, Modality
from pnpxai.postprocess import NormalizationFunction, PoolingFunction


class Image(Modality):
    """Images ``(n, c, h, w)``."""

    NDIM = 4
    CANDIDATES = {
        BaselineFunction: (Zeros(), Mean(), Blur(), Invert()),
        FeatureMaskFunction: (Grid(), SLIC(), Felzenszwalb(), Quickshift()),
        PoolingFunction: POOLINGS,
        NormalizationFunction: NORMALIZATIONS,
    }


class Volume(Modality):
    """Volumes ``(n, c, d, h, w)``, such as scans, or videos with their frames in the place of the depth."""

    NDIM = 5
    CANDIDATES = {
        BaselineFunction: (Zeros(), Mean(), Blur(), Invert()),
        FeatureMaskFunction: (Grid(),),
        PoolingFunction: POOLINGS,
        NormalizationFunction: NORMALIZATIONS,
    }


class TimeSeries(Modality):
    """Series ``(n, c, t)``."""

    NDIM = 3
    CANDIDATES = {
        BaselineFunction: (Zeros(), Mean(), Blur(), Invert()),
        FeatureMaskFunction: (Grid(),),
        PoolingFunction: POOLINGS,
        NormalizationFunction: NORMALIZATIONS,
    }


class Spectrum(Modality):
    """Spectra ``(n, 2, c, f)`` of series, real and imaginary parts in dimension 1 (see `pnpxai.spectrum`)."""

    NDIM = 4
    CANDIDATES = {
        BaselineFunction: (Zeros(),),
        FeatureMaskFunction: (Grid(),),
        PoolingFunction: POOLINGS,
        NormalizationFunction: NORMALIZATIONS,
    }
