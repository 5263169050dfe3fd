from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.errors import ParameterError
from pnpxai.explainers import Gradient, GradientXInput
from pnpxai.metrics import AbPC
from pnpxai.postprocess import PostProcessor
from pnpxai.report import write_report
from pnpxai.tuning import Configuration, Entry, TuneResult
from pnpxai.tuning._controls import random_map
from pnpxai.tuning._statistics import Gain
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded
from tests.report.page import Page

NAMES = [f'<b>photo "{i}" & co</b>' for i in range(9)]
CLASSES = ["<script>alert(1)</script>", "two", "three", "four", "five"]
INPUTS = batch(9, 3, 16, 16)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return seeded(VGGLike())


@pytest.fixture(scope="module")
def result(net: nn.Module) -> TuneResult:
    recommendation = pnpxai.recommend(net, INPUTS, explainers=["Gradient", "GradientXInput", "SmoothGrad", "GradCam"])
    found = pnpxai.tune(
        net, INPUTS, explainers=recommendation.explainers, n_trials=12, holdout=6, progress=False, sampler="random"
    )
    return replace(found, recommendation=recommendation)


@pytest.fixture(scope="module")
def page(result: TuneResult, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    with untouched(result.explainer.model, INPUTS):
        assert write_report(result, path, names=NAMES, class_names=CLASSES, n_explainers=2) == path
    return Page(path)


def printed(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.3f").replace("-", "\N{MINUS SIGN}")


def board(page: Page) -> dict[str, list[str]]:
    table = next(each for each in page.tables if each[0][0] == "Explainer" and "Tuning" in each[0])
    return {row[0]: row for row in table[1:]}


def test_the_page_needs_nothing_from_outside(page: Page, result: TuneResult, tmp_path: Path) -> None:
    source = write_report(result, tmp_path / "r.html", n_samples=1).read_text(encoding="utf-8")
    assert page.addresses
    assert all(each.startswith("data:image/png;base64,") for each in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "http" not in source
    assert "@import" not in source
    assert "url(" not in source


def test_names_are_shown_as_they_are_and_never_run(page: Page, net: nn.Module) -> None:
    for name in NAMES:
        assert name in page.text
    for each in net(INPUTS).argmax(1).unique().tolist():
        assert f"predicted {CLASSES[each]}, probability" in page.text
    assert "script" not in page.tags


def test_every_sample_has_its_input_maps_and_controls(page: Page) -> None:
    assert [each.shape for each in page.pictures] == [(16, 16, 3)] * (9 * (1 + 2 + 2))


def test_probabilities_are_the_models(page: Page, net: nn.Module) -> None:
    with torch.no_grad():
        shares = torch.softmax(net(INPUTS), 1).amax(1)
    for each in shares.tolist():
        assert f"probability {each:.2f}" in page.text


def test_the_leaderboard_holds_what_the_metric_says(page: Page, result: TuneResult, net: nn.Module) -> None:
    held = list(result.holdout_index)
    tuning = list(result.tuning_index)
    targets = net(INPUTS).argmax(1)
    metric = AbPC(net)
    rows = board(page)
    for entry in result.entries:
        scores = {}
        for name, each in (("tuned", entry.tuned), ("default", entry.default)):
            maps = each.postprocessor(each.explainer.attribute(INPUTS, targets))
            scores[name] = metric.evaluate(INPUTS, targets, maps).double()
        row = rows[entry.name]
        assert row[1] == ("tuned" if entry.gain is not None and entry.gain.confirmed else "default")
        luck = entry.tuned.seed_luck
        score = printed(scores["tuned"][tuning].mean().item() - luck)
        assert row[2] == (f"≈ {score}" if luck else score)
        assert row[3] == printed(scores["tuned"][held].mean().item())
        assert row[4] == printed(scores["default"][held].mean().item())
        if entry.tuned is entry.default:
            assert row[6] == "nothing better found"
        else:
            gain = (scores["tuned"] - scores["default"])[held].mean().item()
            assert row[6] == printed(gain, "+")
            assert row[7] == f"{printed(entry.gain.low, '+')} to {printed(entry.gain.high, '+')}"
            better = scores["tuned"][held] > scores["default"][held]
            same = scores["tuned"][held] == scores["default"][held]
            assert row[9] == f"{100 * (better.double() + 0.5 * same).mean().item():.0f} %"
    assert {entry.name for entry in result.entries} <= set(rows)


def test_controls_stand_beside_the_leaderboard(page: Page, result: TuneResult, net: nn.Module) -> None:
    held = list(result.holdout_index)
    targets = net(INPUTS).argmax(1)
    scores = AbPC(net).evaluate(INPUTS[held], targets[held], random_map(INPUTS[held], 1, result.seed)).double()
    assert board(page)["random map"][3] == printed(scores.mean().item())
    assert {"edge map", "centre map"} <= set(board(page))


def test_rejected_explainers_are_shown_with_their_reason(result: TuneResult, tmp_path: Path) -> None:
    known = replace(result.recommendation, rejected={"Left": "it is <too> slow.", "Right": "it is <too> slow."})
    page = Page(write_report(replace(result, recommendation=known), tmp_path / "r.html", n_samples=1))
    table = next(each for each in page.tables if "Verdict" in each[0])
    assert ["Left, Right", "–", "–", "rejected: it is <too> slow."] in table
    assert [row[0] for row in table[1:-1]] == [type(each).__name__ for each in known.explainers]


def entry(net: nn.Module, gain: Gain) -> Entry:
    default = Configuration(Gradient(net), PostProcessor(), {}, (0.2,) * 3, (0.1,) * gain.n, 0.2, 1.0, 0.1)
    chosen = {"postprocessor.pooling_fn": "l2"}
    tuned = Configuration(Gradient(net), PostProcessor("l2"), chosen, (0.4,) * 3, (0.15,) * gain.n, 0.4, 1.0, 0.1)
    return Entry("Gradient", default, tuned, gain, 5)


@pytest.mark.parametrize(
    ("gain", "settings", "because"),
    [
        (Gain(0.05, 0.02, 0.08, 1.0, 6), "tuned", "The interval lies above zero"),
        (Gain(0.05, -0.02, 0.08, 0.5, 6), "default", "The interval reaches zero"),
        (Gain(0.05, 0.02, 0.08, 1.0, 4), "default", "it takes 6"),
    ],
)
def test_default_is_recommended_unless_the_gain_is_confirmed(
    result: TuneResult, net: nn.Module, tmp_path: Path, gain: Gain, settings: str, because: str
) -> None:
    known = replace(result, entries=(entry(net, gain),), holdout_index=result.holdout_index[: gain.n], controls={})
    page = Page(write_report(known, tmp_path / "r.html", n_samples=1))
    assert board(page)["Gradient"][1:5] == [settings, "0.400", "0.150", "0.100"]
    assert board(page)["Gradient"][6:8] == ["+0.050", f"{printed(gain.low, '+')} to +0.080"]
    assert because in page.text
    assert ("with its default settings" in page.text) == (settings == "default")
    configuration = next(each for each in page.tables if each[0] == ["Parameter", "Default", "Tuned"])
    assert ["pooling_fn", "sum", "l2"] in configuration


def test_an_explainer_that_does_better_on_the_hold_out_is_named(
    result: TuneResult, net: nn.Module, tmp_path: Path
) -> None:
    first = entry(net, Gain(0.05, 0.02, 0.08, 1.0, 6))
    better = Configuration(GradientXInput(net), PostProcessor(), {}, (0.3,) * 3, (0.9,) * 6, 0.3, 1.0, 0.1)
    known = replace(result, entries=(first, Entry("Other", better, better, Gain(0, 0, 0, 0.5, 6), 1)), controls={})
    page = Page(write_report(known, tmp_path / "r.html", n_samples=1))
    assert "On the hold-out it scores 0.150 as recommended, and others score better: Other (0.900)" in page.text


def test_hold_out_samples_are_shown_first_and_in_order(result: TuneResult, tmp_path: Path) -> None:
    page = Page(write_report(result, tmp_path / "r.html", n_samples=4))
    places = [page.text.index(f"Sample {i} hold-out") for i in sorted(result.holdout_index[:4])]
    assert places == sorted(places)
    assert all(f"Sample {i} tuning" not in page.text for i in result.tuning_index)
    assert "4 of 9 samples are shown" in page.text


def test_photographs_lie_under_the_maps(result: TuneResult, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    page = Page(write_report(result, tmp_path / "r.html", images=pictures, n_explainers=1))
    for i in range(9):
        np.testing.assert_array_equal(page.pictures[4 * i], pictures[i])
    flat = [torch.as_tensor(each).permute(2, 0, 1) / 255 for each in pictures]
    same = Page(write_report(result, tmp_path / "s.html", images=flat, n_explainers=1))
    for first, second in zip(page.pictures, same.pictures, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"names": ["one"]}, "one of names for each of 9 samples"),
        ({"images": [np.zeros((16, 16))]}, "one of images for each of 9 samples"),
        ({"images": np.zeros((9, 8, 8, 3))}, "pictures of shape (16, 16)"),
        ({"images": np.full((9, 16, 16), 2.0)}, "values from 2 to 2"),
        ({"n_explainers": 0}, "n_explainers to be a whole number"),
        ({"n_samples": 1.5}, "n_samples to be a whole number"),
        ({"class_names": ["only"]}, "a name for class"),
    ],
)
def test_bad_arguments_are_named(result: TuneResult, tmp_path: Path, options: dict, says: str) -> None:
    with pytest.raises(ParameterError) as error:
        write_report(result, tmp_path / "r.html", **options)
    assert says in str(error.value)
    assert not (tmp_path / "r.html").exists()


def test_a_folder_is_no_path_for_a_report(result: TuneResult, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="the path of a file"):
        result.report(tmp_path)


def score_of_first(outputs: Tensor) -> Tensor:
    return outputs[:, 0]


@pytest.mark.parametrize(("make", "shape"), [(TimeCNN, (4, 2, 24)), (MLP, (4, 6))])
@pytest.mark.parametrize("targets", [None, score_of_first])
def test_series_and_features_are_drawn(make: type, shape: tuple[int, ...], targets: object, tmp_path: Path) -> None:
    found = pnpxai.tune(
        seeded(make()), batch(*shape), targets, explainers=["GradientXInput"], n_trials=1, holdout=0, progress=False
    )
    page = Page(found.report(tmp_path / "r.html"))
    assert [each.shape for each in page.pictures] == [(264, 440, 3)] * (4 * 4)
    assert any(each.std() > 0 for each in page.pictures)
    assert "There was no hold-out" in page.text
    assert ("explained for a score of the outputs" in page.text) == (targets is not None)


def test_a_metric_without_curves_is_shown_beside_abpc(net: nn.Module, tmp_path: Path) -> None:
    found = pnpxai.tune(
        net, INPUTS, explainers=["Gradient"], metric="complexity", n_trials=1, holdout=2, progress=False
    )
    page = Page(found.report(tmp_path / "r.html", n_samples=1))
    assert "judged by Complexity" in page.text
    assert "lower is better" in page.text
    index = found.holdout_index[0]
    maps = Gradient(net).attribute(INPUTS[[index]]).sum(1)
    assert f"area between the curves {printed(AbPC(net).evaluate(INPUTS[[index]], None, maps).item())}" in page.text


def test_the_room_opens_without_matplotlib_and_never_needs_pyplot() -> None:
    code = """
import sys, torch, pnpxai, pnpxai.report
assert "matplotlib" not in sys.modules, "matplotlib at import"
from tests.nets import MLP, batch, seeded
import tempfile, pathlib
result = pnpxai.tune(seeded(MLP()), batch(3, 6), explainers=["Gradient"], n_trials=1, holdout=0, progress=False)
with tempfile.TemporaryDirectory() as folder:
    result.report(pathlib.Path(folder) / "report.html")
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules, "pyplot after a report"
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
