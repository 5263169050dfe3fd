"""Tiny networks shared by the tests; their weights come from their own generator."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter of ``net`` reproducible values of a sensible scale, and put it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * (2.0 / fan_in) ** 0.5)
    return net.eval()


def batch(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal inputs of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class VGGLike(nn.Module):
    """Two blocks of convolution, ReLU and max-pooling, then two linear layers; ``(n, 3, 16, 16)`` to ``(n, 5)``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(128, 16), nn.ReLU(inplace), nn.Dropout(0.5), nn.Linear(16, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class TimeCNN(nn.Module):
    """A convolutional network on series; ``(n, 2, 24)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 6, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class MLP(nn.Sequential):
    """Two layers on features; ``(n, 6)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


class TinyTransformer(nn.Module):
    """One attention layer over steps; ``(n, 8, 4)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + attended).mean(1))


class LSTMClassifier(nn.Module):
    """A recurrent layer over steps; ``(n, 8, 4)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class BatchNormNet(nn.Module):
    """Batch statistics updated by every forward, whatever the mode; ``(n, 3, 8, 8)`` to ``(n, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.calls = 0
        self.seen: list[int] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.last = x
        x = self.conv(x)
        x = F.batch_norm(
            x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, training=True
        )
        return x.mean((2, 3))


class Wrapped(nn.Module):
    """Another network whose output goes through a function."""

    def __init__(self, net: nn.Module, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = net
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self.net(*args))


def opaque(net: nn.Module) -> Callable[[Tensor], np.ndarray]:
    """Another network as a function that lets neither modules nor gradients be seen."""
    hidden = {"net": net}

    def answer(x: Tensor) -> np.ndarray:
        return hidden["net"](torch.from_numpy(x.detach().numpy())).detach().numpy()

    return answer


class Opaque(nn.Module):
    """A function as a module without weights."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.function(x))


def as_dict(outputs: Tensor) -> OrderedDict[str, Any]:
    """Like a Hugging Face ``ModelOutput``: a mapping with a loss before the logits."""
    return OrderedDict(loss=None, hidden=outputs.detach().sum(1), logits=outputs)


def as_tuple(outputs: Tensor) -> tuple[Any, ...]:
    """Like a network with an auxiliary head."""
    return outputs, None, "aux"


def identity(outputs: Tensor) -> Tensor:
    """The outputs themselves."""
    return outputs


def softmax(outputs: Tensor) -> Tensor:
    """Class probabilities."""
    return outputs.softmax(-1)


class RaisesAt(nn.Module):
    """Another network that raises at its call number ``at`` (counted from 1, outside the module)."""

    def __init__(self, net: nn.Module, at: int, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.net = net
        self._calls = _Counter()
        self.at = at
        self.error = error

    def forward(self, *args: Any) -> Any:
        self._calls.n += 1
        if self._calls.n == self.at:
            raise self.error("the network broke here")
        return self.net(*args)


class _Counter:
    n = 0


_gradients_asked = _Counter()


def breaks_in_backward(outputs: Tensor) -> Tensor:
    """The outputs, with a gradient that raises."""

    def broken(_: Tensor) -> None:
        _gradients_asked.n += 1
        raise RuntimeError("the gradient broke here")

    if outputs.requires_grad:
        outputs.register_hook(broken)
    return outputs


def times_backward_broke() -> int:
    """How often a gradient of `breaks_in_backward` was asked for."""
    return _gradients_asked.n
