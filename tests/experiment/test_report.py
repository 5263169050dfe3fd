from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import pnpxai
from pnpxai.explainers import RISE, Explainer, Gradient, GradientXInput
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.metrics import AbPC, Complexity
from pnpxai.postprocess import PostProcessor
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded
from tests.registry import unregistered
from tests.report.page import Page


@unregistered
class Failing(Explainer):
    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        raise ZeroDivisionError("no <luck> today")


def experiment() -> pnpxai.Experiment:
    explainers = [Gradient, "GradientXInput", Failing]
    post = [PostProcessor("sum"), PostProcessor("l2")]
    return pnpxai.Experiment(
        seeded(VGGLike()), batch(3, 3, 16, 16), explainers=explainers, metrics=[AbPC, Complexity], postprocessors=post
    )


def test_the_page_about_a_run_has_its_scores(tmp_path: Path) -> None:
    exp = experiment()
    exp.run(progress=False)
    with count_forwards() as counter:
        page = Page(exp.report(tmp_path / "deep" / "run.html", n_samples=2, names=["a dog", "a cat", "a cow"]))
    assert counter.n_samples == 2 * 2  # what the model answers for those that are shown: nothing is tuned or explained
    assert exp.tuned is None
    board = page.tables[0]
    cells = {tuple(row[:3]): row[3:] for row in board[1:]}
    assert len(cells) == len(exp.summary) == 3 * 2 * 2
    for row in exp.summary.itertuples():
        mean, error, _, n, failed, why = cells[row.explainer, row.postprocessor, row.metric]
        if row.explainer == "Failing":
            assert (mean, n, failed, why) == ("–", "0", "3", "no <luck> today")
        else:
            assert float(mean.replace("−", "-")) == pytest.approx(row.mean, abs=6e-4)
            assert float(error) == pytest.approx(row.standard_error, abs=6e-4)
            assert (n, failed) == ("3", "0")
    best = exp.leaderboard.iloc[0]
    assert board[1][:2] == [best["explainer"], best["postprocessor"]]
    assert board[-1][0] == "Failing"
    assert "a dog" in page.text
    assert "a cat" in page.text
    assert "a cow" not in page.text
    assert page.tags.count("img") == 2 * (1 + 4)
    assert "Nothing was tuned" in page.text
    assert all(each.startswith("data:") for each in page.addresses)


def test_a_report_runs_what_was_not_run(tmp_path: Path) -> None:
    exp = experiment()
    page = Page(exp.report(tmp_path / "run.html"))
    assert set(exp.results["postprocessor"]) == {"sum+identity"}
    assert "GradientXInput" in page.text


@pytest.mark.parametrize(("net", "shape"), [(MLP, (3, 6)), (TimeCNN, (3, 2, 24))])
def test_features_and_series_are_drawn(net: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    exp = pnpxai.Experiment(seeded(net()), batch(*shape), explainers=[GradientXInput])
    page = Page(exp.report(tmp_path / "run.html"))
    assert page.tags.count("img") == 3 * 2


def test_two_inputs_have_scores_or_reasons_and_no_pictures(tmp_path: Path) -> None:
    net = seeded(torch.nn.Bilinear(4, 4, 2))
    data = torch.utils.data.TensorDataset(batch(2, 4), batch(2, 4))
    options = {"modality": "tabular", "explainers": [Gradient, RISE], "input_extractor": tuple}
    exp = pnpxai.Experiment(net, data, metrics=[AbPC], **options)
    page = Page(exp.report(tmp_path / "run.html"))
    score = exp.results.query("explainer == 'Gradient'")["score"].mean()
    assert f"{score:.3f}".replace("-", "\N{MINUS SIGN}") in page.text
    assert "Choose one with forward_arg_extractor" in page.text
    assert page.tags.count("img") == 0
