"""What "feature removed" means: the values a perturbed input takes where a feature is absent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from optuna.distributions import FloatDistribution
from scipy import ndimage
from torch import Tensor

from pnpxai.batches import all_finite
from pnpxai.errors import InputError, ParameterError
from pnpxai.forward import Lookup
from pnpxai.limits import WholeWithin, Within
from pnpxai.tunable import Role

AT_ONCE = 512
"""Samples whose distances to the rows of a background are in memory at once."""


class BaselineFunction(Role):
    """Makes a baseline from inputs: same shape, the values that stand for absence.

    Attributes:
        CHANNELS_FIRST: it takes dimension 1 for channels and the dimensions after it for positions.
    """

    CHANNELS_FIRST: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """The baseline of ``inputs`` ``(n, …)``, of the same shape, each sample from itself alone."""

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """The baseline of the embeddings ``(n, d, t)`` of tokens, of which it is known where they were looked up."""
        return self(inputs)


class Zeros(BaselineFunction):
    """All zeros: the mean colour where inputs are standardised.

    Example:
        >>> Zeros()(torch.ones(1, 3)).tolist()
        [[0.0, 0.0, 0.0]]
    """

    NAME = "zeros"

    def __call__(self, inputs: Tensor) -> Tensor:
        """Zeros of the inputs' shape."""
        return torch.zeros_like(inputs)


class Mean(BaselineFunction):
    """The mean over positions, channel by channel; over all features for ``(n, d)``.

    Example:
        >>> Mean()(torch.tensor([[0.0, 1.0, 5.0]])).tolist()
        [[2.0, 2.0, 2.0]]
    """

    NAME = "mean"
    CHANNELS_FIRST = True

    def __call__(self, inputs: Tensor) -> Tensor:
        """The mean, repeated to the inputs' shape."""
        positions = tuple(range(2, inputs.ndim)) if inputs.ndim > 2 else (1,)
        return inputs.mean(positions, keepdim=True).expand_as(inputs).clone()


class Blur(BaselineFunction):
    """A Gaussian blur over positions: keeps brightness, removes detail.

    Args:
        sigma: the Gaussian's standard deviation in positions (pixels, time steps); larger removes more.
    """

    NAME = "blur"
    CHANNELS_FIRST = True
    TUNABLES = {"sigma": FloatDistribution(2.0, 20.0, log=True)}
    LIMITS = {"sigma": Within(0.0, low_open=True)}

    def __init__(self, sigma: float = 10.0) -> None:
        self.sigma = sigma

    def __call__(self, inputs: Tensor) -> Tensor:
        """The inputs blurred over dimensions 2 and up (over dimension 1 for ``(n, d)``)."""
        kept = 2 if inputs.ndim > 2 else 1
        sigmas = (0.0,) * kept + (self.sigma,) * (inputs.ndim - kept)
        dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        array = inputs.detach().cpu().to(dtype).numpy()
        return torch.from_numpy(ndimage.gaussian_filter(array, sigmas, mode="nearest")).to(inputs)


class Invert(BaselineFunction):
    """Each channel mirrored between its least and greatest value: bright becomes dark.

    Example:
        >>> Invert()(torch.tensor([[0.0, 1.0, 5.0]])).tolist()
        [[5.0, 4.0, 0.0]]
    """

    NAME = "invert"
    CHANNELS_FIRST = True

    def __call__(self, inputs: Tensor) -> Tensor:
        """Minimum plus maximum minus the inputs."""
        positions = tuple(range(2, inputs.ndim)) if inputs.ndim > 2 else (1,)
        return inputs.amin(positions, keepdim=True) + inputs.amax(positions, keepdim=True) - inputs


