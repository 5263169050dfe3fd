"""Which samples are tuned on, and which judge."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pnpxai.errors import ParameterError
from pnpxai.outputs import TargetFunction


def split(n: int, holdout: float | int, targets: Tensor | TargetFunction, seed: int) -> tuple[list[int], list[int]]:
    """Disjoint tuning and hold-out samples, spread over the classes; a single sample has no hold-out.

    Raises:
        ParameterError: a hold-out that leaves nothing to tune on.
    """
    share = isinstance(holdout, float) and 0 <= holdout < 1
    size = int(n * holdout) if share else holdout
    if isinstance(holdout, bool) or not isinstance(size, int) or size < 0 or size >= n:
        raise ParameterError(
            f"holdout as a share from 0 to below 1, or a number of samples below the {n} there are",
            f"{holdout!r}",
            "Leave at least one sample to tune on.",
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(n)
    if isinstance(targets, Tensor):
        classes = targets.cpu().numpy()[order]
        order = order[np.argsort(classes, kind="stable")]
    picked = {int(each) for each in np.floor((np.arange(size) + generator.random()) * n / size)} if size else set()
    chosen = {int(order[each]) for each in picked}
    tuning = [int(each) for each in generator.permutation(n) if int(each) not in chosen]
    return tuning, sorted(chosen)
