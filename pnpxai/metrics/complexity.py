"""How concentrated a map is: entropy and the Gini index. Neither asks the model anything."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pnpxai.forward import Request
from pnpxai.metrics._answers import Answers
from pnpxai.metrics._base import Metric


def entropy(values: Tensor) -> Tensor:
    """Entropy in nats of each sample's share of magnitude a feature; a map of zeros counts as uniform.

    Args:
        values: ``(n, f)``.

    Returns:
        ``(n,)``, from 0 (one feature) to log f (all alike).

    Example:
        >>> entropy(torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
        tensor([0.6931, 1.0986])
    """
    total, shares = _shares(values)
    found = torch.special.entr(shares).sum(1)
    return torch.where(total > 0, found, math.log(values.shape[1])).to(values)


def gini(values: Tensor) -> Tensor:
    """Gini index of each sample's magnitudes; 0 for a map of zeros.

    Args:
        values: ``(n, f)``.

    Returns:
        ``(n,)``, from 0 (all alike) to 1 - 1/f (one feature).

    Example:
        >>> gini(torch.tensor([[0.0, -4.0], [1.0, 3.0], [0.0, 0.0]]))
        tensor([0.5000, 0.2500, 0.0000])
    """
    f = values.shape[1]
    _, shares = _shares(values)
    weights = 2 * torch.arange(1, f + 1, device=values.device, dtype=shares.dtype) - f - 1
    return ((shares.sort(1).values * weights).sum(1) / f).to(values)


def _shares(values: Tensor) -> tuple[Tensor, Tensor]:
    magnitudes = values.double().abs()
    largest = magnitudes.amax(1, keepdim=True)
    magnitudes = magnitudes / torch.where(largest > 0, largest, 1.0)
    total = magnitudes.sum(1, keepdim=True)
    return total.squeeze(1), magnitudes / torch.where(total > 0, total, 1.0)


class Complexity(Metric):
    """Entropy of the shares of magnitude ``|a| / Σ|a|`` (Bhatt et al., 2020); less is easier to read.

    From 0 (one feature) to log f; a map of zeros counts as uniform. Says nothing about faithfulness.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> Complexity(model).evaluate(torch.ones(1, 4), 0, torch.tensor([[1.0, -1.0, 1.0, 1.0]]))
        tensor([1.3863])
    """

    HIGHER_IS_BETTER = False
    OUTPUTS_ONLY = True

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """The entropy of each map."""
        return entropy(values)


class Sparseness(Metric):
    """Gini index of the magnitudes (Chalasani et al., 2020): ``Σ (2i - f - 1) a_i / (f Σ a_i)``, sorted.

    From 0 (all features alike, or all zero) to 1 - 1/f (one feature). Says nothing about faithfulness.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> Sparseness(model).evaluate(torch.ones(1, 4), 0, torch.tensor([[0.0, 0.0, -2.0, 0.0]]))
        tensor([0.7500])
    """

    HIGHER_IS_BETTER = True
    OUTPUTS_ONLY = True

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """The Gini index of each map."""
        return gini(values)
