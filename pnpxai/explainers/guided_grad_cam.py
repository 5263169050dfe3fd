"""Guided backpropagation, alone and masked by Grad-CAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import in_chunks
from pnpxai.explainers._guided import guided_gradients
from pnpxai.explainers.grad_cam import class_activation_maps
from pnpxai.forward import Request
from pnpxai.modules import GRU, LSTM, RNN, Activation, Convolution


class GuidedBackprop(Explainer):
    """The gradient with negative parts left out at each ReLU (Springenberg et al., 2015, arXiv 1412.6806, section 3.4).

    Going backward through a ReLU of ``x``, the gradient ``g`` becomes ``g · 1[x > 0] · 1[g > 0]``: only what raises the
    score through units that are on. Sharp, signed, of the inputs' shape, in units of the model's output for one unit
    of the input. Takes several inputs.

    Every call that rectifies is seen: modules, functions, in-place ones, clamps at zero. ReLU6 counts as a ReLU that
    is off from 6 on. Sigmoids and softmax, which gate, max-pooling and norms keep their own gradients. For other
    activations (GELU, SiLU, tanh, leaky ReLU) there is no definition: such models are refused, and functions with a
    gradient of their own, which may hide one.

    Reads more of the image than of the model: it hardly changes when the weights of the upper layers are replaced by
    random ones (Adebayo et al., 2018, arXiv 1810.03292), and hardly differs between classes.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.eye(2))
        >>> _ = model[2].weight.data.copy_(torch.tensor([[2.0, -3.0]]))
        >>> GuidedBackprop(model).attribute(torch.ones(1, 2)).tolist()
        [[2.0, 0.0]]
    """

    SUPPORTED_MODULES = (Activation,)
    EXCLUDED_MODULES = (RNN, LSTM, GRU)

    def explain_request(self, request: Request) -> tuple[Tensor, ...]:
        """One guided gradient for each of the inputs."""
        return _guided(request)


class GuidedGradCam(Explainer):
    """Guided backpropagation ⊙ Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391, section 3.1).

    The fine detail of `GuidedBackprop` where `GradCam` finds the target, which it is multiplied by at the input's size.
    Signed, of the inputs' shape, in units of the product of both. What is said of the two holds here: what the model
    and the class decide comes from Grad-CAM, and all zeros where that is.

    Args:
        model: as for `Explainer`; its activations are rectifiers.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        layer: as for `GradCam`.

    Example:
        >>> layers = nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1, bias=False)
        >>> model = nn.Sequential(*layers)
        >>> _ = [each.data.fill_(2.0) for each in model.parameters()]
        >>> GuidedGradCam(model).attribute(torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])).tolist()
        [[[[16.0, 32.0], [48.0, 0.0]]]]
    """

    SUPPORTED_MODULES = (Convolution,)
    EXCLUDED_MODULES = (RNN, LSTM, GRU)
    INPUT_NDIMS = (3, 4, 5)

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        layer: str | nn.Module | None = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.layer = layer

    def explain_request(self, request: Request) -> Tensor:
        """The maps, of the inputs' shape."""
        return class_activation_maps(request, self.layer) * _guided(request)[0]


def _guided(request: Request) -> tuple[Tensor, ...]:
    kept: list[tuple[Tensor, ...]] = []
    in_chunks(request, len(request), lambda start, stop: kept.append(guided_gradients(request, start, stop)))
    return tuple(torch.cat(each) for each in zip(*kept, strict=True))
