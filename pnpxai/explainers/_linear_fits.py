"""Weighted linear fits of the scores of many samples on one design, in float64 on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 2000
"""How often the lasso goes over all coefficients, at most."""
SOLVED_EVERY = 10
"""After how many of these it is asked whether the signs are those of the minimum."""
EXACT = 1e-9
"""By what share of the penalty the conditions of the minimum may be missed."""


def ridge(design: Tensor, responses: Tensor, weights: Tensor, penalty: float = 0.0) -> Tensor:
    """``β`` that minimises ``Σ_j w_j (y_j - z_j·β)² + λ ‖β‖²``; of several, the shortest.

    By an orthogonal factorisation of the design itself, whose condition is not squared.

    Args:
        design: ``z``, ``(m, d)``.
        responses: ``y``, ``(n, m)``.
        weights: ``w``, ``(m,)``.
        penalty: ``λ``.

    Returns:
        ``(n, d)``.
    """
    m, d = design.shape
    if m == 0:
        return responses.new_zeros(len(responses), d)
    roots = weights.sqrt()
    rows, right = design * roots[:, None], (responses * roots).T
    if penalty:
        rows = torch.cat([rows, penalty**0.5 * torch.eye(d, dtype=rows.dtype)])
        right = torch.cat([right, right.new_zeros(d, right.shape[1])])
    found: Tensor = torch.linalg.lstsq(rows, right, driver="gelsy").solution
    return found.T


def lasso(design: Tensor, responses: Tensor, weights: Tensor, share: float) -> Tensor:
    """``β`` that minimises ``½ Σ_j w_j (y_j - z_j·β)² + α ‖β‖₁``, by coordinate descent (Friedman et al., 2010).

    ``α`` is a share of ``max_k |Σ_j w_j y_j z_jk|``, the least penalty at which all of ``β`` is zero; of each sample.
    Once the descent knows which coefficients are not zero, and their signs, the minimum is a linear system's solution.

    Args:
        design: ``z``, ``(m, d)``.
        responses: ``y``, ``(n, m)``.
        weights: ``w``, ``(m,)``.
        share: from 0 to 1, exclusive.

    Returns:
        ``(n, d)``.
    """
    products, mixed = design.T @ (design * weights[:, None]), (responses * weights) @ design
    penalties = share * mixed.abs().amax(1)
    found, open_ = torch.zeros_like(mixed), penalties > 0
    varying = (products.diagonal() > 0).nonzero()[:, 0].tolist()
    for sweep in range(SWEEPS):
        if not open_.any():
            break
        now, wanted, penalty = found[open_], mixed[open_], penalties[open_]
        for k in varying:
            left = wanted[:, k] - now @ products[:, k] + now[:, k] * products[k, k]
            now[:, k] = left.sign() * (left.abs() - penalty).clamp(min=0) / products[k, k]
        found[open_] = now
        if sweep % SOLVED_EVERY == 0:
            for i in open_.nonzero()[:, 0].tolist():
                minimum = _minimum(products, mixed[i], penalties[i], found[i].sign())
                if minimum is not None:
                    found[i], open_[i] = minimum, False
    return found


def _minimum(products: Tensor, mixed: Tensor, penalty: Tensor, signs: Tensor) -> Tensor | None:
    """The lasso's minimum if its coefficients have these signs ``(d,)``, else None."""
    active = signs != 0
    found = torch.zeros_like(mixed)
    right = (mixed - penalty * signs)[active]
    found[active] = torch.linalg.lstsq(products[active][:, active], right[:, None], driver="gelsy").solution[:, 0]
    slopes = mixed - products @ found
    allowed = slopes.abs() <= penalty * (1 + EXACT)
    kept = ((slopes - penalty * signs).abs() <= EXACT * penalty) & (found.sign() == signs)
    return found if (allowed & (kept | ~active)).all() else None
