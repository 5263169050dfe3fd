from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks import race, race_against_separate, race_honesty, race_overhead, race_subjects
from pnpxai.explainers import EXPLAINERS, Gradient, GradientXInput, SmoothGrad
from pnpxai.metrics import METRICS, AbPC
from pnpxai.modality import Image
from pnpxai.tuning._statistics import Gain

N_TUNING, N_HOLDOUT = 8, 8


@pytest.fixture(scope="module")
def digits() -> race_subjects.Subject:
    """The network on digits with explainers of a pass or two."""
    model, inputs = race_subjects.cnn(N_TUNING + N_HOLDOUT)
    explainers = [Gradient(model), GradientXInput(model), SmoothGrad(model, n_samples=5)]
    return race_subjects.Subject("digits", model, inputs, explainers, {"n_samples": 5})


@pytest.fixture
def asked(digits: race_subjects.Subject) -> Iterator[Callable[[], int]]:
    """How many samples have gone through the network, counted by a hook of its own."""
    rows: list[int] = []
    handle = digits.model.register_forward_hook(lambda _module, inputs, _outputs: rows.append(len(inputs[0])))
    yield lambda: sum(rows)
    handle.remove()


# The subjects.


def test_the_network_names_digits_that_it_was_not_trained_on() -> None:
    model, inputs = race_subjects.cnn(200)
    data = load_digits()
    pictures = torch.from_numpy(data.images).float().flatten(1) / 8 - 1
    rows = torch.cdist(inputs.flatten(1), pictures).argmin(1)
    assert len(set(rows.tolist())) == 200
    assert (model(inputs).argmax(1).numpy() == data.target[rows.numpy()]).mean() > 0.95
    assert not model.training


def test_the_same_network_every_time_and_the_random_state_untouched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    once, again = (race_subjects.trained(race_subjects.DigitsViT, 8, n_epochs=1, rate=1e-3)[0] for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_budgets_are_lowered_and_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(n_samples: int, _folder: object) -> tuple[nn.Module, Tensor]:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), torch.rand(n_samples, 1, 8, 8)

    monkeypatch.setattr(race_subjects, "SUBJECTS", {"flat": ("flat", build)})
    made = race_subjects.subject("flat", 2, {"n_masks": 120, "n_samples": 400})
    budgets = {type(each).__name__: each for each in made.explainers}
    assert budgets["RISE"].get_params()["n_masks"] == 120
    assert budgets["SmoothGrad"].get_params()["n_samples"] == SmoothGrad(made.model).n_samples
    assert made.spent == "n_masks 120, n_samples 400"


def test_photographs_have_to_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(race_subjects.FOLDER, raising=False)
    with pytest.raises(SystemExit, match=race_subjects.FOLDER):
        race_subjects.lite0(2, None)
    (tmp_path / "000_one.jpg").touch()
    with pytest.raises(SystemExit, match="2 photographs are needed, and there are 1"):
        race_subjects.lite0(2, tmp_path)


# The race against the exhaustive search.


def test_a_study_counts_what_went_through_the_model(digits: race_subjects.Subject, asked: Callable[[], int]) -> None:
    record = race.run("digits", digits, 0, "exhaustive", 6, N_HOLDOUT)
    assert record["n_forwards"] == asked()
    assert 0 < record["search_forwards"] < record["n_forwards"]
    assert record["n_complete"] == 6
    assert race.settings("digits", digits, 0, "exhaustive", 6, N_HOLDOUT).items() <= record.items()
    assert json.loads(json.dumps(record)) == record


def test_the_race_asks_no_more_than_the_exhaustive_search(digits: race_subjects.Subject) -> None:
    whole, raced = (race.run("digits", digits, 0, way, 3, N_HOLDOUT) for way in race.WAYS)
    assert race.pairs([raced, whole]) == [(whole, raced)]
    assert race.share((whole, raced)) <= 1
    told = f"| digits | 0 | {whole['search_forwards']:,} → {raced['search_forwards']:,} |"
    assert any(each.startswith(told) for each in race.page([whole, raced]))


def record(way: str, seed: int, forwards: int, holdout: float) -> dict[str, Any]:
    return {
        **{"subject": "cnn", "title": "a net", "seed": seed, "way": way, "n_trials": 50, "n_tuning": 64},
        **{"n_holdout": 128, "n_explainers": 3, "budgets": "none", "search_forwards": forwards},
        **{"n_forwards": 2 * forwards, "seconds": 1.0, "name": "A", "best": "A", "holdout": holdout},
        "best_holdout": holdout,
    }


def test_the_page_has_mean_and_worst_over_seeds() -> None:
    records = [
        *(record("exhaustive", seed, 1000, 0.5) for seed in (0, 1, 2)),
        record("race", 0, 100, 0.5),
        record("race", 1, 200, 0.49),
    ]
    assert [(race.share(each), round(race.loss(each), 6)) for each in race.pairs(records)] == [(0.1, 0.0), (0.2, 0.01)]
    (row,) = [each for each in race.summary(records) if "a net" in each]
    cells = [each.strip() for each in row.strip("|").split("|")]
    assert cells == [
        *("a net", "2", "15.0%", "20.0%", "+0.0050", "+0.0100", "+0.0050", "+0.0100", "15.0%", "missed"),
    ]


# Against separate studies.


