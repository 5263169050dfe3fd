"""What is recommended for a range of architectures, and whether it runs: ``python -m benchmarks.zoo``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import pnpxai
from benchmarks.written import circumstances, table, write
from pnpxai.errors import PnPXAIError
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized
from pnpxai.recommender import least_budget
from pnpxai.tuning._problem import versions


class SeriesClassifier(nn.Module):
    """An LSTM over series ``(n, 6, 100)``."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 4)``."""
        return self.head(self.recurrent(x.transpose(1, 2))[0][:, -1])


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


def photo_inputs() -> Tensor:
    """Two photographs as the pretrained network takes them."""
    return standardized([cropped(each.open()) for each in photographs()[:2]])


def torchvision_net(name: str) -> nn.Module:
    """A network of torchvision with random weights and batch-norm statistics that are not those of no training."""
    net = torchvision.models.get_model(name)
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
        if isinstance(module, nn.Linear) and not module.weight.any():  # torchvision's ViT: a head of zeros
            module.weight.data.normal_(0, 0.05, generator=generator)
    return net.eval()


def series() -> Tensor:
    """Random series."""
    return torch.randn(2, 6, 100, generator=torch.Generator().manual_seed(0))


TORCHVISION = ("resnet18", "mobilenet_v3_small", "vit_b_16", "swin_t", "densenet121", "vgg11")
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    **{name: (lambda name=name: torchvision_net(name), photo_inputs) for name in TORCHVISION},
    "EfficientNet-Lite0 (pretrained)": (efficientnet_lite0, photo_inputs),
    "nn.LSTM classifier": (SeriesClassifier, series),
    "data-dependent CNN": (Deciding, photo_inputs),
}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether the weights and buffers are as before, and no hook is left."""
    same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return same and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    began = time.perf_counter()
    rows: list[list[str]] = []
    reasons: list[str] = []
    for name, (make, make_inputs) in MODELS.items():
        torch.manual_seed(0)
        model, inputs = make().eval(), make_inputs()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        start = time.perf_counter()
        recommendation = pnpxai.recommend(model, inputs)
        seconds = time.perf_counter() - start
        ran = []
        for explainer in recommendation.explainers:
            try:
                maps = least_budget(explainer)[0].attribute(inputs[1:])
                ran.append(bool(torch.isfinite(maps).all()))
            except PnPXAIError:
                ran.append(False)
        kinds = ", ".join(kind.__name__ for kind in recommendation.detected_architectures)
        untouched = "yes" if unchanged(model, before) else "NO"
        rows.append([name, kinds, f"{sum(ran)} of {len(ran)}", str(len(recommendation.rejected)), untouched])
        names = ", ".join(type(each).__name__ for each in recommendation.explainers)
        reasons += ["", f"**{name}** ({seconds:.0f} s): recommended {names}.", ""]
        reasons += [f"- {rejected}: {why}" for rejected, why in recommendation.rejected.items()]
        print(rows[-1], flush=True)
    columns = ["model", "detected", "recommended, and ran on another input", "rejected, with reason", "model unchanged"]
    write(
        "zoo",
        [
            "# What is recommended, and whether it runs",
            "",
            "Two inputs each (photographs at 224 × 224, or random series), one for the dry run and one for the run "
            "counted here; every budget at its least. Networks of torchvision have random weights.",
            "",
            *table(columns, rows),
            *reasons,
            "",
            f"`make zoo`: {circumstances(time.perf_counter() - began, versions())}",
        ],
    )


if __name__ == "__main__":
    main()
