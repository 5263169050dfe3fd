"""An image and a table at once: maps of both, their features in one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pnpxai
from pnpxai.errors import InputError
from pnpxai.explainers import Gradient, GradientXInput, Occlusion
from pnpxai.metrics import AbPC, Complexity, FaithfulnessCorrelation, Infidelity, Metric, MuFidelity, Sensitivity
from pnpxai.postprocess import PostProcessor, feature_values
from tests.harm import untouched
from tests.nets import batch, seeded
from tests.report.page import Page

N = 12
IMAGES, TABLES = batch(N, 3, 4, 4, dtype=torch.float64), batch(N, 5, seed=2, dtype=torch.float64)


class SeesAndCounts(nn.Module):
    """An image ``(n, 3, 4, 4)`` and a table ``(n, 5)`` to three classes; the table's third column counts most."""

    def __init__(self) -> None:
        super().__init__()
        self.sees = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
        self.counts = nn.Linear(5, 3)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        outputs: Tensor = 0.2 * self.sees(image) + self.counts(table)
        return outputs


def model() -> nn.Module:
    net = seeded(SeesAndCounts()).double().requires_grad_(False)
    net.counts.weight.mul_(0.2)
    net.counts.weight[:, 2] = torch.tensor([9.0, -9.0, 0.0])
    return net


