"""Features by position: cells of a grid, single positions, groups of columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from numbers import Integral

import torch
from optuna.distributions import IntDistribution
from torch import Tensor

from pnpxai.errors import InputError, ParameterError
from pnpxai.feature_masks._base import FeatureMaskFunction
from pnpxai.limits import WholeWithin


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
        d, first = inputs.shape[1], torch.arange(inputs.shape[1])
        listed = isinstance(self.groups, Collection) and all(isinstance(group, Collection) for group in self.groups)
        columns = [column for group in self.groups for column in group] if listed else []
        whole = all(isinstance(column, Integral) and not isinstance(column, bool) for column in columns)
        if not listed or not whole or len(set(columns)) < len(columns) or not all(0 <= each < d for each in columns):
            raise ParameterError(
                f"groups of columns from 0 to {d - 1}, each in one group at most", f"{self.groups}", "Correct them."
            )
        for group in self.groups:
            first[list(group)] = min(group, default=0)
        ids: Tensor = ((first == torch.arange(d)).cumsum(0) - 1)[first].to(inputs.device)
        return ids.expand(len(inputs), d).clone()
