from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pnpxai.demo import AFFORDABLE, BUDGETS, NOT_OF_CLASSES, run_demo, search, within
from pnpxai.errors import PnPXAIError, UnknownNameError
from pnpxai.explainers import EXPLAINERS, RISE, GradCam, Lime, SmoothGrad
from pnpxai.photographs import (
    PHOTOGRAPHS,
    cropped,
    efficientnet_lite0,
    imagenet_names,
    package_file,
    photographs,
    standardized,
)
from pnpxai.tuning import TuneResult
from tests.harm import untouched
from tests.nets import VGGLike, batch, seeded
from tests.report.page import Page

SIZES = {
    "Chelsea the cat": (451, 300),
    "A cup of coffee": (600, 400),
    "A rocket on its pad": (640, 427),
    "A motorcycle": (741, 500),
    "A man with a camera": (512, 512),
    "A pagoda": (640, 427),
    "A dahlia": (640, 427),
    "Grace Hopper": (512, 600),
    "An astronaut": (512, 512),
}


def test_the_photographs_are_what_they_claim() -> None:
    assert {each.name: each.open().size for each in PHOTOGRAPHS} == SIZES
    assert {each.open().mode for each in PHOTOGRAPHS} == {"RGB"}


@pytest.mark.parametrize("size", [(451, 300), (300, 451), (64, 64), (230, 229)])
def test_the_network_sees_what_torchvision_would_show_it(size: tuple[int, int]) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    shown = Compose(
        [Resize(256, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]
    )
    torch.testing.assert_close(standardized([cropped(picture)]), shown(picture)[None])


def test_an_unknown_photograph_is_answered_with_the_nearest() -> None:
    assert [each.name for each in photographs(["A pagoda"])] == ["A pagoda"]
    with pytest.raises(UnknownNameError, match="Did you mean 'A pagoda'"):
        photographs(["A pagode"])


@pytest.mark.parametrize(
    ("package", "file", "received"),
    [("no_such_package", "a.png", "no such package"), ("skimage", "data/no.png", "no data/no.png in it")],
)
def test_a_missing_package_is_named_with_what_to_do(package: str, file: str, received: str) -> None:
    with pytest.raises(PnPXAIError) as error:
        package_file(package, file)
    assert f"received {received}" in str(error.value)
    assert "pip install 'pnpxai[demo]'" in str(error.value)


def test_budgets_are_lowered_and_never_raised() -> None:
    net = seeded(VGGLike())
    assert within(RISE(net), {"n_masks": 5}).n_masks == 5
    assert within(RISE(net, n_masks=3), {"n_masks": 5, "n_steps": 1}).n_masks == 3
    assert within(GradCam(net), {"n_masks": 5}) == GradCam(net)


def test_the_demo_leaves_out_what_is_dear_and_what_asks_about_no_class() -> None:
    net, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    found = search(net, inputs, n_trials=1, holdout=0, progress=False).recommendation
    assert found is not None
    dear = {name for name, reason in found.rejected.items() if "few minutes" in reason}
    assert {"SobolAttribution", "ExtremalPerturbation"} <= dear
    assert {name for name, reason in found.rejected.items() if reason == NOT_OF_CLASSES} >= {"RELAX"}
    kept = {type(each).__name__ for each in found.explainers}
    assert {"RISE", "KernelShap", "Lime", "Occlusion", "MP", "IntegratedGradients", "GradCam"} <= kept
    for name in kept | dear:
        cost = found.dry_runs[name].full_forwards
        assert (cost > AFFORDABLE / (1 if EXPLAINERS[name].OUTPUTS_ONLY else 3)) == (name in dear), name
    for name in ("RISE", "KernelShap", "Lime"):
        (budget,) = EXPLAINERS[name].BUDGET
        assert within(EXPLAINERS[name](net), BUDGETS).get_params()[budget] == 120


def test_a_budget_may_be_that_of_one_explainer() -> None:
    net, budgets = seeded(VGGLike()), {"n_samples": 8, "Lime.n_samples": 50}
    assert within(SmoothGrad(net), budgets).n_samples == 8
    assert within(Lime(net), budgets).n_samples == 50


@pytest.mark.pretrained
def test_the_network_names_the_photographs() -> None:
    with untouched(None):
        network = efficientnet_lite0()
    with torch.no_grad():
        top = network(standardized([cropped(each.open()) for each in PHOTOGRAPHS])).argmax(1).tolist()
    names = imagenet_names()
    assert len(names) == 1000
    assert not network.training
    for photograph, found in zip(PHOTOGRAPHS, top, strict=True):
        if photograph.classes:
            assert found in photograph.classes, (photograph.name, names[found])
        else:
            assert names[found] == "football helmet"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuneResult, Path]:
    out = tmp_path_factory.mktemp("demo") / "out"
    names = ["A cup of coffee", "A man with a camera"]
    found = run_demo(
        out, names=names, explainers=["Gradient", "GradCam"], n_trials=3, timeout=None, holdout=1, progress=False
    )
    return found, out


