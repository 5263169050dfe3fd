"""The race: what tuning spends, what it stops, and how to choose when faithfulness is not all that counts.

Run with: python tutorials/06_the_race.py
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


def main(n_trials: int = 30) -> tuple[pnpxai.TuneResult, pnpxai.TuneResult]:
    inputs, labels = digits()
    model = trained_network(inputs[:1500], labels[:1500])
    sample = inputs[1500:1596]

    # What should be found: the ink. Localisation is measured beside faithfulness where regions are given.
    ink = sample[:, 0] > 0.3
    explainers = ["Gradient", "GradientXInput", "LRPEpsilonPlus", "GradCam", "SmoothGrad", "IntegratedGradients"]

    # The same study twice: raced, and every candidate followed to the end. A journal file keeps the study, so that a
    # run that was stopped goes on; maps are kept beside it.
    with tempfile.TemporaryDirectory() as folder:
        raced = pnpxai.tune(
            model,
            sample,
            explainers=explainers,
            n_trials=n_trials,
            holdout=48,
            regions=ink,
            storage=Path(folder) / "study.journal",
            cache_dir=Path(folder) / "maps",
            progress=False,
        )
    full = pnpxai.tune(
        model, sample, explainers=explainers, n_trials=n_trials, holdout=48, regions=ink, pruner=None, progress=False
    )
    print(raced, "\n")
    stopped = sum(not each.complete for each in raced.trials)
    print(f"The race stopped {stopped} of {len(raced.trials)} trials and asked the model about")
    print(f"{raced.search_forwards} samples; following every candidate takes {full.search_forwards}.\n")

    # Is the winner better than the next explainer, on digits the search never saw?
    if raced.runner_up is not None:
        gain = raced.runner_up
        print(f"Against {raced.entries[1].name}: {gain.mean:+.3f}, {gain.low:+.3f} to {gain.high:+.3f}\n")

    # Several aims: no trial of the front is beaten in all of them by another.
    front = raced.pareto("score", "forwards", "localisation")
    print(front.table[["explainer", "score", "forwards", "localisation"]].to_string(index=False), "\n")
    print("With at most four forwards a sample:", front.where("forwards <= 4").choose().name)
    print("Half faithfulness, half localisation:", front.choose({"score": 1.0, "localisation": 1.0}).name)
    return raced, full


if __name__ == "__main__":
    main()
