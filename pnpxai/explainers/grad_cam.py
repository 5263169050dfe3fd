"""Class activation maps weighted by gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.batches import Extractor
from pnpxai.callables import remembered
from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._feature_maps import OfCall, OfLayer, feature_maps_of, last_feature_maps
from pnpxai.explainers._gradients import backward_errors, differentiable, in_chunks
from pnpxai.explainers._layers import layer_name
from pnpxai.forward import Request
from pnpxai.modules import Convolution
from pnpxai.outputs import select

_FOUND: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""For each model the feature maps for scores of classes, by layer and kind of input, if they are an even grid: which
token is where may depend on the sample."""
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def activation_map(activations: Tensor, slopes: Tensor, size: tuple[int, ...]) -> Tensor:
    """``ReLU(Σ_k a_k A_k)`` with ``a_k`` the mean over positions of the gradient of channel ``k``, scaled to ``size``.

    Args:
        activations: ``A``, ``(n, k, …)`` with one to three dimensions of positions.
        slopes: the score's gradient with respect to them.
        size: positions of the map that is returned, reached by linear interpolation along each.

    Returns:
        ``(n, 1, *size)``, not negative.

    Example:
        >>> activation_map(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]), (2,)).tolist()
        [[[0.5, 1.5]]]
    """
    positions = tuple(range(2, slopes.ndim))
    weights = slopes.mean(positions, keepdim=True)
    coarse = (weights * activations).sum(1, keepdim=True).relu()
    return F.interpolate(coarse, size=size, mode=_LINEAR[len(size)], align_corners=False)


def class_activation_maps(request: Request, layer: str | nn.Module | None) -> Tensor:
    """Grad-CAM of a batch, ``(n, 1, …)`` of the inputs' size; ``layer`` as for `GradCam`.

    Raises:
        UnsupportedModelError: there are no feature maps, or the score does not depend on those of the layer.
    """
    name = None if layer is None else layer_name(request.module, layer)
    maps: list[Tensor] = []
    found_before = remembered(_FOUND, request.module)
    if found_before is None or not isinstance(request.targets, Tensor):  # a function of the outputs may read others
        found_before = {}
    key = (name, request.input.shape[1:], request.input.dtype, request.input.device)
    known = [found_before[key]] if key in found_before else []

    def find(rows: range) -> OfCall | OfLayer:
        found_before.pop(key, None)
        for row in rows:
            found, told = (feature_maps_of(request, name, row), True) if name else last_feature_maps(request, row)
            if told:
                break
        if told and found.layout.plain:
            found_before[key] = found
        known[:] = [found]
        return found

    def explained(start: int, stop: int) -> Tensor:
        made = _maps(request, known[0] if known else find(range(len(request))), start, stop)
        if made is None:  # the model decides by what it is given which calls it makes
            made = _maps(request, find(range(start, stop)), start, stop)
        if made is not None:
            return made
        if stop - start == 1:
            raise UnsupportedModelError(
                "a model that makes the same calls on the same input each time",
                f"{type(request.model).__name__}, which does not",
                "Name a layer with layer=, one that is always called.",
            )
        return torch.cat([explained(row, row + 1) for row in range(start, stop)])

    in_chunks(request, len(request), lambda start, stop: maps.append(explained(start, stop)))
    return torch.cat(maps)


def _maps(request: Request, feature_maps: OfCall | OfLayer, start: int, stop: int) -> Tensor | None:
    """The maps of some samples; None where the feature maps are not what they were found to be."""
    index = torch.arange(start, stop, device=request.input.device)
    leaf = request.input[start:stop].detach().requires_grad_()
    with torch.enable_grad():
        with feature_maps.kept(request.module) as kept:
            outputs = request.call((leaf,), index)
        if not feature_maps.found_in(kept, stop - start) or kept.value is None:
            return None
        score = differentiable(select(outputs, request.targets_for(index)), request).sum()
        slopes = None
        if kept.edge is not None:
            with backward_errors(request):
                (slopes,) = torch.autograd.grad(score, (kept.edge,), allow_unused=True)
    if slopes is None:
        raise UnsupportedModelError(
            f"a target score that depends on {feature_maps.title}",
            "one that does not",
            "Choose another layer with layer=, one between the inputs and the outputs.",
        )
    read = feature_maps.layout.read
    return activation_map(read(kept.value), read(slopes), tuple(request.input.shape[2:]))


class GradCam(Explainer):
    """Where the features that speak for the target are (Selvaraju et al., 2017, arXiv 1610.02391, equations 1 and 2).

    ``ReLU(Σ_k a_k A_k)`` with ``A`` the feature maps of a layer and ``a_k`` the mean over positions of ``∂f/∂A_k``,
    interpolated to the input's size. ``f`` is the model's output for the target, which should come before the softmax.
    One channel ``(n, 1, …)``, not negative, all zeros where nothing speaks for the target. As coarse as the layer. For
    series, images and volumes ``(n, c, …)``.

    The paper takes the last convolution's feature maps, rectified where a ReLU follows. They are found by running the
    model once, in whatever way it is written: the last result of a convolution, a norm, an activation, a sum or a
    concatenation, that still has positions and that all of the score is read from. So pooling that follows is not part
    of it (VGG-16: the last ReLU, 14 × 14; ResNet: the last block's output).

    Transformers were not in the paper. Tokens count as positions where they can be followed from the patches to the
    layer; class tokens are left out. Where only a class token is read in the end, the last block's patches have
    no gradient, and its input is taken. Refused where a convolution or attention goes on after the positions were
    lost; then a layer must be named.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        layer: a module of the model or its name, with positions in its output; None for the feature maps above. Of a
            layer that is called several times the last call counts.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False))
        >>> _ = [each.data.fill_(1.0) for each in model.parameters()]
        >>> GradCam(model).attribute(torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])).tolist()
        [[[[1.0, 2.0], [3.0, 0.0]]]]
    """

    SUPPORTED_MODULES = (Convolution,)
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
        """The maps, ``(n, 1, …)``."""
        return class_activation_maps(request, self.layer)
