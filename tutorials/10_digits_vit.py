"""A vision transformer on digits: what its attentions show, and whether that is the best explanation of it.

It is not, here: the race stops the methods that read attention early. What a token attends to is one thing, what the
class is computed from is another. Whether that holds for a network of yours is a question for `tune`.

Run with: python tutorials/10_digits_vit.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pnpxai
from pnpxai.explainers import RISE, IntegratedGradients

N_TOP = 10
"""Pixels of 64 that are exchanged."""


class DigitsViT(nn.Module):
    """Patches of 2 × 2 pixels as 16 tokens behind a class token, which is classified after two layers."""

    def __init__(self, width: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        layers = [
            nn.TransformerEncoderLayer(width, n_heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.places
        return self.head(self.layers(tokens)[:, 0])


def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits ``(1797, 1, 8, 8)`` in [0, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def trained(inputs: Tensor, labels: Tensor, n_epochs: int = 20) -> nn.Module:
    """The network after some epochs of AdamW with a learning rate that falls."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DigitsViT()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=n_epochs * -(-len(inputs) // 64))
    for _ in range(n_epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(64):
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def falls(model: nn.Module, inputs: Tensor, maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How far the predicted class's probability falls where pixels are exchanged for those of other digits.

    Exchanged are the ten pixels that the maps ``(n, h, w)`` name, or ten with ink on them at random: a map that only
    showed where the ink is would do no better. Means over the other digits, and over twenty random choices.

    Returns:
        The falls ``(n,)`` for pixels named, and at random.
    """
    n, generator = len(inputs), torch.Generator().manual_seed(0)
    with torch.no_grad():
        before, classes = model(inputs).softmax(1).max(1)

        def fall(order: Tensor) -> Tensor:
            chosen = order.flatten(1).topk(N_TOP, 1).indices
            exchanged = torch.zeros(n, 64, dtype=torch.bool).scatter_(1, chosen, True).reshape(n, 1, 1, 8, 8)
            rows = torch.where(exchanged, others, inputs[:, None]).flatten(0, 1)
            after = model(rows).softmax(1).reshape(n, len(others), 10).mean(1)
            return before - after.gather(1, classes[:, None])[:, 0]

        ink = inputs[:, 0] > 0
        at_random = [fall(torch.rand(n, 8, 8, generator=generator) * ink) for _ in range(20)]
        return fall(maps), torch.stack(at_random).mean(0)


def main(n_trials: int = 16) -> tuple[pnpxai.TuneResult, pnpxai.Recommendation, Tensor, Tensor]:
    inputs, labels = digits()
    model = trained(inputs[:1500], labels[:1500])
    accuracy = (model(inputs[1500:]).argmax(1) == labels[1500:]).float().mean()
    print(f"Accuracy on digits it has not seen: {accuracy:.2f}\n")

    # What fits? Attention was seen in the model, so the methods that read it are offered beside all others.
    sample = inputs[1500:1548]
    recommendation = pnpxai.recommend(model, sample)
    print(recommendation, "\n")

    # Is attention the explanation? The race decides, with the methods that are quick on so small a network.
    chosen = {"AttentionRollout", "TransformerAttribution", "GradCam", "GradientXInput", "LRPEpsilonPlus"}
    fitting = [each for each in recommendation.explainers if type(each).__name__ in chosen]
    result = pnpxai.tune(
        model,
        sample,
        explainers=[*fitting, RISE(model, n_masks=128), IntegratedGradients(model, n_steps=16)],
        n_trials=n_trials,
        progress=False,
    )
    print(result, "\n")

    # What one learns: which strokes make the digit, by the method that the metric trusts most on this network. It is
    # checked on the digits that judged, in a way that no method was tuned for.
    judged = sample[list(result.holdout_index)]
    named, at_random = falls(model, judged, result.explain(judged), inputs[:40])
    print(f"Exchanged for other digits', the {N_TOP} pixels named take {named.mean():.2f} of the probability;")
    n_more = int((named > at_random).sum())
    print(f"as many with ink on them at random {at_random.mean():.2f}; less in {n_more} of {len(judged)}.")
    with tempfile.TemporaryDirectory() as folder:
        result.report(Path(folder) / "report.html")
    return result, recommendation, named, at_random


if __name__ == "__main__":
    main()
