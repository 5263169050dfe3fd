"""Class activation maps weighted by gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import backward_errors, differentiable, in_chunks
from pnpxai.explainers._layers import LayerOutput, layer_name
from pnpxai.forward import Request
from pnpxai.modules import Attention, Convolution


def activation_map(activations: Tensor, slopes: Tensor, size: tuple[int, ...]) -> Tensor:
    """``ReLU(Σ_k a_k A_k)`` with ``a_k`` the mean over positions of the gradient of channel ``k``, scaled to ``size``.

    Args:
        activations: ``A``, ``(n, k, …)`` with one or two dimensions of positions.
        slopes: the score's gradient with respect to them.
        size: positions of the map that is returned, reached by (bi)linear interpolation.

    Returns:
        ``(n, 1, *size)``, not negative.

    Example:
        >>> activation_map(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]), (2,)).tolist()
        [[[0.5, 1.5]]]
    """
    positions = tuple(range(2, slopes.ndim))
    weights = slopes.mean(positions, keepdim=True)
    coarse = (weights * activations).sum(1, keepdim=True).relu()
    mode = "linear" if len(size) == 1 else "bilinear"
    return F.interpolate(coarse, size=size, mode=mode, align_corners=False)


def last_spatial_layer(request: Request) -> str:
    """The layer that is the last to return ``(n, k, …)`` with more than one position, found by running the model once.

    Raises:
        UnsupportedModelError: no layer does.
    """
    ndim = request.input.ndim
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == ndim and len(output) == 1 and output[0, 0].numel() > 1:
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, module in request.module.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            request.call(request.rows(0, 1))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UnsupportedModelError(
            f"a layer that returns a tensor with {ndim} dimensions, as the inputs have, and more than one position",
            f"none in {type(request.model).__name__}",
            "Name one with layer=, or use a method that needs no such layer, e.g. IntegratedGradients or RISE.",
        )
    return found[-1]


class GradCam(Explainer):
    """Where the features that speak for the target are (Selvaraju et al., 2017, arXiv 1610.02391, equations 1 and 2).

    ``ReLU(Σ_k a_k A_k)`` with ``A`` the activations of a layer and ``a_k`` the mean over positions of ``∂f/∂A_k``,
    interpolated to the input's size. One channel ``(n, 1, h, w)`` or ``(n, 1, t)``, not negative, all zeros where
    nothing speaks for the target. As coarse as the layer.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        layer: a module of the model or its name; None for the last one whose output has more than one position. Of a
            layer that is called several times the last call counts.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False))
        >>> _ = [each.data.fill_(1.0) for each in model.parameters()]
        >>> GradCam(model).attribute(torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])).tolist()
        [[[[1.0, 2.0], [3.0, 0.0]]]]
    """

    SUPPORTED_MODULES = (Convolution,)
    EXCLUDED_MODULES = (Attention,)
    INPUT_NDIMS = (3, 4)

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
        """The maps, ``(n, 1, h, w)`` or ``(n, 1, t)``."""
        size = tuple(request.input.shape[2:])
        name = last_spatial_layer(request) if self.layer is None else layer_name(request.module, self.layer)
        maps: list[Tensor] = []

        def run(start: int, stop: int) -> None:
            index = torch.arange(start, stop, device=request.input.device)
            leaf = request.input[start:stop].detach().requires_grad_()
            with torch.enable_grad(), LayerOutput(name).recorded(request.module) as layer:
                scores = differentiable(request.scores((leaf.clone(),), index), request)
                activations = layer.tensor
                with backward_errors(request):
                    (slopes,) = torch.autograd.grad(scores.sum(), (activations,), allow_unused=True)
            if slopes is None:
                raise UnsupportedModelError(
                    f"a target score that depends on layer {name!r}",
                    "one that does not",
                    "Choose another layer with layer=, one between the inputs and the outputs.",
                )
            if activations.ndim != request.input.ndim:
                raise UnsupportedModelError(
                    f"an output of layer {name!r} with {request.input.ndim} dimensions, as the inputs have",
                    f"shape {tuple(activations.shape)}",
                    "Choose a convolution, or a layer that keeps positions.",
                )
            maps.append(activation_map(activations.detach(), slopes, size))

        in_chunks(request, len(request), run)
        return torch.cat(maps)
