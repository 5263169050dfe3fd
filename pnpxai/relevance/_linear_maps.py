"""Linear maps with weights, read from calls of torch functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from pnpxai.errors import ModelError
from pnpxai.relevance._call import Call, depends


class Linear:
    """A linear map ``z = apply(x, weight, bias)``, perhaps followed by ``scale · z + shift`` by output channel.

    Args:
        apply: the map.
        weight: any shape that ``apply`` takes.
        bias: broadcasts over ``z`` along dimension 1 of a convolution and the last of other maps; or None.
        merges: a scale and shift of the outputs can be merged into weight and bias.
        transposed: from what is weighed in the place of ``z`` to ``Jᵀ`` of it, where that is a product of matrices.
        scale: ``(c,)``.
        shift: ``(c,)``.
    """

    def __init__(
        self,
        apply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        weight: Tensor,
        bias: Tensor | None,
        merges: bool = False,
        transposed: Callable[[Tensor], Tensor] | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        self.merges, self.transposed, self._apply = merges, transposed, apply
        self._weight, self._bias, self._scale, self._shift = weight, bias, scale, shift

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map with some weight and bias, in the precision of ``x``, which under autocast is not the weight's."""
        return self._apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @cached_property
    def weight(self) -> Tensor:
        """With the scale."""
        scale = self._scale
        return self._weight if scale is None else self._weight * scale.reshape(-1, *[1] * (self._weight.ndim - 1))

    @cached_property
    def bias(self) -> Tensor | None:
        """With scale and shift."""
        if self._scale is None or self._shift is None:
            return self._bias
        return self._shift if self._bias is None else self._bias * self._scale + self._shift

    def scaled(self, scale: Tensor, shift: Tensor) -> Linear:
        """Followed by ``scale · z + shift``, in one map."""
        return Linear(self._apply, self._weight, self._bias, scale=scale, shift=shift)


def read_layer(call: Call) -> Linear | None:
    """``linear`` and ``conv…``: weight, bias, the rest."""
    x, weight, bias = call.argument(0, "input"), call.argument(1, "weight"), call.argument(2, "bias")
    if not depends(x) or depends(weight) or depends(bias):
        return None
    rest, named = call.args[3:], {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
    function = call.function
    return Linear(
        lambda x, weight, bias: function(x, weight, bias, *rest, **named),
        weight.detach(),
        None if bias is None else bias.detach(),
        merges="transpose" not in call.name,
        transposed=_product(x, weight, weight) if call.name == "linear" else None,
    )


def read_addmm(call: Call) -> Linear | None:
    """``addmm(bias, x, weight)`` with a bias by column."""
    bias, x, weight = call.argument(0, "input"), call.argument(1, "mat1"), call.argument(2, "mat2")
    scaled = call.kwargs.get("beta", 1) != 1 or call.kwargs.get("alpha", 1) != 1
    if not depends(x) or depends(weight) or depends(bias) or scaled or bias.numel() != weight.shape[1]:
        return None
    return Linear(
        lambda x, weight, bias: x @ weight if bias is None else torch.addmm(bias, x, weight),
        weight.detach(),
        bias.detach().reshape(-1),
        transposed=_product(x, weight, weight.mT),
    )


def read_product(call: Call) -> Linear | None:
    """``x @ weight`` with a constant matrix."""
    x, weight = call.argument(0, "input"), call.argument(1, "other", call.argument(1, "mat2"))
    if getattr(call.function, "__name__", "") == "__rmatmul__":
        x, weight = weight, x
    if not depends(x) or not isinstance(weight, Tensor) or depends(weight) or weight.ndim != 2 or x.ndim < 2:
        return None
    return Linear(lambda x, weight, bias: x @ weight, weight.detach(), None, transposed=_product(x, weight, weight.mT))


def _product(x: Tensor, weight: Tensor, matrix: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A product with a matrix of the weight; None where the map may be another than that.

    Autocast may have computed it in another precision, and a weight of another class in its own way. A weight that has
    been changed is refused, as torch does where it goes back itself.
    """
    plain = type(weight) in (Tensor, nn.Parameter) and weight.ndim == 2 and not weight.is_inference()
    if not plain or x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type):
        return None
    version = weight._version

    def product(upper: Tensor) -> Tensor:
        if weight._version != version:
            raise ModelError(
                "a model that leaves its weights as they are",
                f"a weight of shape {tuple(weight.shape)} that it changed after use",
                "Let forward change a copy of it.",
            )
        return upper @ matrix

    return product
