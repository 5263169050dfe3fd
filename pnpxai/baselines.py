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
from pnpxai.errors import ParameterError
from pnpxai.limits import Within
from pnpxai.tunable import Role


class BaselineFunction(Role):
    """Makes a baseline from inputs: same shape, the values that stand for absence.

    Attributes:
        CHANNELS_FIRST: it takes dimension 1 for channels and the dimensions after it for positions.
    """

    CHANNELS_FIRST: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """The baseline of ``inputs`` ``(n, …)``, of the same shape, each sample from itself alone."""


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


Baseline: TypeAlias = str | float | Tensor | BaselineFunction | Callable[[Tensor], Tensor]


def baseline_for(baseline_fn: Baseline, inputs: Tensor, channel_dim: int | None = 1) -> Tensor:
    """The baseline of ``inputs`` by whatever stands for it: a name, a number, a tensor, an object or a function.

    Args:
        baseline_fn: a function is called with the inputs as they are.
        inputs: ``(n, …)``.
        channel_dim: the inputs' channels, so that ``"mean"``, ``"blur"`` and ``"invert"`` run over positions.

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
