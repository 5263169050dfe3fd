"""Kinds of data: which dimension holds channels, and which candidates fill each role."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pnpxai.errors import InputError, unknown_name
from pnpxai.modality._base import Modality, Several
from pnpxai.modality._grids import Image, Spectrum, TimeSeries, Volume
from pnpxai.modality._tabular import Tabular
from pnpxai.modality._text import Text

__all__ = [
    "Image",
    "ImageModality",
    "MODALITIES",
    "Modality",
    "Several",
    "Spectrum",
    "Tabular",
    "TabularModality",
    "Text",
    "TextModality",
    "TimeSeries",
    "TimeSeriesModality",
    "Volume",
    "VolumeModality",
    "modality_for",
]

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
    modality: str | type[Modality] | Modality | None,
    inputs: Tensor | None,
    tokens: bool = False,
    word_ids: bool = False,
    several: bool = False,
) -> Modality:
    """The modality meant by a name, class or object, or guessed from the inputs.

    Args:
        modality: what was asked for; None guesses from the number of dimensions.
        inputs: what is explained, ``(n, …)``.
        tokens: they are the embeddings ``(n, d, t)`` of token ids.
        word_ids: of tokens of which it is known to which words they belong.
        several: there are more inputs, and these are the first.

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
    if tokens and isinstance(modality, Text):
        modality = modality.set_kwargs(channel_dim=1, word_ids=modality.word_ids or word_ids)
    return Several(modality.channel_dim) if several else modality


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
