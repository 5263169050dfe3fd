from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pnpxai.errors import ParameterError, UnknownNameError
from pnpxai.explainers import Gradient
from pnpxai.metrics import AbPC
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning import Choice, Pareto
from pnpxai.tuning._pareto import undominated
from tests.nets import MLP


def choice(number: int, **values: float) -> Choice:
    return Choice(number, f"E{number}", Gradient(MLP()), PostProcessor(), values, True)


TRIALS = (
    choice(0, score=0.10, runtime=0.1, complexity=5.0),
    choice(1, score=0.30, runtime=2.0, complexity=6.0),
    choice(2, score=0.20, runtime=0.5, complexity=7.0),
    choice(3, score=0.15, runtime=0.6, complexity=7.5),
    choice(4, score=0.25, runtime=2.5),
)


def front(*aims: str) -> Pareto:
    return Pareto.of(TRIALS, aims, metric=AbPC)


def test_front_is_what_no_other_beats() -> None:
    assert [each.number for each in front("score", "runtime").front] == [1, 2, 0]
    assert [each.number for each in front("score").front] == [1]
    assert [each.number for each in front("runtime").front] == [0]
    assert {each.number for each in front("score", "runtime").dominated} == {3, 4}


def test_an_aim_that_a_trial_lacks_leaves_it_out() -> None:
    found = front("score", "complexity")
    assert [each.number for each in found.front] == [1, 0]
    assert 4 not in {each.number for each in found.dominated}
    assert set(front().aims) == {"score", "runtime"}


def test_undominated_against_the_definition() -> None:
    values = np.random.default_rng(0).integers(0, 4, (60, 3)).astype(float)
    expected = [not any((other >= own).all() and (other > own).any() for other in values) for own in values]
    assert undominated(values).tolist() == expected


def test_choice_by_constraint_and_by_weights() -> None:
    found = front("score", "runtime")
    assert found.where("runtime <= 1 s").choose().number == 2
    assert found.where("runtime < 0.5", "score > 0.05").choose().number == 0
    assert found.choose().number == 1
    assert found.choose({"runtime": 1.0}).number == 0
    # places: trial 1 has score 1, runtime 0; trial 2 score .5, runtime 15/19; trial 0 score 0, runtime 1
    assert found.choose({"score": 1.0, "runtime": 1.0}).number == 2
    assert found.choose({"score": 3.0, "runtime": 1.0}).number == 1
    assert list(found.table["trial"]) == [1, 2, 0]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: front("speed"), UnknownNameError),
        (lambda: front("score").where("runtime <= 1"), ParameterError),
        (lambda: front("score", "runtime").where("runtime is small"), ParameterError),
        (lambda: front("score", "runtime").where("runtime < 0.01"), ParameterError),
        (lambda: front("score").choose({"runtime": 1.0}), UnknownNameError),
        (lambda: front("score").choose({"score": -1.0}), ParameterError),
        (lambda: front("score").plot("x.png"), UnknownNameError),
    ],
)
def test_what_cannot_be_meant_is_refused(call, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


def test_plot_is_a_picture(tmp_path: Path) -> None:
    path = front("score", "runtime").plot(tmp_path / "front.png")
    with Image.open(path) as picture:
        shades = np.asarray(picture.convert("L"))
    assert shades.std() > 5