def test_separate_studies_explain_everything_anew(digits: race_subjects.Subject, asked: Callable[[], int]) -> None:
    alone = race_subjects.Subject("alone", digits.model, digits.inputs, [Gradient(digits.model)], {})
    with torch.no_grad():
        classes = digits.model(digits.inputs).argmax(1)
    index = list(range(N_TUNING))
    before = asked()
    found = race_against_separate.separate(alone, index, classes, 0, 15)
    assert found.search_forwards == asked() - before
    maps = Gradient(digits.model).attribute(digits.inputs[index], classes[index])
    metric = AbPC(digits.model)
    of_one = asked()
    metric.evaluate(digits.inputs[:1], classes[:1], maps[:1].sum(1))
    of_one = asked() - of_one
    assert found.search_forwards == 15 * N_TUNING * (1 + of_one)
    assert race_against_separate.estimated(alone, N_TUNING, 15) == found.search_forwards
    best = max(
        metric.evaluate(digits.inputs[index], classes[index], each(maps)).double().mean().item()
        for each in Image().postprocessors
    )
    assert found.tuning_score == pytest.approx(best, abs=1e-9)


def test_one_race_beside_separate_studies(digits: race_subjects.Subject) -> None:
    found = race_against_separate.compared("digits", digits, 0, 4, N_HOLDOUT)
    ours, other = found["ours"], found["separate"]
    assert race_against_separate.share(found) == ours["n_forwards"] / other["search_forwards"]
    assert race_against_separate.gain(found) == ours["holdout"] - other["holdout"]
    text = "\n".join(race_against_separate.page([found], {"digits": digits}, 4, 1.0))
    assert f"{other['search_forwards']:,}" in text


# Honesty.


@pytest.fixture(scope="module")
def lucky() -> list[race_honesty.Outcome]:
    return [race_honesty.run(16, 32, seed, n_copies=30) for seed in range(12)]


def test_luck_is_not_called_a_gain(lucky: list[race_honesty.Outcome]) -> None:
    """Of 12 intervals at 95 % ten or more hold the truth, zero (fewer in 2 %)."""
    assert sum(each.covers for each in lucky) >= 10
    assert all(each.kept == (each.gain is None or each.gain.low <= 0) for each in lucky)


def test_selection_flatters_on_the_tuning_samples_alone(lucky: list[race_honesty.Outcome]) -> None:
    """The hold-out's mean gain is zero within three standard errors; the tuning samples' is far above.

    Thirty equal configurations: the best of 29 exceeds another by 2 deviations of a mean over 16 in expectation.
    """
    searched = [each for each in lucky if each.gain is not None and each.flattered is not None]
    assert len(searched) >= 8
    error = race_honesty.NOISE * np.sqrt(2 / 32 / len(searched))
    assert abs(np.mean([each.gain.mean for each in searched if each.gain])) < 3 * error
    assert np.mean([each.flattered.mean for each in searched if each.flattered]) > 3 * error


def test_a_table_of_luck_holds_levels_and_noise() -> None:
    found = race_honesty.table_of_luck(4000, np.random.default_rng(0)).numpy()
    assert found.shape == (4000, race_honesty.N_COPIES)
    assert (found - found.mean(1, keepdims=True)).std() == pytest.approx(race_honesty.NOISE, rel=0.02)
    assert found.mean(1).std() == pytest.approx(race_honesty.SPREAD, rel=0.05)


def test_nobody_is_recommended_the_copies() -> None:
    assert "Copy" not in EXPLAINERS
    assert "Luck" not in METRICS


def test_a_row_counts_trivial_and_searched_runs() -> None:
    near, far = Gain(0.01, -0.01, 0.03, 0.5, 9), Gain(0.05, 0.02, 0.08, 0.9, 9)
    runs = [
        race_honesty.Outcome(None, None, True),
        race_honesty.Outcome(near, far, True),
        race_honesty.Outcome(near, far, True),
        race_honesty.Outcome(far, far, False),
    ]
    assert race_honesty.row(16, 64, "raced", runs) == [
        *("raced", "16 / 64", "4", "75.0", "75.0", "3", "66.7", "+0.0233", "+0.0500", "0.0")
    ]


# Time outside the model.


class Slow(nn.Module):
    """Sleeps in its forward."""

    def __init__(self, net: nn.Module, seconds: float) -> None:
        super().__init__()
        self.net = net
        self.pause = seconds

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.pause)
        return self.net(inputs)


def test_time_in_the_model_is_told_from_the_rest(digits: race_subjects.Subject) -> None:
    slow = race_subjects.Subject("slow", Slow(digits.model, 0.02), digits.inputs, [], {})
    calls: list[int] = []
    slow.model.register_forward_hook(lambda *_: calls.append(1))
    found = race_overhead.measured(slow, 6, holdout=N_HOLDOUT)
    assert found.n_trials == 6
    assert 0.02 < found.inside <= 0.04 * len(calls) + 0.5
    assert found.inside < found.seconds
    assert found.share == pytest.approx(1 - found.inside / found.seconds)


def test_cached_maps_are_not_explained_again(digits: race_subjects.Subject, tmp_path: Path) -> None:
    first, second = (race_overhead.study(digits.model, digits.inputs, 6, tmp_path, holdout=4) for _ in range(2))
    assert [each.name for each in first.trials] == [each.name for each in second.trials]
    explained = sum(each.values["forwards"] for each in first.trials)
    assert explained > 0
    assert first.search_forwards - second.search_forwards > 0


def test_the_overhead_page_names_the_aim() -> None:
    each = race_overhead.Overhead(seconds=10.0, inside=8.5, n_trials=500, n_forwards=7)
    (row,) = [line for line in race_overhead.page([("a net", "raced", each)], 1.0) if "a net" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("a net", "raced", "500", "7", "10.0", "8.5", "3.0", "15.0%", "reached")
    ]
