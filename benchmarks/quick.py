"""A network made quick for benchmarks that ask it millions of times: batch norms folded, and in bfloat16."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FOLDED = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"} | {
    "_conv_head": "_bn1"
}
"""The batch norm behind each convolution of EfficientNet-Lite, by their names in one module."""


class Lowered(nn.Module):
    """Computes in bfloat16, by autocast, and answers in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """As the model, in float32."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.model(x).float()


class Compiled(nn.Module):
    """What ``torch.compile`` makes of a model, which takes a minute or two at first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.__dict__["compiled"] = torch.compile(model, dynamic=True)  # no module of its own

    def forward(self, x: Tensor) -> Tensor:
        """As the model, but for rounding."""
        outputs: Tensor = self.compiled(x)
        return outputs


def quick(model: nn.Module, *, compiled: bool = False) -> nn.Module:
    """A quick copy of EfficientNet-Lite0; its probabilities differ by up to .03.

    Args:
        model: EfficientNet-Lite0.
        compiled: a fifth quicker yet, where millions of passes make up for compiling.
    """
    folded = copy.deepcopy(model).requires_grad_(False)
    for module in folded.modules():
        for convolution, norm in FOLDED.items():
            if hasattr(module, convolution) and hasattr(module, norm):
                fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
                setattr(module, convolution, fused)
                setattr(module, norm, nn.Identity())
    lowered = Lowered(folded)
    return Compiled(lowered) if compiled else lowered
