"""Models that are written in ways that trip explainers up."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import architectures


class Functional(nn.Module):
    """Convolutions, activations, pooling and linear maps as functions on parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.second = nn.Parameter(torch.randn(16, 8, 3, 3) * 0.1)
        self.head = nn.Parameter(torch.randn(5, 16) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        x = F.max_pool2d(F.relu(F.conv2d(x, self.first, padding=1)), 2)
        return F.linear(torch.relu(F.conv2d(x, self.second, padding=1)).mean((2, 3)), self.head)


class InPlace(nn.Module):
    """Activations and sums that overwrite what they are given, as far as torch can go backward through them.

    Args:
        too_far: overwrite the result of an activation, too, which its gradient is computed from.
    """

    def __init__(self, too_far: bool = False) -> None:
        super().__init__()
        self.too_far = too_far
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        x -= 0.1
        x = self.activation(self.first(x))
        added = self.second(x)
        if self.too_far:
            added.relu_()
        added += x
        self.activation(added)
        return self.head(F.max_pool2d(added, 4).flatten(2).mean(2).clamp_(max=6))


class Plain(nn.Module):
    """Two convolutions and a head, in a few layers that others build on."""

    def __init__(self, n_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        )
        self.head = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Any:
        """Logits ``(n, k)``."""
        return self.head(self.features(x).flatten(1))


class InDict(Plain):
    """Returns a dictionary."""

    def forward(self, x: Tensor) -> Any:
        """Features, then logits under their name."""
        features = self.features(x)
        return OrderedDict(features=features, logits=self.head(features.flatten(1)))


class InTuple(Plain):
    """Returns a tuple."""

    def forward(self, x: Tensor) -> Any:
        """Logits, then features and a loss that is none."""
        features = self.features(x)
        return self.head(features.flatten(1)), features, None


class OneLogit(Plain):
    """Returns one logit, ``(n, 1)`` or ``(n,)``."""

    def __init__(self, squeezed: bool) -> None:
        super().__init__(1)
        self.squeezed = squeezed

    def forward(self, x: Tensor) -> Any:
        """``(n, 1)`` or ``(n,)``."""
        logits = super().forward(x)
        return logits[:, 0] if self.squeezed else logits


class Probable(Plain):
    """Returns probabilities."""

    def forward(self, x: Tensor) -> Any:
        """``(n, 5)``, rows that sum to 1."""
        return super().forward(x).softmax(1)


class Deciding(nn.Module):
    """A convolutional network whose branch and depth depend on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.branches = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 10)``."""
        x = self.stem(x).relu()
        branch = self.branches[int(x.mean() > 0.3)]
        for _ in range(1 + int(x.abs().max()) % 3):
            x = branch(x).relu()
        return self.head(x.mean((2, 3)))


class Swish(torch.autograd.Function):
    """``x · sigmoid(x)`` with a gradient of its own, as networks had it that save memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The value."""
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Tensor:
        """The gradient."""
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(x)
        return slopes * share * (1 + x * (1 - share))


class OwnFunction(Plain):
    """An activation that is a function of its own with a gradient of its own."""

    def forward(self, x: Tensor) -> Any:
        """Logits ``(n, 5)``."""
        for layer in self.features:
            x = Swish.apply(x) if isinstance(layer, nn.ReLU) else layer(x)
        return self.head(x.flatten(1))


class Quantised(Plain):
    """Rounds its features: there is no gradient, nor one by convention."""

    def forward(self, x: Tensor) -> Any:
        """Logits ``(n, 5)``."""
        return self.head((self.features(x).flatten(1) * 8).long().to(x.dtype) / 8)


class HalfStopped(Plain):
    """One of two branches is detached."""

    def forward(self, x: Tensor) -> Any:
        """Logits ``(n, 5)``."""
        whole = self.features(x)
        return self.head((whole + self.features(x.flip(3)).detach()).flatten(1))


class SingleFile(Plain):
    """Takes one sample at a time: its batch size is written in, as in exported models."""

    def forward(self, x: Tensor) -> Any:
        """Logits ``(1, 5)``."""
        return self.head(self.features(x).reshape(1, 64))


class Counting(Plain):
    """Counts its calls in a buffer and keeps what it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        """Logits ``(n, 5)``."""
        self.calls += 1
        self.last = x
        return super().forward(x)


class Dropping(Plain):
    """Left in training mode, with dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.features.insert(1, nn.BatchNorm2d(8))
        self.features.append(nn.Dropout(0.5))


def traced(side: int) -> nn.Module:
    """Traced by TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: nn.Module = torch.jit.trace(Plain().eval(), torch.zeros(1, 3, side, side))
    return found


def symbolic() -> nn.Module:
    """Traced by torch.fx."""
    return torch.fx.symbolic_trace(Plain().eval())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "functional CNN": Functional,
    "in-place CNN": InPlace,
    "in-place CNN, no way back": partial(InPlace, True),
    "CNN, returns a dict": InDict,
    "CNN, returns a tuple": InTuple,
    "CNN, one logit (n, 1)": partial(OneLogit, False),
    "CNN, one logit (n,)": partial(OneLogit, True),
    "CNN, returns probabilities": Probable,
    "data-dependent CNN": Deciding,
    "one module three times": architectures.Reusing,
    "gated CNN": architectures.Gated,
    "squeeze-excitation": architectures.Excited,
    "own autograd function": OwnFunction,
    "rounded features": Quantised,
    "half detached": HalfStopped,
    "batch of one only": SingleFile,
    "counts its calls": Counting,
    "in float64": lambda: Plain().double(),
    "in bfloat16": lambda: Plain().bfloat16(),
    "TorchScript": partial(traced, 32),
    "torch.fx": symbolic,
}

ONE_SAMPLE = ("batch of one only",)
"""Of these, models that take one sample at a time."""