@pytest.mark.pretrained
def test_a_small_demo_writes_the_report_and_the_table(small: tuple[TuneResult, Path]) -> None:
    result, out = small
    table = pd.read_csv(out / "leaderboard.csv")
    assert list(table.columns) == list(result.leaderboard.columns)
    ensemble = ["RankEnsemble"] if result.ensemble else []
    assert table["explainer"].tolist() == [*(each.name for each in result.entries), *ensemble]
    np.testing.assert_allclose(table["tuned_score"], result.leaderboard["tuned_score"])
    page = Page(out / "report.html")
    assert "Which explanation of EfficientNet-Lite0 to trust" in page.text
    assert "predicted espresso" in page.text
    assert "predicted tripod" in page.text
    assert [each.shape for each in page.pictures] == [(224, 224, 3)] * 10
    np.testing.assert_array_equal(page.pictures[0], cropped(photographs(["A cup of coffee"])[0].open()))


@pytest.mark.pretrained
def test_grad_cam_beats_the_plain_gradient_on_photographs(small: tuple[TuneResult, Path]) -> None:
    result, _ = small
    assert result.winner.name == "GradCam"
    assert result.recommendation is not None
    assert {type(each).__name__ for each in result.recommendation.explainers} == {"Gradient", "GradCam"}


@pytest.mark.pretrained
def test_a_search_cut_short_says_so(small: tuple[TuneResult, Path]) -> None:
    result, _ = small
    assert not [each for each in result.caveats if "time limit" in each]
    options = {"explainers": ["RISE"], "budgets": {"n_masks": 4}, "holdout": 0, "progress": False}
    cut = search(result.explainer.model, result.inputs, n_trials=50, timeout=0.05, **options)
    assert [each for each in cut.caveats if "after 1 of 50 trials" in each]
    assert [each for each in cut.caveats if "RISE n_masks 4" in each]


@pytest.mark.pretrained
def test_a_search_that_has_tried_everything_does_not_blame_the_time(small: tuple[TuneResult, Path]) -> None:
    result, _ = small
    options = {"explainers": ["Gradient"], "timeout": 600.0, "holdout": 0, "progress": False}
    found = search(result.explainer.model, result.inputs, n_trials=5, **options)
    assert not [each for each in found.caveats if "time limit" in each]
    assert [each for each in found.caveats if "nothing else to try" in each]
    assert {"complexity"} <= set(found.trials[0].values)
    assert "stability" not in found.trials[0].values


@pytest.mark.pretrained
def test_the_demo_prints_the_table_and_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"names": ["A cup of coffee"], "explainers": ["GradientXInput"], "n_trials": 1, "holdout": 0}
    result = run_demo(tmp_path, **options)
    printed = capsys.readouterr().out
    assert "recommended" in printed
    assert result.verdict in printed
    assert str(tmp_path / "report.html") in printed
