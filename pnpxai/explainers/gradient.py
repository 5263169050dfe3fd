"""The gradient of the target's score, alone and times the input."""

from __future__ import annotations

from torch import Tensor

from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._gradients import gradients
from pnpxai.forward import Request


class Gradient(Explainer):
    """The gradient of the target's score with respect to the input: ``∂f/∂x`` (Simonyan et al., 2014, section 3).

    Which way, and how fast, the score moves with each element. Signed, of the inputs' shape, in units of the model's
    output for one unit of the input. Takes several inputs.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> Gradient(model).attribute(torch.ones(1, 2)).tolist()
        [[2.0, -1.0]]
    """

    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> tuple[Tensor, ...]:
        """One gradient for each of the inputs."""
        return gradients(request)


class GradientXInput(Explainer):
    """The gradient times the input: ``x ⊙ ∂f/∂x`` (Shrikumar et al., 2016, arXiv 1605.01713).

    The first-order share of each element in the score, as measured from an input of zeros; for a linear model without
    bias the map sums to the score. Signed, of the inputs' shape, in units of the model's output.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> GradientXInput(model).attribute(torch.tensor([[3.0, 4.0]])).tolist()
        [[6.0, -4.0]]
    """

    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> tuple[Tensor, ...]:
        """One product for each of the inputs."""
        return tuple(each * slope for each, slope in zip(request.inputs, gradients(request), strict=True))
