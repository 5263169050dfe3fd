"""Which features move together: cells of a grid, the superpixels of an image, single positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from pnpxai.errors import ParameterError
from pnpxai.feature_masks._base import FeatureMaskFunction
from pnpxai.feature_masks._cells import Each, Grid, Groups, grid_cells
from pnpxai.feature_masks._superpixels import SLIC, Felzenszwalb, Quickshift
from pnpxai.forward import Lookup

__all__ = [
    "Each",
    "FeatureMask",
    "FeatureMaskFunction",
    "Felzenszwalb",
    "Grid",
    "Groups",
    "Quickshift",
    "SLIC",
    "by_number",
    "feature_mask_for",
    "grid_cells",
    "on_positions",
    "sums_by_feature",
]

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


def by_number(features: Tensor) -> dict[int, Tensor]:
    """Which samples have as many features: their number to the samples ``(k,)``, fewest first.

    Args:
        features: ids, ``(n, …)``, as of `feature_mask_for`.

    Example:
        >>> {d: which.tolist() for d, which in by_number(torch.tensor([[0, 1], [0, 0], [1, 0]])).items()}
        {1: [1], 2: [0, 2]}
    """
    counts = features.flatten(1).amax(1) + 1
    return {d: (counts == d).nonzero()[:, 0] for d in sorted(set(counts.tolist()))}


def on_positions(features: Tensor, values: Mapping[int, Tensor]) -> Tensor:
    """The value of each position's feature, of the shape of ``features``.

    Args:
        features: likewise.
        values: number of features ``d`` to those of the samples that have as many, ``(k, d)``.

    Example:
        >>> values = {1: torch.tensor([[5.0]]), 2: torch.tensor([[1.0, 2.0]])}
        >>> on_positions(torch.tensor([[0, 1], [0, 0]]), values).tolist()
        [[1.0, 2.0], [5.0, 5.0]]
    """
    made = torch.empty(features.shape, dtype=next(iter(values.values())).dtype, device=features.device)
    for d, samples in by_number(features).items():
        own = features[samples]
        made[samples] = values[d].to(made.device).gather(1, own.flatten(1)).reshape(own.shape)
    return made
