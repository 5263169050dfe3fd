from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pnpxai
from pnpxai.errors import InputError, ParameterError, TargetError, UnknownNameError
from pnpxai.explainers import Explainer, Gradient, GradientXInput, SmoothGrad
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.metrics import (
    AOPC,
    AbPC,
    Complexity,
    Comprehensiveness,
    Deletion,
    Infidelity,
    LeRF,
    MoRF,
    MuFidelity,
    RelevanceMass,
    Sufficiency,
)
from pnpxai.modality import ImageModality
from pnpxai.postprocess import PostProcessor
from tests.nets import VGGLike, batch, seeded
from tests.registry import unregistered

INPUTS, LABELS = batch(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])


@unregistered
class Failing(Explainer):
    SUPPORTED_MODULES = ANY_MODULE

    asked: ClassVar[list[int]] = []

    def explain_request(self, request: Request) -> Tensor:
        Failing.asked.append(len(request))
        raise ZeroDivisionError("no luck today")


def experiment(**options) -> pnpxai.Experiment:
    data = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=4)
    given = {"explainers": [Gradient, "GradientXInput"], "metrics": [AbPC, "complexity"], **options}
    return pnpxai.Experiment(seeded(VGGLike()), data, **given)


def test_scores_are_those_of_the_parts_used_by_hand() -> None:
    exp = experiment(postprocessors=[PostProcessor("sum"), PostProcessor("sum_abs", "min_max")])
    results = exp.run(progress=False)
    assert len(results) == 6 * 2 * 2 * 2
    model, targets = exp.model, exp.model(INPUTS).argmax(1)
    for explainer in (Gradient(model), GradientXInput(model)):
        maps = PostProcessor("sum_abs", "min_max")(explainer.attribute(INPUTS, targets))
        for metric in (AbPC(model), Complexity(model)):
            rows = results.query(
                "explainer == @name and metric == @metric_name and postprocessor == 'sum_abs+min_max'",
                local_dict={"name": type(explainer).__name__, "metric_name": type(metric).__name__},
            ).sort_values("data_id")
            expected = metric.evaluate(INPUTS, targets, maps)
            assert rows["score"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_run_batch_by_id_name_class_and_instance() -> None:
    exp = experiment()
    by_id = exp.run_batch(explainer_id=1, postprocessor_id=0, metric_id=0, data_ids=[2, 5])
    by_name = exp.run_batch("GradientXInput", 0, "AbPC", [2, 5])
    by_class = exp.run_batch(GradientXInput, 0, AbPC, [2, 5])
    by_instance = exp.run_batch(GradientXInput(exp.model), exp.postprocessors[0], exp.metrics[0], [2, 5])
    for each in (by_name, by_class, by_instance):
        assert torch.equal(each["evaluation"], by_id["evaluation"])
    assert torch.equal(by_id["inputs"], INPUTS[[2, 5]])
    assert torch.equal(by_id["labels"], LABELS[[2, 5]])
    assert torch.equal(by_id["postprocessed"], by_id["explanation"].sum(1))
    assert by_id["evaluation"].shape == (2,)


def test_an_explainer_without_anything_to_tune_is_tried_once() -> None:
    result = experiment().optimize(explainer_id="Gradient", n_trials=5, progress=False)
    assert len(result.study.trials) == 1


def test_maps_and_scores_are_made_once() -> None:
    exp = experiment(metrics=[Complexity, MoRF])
    exp.run(progress=False)
    with count_forwards() as counter:
        exp.run(progress=False)
        exp.explain(0)
        _ = exp.leaderboard
    assert counter.n_samples <= len(INPUTS)


def test_targets_come_from_labels_or_an_extractor() -> None:
    assert torch.equal(experiment(target_labels=True).targets([1, 4]), torch.tensor([1, 4]))
    assert torch.equal(experiment(target_extractor=lambda outputs: outputs.argmin(-1)).targets(), _lowest())
    shifted = experiment(target_labels=True, target_extractor=lambda labels: (labels + 1) % 5)
    assert torch.equal(shifted.targets([0, 4]), torch.tensor([1, 0]))
    with pytest.raises(TargetError, match="argmax"):
        experiment(target_extractor=lambda outputs: outputs).targets()


def _lowest() -> Tensor:
    return seeded(VGGLike())(INPUTS).argmin(1)


def test_failures_are_rows_with_reasons() -> None:
    results = experiment(explainers=[Failing, Gradient]).run(progress=False)
    failed = results[results["explainer"] == "Failing"]
    assert (failed["failure"].str.contains("no luck today")).all()
    assert failed["score"].isna().all()
    assert results[results["explainer"] == "Gradient"]["score"].notna().all()


def test_leaderboard_is_the_means_best_first() -> None:
    exp = experiment(explainers=[Gradient, GradientXInput, SmoothGrad])
    board = exp.leaderboard
    assert list(board.columns) == ["explainer", "postprocessor", "AbPC", "Complexity"]
    assert board["AbPC"].is_monotonic_decreasing
    results = exp.results
    for row in board.itertuples():
        own = results[(results["explainer"] == row.explainer) & (results["metric"] == "AbPC")]["score"]
        assert row.AbPC == pytest.approx(own.mean())
    assert isinstance(board, pd.DataFrame)
    assert not any(math.isnan(value) for value in board["AbPC"])


def test_optimize_works_without_any_call_before_it() -> None:
    exp = experiment()
    result = exp.optimize(explainer_id="GradientXInput", metric_id=0, direction="maximize", n_trials=4, progress=False)
    assert [entry.name for entry in result.entries] == ["GradientXInput"]
    assert result.explainer.model is exp.model
    assert exp.tuned is result
    everything = experiment().optimize(n_trials=3, progress=False)
    assert {entry.name for entry in everything.entries} == {"Gradient", "GradientXInput"}


def test_a_metric_is_not_optimised_the_wrong_way() -> None:
    with pytest.raises(ParameterError, match="'minimize' for MoRF"):
        experiment(metrics=[MoRF]).optimize(direction="maximize", n_trials=1)


@pytest.mark.parametrize("data", [INPUTS, list(zip(INPUTS, LABELS, strict=True)), TensorDataset(INPUTS, LABELS)])
def test_any_container_of_data(data: object) -> None:
    exp = pnpxai.Experiment(seeded(VGGLike()), data, explainers=[Gradient])
    assert torch.equal(exp.inputs([1, 3]), INPUTS[[1, 3]])
    assert exp.explain(0, [1]).shape == (1, 3, 16, 16)
    assert exp.modality == ImageModality()


def test_everything_chosen() -> None:
    exp = pnpxai.AutoExplanationForImageClassification(
        seeded(VGGLike()), DataLoader(TensorDataset(INPUTS, LABELS), batch_size=2), channel_dim=1
    )
    assert [type(each).__name__ for each in exp.metrics] == ["MuFidelity", "AbPC", "Sensitivity", "Complexity"]
    assert len(exp.postprocessors) == 15
    assert [type(each) for each in exp.explainers] == [type(each) for each in exp.recommendation.explainers]
    result = exp.optimize(range(4), 2, 1, "maximize", n_trials=3, seed=42, progress=False)
    assert result.score >= -1


def test_report_is_that_of_the_last_optimisation(tmp_path: Path) -> None:
    exp = experiment()
    exp.optimize(n_trials=2, progress=False)
    written = exp.report(tmp_path / "report.html")
    page = written.read_text(encoding="utf-8")
    assert "GradientXInput" in page
    assert "tuning samples" in page


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda exp: exp.run_batch(7), ParameterError, "0 to 1"),
        (lambda exp: exp.run_batch("Lime"), UnknownNameError, "GradientXInput"),
        (lambda exp: exp.run_batch(0, 3), ParameterError, "post-processor"),
        (lambda exp: exp.run_batch(0, 0, "MoRF"), UnknownNameError, "AbPC"),
        (lambda exp: exp.run_batch(data_ids=[6]), InputError, "0 to 5"),
        (lambda exp: exp.optimize(sampler="annealing"), UnknownNameError, "tpe"),
        (lambda exp: exp.optimize(holdout=6), ParameterError, "holdout"),
    ],
)
def test_bad_input(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(experiment())


CURVES = [AOPC, AbPC, Comprehensiveness, Deletion, LeRF, MoRF, Sufficiency]


def test_what_no_map_changes_is_asked_once_a_sample() -> None:
    chosen = [*CURVES, Infidelity, MuFidelity, Complexity]
    exp = experiment(metrics=chosen, postprocessors=[PostProcessor("sum"), PostProcessor("sum_abs")])
    for each in exp.explainers:
        exp.explain(each)
    with count_forwards() as counter:
        results = exp.run(progress=False)
    predicted, ends, bank, between = 1, 2, 200, 18
    assert counter.n_samples == 6 * (predicted + ends + bank + 2 * 2 * between)
    assert (results["failure"] == "").all()
    targets = exp.targets()
    maps = PostProcessor("sum_abs")(exp.explain(GradientXInput))
    own = results[(results["explainer"] == "GradientXInput") & (results["postprocessor"] == "sum_abs+identity")]
    for metric in chosen:
        scores = own[own["metric"] == metric.__name__].sort_values("data_id")["score"]
        expected = metric(exp.model).evaluate(INPUTS, targets, maps)
        assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_metric_that_fails_leaves_the_others_their_scores() -> None:
    model = seeded(VGGLike())
    wrong = AbPC(model, baseline_fn=lambda inputs: inputs[:, :1])
    exp = pnpxai.Experiment(model, TensorDataset(INPUTS, LABELS), explainers=[Gradient], metrics=[wrong, MoRF(model)])
    results = exp.run(progress=False)
    assert results[results["metric"] == "AbPC"]["failure"].str.contains("baseline").all()
    assert results[results["metric"] == "MoRF"]["score"].notna().all()


def test_regions_follow_their_samples() -> None:
    model, regions = seeded(VGGLike()), batch(6, 16, 16, seed=8) > 0.5
    mass = RelevanceMass(model, regions=regions)
    exp = pnpxai.Experiment(model, INPUTS, explainers=[Gradient], metrics=[mass, AbPC], batch_size=4)
    targets = exp.targets()
    expected = mass.evaluate(INPUTS, targets, Gradient(model).attribute(INPUTS, targets))
    scores = exp.run(progress=False).query("metric == 'RelevanceMass'").sort_values("data_id")["score"]
    assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    alone = exp.run_batch(metric_id="RelevanceMass", data_ids=[5, 2])["evaluation"]
    torch.testing.assert_close(alone, expected[[5, 2]], rtol=1e-4, atol=1e-6)


def test_summary_is_mean_error_and_numbers_of_each_cell() -> None:
    exp = experiment(explainers=[Gradient, Failing], metrics=[AbPC])
    exp.run(progress=False)
    scores = AbPC(exp.model).evaluate(INPUTS, exp.targets(), Gradient(exp.model).attribute(INPUTS, exp.targets()))
    good, failed = exp.summary.itertuples(index=False)
    assert good[:3] == ("Gradient", "sum+identity", "AbPC")
    assert good.mean == pytest.approx(scores.mean().item(), abs=1e-5)
    assert good.standard_error == pytest.approx(stats.sem(scores.numpy()), abs=1e-5)
    low, high = stats.t.interval(0.95, 5, scores.mean().item(), stats.sem(scores.numpy()))
    assert good.low <= low + 1e-5
    assert good.high >= high - 1e-5
    assert (good.n_samples, good.n_failed, good.failure) == (6, 0, "")
    assert (failed.n_samples, failed.n_failed, failed.failure) == (0, 6, "no luck today")
    assert math.isnan(failed.mean)


def test_two_of_a_class_are_two_rows() -> None:
    model = seeded(VGGLike())
    few, many = SmoothGrad(model, n_samples=2), SmoothGrad(model, n_samples=12)
    metrics = [Complexity(model), AbPC(model), AbPC(model, baseline_fn="mean")]
    exp = pnpxai.Experiment(model, INPUTS, explainers=[few, many], metrics=metrics)
    results, targets = exp.run(progress=False), exp.targets()
    for name, explainer in (("SmoothGrad", few), ("SmoothGrad#2", many)):
        for called, metric in zip(("Complexity", "AbPC", "AbPC#2"), metrics, strict=True):
            scores = results[(results["explainer"] == name) & (results["metric"] == called)]["score"]
            expected = metric.evaluate(INPUTS, targets, explainer.attribute(INPUTS, targets))
            assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert set(exp.leaderboard["explainer"]) == {"SmoothGrad", "SmoothGrad#2"}
    assert torch.equal(exp.explain("smoothgrad#2"), exp.explain(1))


def test_an_explainer_that_fails_is_asked_once_a_part() -> None:
    asked = Failing.asked = []
    experiment(explainers=[Failing], batch_size=4, postprocessors=[PostProcessor("sum"), PostProcessor("l2")]).run(
        progress=False
    )
    assert asked == [4, 2]


def test_a_sample_that_cannot_be_explained_leaves_the_others_their_scores() -> None:
    broken = INPUTS.clone()
    broken[2, 0, 0, 0] = math.nan
    model = seeded(VGGLike())
    results = pnpxai.Experiment(model, broken, explainers=[Gradient]).run(progress=False)
    assert results[results["failure"] != ""]["data_id"].tolist() == [2]
    assert "finite inputs" in results["failure"].max()
    whole = pnpxai.Experiment(model, INPUTS, explainers=[Gradient]).run(progress=False)
    found, expected = (each.set_index("data_id")["score"].drop(2).sort_index() for each in (results, whole))
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


class Noisy(Dataset):
    """Another sample each time it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> Tensor:
        self.asked.append(i)
        return batch(3, 16, 16, seed=len(self.asked))


def test_a_sample_is_loaded_once_for_all_explainers() -> None:
    data = Noisy()
    made = pnpxai.Experiment(
        seeded(VGGLike()), data, modality="image", explainers=[Gradient, GradientXInput, SmoothGrad]
    )
    assert len(made.metrics) == 1  # which looks at a sample
    data.asked.clear()
    made.run(progress=False)
    assert data.asked == [0, 1, 2]
