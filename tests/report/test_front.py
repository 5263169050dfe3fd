"""The chart of faithfulness against cost."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pnpxai
from pnpxai.explainers import Gradient, SmoothGrad
from pnpxai.metrics import METRICS, Comprehensiveness
from pnpxai.metrics._curve_metric import CurveMetric
from pnpxai.postprocess import PostProcessor
from pnpxai.report import write_report
from pnpxai.report._charts import LogAxis
from pnpxai.report._contents import in_words, parameters
from pnpxai.report._curves import charts, curve_metric
from pnpxai.report._front import front
from pnpxai.tuning import Choice, TuneResult
from tests.nets import MLP, batch, seeded
from tests.report.page import Page

INPUTS = batch(3, 6)
SCORES, SECONDS = (0.1, 0.4, 0.3, 0.5, 0.2), (0.01, 0.1, 0.2, 10.0, 0.05)


@pytest.fixture(scope="module")
def result() -> TuneResult:
    return pnpxai.tune(
        seeded(MLP()), INPUTS, explainers=["Gradient"], n_trials=1, holdout=0, progress=False, aims=["complexity"]
    )


def trials(net: nn.Module) -> tuple[Choice, ...]:
    explainers = [Gradient(net), SmoothGrad(net, n_samples=3)] * 3
    made = zip(SCORES, SECONDS, explainers[:5], strict=True)
    return tuple(
        Choice(
            i,
            type(each).__name__,
            each,
            PostProcessor("l2"),
            {"score": score, "runtime": seconds, "forwards": 1.0} | ({"complexity": 2.5} if i else {}),
            i != 2,
        )
        for i, (score, seconds, each) in enumerate(made)
    )


def test_points_lie_where_the_trials_are(result: TuneResult) -> None:
    known = front(replace(result, trials=trials(result.explainer.model)))
    assert known is not None
    drawn = {(each.x, each.y): each.style for each in known.points}
    # a trial is beaten where another is no worse in both
    for i, (score, seconds) in enumerate(zip(SCORES, SECONDS, strict=True)):
        beaten = any(
            other >= score and cost <= seconds
            for j, (other, cost) in enumerate(zip(SCORES, SECONDS, strict=True))
            if j != i
        )
        style = drawn[known.across(seconds), known.up(score)]
        assert style == ("other" if beaten else "best") + (" stopped" if i == 2 else "")
    assert [each.choice.number for each in known.listed] == [3, 1, 4, 0]
    assert [each.others for each in known.listed] == [(2.5,), (2.5,), (2.5,), (None,)]
    heights = [float(each.split(",")[1]) for each in known.steps.split()]
    assert heights == [known.up(each) for each in (0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.5)]
    assert {each.text for each in known.labels} <= {"Gradient", "SmoothGrad"}


def test_the_page_lists_the_front(result: TuneResult, tmp_path: Path) -> None:
    known = replace(result, trials=trials(result.explainer.model))
    page = Page(write_report(known, tmp_path / "r.html"))
    table = next(each for each in page.tables if "Settings" in each[0])
    assert table[0][1:] == ["AbPC", "Seconds", "Forwards", "Complexity", "Settings"]
    assert table[1] == ["SmoothGrad", "0.500", "10", "1", "2.500", "n_samples 3, pooling_fn l2"]
    assert table[4] == ["Gradient", "0.100", "0.01", "1", "–", "pooling_fn l2"]
    assert [page.marks.count(each) for each in ("best", "other stopped")] == [4, 2]  # one of the key


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_equal_costs_are_drawn(result: TuneResult, seconds: float, tmp_path: Path) -> None:
    same = [replace(each, values={**each.values, "runtime": seconds}) for each in trials(result.explainer.model)]
    page = Page(write_report(replace(result, trials=tuple(same)), tmp_path / "r.html"))
    assert all(map(math.isfinite, page.places))
    assert page.marks.count("best") == 1


def test_few_trials_are_not_drawn(result: TuneResult, tmp_path: Path) -> None:
    assert front(result) is None
    assert "What faithfulness costs" not in Page(write_report(result, tmp_path / "r.html")).text


@given(st.floats(1e-6, 1e3), st.floats(1.5, 1e6))
def test_a_log_axis_has_round_ticks_inside(low: float, ratio: float) -> None:
    axis = LogAxis(low, low * ratio, 100.0, 7.0)
    assert axis(low) == 7.0
    assert axis(low * ratio) == pytest.approx(107.0, abs=0.01)
    assert axis(low * math.sqrt(ratio)) == pytest.approx(57.0, abs=0.01)
    assert all(low <= each <= low * ratio for each in axis.ticks)
    digits = {f"{each:e}"[0] for each in axis.ticks}
    assert digits <= {"1", "2", "5"}
    if ratio >= 1e3:
        assert digits == {"1"}


@pytest.mark.parametrize("name", [name for name, each in METRICS.items() if issubclass(each, CurveMetric)])
def test_every_metric_of_curves_draws_its_own(result: TuneResult, name: str) -> None:
    metric = METRICS[name](result.metric.model)
    assert curve_metric(replace(result, metric=metric)) is metric


def test_both_curves_lie_at_their_own_fractions(result: TuneResult) -> None:
    net = seeded(MLP())
    metric = Comprehensiveness(net, fractions=(1 / 6,))
    drawn = charts(replace(result, metric=metric), INPUTS, None, INPUTS, INPUTS)[0]
    across = {each.style: [float(p.split(",")[0]) for p in each.points.split()] for each in drawn.lines[:2]}
    np.testing.assert_allclose(across["morf"], [drawn.across(each) for each in (0, 1 / 6, 1)], atol=0.01)
    np.testing.assert_allclose(across["lerf"], [drawn.across(each) for each in (0, 5 / 6, 1)], atol=0.01)


def test_settings_are_what_differs_from_the_usual() -> None:
    net = seeded(MLP())
    assert in_words(SmoothGrad(net)) == "as it comes"
    assert in_words(SmoothGrad(net, n_samples=7)) == "n_samples 7"


def test_an_explainer_made_of_explainers_has_its_parts_in_words(result: TuneResult) -> None:
    net = seeded(MLP())
    both = pnpxai.explainers.RankEnsemble(net, [Gradient(net), SmoothGrad(net, n_samples=2)], [PostProcessor()] * 2)
    alone = replace(result.entries[0].default, explainer=both)
    told = {each.name: each.tuned for each in parameters(replace(result.entries[0], default=alone, tuned=alone))}
    assert told["explainers"] == "Gradient (as it comes); SmoothGrad (n_samples 2)"
