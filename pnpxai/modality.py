"""Kinds of data: which dimension holds channels, and which candidates fill each role."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from pnpxai.baselines import BaselineFunction, Blur, Invert, Mean, Zeros
from pnpxai.errors import InputError, unknown_name
from pnpxai.feature_masks import SLIC, FeatureMaskFunction, Felzenszwalb, Grid, Quickshift
from pnpxai.postprocess import (
    L2,
    Identity,
    MaxAbsolute,
    MaxOfAbsolutes,
    MinMax,
    NormalizationFunction,
    PoolingFunction,
    PositivePart,
    PostProcessor,
    Sum,
    SumOfAbsolutes,
)
from pnpxai.tunable import Role, Tunable

_POOLINGS = (Sum(), SumOfAbsolutes(), MaxOfAbsolutes(), L2(), PositivePart())
_NORMALIZATIONS = (Identity(), MinMax(), MaxAbsolute())


class Modality(Tunable, ABC):
    """A kind of data.

    Attributes:
        NDIM: dimensions of its inputs, batch included.
        CANDIDATES: role to the objects that may fill it, first the usual one.

    Args:
        channel_dim: the dimension whose entries belong to one feature; None for none.
    """

    NDIM: ClassVar[int]
    CANDIDATES: ClassVar[dict[type[Role], tuple[Role, ...]]]

    def __init__(self, channel_dim: int | None = 1) -> None:
        self.channel_dim = channel_dim

    @property
    def candidates(self) -> dict[type[Tunable], Sequence[Tunable]]:
        """Role to candidates, as `pnpxai.tunable.suggest` takes them."""
        return {role: list(objects) for role, objects in self.CANDIDATES.items()}

    @property
    def postprocessor(self) -> PostProcessor:
        """The usual post-processing: the first pooling, the first normalisation."""
        return PostProcessor(channel_dim=self.channel_dim)

    @property
    def postprocessors(self) -> list[PostProcessor]:
        """Every pooling with every normalisation, the usual one first."""
        poolings = self.CANDIDATES.get(PoolingFunction, (Sum(),))
        return [
            PostProcessor(pooling, normalization, self.channel_dim)  # type: ignore[arg-type]  # listed by role
            for pooling in poolings
            for normalization in self.CANDIDATES[NormalizationFunction]
        ]


class Image(Modality):
    """Images ``(n, c, h, w)``."""

    NDIM = 4
    CANDIDATES = {
        BaselineFunction: (Zeros(), Mean(), Blur(), Invert()),
        FeatureMaskFunction: (Grid(), SLIC(), Felzenszwalb(), Quickshift()),
        PoolingFunction: _POOLINGS,
        NormalizationFunction: _NORMALIZATIONS,
    }


class Volume(Modality):
    """Volumes ``(n, c, d, h, w)``, such as scans, or videos with their frames in the place of the depth."""

    NDIM = 5
    CANDIDATES = {
        BaselineFunction: (Zeros(), Mean(), Blur(), Invert()),
        FeatureMaskFunction: (Grid(),),
        PoolingFunction: _POOLINGS,
        NormalizationFunction: _NORMALIZATIONS,
    }


class TimeSeries(Modality):
    """Series ``(n, c, t)``."""

    NDIM = 3
    CANDIDATES = {
        BaselineFunction: (Zeros(), Mean(), Blur(), Invert()),
        FeatureMaskFunction: (Grid(),),
        PoolingFunction: _POOLINGS,
        NormalizationFunction: _NORMALIZATIONS,
    }


class Text(Modality):
    """Text: token ids ``(n, t)``, explained by their embeddings ``(n, d, t)``, or embeddings of your own ``(n, t, d)``.

    Args:
        channel_dim: where the embeddings' dimensions are: 1 for token ids, 2 for embeddings of your own.
    """

    NDIM = 3
    CANDIDATES = {
        BaselineFunction: (Zeros(),),
        PoolingFunction: _POOLINGS,
        NormalizationFunction: _NORMALIZATIONS,
    }

    def __init__(self, channel_dim: int | None = 2) -> None:
        super().__init__(channel_dim)


class Tabular(Modality):
    """Feature vectors ``(n, d)``."""

    NDIM = 2
    CANDIDATES = {BaselineFunction: (Zeros(), Mean()), NormalizationFunction: _NORMALIZATIONS}

    def __init__(self, channel_dim: int | None = None) -> None:
        super().__init__(channel_dim)


ImageModality = Image
VolumeModality = Volume
TimeSeriesModality = TimeSeries
TextModality = Text
TabularModality = Tabular
MODALITIES: dict[str, type[Modality]] = {
    "image": Image,
    "volume": Volume,
    "time_series": TimeSeries,
    "text": Text,
    "tabular": Tabular,
}


def modality_for(
    modality: str | type[Modality] | Modality | None, inputs: Tensor | None, tokens: bool = False
) -> Modality:
    """The modality meant by a name, class or object, or guessed from the inputs.

    Args:
        modality: what was asked for; None guesses from the number of dimensions.
        inputs: what is explained, ``(n, …)``.
        tokens: they are the embeddings ``(n, d, t)`` of token ids.

    Raises:
        UnknownNameError: a name that is no modality.
        InputError: inputs that fit none.

    Example:
        >>> import torch
        >>> modality_for(None, torch.zeros(2, 3, 8, 8))
        Image()
    """
    if isinstance(modality, str):
        if modality not in MODALITIES:
            raise unknown_name("modality", modality, MODALITIES)
        modality = MODALITIES[modality]
    if isinstance(modality, type) and issubclass(modality, Modality):
        modality = modality()
    if modality is None:
        modality = Text() if tokens else _guessed(inputs)
    if not isinstance(modality, Modality):
        raise unknown_name("modality", modality, MODALITIES)
    return modality.set_kwargs(channel_dim=1) if tokens and isinstance(modality, Text) else modality


def _guessed(inputs: Tensor | None) -> Modality:
    guesses: dict[int, type[Modality]] = {5: Volume, 4: Image, 3: TimeSeries, 2: Tabular}
    if inputs is None or inputs.ndim not in guesses:
        received: Any = None if inputs is None else tuple(inputs.shape)
        raise InputError(
            "2 dimensions (tabular), 3 (time series), 4 (images) or 5 (volumes), batch included, or token ids",
            f"{received}",
            "Pass modality= to say what the data are.",
        )
    return guesses[inputs.ndim]()
