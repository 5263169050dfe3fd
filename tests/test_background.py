"""Absence by rows of data: interventional and observational Shapley values against enumeration and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.baselines import BaselineFunction, Conditional, FromBackground, Marginal, baseline_for
from pnpxai.errors import ParameterError, StudyError, UnknownNameError
from pnpxai.explainers import EXPLAINERS, RISE, ExpectedGradients, KernelShap, Lime, Occlusion
from pnpxai.feature_masks import Groups
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, MoRF, MuFidelity
from pnpxai.modality import Tabular
from pnpxai.tuning._aims import aims_for
from pnpxai.tuning._opinion import other_metric
from tests.explainers.games import Rough, shapley
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, batch, seeded

D = 6
ROWS = batch(7, D, seed=5, dtype=torch.float64)


def nearest(background: Tensor, x: Tensor, kept: Tensor, k: int) -> list[int]:
    """The numbers of the nearest rows, one distance at a time."""
    deviations = [float(column.var(correction=0)) ** 0.5 for column in background.T]
    distances = [
        sum(((float(x[j]) - float(row[j])) / deviations[j]) ** 2 for j in range(len(x)) if kept[j])
        for row in background
    ]
    return sorted(range(len(background)), key=lambda number: distances[number])[:k]


def values(
    net: nn.Module, x: Tensor, background: Tensor, chosen: Callable[[Tensor], list[int]], target: int
) -> Callable[[Tensor], Tensor]:
    """``v`` of coalitions of one sample: the mean score over the chosen rows, one forward pass each."""

    def of(coalitions: Tensor) -> Tensor:
        found = []
        for z in coalitions:
            scores = [net(torch.where(z, x, background[row])[None])[0, target] for row in chosen(z)]
            found.append(sum(scores) / len(scores))
        return torch.stack(found).detach().double()

    return of


def test_all_rows_give_interventional_values() -> None:
    net, x = Rough(D), 0.5 * batch(2, D, dtype=torch.float64)
    with untouched(net, x, ROWS):
        found = KernelShap(net, baseline_fn=Marginal(ROWS)).attribute(x, 1)
    everyone = list(range(len(ROWS)))
    expected = [shapley(values(net, each, ROWS, lambda _: everyone, 1), D) for each in x]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
    one_by_one = [KernelShap(net, baseline_fn=row).attribute(x, 1) for row in ROWS]
    torch.testing.assert_close(found, torch.stack(one_by_one).mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_rows_give_observational_values(k: int) -> None:
    net, x = Rough(D), 0.5 * batch(2, D, dtype=torch.float64)
    explainer = KernelShap(net, baseline_fn=Conditional(ROWS, n_neighbors=k))
    found = explainer.attribute(x, 0)
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(0)).tolist()

    def chosen(each: Tensor) -> Callable[[Tensor], list[int]]:
        return lambda z: nearest(ROWS, each, z, k) if z.any() else order[:k]

    expected = [shapley(values(net, each, ROWS, chosen(each), 0), D) for each in x]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_feature_the_model_never_reads_counts_by_what_it_tells() -> None:
    # two standard normal features with correlation ρ, and f = x_1: φ_2 = ρ x_2 / 2 given the data, and 0 to the model
    correlation = 0.8
    rows = batch(20_000, 2, dtype=torch.float64)
    rows[:, 1] = correlation * rows[:, 0] + (1 - correlation**2) ** 0.5 * rows[:, 1]
    net = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    net.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    x = torch.tensor([[1.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    expected = torch.stack([x[:, 0] - correlation * x[:, 1] / 2, correlation * x[:, 1] / 2], 1)
    found = KernelShap(net, baseline_fn=Conditional(rows, n_neighbors=400)).attribute(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.08)
    assert KernelShap(net, baseline_fn=Marginal(rows[:50])).attribute(x)[:, 1].abs().max() < 1e-12


def test_the_surrogate_of_a_line_is_the_line_from_the_mean_of_the_rows() -> None:
    net, x = seeded(nn.Linear(D, 3)).double(), batch(2, D, dtype=torch.float64)
    expected = net.weight[1] * (x - ROWS.mean(0))
    for explainer in (Lime(net, regularization=0.0, score="logit"), KernelShap(net), Occlusion(net, score="logit")):
        found = explainer.set_kwargs(baseline_fn=Marginal(ROWS)).attribute(x, 1)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("baseline_fn", [Marginal(ROWS), Conditional(ROWS, n_neighbors=3)])
def test_chunks_and_neighbours_change_nothing(
    baseline_fn: FromBackground, set_chunk_size: Callable[[int], None]
) -> None:
    net, x = Rough(D), 0.5 * batch(3, D, dtype=torch.float64)
    explainer = KernelShap(net, n_samples=20, baseline_fn=baseline_fn)
    with count_forwards() as counter:
        expected = explainer.attribute(x, 1)
    assert counter.n_samples == 3 * 22 * baseline_fn.n_rows
    for size in (1, 2, 5, 64):
        set_chunk_size(size)
        torch.testing.assert_close(explainer.attribute(x, 1), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(explainer.attribute(x[1:2], 1), expected[1:2], rtol=1e-9, atol=1e-12)
    *_, last = explainer.refine(x, 1, [6, 20])
    torch.testing.assert_close(last, expected, rtol=1e-9, atol=1e-12)


def test_rows_of_series() -> None:
    net, x, rows = seeded(TimeCNN()), batch(2, 2, 24), batch(4, 2, 24, seed=3)
    found = KernelShap(net, n_samples=126, baseline_fn=Marginal(rows)).attribute(x, 1)
    one_by_one = [KernelShap(net, n_samples=126, baseline_fn=row).attribute(x, 1) for row in rows]
    torch.testing.assert_close(found, torch.stack(one_by_one).mean(0), rtol=1e-4, atol=1e-5)
    kept = torch.ones(2, 1, 24, dtype=torch.bool)
    chosen = Conditional(torch.cat([rows, x]), n_neighbors=1).rows(x, kept)
    assert chosen.tolist() == [[4], [5]]


def test_equally_near_rows_come_in_the_order_of_a_seed() -> None:
    rows = torch.arange(200.0)[:, None].repeat(1, 2)
    rows[:, 0] = 1.0  # does not vary, so that it tells nothing
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    first = [Conditional(rows, seed=seed).rows(torch.zeros(1, 2), nothing)[0] for seed in (0, 0, 1)]
    assert first[0].tolist() == first[1].tolist() != first[2].tolist()
    means = [Conditional(rows, n_neighbors=50, seed=seed).rows(rows[:1], nothing).double().mean() for seed in range(20)]
    assert abs(float(torch.stack(means).mean()) - 99.5) < 6  # standard error 1.6
    constant = torch.tensor([[True, False]])
    assert torch.equal(Conditional(rows).rows(torch.zeros(1, 2), constant)[0], first[0])


def test_one_baseline_is_the_mean_of_the_rows_and_none_depends_on_what_is_left() -> None:
    x = batch(3, D)
    torch.testing.assert_close(baseline_for(Marginal(ROWS), x), ROWS.mean(0).float().expand(3, D))
    net = seeded(MLP())
    references = [ExpectedGradients(net, background=rows).attribute(x, 1) for rows in (Marginal(ROWS), ROWS)]
    assert torch.equal(*references)
    for each in (RISE(net, baseline_fn=Conditional(ROWS)), Occlusion(net, baseline_fn=Conditional(ROWS))):
        with pytest.raises(ParameterError, match="does not depend on which features are left"):
            each.attribute(x)
    assert BaselineFunction.names() == ["zeros", "mean", "blur", "invert", "constant"]  # which need no rows
    with pytest.raises(ParameterError, match="background"):
        BaselineFunction.resolve("marginal")
    with pytest.raises(UnknownNameError, match="constant, invert, mean, zeros"):
        BaselineFunction.resolve("marginals")


@pytest.mark.parametrize("cls", [Marginal, Conditional])
@pytest.mark.parametrize("rows", [ROWS[:0], ROWS[:, :4], ROWS[0], ROWS * torch.nan, [[1.0] * D]])
def test_what_is_no_background(cls: type[FromBackground], rows: Tensor) -> None:
    with pytest.raises(ParameterError, match=r"background as a tensor of shape \(m, 6\)"):
        KernelShap(seeded(MLP()), baseline_fn=cls(rows)).attribute(batch(2, D))


def raw_table(n: int = 24) -> tuple[nn.Module, Tensor]:
    """A network on columns of which some are far from zero, and such rows."""
    net = seeded(MLP())
    scale = torch.tensor([1000.0, 50.0, 1.0, 1.0, 1.0, 0.1])

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x - scale) / (0.1 * scale))

    return Raw(), scale + 0.1 * scale * batch(n, D)


def test_a_table_with_a_background_is_explained_against_it() -> None:
    model, x = raw_table()
    modality = Tabular(background=x[:8], groups=[[2, 3, 4]])
    found = pnpxai.recommend(model, x[8:], modality=modality)
    by_name = {type(each).__name__: each for each in found.explainers}
    for each in by_name.values():
        assert getattr(each, "baseline_fn", Marginal(x[:8])) == Marginal(x[:8])
    assert torch.equal(by_name["ExpectedGradients"].background, x[:8])
    assert by_name["KernelShap"].feature_mask_fn == Groups([[2, 3, 4]])
    maps = by_name["Lime"].attribute(x[8:])
    assert torch.equal(maps[:, 2], maps[:, 3])
    own = KernelShap(model, n_samples=62)
    (kept,) = pnpxai.recommend(model, x[8:], modality=modality, explainers=[own]).explainers
    assert kept is own  # what comes with settings keeps them
    assert pnpxai.recommend(model, x[8:], explainers=["RISE"]).explainers[0] == RISE(model)


def test_a_table_with_a_background_is_tuned_kept_and_run(tmp_path: Path) -> None:
    model, x = raw_table()
    modality = Tabular(background=x[:8])
    result = pnpxai.tune(
        model, x[8:], modality=modality, explainers=["Occlusion", "ExpectedGradients"], n_trials=3, progress=False
    )
    assert result.metric == AbPC(model, channel_dim=None, baseline_fn=Marginal(x[:8]))
    again = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), model)
    torch.testing.assert_close(again.explain(x), result.explain(x))
    assert again.modality == modality
    experiment = pnpxai.AutoExplanationForTabularClassification(model, x[8:], modality=modality)
    assert all(getattr(each, "baseline_fn", Marginal(x[:8])) == Marginal(x[:8]) for each in experiment.metrics)
    listed = {type(each).__name__: each for each in experiment.explainers}
    assert listed["RISE"].baseline_fn == Marginal(x[:8])
    assert isinstance(listed["ExpectedGradients"], ExpectedGradients)
    assert set(listed) <= set(EXPLAINERS)


def test_other_judges_of_a_table_take_its_background_too() -> None:
    model, x = raw_table()
    modality = Tabular(background=x[:8])
    (aim,) = aims_for(["MoRF"], model, modality, None)
    assert aim.metric == MoRF(model, channel_dim=None, baseline_fn=Marginal(x[:8]))
    judged = AbPC(model, channel_dim=None, baseline_fn=Marginal(x[:8]))
    assert other_metric(judged, modality) == MuFidelity(model, channel_dim=None, baseline_fn=Marginal(x[:8]))


def test_groups_are_features_of_several_columns() -> None:
    assert Groups([])(batch(2, 3)).tolist() == [[0, 1, 2]] * 2
    assert Groups([[4, 1], [2, 3]])(batch(1, 6)).tolist() == [[0, 1, 2, 2, 1, 3]]
    net, x = Rough(D), 0.5 * batch(2, D, dtype=torch.float64)
    found = KernelShap(net, feature_mask_fn=Groups([[1, 4, 5]])).attribute(x, 0)
    ids = torch.tensor([0, 1, 2, 3, 1, 1])
    for each, maps in zip(x, found, strict=True):

        def value(coalitions: Tensor, each: Tensor = each) -> Tensor:
            return torch.stack([net((z[ids] * each)[None])[0, 0] for z in coalitions]).detach()

        torch.testing.assert_close(maps, shapley(value, 4)[ids], rtol=1e-9, atol=1e-9)
    few: list[Any] = [[1, 2], [["a"]], 5, [torch.tensor([0, 1])], [[True, False]], [[0.0]], [(i for i in (0, 1))]]
    for wrong in ([[1, 2], [2, 3]], [[1, 1]], [[0, 6]], [[-1, 2]], *few):
        with pytest.raises(ParameterError, match="columns from 0 to 5"):
            Groups(wrong)(x)


def test_where_nothing_fits_the_reason_is_told() -> None:
    model = seeded(nn.Linear(4, 3))
    with pytest.raises(
        StudyError,
        match=r"none; .* and \d+ more: .*; .* and 5 more: it needs a background as a tensor of shape \(m, 4\)",
    ):
        pnpxai.tune(
            lambda rows: model(rows), batch(8, 4), modality=Tabular(background=np.zeros((3, 4))), progress=False
        )
