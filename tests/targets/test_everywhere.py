"""Named targets are recommended for, tuned for, kept and told about like classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import pnpxai
from pnpxai.errors import ParameterError, StudyError, TargetError
from pnpxai.explainers import RISE, Gradient, Occlusion
from pnpxai.metrics import AbPC
from pnpxai.targets import ClassScore, DetectionScore, SegmentationScore, SimilarityToItem
from tests.nets import batch
from tests.report.page import Page
from tests.targets.nets import Detector, Encoder, Segmenter, net

N = 8
IMAGES = batch(N, 3, 8, 8, dtype=torch.float64)
MASKS = torch.rand(N, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
OTHERS = batch(N, 6, seed=5, dtype=torch.float64)
EXPLAINERS = [Gradient, Occlusion]


def test_recommended_for_a_mask_of_each_sample() -> None:
    names = ["Gradient", "RISE", "RELAX", "GradCam"]
    found = pnpxai.recommend(net(Segmenter), IMAGES, SegmentationScore(1, MASKS), explainers=names)
    assert {type(each).__name__ for each in found.explainers} == set(names)
    without = pnpxai.recommend(net(Segmenter), IMAGES, 1, explainers=["Gradient"])
    assert "pnpxai.targets" in without.rejected["Gradient"]


def test_one_row_for_all_samples_is_recommended_for_on_any_of_them() -> None:
    images = IMAGES.clone()
    images[0] = 0  # gradient × input is zero there
    found = pnpxai.recommend(net(Encoder), images, ClassScore(torch.tensor([1])), explainers=["GradientXInput"])
    assert [type(each).__name__ for each in found.explainers] == ["GradientXInput"]


def test_tuned_kept_and_told(tmp_path: Path) -> None:
    model = net(Encoder)
    result = pnpxai.tune(
        model, IMAGES, SimilarityToItem(OTHERS), explainers=EXPLAINERS, n_trials=4, holdout=3, progress=False
    )
    name = result.entries[0].name
    configuration = result.entries[0].tuned
    index = list(result.tuning_index)
    expected = AbPC(model, channel_dim=1).evaluate(
        IMAGES[index],
        SimilarityToItem(OTHERS[index]),
        configuration.maps(IMAGES[index], SimilarityToItem(OTHERS[index])),
    )
    if configuration.scored(len(index)) and not configuration.seed_luck:
        assert configuration.tuning_scores == pytest.approx(expected.tolist(), abs=1e-6)
    again = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), model)
    assert again.targets == result.targets == SimilarityToItem(OTHERS)
    page = Page(again.report(tmp_path / "r.html", n_samples=2))
    assert "similarity to another item" in page.text
    assert name in page.text


def test_what_the_report_says_of_a_predicted_class(tmp_path: Path) -> None:
    model = net(Encoder)
    result = pnpxai.tune(
        model, IMAGES, ClassScore(score="probability"), explainers=[Gradient], n_trials=1, holdout=0, progress=False
    )
    page = Page(result.report(tmp_path / "r.html", class_names=list("ABCDEF"), n_samples=2))
    shares, best = model(IMAGES).softmax(1).max(1)
    assert "The curves show the target's score while" in page.text
    told = [f"probability of {'ABCDEF'[best[i]]} {shares[i]:.3g}" in page.text for i in range(N)]
    assert sum(told) >= 2


def masked(i: int) -> SegmentationScore:
    return SegmentationScore(1, MASKS[i : i + 1])


@pytest.mark.parametrize("way", ["targets", "labels", "outputs"])
def test_an_experiment_with_a_mask_of_each_sample(way: str, tmp_path: Path) -> None:
    model = net(Segmenter)
    options: dict[str, Any] = {
        "targets": {"targets": SegmentationScore(1, MASKS)},
        "labels": {"target_labels": True, "target_extractor": lambda masks: SegmentationScore(1, masks)},
        "outputs": {"target_extractor": lambda outputs: SegmentationScore(1, outputs[:, 1] > outputs[:, 1].mean())},
    }[way]
    experiment = pnpxai.Experiment(
        model, TensorDataset(IMAGES, MASKS), explainers=EXPLAINERS, batch_size=3, cache_dir=tmp_path / "kept", **options
    )
    run = experiment.run(data_ids=[1, 4, 5, 7], progress=False)
    assert (run["failure"] == "").all()
    if way != "outputs":
        maps = experiment.explain("Gradient", [1, 4, 5, 7])
        for row, i in enumerate((1, 4, 5, 7)):
            own = Gradient(model).attribute(IMAGES[i : i + 1], masked(i))
            torch.testing.assert_close(maps[row : row + 1], own)
            score = AbPC(model).evaluate(IMAGES[i : i + 1], masked(i), own.sum(1))
            told = run.query("explainer == 'Gradient' and data_id == @i")["score"].item()
            assert told == pytest.approx(score.item(), abs=1e-6)
    page = Page(experiment.report(tmp_path / "run.html", n_samples=1))
    assert "mean logit of class 1" in page.text
    result = experiment.optimize(explainer_id="Gradient", n_trials=1, progress=False)
    assert isinstance(result.targets, SegmentationScore)
    assert result.targets.mask.shape == (N, 4, 4)  # type: ignore[union-attr]


def test_an_experiment_says_twice_what_is_explained() -> None:
    with pytest.raises(ParameterError, match="targets, or target_extractor"):
        pnpxai.Experiment(net(Encoder), IMAGES, targets=ClassScore(1), target_labels=True)
    with pytest.raises(TargetError, match="one row for each of 8"):
        pnpxai.Experiment(net(Encoder), IMAGES, targets=ClassScore(torch.arange(3))).targets()


def test_maps_on_disk_are_those_of_the_target(tmp_path: Path) -> None:
    model = net(Encoder)

    def explained(targets: Any) -> Tensor:
        made = pnpxai.Experiment(model, IMAGES, explainers=[Gradient], cache_dir=tmp_path, targets=targets)
        maps = made.explain(0)
        assert isinstance(maps, Tensor)
        return maps

    def of_output(place: int) -> Any:
        return lambda outputs: outputs[:, place]

    for first, second in ((SimilarityToItem(OTHERS), SimilarityToItem(OTHERS.flip(0))), (of_output(1), of_output(2))):
        one, two = explained(first), explained(second)
        torch.testing.assert_close(one, Gradient(model).attribute(IMAGES, first))
        torch.testing.assert_close(two, Gradient(model).attribute(IMAGES, second))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 * N  # none of a function's


def test_tuning_tells_functions_apart(tmp_path: Path) -> None:
    """Two functions of one name are two problems: neither kept maps nor a study go on from one to the other."""
    model = net(Encoder)

    def score_of(outputs: Tensor, place: int) -> Tensor:
        found = outputs[:, 2] + outputs[:, 4]
        return found - found.detach() + outputs[:, 0] if place == 3 else outputs[:, place]

    def tuned(place: int, **options: Any) -> pnpxai.TuneResult:
        return pnpxai.tune(
            model,
            IMAGES,
            lambda outputs: score_of(outputs, place),
            explainers=[Gradient],
            n_trials=1,
            holdout=0,
            progress=False,
            cache_dir=tmp_path / "maps",
            **options,
        )

    for place, result in [(place, tuned(place)) for place in (0, 1, 3)]:  # the last has the scores of the first
        index, found = list(result.tuning_index), result.entries[0].tuned

        def score(outputs: Tensor, place: int = place) -> Tensor:
            return score_of(outputs, place)

        maps = found.postprocessor(Gradient(model).attribute(IMAGES[index], score))
        expected = AbPC(model).evaluate(IMAGES[index], score, maps)
        assert found.tuning_scores == pytest.approx(expected.tolist(), abs=1e-6)
    stored = {"storage": str(tmp_path / "study.journal"), "study_name": "mine"}
    tuned(1, **stored)
    with pytest.raises(StudyError, match="targets"):
        tuned(2, **stored)


def test_a_detector_of_torchvision() -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, box_score_thresh=0.0
        ).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(list(images))
    boxes = torch.stack([each["boxes"][each["labels"] == 1][0] for each in found])
    target = DetectionScore(1, boxes)
    maps = RISE(model, n_masks=8).attribute(images, target)
    assert maps.std() > 0
    slopes = Gradient(model).attribute(images, target)
    for i, image in enumerate(images):
        leaf = image.clone().requires_grad_()
        (own,) = model([leaf])
        best = own["scores"][own["labels"] == 1].max()
        (expected,) = torch.autograd.grad(best, leaf)
        torch.testing.assert_close(slopes[i], expected, rtol=1e-3, atol=1e-6)


def test_a_detector_that_finds_nothing_has_a_score_of_zero() -> None:
    model = net(Detector, 2.0)
    target = DetectionScore(1, torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
    assert Gradient(model).attribute(IMAGES, target).count_nonzero() == 0
    assert RISE(model, n_masks=8).attribute(IMAGES, target).count_nonzero() == 0
