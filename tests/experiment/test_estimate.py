from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pnpxai
from pnpxai.explainers import RISE, Explainer, Gradient, GradientXInput, SmoothGrad, VarGrad
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.metrics import AbPC, Complexity, MoRF, MuFidelity, Sensitivity
from pnpxai.postprocess import PostProcessor
from tests.nets import VGGLike, batch, seeded
from tests.registry import unregistered

INPUTS = batch(5, 3, 16, 16)
NET = seeded(VGGLike())


def experiment(**options) -> pnpxai.Experiment:
    explainers = [SmoothGrad(NET, n_samples=6), VarGrad(NET, n_samples=4), Gradient(NET), RISE(NET, n_masks=64)]
    metrics = [AbPC(NET), MoRF(NET), Complexity(NET), MuFidelity(NET, n_perturbations=10), Sensitivity(NET)]
    post = [PostProcessor("sum"), PostProcessor("sum_abs")]
    given = {"explainers": explainers, "metrics": metrics, "postprocessors": post, "batch_size": 2, **options}
    return pnpxai.Experiment(NET, INPUTS, **given)


def test_the_forwards_that_are_estimated_are_those_that_are_asked() -> None:
    exp = experiment()
    table = exp.estimate()
    with count_forwards() as counter:
        exp.run(progress=False)
    assert table["forwards"].sum() == pytest.approx(counter.n_samples, rel=0.02)
    assert (table["seconds"] >= 0).all()
    maps = table[table["step"] == "maps"].set_index("explainer")["forwards"]
    assert maps[["SmoothGrad", "VarGrad", "Gradient"]].tolist() == [5 * 6, 0, 5]
    assert maps["RISE"] == pytest.approx(5 * 64, rel=0.02)
    scores = table[table["step"] == "scores"].set_index("explainer")
    assert (scores["n"] == 5 * 2).all()
    assert scores["forwards"]["Gradient"] == 10 * (18 + 10)
    assert table[table["step"] == "answers"]["forwards"].tolist() == [5 * (1 + 2 + 10)]


def test_the_trial_asks_about_one_sample_and_no_more_than_once() -> None:
    exp = experiment(explainers=[SmoothGrad(NET, n_samples=200)], metrics=[Complexity(NET)])
    with count_forwards() as counter:
        table = exp.estimate()
    assert table["forwards"].sum() == 5 * (1 + 200)
    assert counter.n_samples < 30
    with count_forwards() as counter:
        exp.estimate()
    assert counter.n_samples == 0


def test_metrics_that_explain_again_do_so_at_the_full_budget() -> None:
    exp = experiment(explainers=[SmoothGrad(NET, n_samples=50)], metrics=[Sensitivity(NET, n_perturbations=3)])
    table = exp.estimate([0, 1]).set_index("step")["forwards"]
    with count_forwards() as counter:
        exp.run([0, 1], progress=False)
    assert table["maps"] == 2 * 50
    assert table["scores"] == 2 * 2 * 3 * 50
    assert table.sum() == counter.n_samples


def test_what_is_done_is_not_left() -> None:
    exp = experiment()
    exp.run([0, 1], progress=False)
    left = exp.estimate()
    assert (left["n"] == [3, *[3, 6] * 4]).all()
    with count_forwards() as counter:
        exp.run(progress=False)
    assert left["forwards"].sum() == pytest.approx(counter.n_samples, rel=0.02)
    assert exp.estimate()["forwards"].sum() == 0


@unregistered
class Broken(Explainer):
    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        raise ZeroDivisionError("no luck today")


def test_what_fails_has_a_reason_and_no_cost() -> None:
    table = experiment(explainers=[Broken(NET), Gradient(NET)]).estimate()
    broken = table[table["explainer"] == "Broken"]
    assert broken["failure"].str.contains("no luck today").all()
    assert broken["forwards"].isna().all()
    assert (table[table["explainer"] != "Broken"]["failure"] == "").all()


def test_recommended_explainers_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    exp = pnpxai.Experiment(NET, INPUTS, metrics=[Complexity])
    runs = exp.recommendation.dry_runs
    monkeypatch.setattr("pnpxai.experiment._trial.try_once", lambda *_: pytest.fail("tried again"))
    table = exp.estimate()
    maps = table[table["step"] == "maps"].set_index("explainer")
    assert maps["forwards"]["Gradient"] == 5 * runs["Gradient"].full_forwards
    assert maps["forwards"]["RISE"] == 5 * runs["RISE"].full_forwards


def test_the_bar_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    exp = experiment(explainers=[Gradient(NET), GradientXInput(NET)], metrics=[AbPC(NET)])
    exp.run()
    shown = capsys.readouterr().err
    per_part = 2 * (1 + 2 + 2 * (1 + 2 * 18))
    assert f"{5 * per_part // 2:,} forwards" in shown  # before the first
    assert "0 forwards, 0 s left" in shown
    assert "at least" not in shown
    few = experiment(explainers=[Gradient(NET)], metrics=[AbPC(NET)], batch_size=16)
    with count_forwards() as counter:
        few.run()
    assert "at least 0 forwards" in capsys.readouterr().err
    assert counter.n_samples == 5 * (1 + 2 + 1 + 2 * 18)  # nothing was tried for one batch


def test_an_estimate_changes_no_score() -> None:
    tried, untried = experiment(), experiment()
    tried.estimate()
    both = [each.run(progress=False).drop(columns="failure") for each in (tried, untried)]
    torch.testing.assert_close(*(torch.tensor(each["score"].to_numpy()) for each in both))
