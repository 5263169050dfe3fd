"""Kinds of data: which dimension holds channels, and which candidates fill each role."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from pnpxai.baselines import BaselineFunction, Blur, Invert, Marginal, Mean, Token, Zeros
from pnpxai.errors import InputError, unknown_name
from pnpxai.feature_masks import (
    SLIC,
    Each,
    FeatureMaskFunction,
    Felzenszwalb,
    Grid,
    Groups,
    Quickshift,
    sums_by_feature,
)
from pnpxai.limits import OrNone, WholeWithin
from pnpxai.pieces import Piece, Tokenizer, absent_id, has_words, pieces_of, words_of
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
from pnpxai.words import Words

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

    Features are single tokens, or whole words (the usual ones) where it is known which tokens make a word: by
    ``word_ids`` or by the tokenizer (see `Words`). What stands for absence is zero, or the embedding of a mask.

    Args:
        channel_dim: where the embeddings' dimensions are: 1 for token ids, 2 for embeddings of your own.
        tokenizer: how ids become words: a tokenizer of ``transformers`` or ``tokenizers``, or only what its pieces
            are: a list, a mapping or a function from ids. Reports show these words; None shows ids.
        mask_id: the token that stands for absence; None for the tokenizer's mask, or padding if it has none.
        word_ids: the inputs say themselves which tokens make a word.

    Example:
        >>> import torch
        >>> text = Text(channel_dim=1, tokenizer=["[MASK]", "un", "##kind", "words"])
        >>> text.by_word(torch.tensor([[3, 1, 2]]), torch.tensor([[0.5, 2.0, 1.0]]))
        [[('words', 0.5), ('unkind', 3.0)]]
    """

    NDIM = 3
    CANDIDATES = {
        BaselineFunction: (Zeros(),),
        FeatureMaskFunction: (Each(),),
        PoolingFunction: _POOLINGS,
        NormalizationFunction: _NORMALIZATIONS,
    }
    LIMITS = {"mask_id": OrNone(WholeWithin(0))}

    def __init__(
        self,
        channel_dim: int | None = 2,
        tokenizer: Tokenizer = None,
        mask_id: int | None = None,
        word_ids: bool = False,
    ) -> None:
        super().__init__(channel_dim)
        self.tokenizer = tokenizer
        self.mask_id = mask_id
        self.word_ids = word_ids

    @property
    def of_tokens(self) -> bool:
        """Whether embeddings are those of token ids, so that more is known than the embeddings alone."""
        return self.channel_dim == 1

    @property
    def candidates(self) -> dict[type[Tunable], Sequence[Tunable]]:
        """With a mask's embedding and whole words where they are known."""
        found = {role: list(objects) for role, objects in super().candidates.items()}
        mask = absent_id(self.tokenizer) if self.mask_id is None else self.mask_id
        if self.of_tokens and mask is not None:
            found[BaselineFunction].append(Token(mask))
        if self.of_tokens and (self.word_ids or has_words(self.tokenizer)):
            found[FeatureMaskFunction].insert(0, Words(None if self.word_ids else self.tokenizer))
        return dict(found)

    @property
    def usual(self) -> dict[str, Any]:
        """Words as features, or tokens, where a grid would be laid over them."""
        return {"feature_mask_fn": self.candidates[FeatureMaskFunction][0]} if self.of_tokens else {}

    def pieces(self, ids: Tensor, words: Tensor | None = None) -> list[Piece]:
        """What the tokens ``(t,)`` of one text stand for."""
        return pieces_of(self.tokenizer, ids, words)

    def by_word(self, ids: Tensor, maps: Tensor, words: Tensor | None = None) -> list[list[tuple[str, float]]]:
        """Maps summed to words, which are in the order of the text.

        Where an explainer took words for features, each token has the value of its whole word (see `KernelShap`), and
        a word's is that times its number of tokens; the maps of gradients and relevance add up over tokens.

        Args:
            ids: ``(n, t)``.
            maps: ``(n, t)``.
            words: numbers of the tokens' words, ``(n, t)``; None where the tokenizer says so.
        """
        numbers = words_of(self.tokenizer, ids) if words is None else words
        numbers = torch.stack([each.unique_consecutive(return_inverse=True)[1] for each in numbers])
        sums = sums_by_feature(maps, numbers)
        found = []
        for own, which, values in zip(ids, numbers, sums.tolist(), strict=True):
            texts = [""] * (int(which.max()) + 1)
            for number, piece in zip(which.tolist(), self.pieces(own, which), strict=True):
                texts[number] += piece.text
            found.append(list(zip(texts, values, strict=False)))
        return found


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
    modality: str | type[Modality] | Modality | None,
    inputs: Tensor | None,
    tokens: bool = False,
    word_ids: bool = False,
) -> Modality:
    """The modality meant by a name, class or object, or guessed from the inputs.

    Args:
        modality: what was asked for; None guesses from the number of dimensions.
        inputs: what is explained, ``(n, …)``.
        tokens: they are the embeddings ``(n, d, t)`` of token ids.
        word_ids: of tokens of which it is known to which words they belong.

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
        return modality.set_kwargs(channel_dim=1, word_ids=modality.word_ids or word_ids)
    return modality


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
