"""Layer-wise relevance: the ledger, and what ε, γ and the attention rule do to faithfulness.

Run with: python tutorials/05_relevance_and_its_settings.py, which draws relevance_settings.png beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from pnpxai.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.metrics import AbPC
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized
from pnpxai.postprocess import PostProcessor

FOUR = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox)
EPSILONS = (1e-6, 1e-3, 1e-1, 1.0)
GAMMAS = (1e-3, 0.1, 0.25, 1.0)
ATTENTIONS = ("constant", "attnlrp")

Curve = dict[Any, float]
Found = dict[str, dict[str, Curve]]  # setting, explainer, value: mean AbPC


def digits_vit(epochs: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    """A vision transformer trained on 8 × 8 digits, and digits ``(n, 3, 8, 8)`` it has not seen, with their classes."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1) / 8 - 1
    classes = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(8, 2, 2, 4, 32, 64, num_classes=10)
        nn.init.normal_(model.heads.head.weight, std=0.02)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
        order = torch.randperm(len(images))
        seen, unseen = order[:1500], order[1500:]
        for _ in range(epochs):
            for part in seen[torch.randperm(len(seen))].split(50):
                loss = nn.functional.cross_entropy(model(images[part]), classes[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval(), images[unseen], classes[unseen]


def faithfulness(model: nn.Module, inputs: Tensor, targets: Tensor, n_steps: int) -> Found:
    """Mean AbPC by setting: ε for each composite, γ, the attention rule for each composite."""
    metric, pool = AbPC(model, n_steps=n_steps), PostProcessor("sum")

    def score(cls: type, **settings: Any) -> float:
        maps = cls(model, **settings).attribute(inputs, targets)
        return metric.evaluate(inputs, targets, pool(maps)).mean().item()

    everywhere = any(isinstance(each, nn.MultiheadAttention) for each in model.modules())
    return {
        "epsilon": {cls.__name__: {value: score(cls, epsilon=value) for value in EPSILONS} for cls in FOUR},
        "gamma": {
            f"on {'all layers' if linear else 'convolutions'}": {
                value: score(LRPEpsilonGammaBox, gamma=value, gamma_on_linear=linear) for value in GAMMAS
            }
            for linear in (False, True)
        },
        "attention": {cls.__name__: {value: score(cls, attention=value) for value in ATTENTIONS} for cls in FOUR}
        if everywhere
        else {},
    }


def draw(found: dict[str, Found]) -> Figure:
    """A row for each model, a column for each setting."""
    figure = Figure(figsize=(13, 3.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 3, squeeze=False)
    for row, (model, settings) in zip(axes, found.items(), strict=True):
        for plot, (setting, curves) in zip(row, settings.items(), strict=True):
            for name, curve in curves.items():
                plot.plot(list(curve), list(curve.values()), marker="o", label=name)
            if setting != "attention":
                plot.set_xscale("log")
            plot.set_xlabel(setting)
            plot.set_title(f"{model}: AbPC against {setting}" if curves else f"{model}: no attention")
            if curves:
                plot.legend(fontsize=7)
            else:
                plot.set_axis_off()
        row[0].set_ylabel("mean AbPC")
    return figure


def main(out: Path | None = None, n_photographs: int = 2) -> dict[str, Found]:
    # Where does an explanation's relevance come from, and where does it go? The ledger has a row for each operation.
    vit, digits, classes = digits_vit()
    print(f"digits ViT: {(vit(digits).argmax(1) == classes).float().mean():.2f} right on digits it has not seen\n")
    print(LRPEpsilonGammaBox(vit, gamma_on_linear=True).ledger(digits[:1]), "\n")

    # The model says what it is worth to trust each setting: the area between its perturbation curves.
    lite0 = efficientnet_lite0()
    chosen = photographs()[:n_photographs]
    photos = standardized([cropped(each.open()) for each in chosen])
    with torch.no_grad():
        targets = lite0(photos).argmax(1)
    found = {
        "EfficientNet-Lite0": faithfulness(lite0, photos, targets, n_steps=5),
        "digits ViT": faithfulness(vit, digits[:100], classes[:100], n_steps=8),
    }
    for model, settings in found.items():
        for setting, curves in settings.items():
            for name, curve in curves.items():
                values = "  ".join(f"{value} {score:+.3f}" for value, score in curve.items())
                print(f"{model:<19} {setting:<10} {name:<22} {values}")
    if out is not None:
        draw(found).savefig(out, dpi=110)
    return found


if __name__ == "__main__":
    main(Path(__file__).with_name("relevance_settings.png"), n_photographs=8)
