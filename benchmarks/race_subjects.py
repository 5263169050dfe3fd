"""What the tuner is measured on: EfficientNet-Lite0 on a folder of photographs, and two small networks on digits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from pnpxai.demo import MODEL_NAME, within
from pnpxai.explainers import Explainer
from pnpxai.photographs import cropped, efficientnet_lite0, standardized
from pnpxai.recommender import recommend

FOLDER = "PNPXAI_PHOTOGRAPHS"
"""The environment variable that names the folder of photographs."""
ENDINGS = (".jpg", ".jpeg", ".png")
N_TUNING, N_HOLDOUT = 64, 128
BUDGETS: Mapping[str, Mapping[str, int]] = {
    "lite0": {"n_masks": 100, "max_iter": 25, "n_samples": 8, "n_steps": 12},
    "cnn": {"n_masks": 200, "max_iter": 50, "n_samples": 25, "n_steps": 50},
    "vit": {"n_masks": 200, "max_iter": 50, "n_samples": 25, "n_steps": 50},
}
"""What is spent at most where an explainer buys accuracy with time."""
PATCH, N_TOKENS = 2, 16


@dataclass(frozen=True)
class Subject:
    """A network, samples to explain (their predicted classes), and the explainers that are recommended for it."""

    name: str
    model: nn.Module
    inputs: Tensor
    explainers: Sequence[Explainer]
    budgets: Mapping[str, int]

    @property
    def spent(self) -> str:
        """The budgets in words."""
        return ", ".join(f"{name} {value}" for name, value in self.budgets.items())


def subject(
    name: str,
    n_samples: int = N_TUNING + N_HOLDOUT,
    budgets: Mapping[str, int] | None = None,
    folder: str | Path | None = None,
) -> Subject:
    """One of `SUBJECTS`; ``folder`` holds photographs (None for what the environment names)."""
    title, build = SUBJECTS[name]
    model, inputs = build(n_samples, folder)
    spend = BUDGETS[name] if budgets is None else budgets
    fitting = recommend(model, inputs).explainers
    return Subject(title, model, inputs, [within(each, spend) for each in fitting], spend)


def lite0(n_samples: int, folder: str | Path | None) -> tuple[nn.Module, Tensor]:
    """EfficientNet-Lite0, and the first photographs of a folder in the order of their names."""
    where = folder or os.environ.get(FOLDER)
    if not where:
        raise SystemExit(f"Name a folder of photographs by --photographs or {FOLDER}.")
    files = sorted(each for each in Path(where).iterdir() if each.suffix.lower() in ENDINGS)[:n_samples]
    if len(files) < n_samples:
        raise SystemExit(f"{n_samples} photographs are needed, and there are {len(files)}.")
    return efficientnet_lite0(), standardized([cropped(Image.open(each).convert("RGB")) for each in files])


def cnn(n_samples: int, _folder: object = None) -> tuple[nn.Module, Tensor]:
    """Two convolutions on digits, and digits that it was not trained on."""

    def build() -> nn.Module:
        first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))

    return trained(build, n_samples, n_epochs=8, rate=5e-3)


def vit(n_samples: int, _folder: object = None) -> tuple[nn.Module, Tensor]:
    """A vision transformer of two layers on digits, and digits that it was not trained on."""
    return trained(DigitsViT, n_samples, n_epochs=40, rate=3e-3)


class DigitsViT(nn.Module):
    """Patches of 2 × 2 pixels as tokens ``(n, 16, d)``, their mean classified."""

    def __init__(self, width: int = 32, n_heads: int = 4, n_layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.places = nn.Parameter(0.02 * torch.randn(1, N_TOKENS, width))
        self.layers = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(
                    width, n_heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(n_layers)
            ]
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(n, 10)``."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.layers(tokens)).mean(1))


def trained(build: Callable[[], nn.Module], n_samples: int, n_epochs: int, rate: float) -> tuple[nn.Module, Tensor]:
    """A network trained on all digits but the last, which are to be explained ``(n, 1, 8, 8)`` in [-1, 1]."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    classes = torch.from_numpy(digits.target)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    known, unseen = shuffled[:-n_samples], shuffled[-n_samples:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build()
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
        n_steps = n_epochs * -(-len(known) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
        for _ in range(n_epochs):
            for batch in known[torch.randperm(len(known))].split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(images[batch]), classes[batch]).backward()
                optimizer.step()
                schedule.step()
    return net.eval(), images[unseen].contiguous()


SUBJECTS: Mapping[str, tuple[str, Callable[[int, str | Path | None], tuple[nn.Module, Tensor]]]] = {
    "cnn": ("a CNN on digits", cnn),
    "vit": ("a ViT on digits", vit),
    "lite0": (f"{MODEL_NAME} on photographs", lite0),
}
"""Short name to a title, and a function of the number of samples and the folder."""
