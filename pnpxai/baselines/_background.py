"""Baselines from rows of data."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pnpxai.baselines._base import BaselineFunction
from pnpxai.batches import all_finite
from pnpxai.errors import ParameterError
from pnpxai.limits import WholeWithin

AT_ONCE = 512
"""Samples whose distances to the rows of a background are in memory at once."""


class FromBackground(BaselineFunction):
    """Absent features take their values from the rows of a background, together with all else that is absent.

    `KernelShap` and `Lime` ask the model once for each row and take the mean of its scores.

    Args:
        background: rows of data ``(m, …)``, such as some of the training samples.
    """

    def __init__(self, background: Tensor) -> None:
        self.background = background

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """How many rows each set of absent features is filled from."""

    @abstractmethod
    def rows(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """The numbers of the rows, ``(b, n_rows)``, equally likely, where ``kept`` ``(b, …)`` of ``inputs`` is left."""

    def checked(self, inputs: Tensor) -> Tensor:
        """The background on the device and in the dtype of the inputs.

        Raises:
            ParameterError: it does not fit them.
        """
        given = self.background
        wanted = ", ".join(map(str, ("m", *inputs.shape[1:])))
        fits = isinstance(given, Tensor) and given.ndim == inputs.ndim and given.shape[1:] == inputs.shape[1:]
        if not fits or not len(given) or not all_finite(given := given.detach().to(inputs)):
            received = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ParameterError(
                f"a background as a tensor of shape ({wanted}) with m ≥ 1 rows",
                f"NaN or infinity, {received}" if fits and len(given) else received,
                "Pass some samples as a batch, prepared as the inputs are, e.g. torch.from_numpy(rows).",
            )
        return given


class Marginal(FromBackground):
    """Values of all the rows in turn: what is absent is as in the data, whatever is left.

    The mean of the scores is ``v(S) = 1/m Σ_b f(x_S, b_S̄)``, whose Shapley values are called interventional: features
    are cut loose from each other (Janzing et al., 2020, arXiv 1910.13413). True to the model, which may be asked about
    combinations that no data have. Methods that compare with one input take the mean of the rows.

    Args:
        background: rows of data ``(m, …)``; more are closer to the data's distribution and cost as many forwards.

    Example:
        >>> Marginal(torch.tensor([[0.0, 2.0], [4.0, 4.0]]))(torch.zeros(1, 2)).tolist()
        [[2.0, 3.0]]
    """

    NAME = "marginal"

    @property
    def n_rows(self) -> int:
        """All of them."""
        return len(self.background)

    def rows(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """All of them."""
        return torch.arange(self.n_rows, device=inputs.device).expand(len(inputs), -1)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The mean of the rows, repeated to the inputs' shape."""
        exact = self.checked(inputs).to(torch.promote_types(inputs.dtype, torch.float32))
        return exact.mean(0).to(inputs).expand_as(inputs).clone()


class Conditional(FromBackground):
    """Values of the rows that are nearest to the sample in what is left of it.

    The mean of the scores estimates ``v(S) = E[f(X) | X_S = x_S]``: features that go together in the data stay together
    (Aas, Jullum and Løland, 2021, arXiv 1903.10464). True to the data, so that a feature the model never reads has a
    share of what it tells about others. Distances are Euclidean, each column divided by its standard deviation over
    the rows. Rows that are equally near come in a random order; where nothing is left, all are.

    What is absent depends on what is left, so that `KernelShap` and `Lime` alone can ask for it.

    Args:
        background: rows of data ``(m, …)``; the more, the nearer are the nearest.
        n_neighbors: how many of them; more are steadier, cost as many forwards, and are less like the sample.
        seed: of the order of rows that are equally near.
    """

    NAME = "conditional"
    LIMITS = {"n_neighbors": WholeWithin(1), "seed": WholeWithin(0)}

    def __init__(self, background: Tensor, n_neighbors: int = 10, seed: int = 0) -> None:
        super().__init__(background)
        self.n_neighbors = n_neighbors
        self.seed = seed

    @property
    def n_rows(self) -> int:
        """Those asked for, or all there are."""
        return min(self.n_neighbors, len(self.background))

    def rows(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """The nearest, the nearest first."""
        order = torch.randperm(len(self.background), generator=torch.Generator().manual_seed(self.seed))
        exact = torch.device("cpu") if inputs.device.type == "mps" else inputs.device  # MPS has no float64
        rows = self.checked(inputs).flatten(1).to(exact, torch.float64)[order.to(exact)]
        spread = rows.std(0, correction=0)
        scale = torch.where(spread > 0, 1 / spread, 0.0)
        values, kept = inputs.flatten(1).to(rows), kept.expand_as(inputs).flatten(1).to(rows) * scale
        found = []
        for start in range(0, len(inputs), AT_ONCE):
            some, weights = values[start : start + AT_ONCE], kept[start : start + AT_ONCE]
            distances = rows.new_zeros(len(some), len(rows))
            for column in range(rows.shape[1]):
                distances += (weights[:, column, None] * (some[:, column, None] - rows[:, column])).square()
            found.append(distances.argsort(dim=1, stable=True)[:, : self.n_rows])
        return order.to(exact)[torch.cat(found)].to(inputs.device)

    def __call__(self, inputs: Tensor) -> Tensor:
        """There is no one baseline.

        Raises:
            ParameterError: always.
        """
        raise ParameterError(
            "a baseline that does not depend on which features are left, for this method",
            f"{self!r}",
            "Use Marginal(background), or KernelShap or Lime.",
        )
