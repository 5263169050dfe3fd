"""What "feature removed" means: the values a perturbed input takes where a feature is absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from pnpxai.baselines._background import Conditional, FromBackground, Marginal
from pnpxai.baselines._base import BaselineFunction
from pnpxai.baselines._filled import Blur, Constant, Invert, Mean, Zeros
from pnpxai.baselines._token import Token
from pnpxai.batches import all_finite
from pnpxai.errors import ParameterError
from pnpxai.forward import Lookup

__all__ = [
    "Baseline",
    "BaselineFunction",
    "Blur",
    "Conditional",
    "Constant",
    "FromBackground",
    "Invert",
    "Marginal",
    "Mean",
    "Token",
    "Zeros",
    "baseline_for",
]

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
    fits = isinstance(made, Tensor) and made.shape == inputs.shape
    if not fits or not all_finite(made := made.detach().to(inputs)):
        received = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise ParameterError(
            f"a finite baseline of the inputs' shape {tuple(inputs.shape)}",
            f"NaN or infinity in {inputs.dtype}" if fits else received,
            "Return a finite tensor of the same shape from the baseline function.",
        )
    return made
