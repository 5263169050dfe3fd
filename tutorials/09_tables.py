"""Tables: which measurements decide, for a network, and for a random forest that is only a function.

A lesson by the way: gradients times inputs compare with zero, and on a table in its own units the order they give is
worse than chance. What compares with rows of the data is not fooled.

Run with: python tutorials/09_tables.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

import pnpxai
from pnpxai.callables import Model
from pnpxai.explainers import (
    RISE,
    Explainer,
    GradientXInput,
    IntegratedGradients,
    KernelShap,
    LRPEpsilonPlus,
    Occlusion,
)
from pnpxai.modality import Tabular

N_TOP = 5


def table() -> tuple[Tensor, Tensor, list[str]]:
    """569 tumours: 30 measurements each, in their own units ``(n, 30)``; whether benign ``(n,)``; and the names."""
    data = load_breast_cancer()
    order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
    return (
        torch.tensor(data.data, dtype=torch.float32)[order],
        torch.tensor(data.target)[order],
        list(data.feature_names),
    )


class Network(nn.Module):
    """Two layers above a standardisation, so that the model itself takes the table's own units."""

    def __init__(self, training: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", training.mean(0))
        self.register_buffer("deviation", training.std(0))
        self.layers = nn.Sequential(nn.Linear(training.shape[1], 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.mean) / self.deviation)


def trained(model: nn.Module, inputs: Tensor, labels: Tensor, n_steps: int = 300) -> nn.Module:
    """The model after some steps of AdamW."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    for _ in range(n_steps):
        rows = torch.randint(len(inputs), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def falls(model: Model, inputs: Tensor, maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How far the predicted class's probability falls where measurements are exchanged for those of other tumours.

    Neither explainer nor metric did this with these tumours. Exchanged are the five measurements that the maps
    ``(n, d)`` name, or five at random, each time with the same fifty others; ten draws of five.

    Returns:
        The mean falls ``(n,)`` for those named, and for those at random.
    """

    def probabilities(rows: Tensor) -> Tensor:
        outputs = torch.as_tensor(model(rows)).detach()
        return outputs.softmax(1) if isinstance(model, nn.Module) else outputs

    n, d = inputs.shape
    generator = torch.Generator().manual_seed(0)
    classes = probabilities(inputs).argmax(1)
    before = probabilities(inputs).gather(1, classes[:, None])[:, 0]

    def fall(chosen: Tensor) -> Tensor:
        exchanged = torch.zeros(n, d, dtype=torch.bool).scatter_(1, chosen, True)
        rows = torch.where(exchanged[:, None], others, inputs[:, None]).flatten(0, 1)
        after = probabilities(rows).reshape(n, len(others), -1)
        return before - after.mean(1).gather(1, classes[:, None])[:, 0]

    at_random = [fall(torch.rand(n, d, generator=generator).argsort(1)[:, :N_TOP]) for _ in range(10)]
    return fall(maps.topk(N_TOP, 1).indices), torch.stack(at_random).mean(0)


def main(n_trials: int = 9) -> dict[str, tuple[pnpxai.TuneResult, Tensor, Tensor]]:
    inputs, labels, names = table()
    training, sample, others, judged = inputs[:400], inputs[400:432], inputs[432:482], inputs[482:530]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = trained(Network(training), training, labels[:400])
    forest = RandomForestClassifier(20, max_depth=6, random_state=0).fit(training.numpy(), labels[:400].numpy())

    def function(rows: Tensor) -> Tensor:
        """Anything from a batch to outputs can be explained."""
        return torch.from_numpy(forest.predict_proba(rows.numpy()))

    # In these units zero is no tumour's value, and no fair stand-in for "not measured". The modality is told some rows
    # of the data: absent measurements come from them, in explainers as in the metric. Explainers with settings of their
    # own, here small budgets, get the rows by `settled`; KernelShap then asks about each row and takes the mean.
    tables = Tabular(background=training[:10], names=names)
    quick: dict[str, tuple[Model, list[Explainer]]] = {
        "network": (
            network,
            [GradientXInput(network), IntegratedGradients(network, n_steps=16), LRPEpsilonPlus(network)],
        ),
        "random forest": (function, [Occlusion(function), RISE(function, n_masks=128)]),
    }
    found = {}
    for name, (model, explainers) in quick.items():
        accuracy = (torch.as_tensor(model(inputs[400:])).argmax(1) == labels[400:]).float().mean()
        print(f"The {name} has an accuracy of {accuracy:.2f} on tumours it has not seen.")
        recommendation = pnpxai.recommend(model, sample, modality=tables)
        print(", ".join(type(each).__name__ for each in recommendation.explainers), "fit.\n")

        explainers = [tables.settled(each) for each in [*explainers, KernelShap(model, n_samples=64)]]
        result = pnpxai.tune(
            model, sample, explainers=explainers, modality=tables, n_trials=n_trials, aims=[], progress=False
        )
        print(result, "\n")

        # What one learns: the measurements that predictions rest on. They are checked on tumours not tuned on.
        maps = result.explain(judged)
        named, at_random = falls(model, judged, maps, others)
        found[name] = result, named, at_random
        counts = maps.topk(N_TOP, 1).indices.flatten().bincount(minlength=len(names))
        for place in counts.argsort(descending=True)[:N_TOP].tolist():
            print(f"{names[place]:<24} among the first {N_TOP} of {counts[place]} in {len(maps)} tumours")
        print(
            f"Exchanged for other tumours', these {N_TOP} take {named.mean():.2f} of the probability, {N_TOP} at random"
        )
        print(f"{at_random.mean():.2f}; more in {(named > at_random).sum()} of {len(judged)} tumours.\n")
        with tempfile.TemporaryDirectory() as folder:
            result.report(Path(folder) / "report.html", n_samples=2)
    return found


if __name__ == "__main__":
    main()
