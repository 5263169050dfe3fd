"""Baselines of the inputs alone."""

from __future__ import annotations

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor

from pnpxai.baselines._base import BaselineFunction
from pnpxai.errors import ParameterError
from pnpxai.limits import Within


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
        from scipy import ndimage

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
