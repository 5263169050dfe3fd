"""Kinds of data: which dimension holds channels, and which candidates fill each role."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from pnpxai.baselines import BaselineFunction, Blur, Invert, Marginal, Mean, Zeros
from pnpxai.errors import InputError, unknown_name
from pnpxai.feature_masks import SLIC, FeatureMaskFunction, Felzenszwalb, Grid, Groups, Quickshift
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
from pnpxai.tunable import Role, Tunable, constructor_parameters

T = TypeVar("T", bound=Tunable)
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
    def usual(self) -> dict[str, Any]:
        """Arguments that these data settle for explainers and metrics which come without settings."""
        return {}

    def settled(self, made: T) -> T:
        """``made`` with those of its arguments that these data settle."""
        own = constructor_parameters(type(made))
        changed = {name: value for name, value in self.usual.items() if name in own}
        return made.set_kwargs(**changed) if changed else made

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


class Spectrum(Modality):
    """Spectra ``(n, 2, c, f)`` of series, real and imaginary parts in dimension 1 (see `pnpxai.spectrum`)."""

    NDIM = 4
    CANDIDATES = {
        BaselineFunction: (Zeros(),),
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
    """Feature vectors ``(n, d)``.

    Zero stands for absence where columns are standardised. Of raw columns it may be a value that no row has: give a
    ``background``, whose rows then stand for absence wherever explainers and metrics come without settings.

    Args:
        channel_dim: None; columns have no channels.
        background: rows ``(m, d)``, such as a hundred training samples: what `Marginal` takes absent columns from, and
            references for methods that compare with several.
        groups: columns that are one feature, such as the one-hot columns of a category, for methods that take features
            of several columns (`Groups`).
        names: of the columns, for the report.

    Example:
        >>> import torch
        >>> Tabular(background=torch.rand(5, 3)).candidates[BaselineFunction][0].NAME
        'marginal'
    """

    NDIM = 2
    CANDIDATES = {BaselineFunction: (Zeros(), Mean()), NormalizationFunction: _NORMALIZATIONS}

    def __init__(
        self,
        channel_dim: int | None = None,
        background: Tensor | None = None,
        groups: Sequence[Sequence[int]] = (),
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(channel_dim)
        self.background = background
        self.groups = groups
        self.names = names

    @property
    def candidates(self) -> dict[type[Tunable], Sequence[Tunable]]:
        """Role to candidates; with a background it alone stands for absence."""
        found = super().candidates
        if self.background is not None:
            found[BaselineFunction] = [Marginal(self.background)]
        if self.groups:
            found[FeatureMaskFunction] = [Groups(self.groups)]
        return found

    @property
    def usual(self) -> dict[str, Any]:
        """The background and the groups, if there are any."""
        found: dict[str, Any] = {}
        if self.background is not None:
            found |= {"baseline_fn": Marginal(self.background), "background": self.background}
        return found | ({"feature_mask_fn": Groups(self.groups)} if self.groups else {})


ImageModality = Image
VolumeModality = Volume
TimeSeriesModality = TimeSeries
TextModality = Text
TabularModality = Tabular
MODALITIES: dict[str, type[Modality]] = {
    "image": Image,
    "volume": Volume,
    "time_series": TimeSeries,
    "spectrum": Spectrum,
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
