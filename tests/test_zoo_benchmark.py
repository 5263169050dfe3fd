"""The matrix of the zoo calls an error what is one, and says why the rest was rejected."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import zoo, zoo_data
from benchmarks.zoo_models import FCN, Subject
from pnpxai.errors import ModelError
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.explainers._base import ANY_MODULE
from tests.nets import MLP, batch, seeded


class Erratic(Explainer):
    """Explains negative inputs; on others it does what it should not."""

    SUPPORTED_MODULES = ANY_MODULE
    fault: str

    def attribute(self, inputs, targets=None):
        if not (inputs < 0).all():
            if self.fault == "fails":
                raise ModelError("peace", "war", "Stop.")
            if self.fault == "not finite":
                return inputs / 0
            if self.fault == "changed weights":
                self.model[0].weight.data += 1e-3
            if self.fault == "changed state":
                self.model.train()
            if self.fault == "changed torch":
                torch.rand(1)
            if self.fault == "changed NumPy":
                np.random.rand()  # noqa: NPY002  # what is to be caught
            if self.fault == "changed Python":
                random.random()
            if self.fault == "changed input":
                inputs += 1
            if self.fault == "nothing":
                return torch.zeros_like(inputs)
        return inputs * 2


del EXPLAINERS["Erratic"]


def subject(name: str = "perceptron") -> Subject:
    return Subject(
        name, "tests", lambda: seeded(MLP()), lambda: [-batch(1, 6).abs(), -batch(1, 6).abs() - 1, torch.rand(1, 6)]
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small registry."""
    for name in set(EXPLAINERS) - {"Gradient", "GradCam", "AttentionRollout"}:
        monkeypatch.delitem(EXPLAINERS, name)


@pytest.mark.parametrize(
    ("fault", "mark", "says"),
    [
        ("none", "✓", ""),
        ("nothing", "○", "noise"),
        ("fails", "ERROR", "on noise: ModelError: expected peace; received war"),
        ("not finite", "ERROR", "on noise: not finite"),
        ("changed weights", "ERROR", "on noise: changed weights of 0.weight"),
        ("changed state", "ERROR", "on noise: changed state of the model"),
        ("changed torch", "ERROR", "on noise: changed torch's random state"),
        ("changed NumPy", "ERROR", "on noise: changed NumPy's random state"),
        ("changed Python", "ERROR", "on noise: changed Python's random state"),
        ("changed input", "ERROR", "on noise: changed input 0"),
    ],
)
def test_a_cell_is_an_error_where_something_recommended_does_harm(
    monkeypatch: pytest.MonkeyPatch, few: None, fault: str, mark: str, says: str
) -> None:
    monkeypatch.setitem(EXPLAINERS, "Erratic", Erratic)
    monkeypatch.setattr(Erratic, "fault", fault, raising=False)
    with torch.random.fork_rng([]):
        states = random.getstate(), np.random.get_state()  # noqa: NPY002  # put back
        record = zoo.examined(subject())
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # put back
    cell = record["cells"]["Erratic"]
    assert zoo.word(cell) == mark
    assert says in "".join([*cell.get("error", []), *cell.get("flat", [])])
    assert bool(zoo.errors([record])) is (mark == "ERROR")
    assert zoo.word(record["cells"]["Gradient"]) == "✓"
    assert zoo.word(record["cells"]["GradCam"]) == "–"


def test_columns_are_told_apart() -> None:
    assert len({zoo.short(name) for name in EXPLAINERS}) == len(EXPLAINERS)
    assert zoo.short("LRPEpsilonAlpha2Beta1") == "LRPEA2B1"


def test_rows_are_kept_and_models_with_the_same_reasons_stand_together(tmp_path: Path, few: None) -> None:
    log = tmp_path / "zoo.jsonl"
    for name in ("one", "two", "one"):
        zoo.measure(subject(name), log)
    zoo.measure(Subject("broken", "tests", lambda: nn.Linear(3, 1), lambda: [torch.rand(1, 6)] * 3), log)
    known = zoo.known_rows(log)
    assert list(known) == ["one", "two", "broken"]
    text = "\n".join(zoo.page(list(known.values())))
    assert "3 models × 3 explainers: 2 recommended and ran, 4 rejected, 1 errors." in text
    assert "| one | tests | – | – | ✓ | 1 |" in text
    assert "**one; two**" in text
    assert "- GradCam: it works on Convolution layers, and none is seen in this model." in text
    assert "- broken: recommend failed: ModelError" in text


def test_series_are_read_and_a_network_learns_them() -> None:
    if importlib.util.find_spec("aeon") is None:
        pytest.skip("the package that carries the series is not installed")
    shapes = {"GunPoint": (50, 1, 150), "BasicMotions": (40, 6, 100), "JapaneseVowels_eq": (270, 12, 25)}
    for name, shape in shapes.items():
        x, y, others, answers = zoo_data.series(name)
        assert tuple(x.shape) == shape
        assert others.shape[1:] == x.shape[1:]
        assert x.std((0, 2)) == pytest.approx(torch.ones(shape[1]))
        assert set(y.tolist()) == set(answers.tolist()) == set(range(int(y.max()) + 1))
    with torch.random.fork_rng([]):
        x, y, others, answers = zoo_data.series("BasicMotions")
        torch.manual_seed(0)
        net = zoo_data.fitted(FCN(6, 4, 8), x, y, 10)
        assert zoo_data.accuracy(net, others, answers) > 0.8


def test_tables_are_standardised_and_rows_are_set_aside() -> None:
    x, y = zoo_data.features("wine")
    assert x.mean(0).abs().max() < 1e-5
    known, classes, aside = zoo_data.split(x, y)
    assert (len(known), len(classes), len(aside)) == (142, 142, 36)
    assert not any((row == known).all(1).any() for row in aside)


def test_every_model_has_a_name_of_its_own() -> None:
    from benchmarks.zoo_models import zoo as subjects

    names = [each.name for each in subjects()]
    assert len(names) == len(set(names)) >= 40
