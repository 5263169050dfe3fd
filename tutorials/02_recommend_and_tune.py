"""Recommend and tune: which explanation of this classifier of digits should be used, with which settings?

Run with: python tutorials/02_recommend_and_tune.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pnpxai


def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits ``(1797, 1, 8, 8)`` in [0, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def trained_network(inputs: Tensor, labels: Tensor, n_steps: int = 300) -> nn.Module:
    """A small convolutional network."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(128, 10)),
        )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(n_steps):
        rows = torch.randint(len(inputs), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main(n_trials: int = 40) -> pnpxai.TuneResult:
    inputs, labels = digits()
    model = trained_network(inputs[:1500], labels[:1500])
    accuracy = (model(inputs[1500:]).argmax(1) == labels[1500:]).float().mean()
    print(f"Accuracy on digits it has not seen: {accuracy:.2f}\n")

    # What fits? Each explainer that declares to fit is tried on one input, and its cost is measured.
    sample = inputs[1500:1548]
    recommendation = pnpxai.recommend(model, sample)
    print(recommendation, "\n")

    # Tune on half of the sample; the other half judges. The default of each explainer comes first.
    result = pnpxai.tune(model, sample, metric="abpc", n_trials=n_trials, progress=False)
    print(result, "\n")
    for name, scores in result.controls.items():
        print(f"a map of {name:<7} AbPC {sum(scores) / len(scores):+.3f}")

    # The recommended explainer is ready to use, on the model itself.
    maps = result.postprocessor(result.explainer.attribute(sample[:4]))
    print(f"\nMaps {tuple(maps.shape)} by {result.explainer}")

    # Keep what was found, and read it again later.
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "tuned")
        again = pnpxai.TuneResult.load(Path(folder) / "tuned", model)
        assert again.explainer == result.explainer
        result.report(Path(folder) / "report.html")
    return result


if __name__ == "__main__":
    main()
