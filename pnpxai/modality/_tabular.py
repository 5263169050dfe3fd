"""Tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pnpxai.baselines import BaselineFunction, Marginal, Mean, Zeros
from pnpxai.feature_masks import FeatureMaskFunction, Groups
from pnpxai.modality._base import NORMALIZATIONS, Modality
from pnpxai.postprocess import NormalizationFunction
from pnpxai.tunable import Tunable


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
    CANDIDATES = {BaselineFunction: (Zeros(), Mean()), NormalizationFunction: NORMALIZATIONS}

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
