"""What every kind of data is."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

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
POOLINGS = (Sum(), SumOfAbsolutes(), MaxOfAbsolutes(), L2(), PositivePart())
NORMALIZATIONS = (Identity(), MinMax(), MaxAbsolute())


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


class Several(Modality):
    """Several inputs that are explained together: what only one of them has a use for has no candidates here."""

    NDIM = 0
    CANDIDATES = {PoolingFunction: POOLINGS, NormalizationFunction: NORMALIZATIONS}
