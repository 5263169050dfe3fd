"""What the report says of a race: who was stopped, whether averaging helps, what another metric finds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import pnpxai
from pnpxai.explainers import GradientXInput, RankEnsemble
from pnpxai.metrics import AbPC, Complexity
from pnpxai.postprocess import PostProcessor
from pnpxai.report import write_report
from pnpxai.report._samples import samples
from pnpxai.tuning import Configuration, Entry, Gain, Opinion, TuneResult
from tests.nets import batch
from tests.report.page import Page
from tests.report.test_report import board, printed

INPUTS = batch(40, 8)
N_HELD = 16


@pytest.fixture(scope="module")
def net() -> nn.Module:
    net = nn.Linear(8, 3).requires_grad_(False)
    net.weight.copy_(batch(3, 8, seed=3))
    return net.eval()


@pytest.fixture(scope="module")
def result(net: nn.Module) -> TuneResult:
    """On a linear model no map is better than gradient times input, and the gradient alone loses at once."""
    names = ["GradientXInput", "Gradient", "IntegratedGradients"]
    return pnpxai.tune(net, INPUTS, explainers=names, n_trials=6, holdout=N_HELD, progress=False)


@pytest.fixture(scope="module")
def lost(result: TuneResult) -> Entry:
    return next(each for each in result.entries if each.name == "Gradient")


def written(result: TuneResult, tmp_path: Path) -> Page:
    page = Page(write_report(result, tmp_path / "r.html", n_samples=2))
    assert all(map(math.isfinite, page.places))
    return page


def test_who_was_stopped_has_an_estimate_and_no_more(result: TuneResult, lost: Entry, tmp_path: Path) -> None:
    k = len(lost.tuned.tuning_scores)
    assert 0 < k < len(result.tuning_index)
    page = written(result, tmp_path)
    row = board(page)["Gradient"]
    assert row[:3] == ["Gradient", "stopped", f"≈ {printed(lost.tuned.estimate)}"]
    assert row[3:11] == [""] * 8
    whole = [each for each in result.entries if each.gain is not None]
    assert page.marks.count("ring") - 1 == len(whole) + (result.ensemble is not None and bool(result.ensemble.gain))
    assert "their tuning score is an estimate (≈)" in page.text


def test_scores_stand_only_where_the_race_came(result: TuneResult, lost: Entry, net: nn.Module) -> None:
    k = len(lost.tuned.tuning_scores)
    seen, shown = result.tuning_index[:k], [*result.tuning_index[k - 3 : k + 3], *result.holdout_index[:2]]
    parts = samples(result, shown, None, [str(i) for i in range(len(INPUTS))], None, 3)
    targets = net(INPUTS).argmax(1)
    maps = lost.tuned.postprocessor(lost.tuned.explainer.attribute(INPUTS, targets))
    scores = AbPC(net).evaluate(INPUTS, targets, maps).tolist()
    for index, part in zip(shown, parts, strict=True):
        tile = next(each for each in part.tiles if each.title == "Gradient")
        assert tile.note == "stopped in the race"
        assert tile.score == (pytest.approx(scores[index], abs=1e-6) if index in seen else None)


def test_what_the_race_saved_is_told(result: TuneResult, tmp_path: Path) -> None:
    assert result.study is not None
    lengths = [len(each.user_attrs["scores"]) for each in result.study.trials if "scores" in each.user_attrs]
    n = len(result.tuning_index)
    page = written(result, tmp_path)
    out = sum(each < n for each in lengths)
    assert f"The race stopped {out} of them before all {n} tuning samples were scored" in page.text
    assert f"together they saw {100 * sum(lengths) / (n * len(lengths)):.0f} % of the samples" in page.text
    kept = written(replace(result, study=None), tmp_path)
    assert f"The race stopped {out} of them before all {n} tuning samples were scored." in kept.text


def averaged(result: TuneResult, gain: Gain | None, n_scored: int) -> Entry:
    best = result.entries[0].tuned
    model = best.explainer.model
    both = RankEnsemble(
        model, [GradientXInput(model), best.explainer], [PostProcessor("l2", channel_dim=None), best.postprocessor]
    )
    named = {"members": "GradientXInput, IntegratedGradients"}
    held = (0.5,) * N_HELD if gain else ()
    tuned = Configuration(both, PostProcessor(channel_dim=None), named, (0.5,) * n_scored, held, 0.5, 2.0, 0.01)
    return Entry("RankEnsemble", best, tuned, gain, 0)


CONFIRMED = Gain(0.05, 0.01, 0.09, 0.75, N_HELD, 0.0004)
OPEN = Gain(0.01, -0.02, 0.04, 0.5, N_HELD, 0.6)


def test_an_ensemble_that_won_comes_first_and_names_its_members(result: TuneResult, tmp_path: Path) -> None:
    n = len(result.tuning_index)
    known = replace(result, ensemble=averaged(result, CONFIRMED, n))
    assert isinstance(known.explainer, RankEnsemble)
    page = written(known, tmp_path)
    rows = list(board(page))
    assert rows[0] == "RankEnsemble"
    row = board(page)["RankEnsemble"]
    assert row[1:4] == ["average", "0.500", "0.500"]
    assert row[6:8] == ["+0.050", "+0.010 to +0.090"]
    assert row[9] == "75 %"
    assert "GradientXInput and IntegratedGradients. On the 24 tuning samples" in page.text
    assert "Wilcoxon p < 0.001" in page.text
    assert "the average is recommended" in page.text
    table = next(each for each in page.tables if each[0] == ["Member", "", "Settings"])
    assert table[1] == ["GradientXInput", "–", "pooling_fn l2"]
    assert "One explanation costs 2 samples" in page.text


@pytest.mark.parametrize(
    ("gain", "n_scored", "told"),
    [
        (OPEN, 24, "is not confirmed to be better than {} alone: +0.010 on the hold-out"),
        (None, 6, "was tried, too: it fell behind {} alone after 6 samples."),
        (None, 24, "has 0.500, {} alone"),
    ],
)
def test_an_ensemble_that_did_not_win_is_told_of(
    result: TuneResult, gain: Gain | None, n_scored: int, told: str, tmp_path: Path
) -> None:
    known = replace(result, ensemble=averaged(result, gain, n_scored))
    page = written(known, tmp_path)
    assert told.format(result.entries[0].name) in page.text
    assert list(board(page))[len(result.entries)] == "RankEnsemble"
    assert board(page)["RankEnsemble"][1] == ("not used" if n_scored == 24 else "stopped")


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (CONFIRMED, "is better on unseen samples, too."),
        (OPEN, "The hold-out does not settle which is better."),
        (Gain(-0.05, -0.09, -0.01, 0.1, N_HELD), "The hold-out speaks for"),
    ],
)
def test_the_next_explainer_is_compared(result: TuneResult, gain: Gain, told: str, tmp_path: Path) -> None:
    first, second = result.entries[:2]
    second = replace(second, tuned=replace(second.tuned, tuning_scores=first.tuned.tuning_scores))
    page = written(replace(result, entries=(first, second), runner_up=gain), tmp_path)
    assert f"{first.name} and the next explainer, {second.name}, each in its best settings, differ by" in page.text
    assert told in page.text


@pytest.mark.parametrize("agrees", [True, False])
def test_another_metric_speaks_where_there_is_no_hold_out(net: nn.Module, agrees: bool, tmp_path: Path) -> None:
    found = pnpxai.tune(net, INPUTS[:4], explainers=["Gradient"], n_trials=1, holdout=0, progress=False)
    default = found.entries[0].default
    tuned = replace(default, postprocessor=PostProcessor("l2"), params={"postprocessor.pooling_fn": "l2"})
    opinion = Opinion(Complexity(net), (1.0, 2.0), (2.0, 2.5) if agrees else (0.5, 1.0))
    known = replace(found, entries=(Entry("Gradient", default, tuned, None, 2),), opinion=opinion)
    page = written(known, tmp_path)
    assert f"by Complexity the tuned settings score 1.500 and the default ones {'2.250' if agrees else '0.750'}" in (
        page.text
    )
    assert ("the tuned settings are recommended" in page.text) == agrees
    assert board(page)["Gradient"][1] == ("tuned" if agrees else "default")
    assert f"Gradient {'tuned' if agrees else 'default'}" in page.text


def test_a_lucky_seed_is_told_of(result: TuneResult, tmp_path: Path) -> None:
    first = result.entries[0]
    lucky = replace(first, tuned=replace(first.tuned, estimate=0.4, seed_luck=0.02))
    page = written(replace(result, entries=(lucky, *result.entries[1:]), ensemble=None), tmp_path)
    assert "it scores 0.020 better than with the average one" in page.text
    assert board(page)[first.name][2] == "≈ 0.400"
    assert "what the seed gained by luck is taken off the tuning score" in page.text


def test_a_default_that_failed_has_no_mark(result: TuneResult, tmp_path: Path) -> None:
    first = result.entries[0]
    failed = replace(first.default, tuning_scores=(), holdout_scores=(), estimate=math.nan)
    alone = Entry(first.name, failed, replace(first.tuned), None, 2, ("it broke",))
    page = written(replace(result, entries=(alone,), ensemble=None, runner_up=None), tmp_path)
    assert board(page)[first.name][4] == "–"
    assert page.marks.count("ring") == 1  # the key's
    assert torch.isfinite(torch.tensor(page.places)).all()