def slow_abpc(net: nn.Module, i: int, target: int, values: Tensor, n_steps: int) -> float:
    """The mean of LeRF minus MoRF, one feature after the other: 16 pixels, then 5 columns."""

    def score(gone: list[int]) -> float:
        image, table = IMAGES[i].clone(), TABLES[i].clone()
        for f in gone:
            if f < 16:
                image[:, f // 4, f % 4] = 0
            else:
                table[f - 16] = 0
        return net(image[None], table[None]).softmax(1)[0, target].item()

    order = sorted(range(21), key=lambda f: -values[f].item())
    counts = [round(21 * step / n_steps) for step in range(n_steps + 1)]
    gaps = [score(order[21 - c :]) - score(order[:c]) for c in counts]
    return sum((a + b) / 2 for a, b in zip(gaps, gaps[1:], strict=False)) / n_steps


def test_both_are_removed_in_one_order() -> None:
    net = model()
    targets = net(IMAGES, TABLES).argmax(1)
    maps = Gradient(net).attribute((IMAGES, TABLES), targets)
    with untouched(net, IMAGES, TABLES):
        found = AbPC(net, n_steps=21).evaluate((IMAGES, TABLES), targets, maps)
    values = torch.cat([maps[0].sum(1).flatten(1), maps[1]], 1)
    for i in range(3):
        assert found[i].item() == pytest.approx(slow_abpc(net, i, int(targets[i]), values[i], 21), abs=1e-9)
    joint = PostProcessor()(maps)
    torch.testing.assert_close(joint, values)
    torch.testing.assert_close(AbPC(net, n_steps=21).evaluate((IMAGES, TABLES), targets, joint), found)
    made = AbPC(net, n_steps=21, baseline_fn="mean")
    answers = made.answers((IMAGES, TABLES), targets)
    torch.testing.assert_close(
        made.evaluate((IMAGES, TABLES), targets, maps, answers), made.evaluate((IMAGES, TABLES), targets, maps)
    )
    entropy = Complexity(net).evaluate((IMAGES, TABLES), targets, maps)
    assert entropy.tolist() == pytest.approx(stats.entropy(values.abs().numpy(), axis=1).tolist())


class Joined(nn.Module):
    """The same network of one row ``(n, 16 + 5)`` a sample, each image of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.net(rows[:, :16].reshape(-1, 1, 4, 4).expand(-1, 3, 4, 4), rows[:, 16:])
        return outputs


class Apart(Joined):
    """It, of an image of one channel and a table."""

    def forward(self, image: Tensor, table: Tensor) -> Tensor:  # type: ignore[override]  # two of them
        return super().forward(torch.cat([image.flatten(1), table], 1))


@pytest.mark.parametrize("cls", [MuFidelity, FaithfulnessCorrelation, Infidelity, Sensitivity])
def test_scored_as_the_model_of_one_row_is(cls: type[Metric]) -> None:
    images, tables = torch.rand_like(IMAGES[:, :1]), torch.rand_like(TABLES)
    for each in (images, tables):  # one range for both, so that both are moved as far
        each.flatten(1)[:, 0], each.flatten(1)[:, 1] = 0.0, 1.0
    rows = torch.cat([images.flatten(1), tables], 1)
    joined, apart = Joined(), Apart()
    changed = {} if cls in (FaithfulnessCorrelation, Sensitivity) else {"grid_size": None}
    expected = cls(joined, GradientXInput(joined), **changed).evaluate(rows)
    found = cls(apart, GradientXInput(apart), **changed)
    with untouched(apart, images, tables):
        torch.testing.assert_close(found.evaluate((images, tables)), expected, rtol=1e-9, atol=1e-12)
    maps = GradientXInput(apart).attribute((images, tables))
    torch.testing.assert_close(found.evaluate((images, tables), None, PostProcessor()(maps)), expected)
    assert expected.std() > 1e-6


def test_cells_of_an_image_stand_beside_the_columns_of_a_table() -> None:
    cells, subsets = MuFidelity(model(), grid_size=2).measurement.drawn((IMAGES, TABLES))
    assert cells.tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2 + [4, 5, 6, 7, 8]
    assert subsets.shape == (200, 9)


def test_several_maps_are_normalised_together() -> None:
    maps = torch.tensor([[[1.0, 3.0], [0.0, 2.0]]]), torch.tensor([[10.0]])
    assert PostProcessor(normalization_fn="max_abs")(maps)[0].tolist() == pytest.approx([0.1, 0.5, 1.0])


def test_what_does_not_fit_is_refused() -> None:
    net, both = model(), (IMAGES, TABLES)
    maps = Gradient(net).attribute(both)
    for wrong in (maps[:1], (*maps, maps[1]), maps[0], torch.zeros(N, 20), (maps[1], maps[0])):
        with pytest.raises(InputError, match="attributions of"):
            AbPC(net).evaluate(both, None, wrong)
    with pytest.raises(InputError, match="finite"):
        feature_values((maps[0], maps[1] / 0), both, 1)


@pytest.fixture(scope="module")
def result() -> pnpxai.TuneResult:
    net = model()
    with untouched(net, IMAGES, TABLES):
        return pnpxai.tune(
            net,
            (IMAGES, TABLES),
            explainers=["GradientXInput", "Occlusion", "IntegratedGradients"],
            n_trials=8,
            holdout=6,
            progress=False,
        )


def test_an_image_and_a_table_are_tuned_for(result: pnpxai.TuneResult) -> None:
    net = result.explainer.model
    for entry in result.entries:
        index = list(result.tuning_index)[: len(entry.tuned.tuning_scores)]
        inputs, targets = (IMAGES[index], TABLES[index]), result.targets[index]
        maps = entry.tuned.maps(inputs, targets)
        assert maps.shape == (len(index), 16 + 5)
        expected = AbPC(net).evaluate(inputs, targets, maps)
        assert entry.tuned.tuning_scores == pytest.approx(expected.tolist(), abs=1e-6)
    decided = result.targets != 2
    best = result.explain((IMAGES, TABLES), result.targets).abs().argmax(1)
    assert (best[decided] == 16 + 2).float().mean() > 0.9
    assert result.score > max(sum(each) / len(each) for each in result.controls.values())


def test_the_result_is_kept_and_reported(result: pnpxai.TuneResult, tmp_path: Path) -> None:
    again = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), result.explainer.model)
    torch.testing.assert_close(again.explain((IMAGES, TABLES)), result.explain((IMAGES, TABLES)))
    page = Page(again.report(tmp_path / "r.html", n_samples=2))
    assert "not drawn" in page.text
    assert not [each for each in page.addresses if "image/png" in each]
    assert "area between the curves" in page.text


def test_what_explains_several_inputs_is_recommended(tmp_path: Path) -> None:
    found = pnpxai.recommend(model(), (IMAGES, TABLES))
    assert {type(each) for each in found.explainers} >= {Gradient, GradientXInput, Occlusion}
    assert "2 tensors" in found.rejected["RISE"]


def test_maps_of_both_are_kept_in_files(tmp_path: Path) -> None:
    options: dict[str, Any] = {"explainers": [Occlusion], "n_trials": 1, "holdout": 0, "progress": False}
    first = pnpxai.tune(model(), (IMAGES, TABLES), cache_dir=tmp_path, **options)
    again = pnpxai.tune(model(), (IMAGES, TABLES), cache_dir=tmp_path, **options)
    assert first.entries[0].tuned.tuning_scores == again.entries[0].tuned.tuning_scores
    assert again.n_forwards < first.n_forwards
