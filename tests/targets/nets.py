"""Tiny models of every kind of output a named target reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets import seeded


class Segmenter(nn.Module):
    """Classes of pixels, at half the resolution; ``(n, 3, 8, 8)`` to a mapping with ``(n, 3, 4, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 3, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs: Tensor = self.body(x)
        outputs = outputs - outputs.mean((2, 3), keepdim=True)  # so that every class is predicted somewhere
        return {"out": outputs, "aux": outputs.amax((2, 3))}


class Detector(nn.Module):
    """A box a quadrant, of two classes in turn, dropped below a score; ``(n, 3, 8, 8)`` as torchvision's have it."""

    boxes: Tensor

    def __init__(self, threshold: float = 0.32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1), nn.AvgPool2d(4))
        self.threshold = threshold
        corners = [(x, y, x + 4, y + 4) for y in (0, 4) for x in (0, 4)]
        self.register_buffer("boxes", torch.tensor(corners, dtype=torch.float32))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        made = []
        for scores in self.body(images).flatten(1).sigmoid():
            kept = scores > self.threshold
            labels = torch.tensor([1, 2, 1, 2])[kept]
            made.append({"boxes": self.boxes[kept], "labels": labels, "scores": scores[kept]})
        return made


class Encoder(nn.Module):
    """A representation of six numbers; ``(n, 3, 8, 8)`` to ``(n, 6)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(x))
        return outputs


class Reader(nn.Module):
    """A representation of token ids ``(n, t)``: the mean over tokens of a tanh; ``(n, 5)``."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(12, 4), nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.words(ids)).tanh().mean(1)
        return outputs


def net(cls: type[nn.Module], *arguments: float) -> nn.Module:
    """One of these in double precision, always with the same weights."""
    return seeded(cls(*arguments)).double().requires_grad_(False)
