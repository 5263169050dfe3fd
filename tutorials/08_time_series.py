"""Time series: which steps of a movement decide, for a convolutional and for a recurrent network.

The series come with the package aeon (``pip install --no-deps aeon``), whose files are read without importing it.
GunPoint is the place of a hand that draws a gun or only points; BasicMotions are six channels of a wrist sensor.

Run with: python tutorials/08_time_series.py
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.explainers import RISE, GradCam, GradientXInput, IntegratedGradients, LRPEpsilonPlus, Occlusion


def series(name: str, part: str) -> tuple[Tensor, Tensor]:
    """The series ``(n, c, t)`` of a data set, and their classes ``(n,)``; ``part`` is TRAIN or TEST."""
    package = importlib.util.find_spec("aeon")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("The series come with aeon: pip install --no-deps aeon", name="aeon")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data" / name
    lines = (folder / f"{name}_{part}.ts").read_text(encoding="utf-8").splitlines()
    rows = [line.split(":") for line in lines if line.strip() and line[0] not in "#@%"]
    values = [[[float(value) for value in channel.split(",")] for channel in channels] for *channels, _ in rows]
    classes = sorted({label for *_, label in rows})
    return torch.tensor(values), torch.tensor([classes.index(label) for *_, label in rows])


def convolutional(n_channels: int, n_classes: int, width: int = 32) -> nn.Module:
    """A fully convolutional network (Wang, Yan and Oates, 2017), narrower than in the paper."""
    layers: list[nn.Module] = []
    for before, size in ((n_channels, 15), (width, 9), (width, 5)):
        layers += [nn.Conv1d(before, width, size, padding=size // 2), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, n_classes))


class Recurrent(nn.Module):
    """A bidirectional LSTM whose states are pooled over time."""

    def __init__(self, n_channels: int, n_classes: int, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_channels, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.transpose(1, 2))[0].mean(1))


def trained(model: nn.Module, inputs: Tensor, labels: Tensor, n_epochs: int, rate: float) -> nn.Module:
    """The model after some epochs of AdamW with a learning rate that falls."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-3)
    steps = n_epochs * -(-len(inputs) // 16)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(16):
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def falls(model: nn.Module, inputs: Tensor, maps: Tensor, usual: Tensor, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """How much of the predicted class's probability goes with some of the steps, sample by sample.

    Steps are replaced by the mean of the training series at the same time, which neither explainer nor metric did:
    the steps that the maps ``(n, t)`` name, and as many of the same pattern elsewhere, the mean of ten places.

    Returns:
        The falls ``(n,)`` at the steps named, and elsewhere.
    """
    n, t = maps.shape
    named = torch.zeros(n, t, dtype=torch.bool).scatter_(1, maps.topk(round(share * t), 1).indices, True)
    with torch.no_grad():
        before, classes = model(inputs).softmax(1).max(1)

        def fall(removed: Tensor) -> Tensor:
            answers = model(torch.where(removed[:, None], usual, inputs)).softmax(1)
            return before - answers.gather(1, classes[:, None])[:, 0]

        elsewhere = [fall(named.roll(shift, 1)) for shift in range(t // 11, t - t // 11, t // 11)]
        return fall(named), torch.stack(elsewhere).mean(0)


def main(n_trials: int = 9) -> dict[str, tuple[pnpxai.TuneResult, Tensor, Tensor]]:
    found = {}
    for name, every, build, n_epochs, rate in (
        ("GunPoint", 1, convolutional, 60, 3e-3),
        ("BasicMotions", 2, Recurrent, 40, 1e-2),  # every second step is enough, and quicker
    ):
        inputs, labels = series(name, "TRAIN")
        others, other_labels = series(name, "TEST")
        inputs, others = inputs[..., ::every], others[:80, :, ::every]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(inputs.shape[1], int(labels.max()) + 1)
        model = trained(model, inputs, labels, n_epochs, rate)
        accuracy = (model(others).argmax(1) == other_labels[:80]).float().mean()
        print(f"{name}: {tuple(others.shape[1:])} channels and steps, accuracy {accuracy:.2f} on unseen series\n")

        # What fits, of some methods with small budgets? What is for convolutions is refused to the recurrent network.
        sample = others[:24]
        quick = [
            *(GradientXInput(model), GradCam(model), LRPEpsilonPlus(model), Occlusion(model)),
            *(IntegratedGradients(model, n_steps=16), RISE(model, n_masks=64)),
        ]
        recommendation = pnpxai.recommend(model, sample, explainers=quick)
        print(recommendation, "\n")

        # Which is best on this model? The channels of a step are removed together.
        result = pnpxai.tune(
            model, sample, explainers=recommendation.explainers, n_trials=n_trials, aims=[], progress=False
        )
        print(result, "\n")

        # What one learns: the steps that decide. Were they only said to? On series that were not tuned on, replace them
        # by the usual course of the movement; the prediction should suffer more than from the same pattern elsewhere.
        judged = others[[number for number in range(len(others)) if number not in result.tuning_index]]
        maps = result.explain(judged)
        named, elsewhere = falls(model, judged, maps, inputs.mean(0))
        print(f"Probability lost with a fifth of the steps: {named.mean():.2f} where the maps say,")
        print(f"{elsewhere.mean():.2f} elsewhere; more in {(named > elsewhere).sum()} of {len(judged)} series.")
        thirds = maps.topk(round(0.2 * maps.shape[1]), 1).indices * 3 // maps.shape[1]
        shares = torch.stack([(thirds == third).float().mean() for third in range(3)])
        print("Of these steps lie in the first, second and last third:", *(f"{each:.0%}" for each in shares), "\n")
        found[name] = result, named, elsewhere

        with tempfile.TemporaryDirectory() as folder:
            result.report(Path(folder) / "report.html", n_samples=2)
    return found


if __name__ == "__main__":
    main()