class Constant(BaselineFunction):
    """One value, or one value a channel, everywhere.

    Args:
        value: a number, or a tensor that broadcasts to one sample, such as ``(c, 1, 1)`` or an embedding ``(d,)``.
    """

    NAME = "constant"

    def __init__(self, value: float | Tensor = 0.0) -> None:
        self.value = value

    def __call__(self, inputs: Tensor) -> Tensor:
        """The value, repeated to the inputs' shape.

        Raises:
            ParameterError: the value does not broadcast to a sample.
        """
        try:
            return torch.as_tensor(self.value).to(inputs).expand_as(inputs).clone()
        except RuntimeError as error:
            raise ParameterError(
                f"a baseline that broadcasts to inputs of shape {tuple(inputs.shape)}",
                f"shape {tuple(torch.as_tensor(self.value).shape)}",
                "Give a number, one value a channel such as (c, 1, 1), or a whole input.",
            ) from error


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
        if not fits or not len(given) or not all_finite(given):
            received = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ParameterError(
                f"a background of shape ({wanted}) with m ≥ 1 rows",
                f"NaN or infinity, {received}" if fits and len(given) else received,
                "Pass some samples as a batch, prepared as the inputs are.",
            )
        return given.detach().to(inputs)


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


class Token(BaselineFunction):
    """The embedding of one token at every place, such as a mask's or padding's: absence in the model's own words.

    Positions are told apart as ever: models add what stands for them to this embedding, too.

    Args:
        token_id: of the token, such as ``tokenizer.mask_token_id``.
    """

    NAME = "token"
    LIMITS = {"token_id": WholeWithin(0)}

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id

    def __call__(self, inputs: Tensor) -> Tensor:
        """Nothing: inputs that are no tokens have no table of embeddings.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"token ids (n, t) for the baseline Token({self.token_id})",
            f"inputs of shape {tuple(inputs.shape)}",
            "Explain token ids, or pass the embedding itself as baseline_fn.",
        )

    def of_tokens(self, inputs: Tensor, lookup: Lookup) -> Tensor:
        """The row of the model's table at every position.

        Raises:
            ParameterError: the table has no such row.
        """
        if self.token_id >= len(lookup.table):
            raise ParameterError(
                f"the id of a token, below the {len(lookup.table)} rows of the model's embedding",
                f"{self.token_id}",
                "Take the id from the tokenizer of this model.",
            )
        return lookup.table[self.token_id].to(inputs)[:, None].expand_as(inputs).clone()


Baseline: TypeAlias = str | float | Tensor | BaselineFunction | Callable[[Tensor], Tensor]


def baseline_for(
    baseline_fn: Baseline, inputs: Tensor, channel_dim: int | None = 1, lookup: Lookup | None = None
) -> Tensor:
    """The baseline of ``inputs`` by whatever stands for it: a name, a number, a tensor, an object or a function.

    Args:
        baseline_fn: a function is called with the inputs as they are.
        inputs: ``(n, …)``.
        channel_dim: the inputs' channels, so that ``"mean"``, ``"blur"`` and ``"invert"`` run over positions.
        lookup: of inputs that are the embeddings of tokens, where the model looks them up.

    Raises:
        UnknownNameError: a name that is no baseline.
        ParameterError: a baseline that is not of the inputs' shape or not finite.
    """
    if isinstance(baseline_fn, int | float | Tensor):
        baseline_fn = Constant(baseline_fn)
    function = baseline_fn if callable(baseline_fn) else BaselineFunction.resolve(baseline_fn)
    channels_first = isinstance(function, BaselineFunction) and function.CHANNELS_FIRST and inputs.ndim > 2
    if channels_first and channel_dim is not None:
        made = function(inputs.movedim(channel_dim, 1)).movedim(1, channel_dim)
    elif lookup is not None and isinstance(function, BaselineFunction):
        made = function.of_tokens(inputs, lookup)
    else:
        made = function(inputs)
    wrong_shape = not isinstance(made, Tensor) or made.shape != inputs.shape
    if wrong_shape or not all_finite(made):
        received = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise ParameterError(
            f"a finite baseline of the inputs' shape {tuple(inputs.shape)}",
            received if wrong_shape else "NaN or infinity",
            "Return a finite tensor of the same shape from the baseline function.",
        )
    return made.to(inputs)
