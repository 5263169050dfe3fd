"""Named targets in explainers and metrics: what belongs to a sample follows it, whatever the chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import TargetError
from pnpxai.explainers import (
    RELAX,
    RISE,
    Explainer,
    Gradient,
    IntegratedGradients,
    LRPUniformEpsilon,
    Occlusion,
    RankEnsemble,
    SmoothGrad,
    VarGrad,
    attribute_together,
)
from pnpxai.forward import TokenIds, count_forwards
from pnpxai.metrics import AbPC, Infidelity, Metric, MuFidelity, Sensitivity
from pnpxai.postprocess import PostProcessor
from pnpxai.targets import (
    BinaryScore,
    ClassScore,
    DetectionScore,
    LabelScore,
    OutputScore,
    SegmentationScore,
    SimilarityToCluster,
    SimilarityToItem,
    SimilarityToItself,
    Target,
)
from tests.explainers.masks import draw_masks
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, VGGLike, batch, seeded
from tests.targets.nets import Detector, Encoder, Reader, Segmenter, net

N = 5
IMAGES = batch(N, 3, 8, 8, dtype=torch.float64)
CORNERS = torch.tensor([[0, 0, 4, 4], [0, 4, 4, 8], [0, 4, 4, 8], [0, 0, 4, 4], [4, 4, 8, 8]]).double()


@dataclass(frozen=True)
class Case:
    """A target, and by hand the score of one sample as a function of its outputs.

    Attributes:
        make: the model.
        inputs: all samples.
        target: for them.
        by_hand: from the number of a sample and what the model returns of it unchanged to its score, a function of what
            the model returns of changed versions of it.
    """

    make: Callable[[], nn.Module]
    inputs: Tensor
    target: Target
    by_hand: Callable[[int, Any], Callable[[Any], Tensor]]


def detected(i: int, _: Any) -> Callable[[Any], Tensor]:
    """The score of the quadrant, if its class is 1 and it was not dropped."""

    def score(found: list[dict[str, Tensor]]) -> Tensor:
        rows = []
        for each in found:
            own = (each["boxes"].double() == CORNERS[i]).all(1) & (each["labels"] == 1)
            rows.append(each["scores"][own].sum())
        return torch.stack(rows)

    return score


def segmented(i: int, clean: dict[str, Tensor]) -> Callable[[Any], Tensor]:
    mask = clean["out"][0].argmax(0) == LABELS[i]

    def score(found: dict[str, Tensor]) -> Tensor:
        return found["out"][:, LABELS[i]][:, mask].mean(1)

    return score


def with_classes_that_are_predicted() -> Tensor:
    classes = net(Segmenter)(IMAGES)["out"].argmax(1).flatten(1)
    return torch.stack([row[2 * i] for i, row in enumerate(classes)])


LABELS = with_classes_that_are_predicted().tolist()
OTHERS = batch(N, 6, seed=5, dtype=torch.float64)
MASKS = torch.rand(N, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5


def binary() -> nn.Module:
    return nn.Sequential(net(Encoder), seeded(nn.Linear(6, 1), 3).double().requires_grad_(False))


CASES: dict[str, Case] = {
    "class": Case(
        lambda: net(Encoder),
        IMAGES,
        ClassScore(torch.arange(N), "probability"),
        lambda i, _: lambda found: found.softmax(1)[:, i],
    ),
    "predicted class": Case(
        lambda: net(Encoder),
        IMAGES,
        ClassScore(),
        lambda i, clean: lambda found: found[:, clean[0].argmax()],
    ),
    "binary": Case(
        binary,
        IMAGES,
        BinaryScore(score="probability"),
        lambda i, clean: lambda found: (found[:, 0] * clean[0, 0].sign()).sigmoid(),
    ),
    "labels": Case(
        lambda: net(Encoder),
        IMAGES,
        LabelScore(torch.eye(6).bool()[:N] | torch.eye(6).bool()[1 : N + 1]),
        lambda i, _: lambda found: found[:, i] + found[:, i + 1],
    ),
    "output": Case(lambda: net(Encoder), IMAGES, OutputScore(4, rising=False), lambda i, _: lambda found: -found[:, 4]),
    "segmentation": Case(lambda: net(Segmenter), IMAGES, SegmentationScore(torch.tensor(LABELS)), segmented),
    "given mask": Case(
        lambda: net(Segmenter),
        IMAGES,
        SegmentationScore(1, MASKS),
        lambda i, _: lambda found: found["out"][:, 1][:, MASKS[i]].mean(1),
    ),
    "detection": Case(lambda: net(Detector), IMAGES, DetectionScore(1, CORNERS), detected),
    "item": Case(
        lambda: net(Encoder),
        IMAGES,
        SimilarityToItem(OTHERS),
        lambda i, _: lambda found: (found @ OTHERS[i]) / found.norm(dim=1) / OTHERS[i].norm(),
    ),
    "cluster": Case(
        lambda: net(Encoder),
        IMAGES,
        SimilarityToCluster(OTHERS, normalised=False),
        lambda i, _: lambda found: (found @ OTHERS.mean(0)) / found.norm(dim=1) / OTHERS.mean(0).norm(),
    ),
    "itself": Case(
        lambda: net(Encoder),
        IMAGES,
        SimilarityToItself(),
        lambda i, clean: lambda found: (found @ clean[0]) / found.norm(dim=1) / clean[0].norm(),
    ),
}


class ByHand(nn.Module):
    """A model and the score of one sample, as a model of one output."""

    def __init__(self, case: Case, i: int) -> None:
        super().__init__()
        self.own = case.make()
        with torch.no_grad():
            self.score = case.by_hand(i, self.own(case.inputs[i : i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.own(x))


EXPLAINERS: dict[str, Callable[[nn.Module], Explainer]] = {
    "Gradient": Gradient,
    "IntegratedGradients": lambda model: IntegratedGradients(model, n_steps=4),
    "SmoothGrad": lambda model: SmoothGrad(model, n_samples=3),
    "RISE": lambda model: RISE(model, n_masks=16, grid_size=3),
    "Occlusion": Occlusion,
}


@pytest.mark.parametrize("name", EXPLAINERS)
@pytest.mark.parametrize("kind", CASES)
def test_explained_as_the_score_by_hand(kind: str, name: str) -> None:
    case, model = CASES[kind], CASES[kind].make()
    with untouched(model, case.inputs):
        found = EXPLAINERS[name](model).attribute(case.inputs, case.target)
    at_its_top = kind == "itself" and name == "Gradient"  # nothing is more similar: zero but for rounding
    assert (found.abs().max() > 1e-6) != at_its_top
    for i in range(N):
        own = EXPLAINERS[name](ByHand(case, i)).attribute(case.inputs[i : i + 1], 0)
        torch.testing.assert_close(found[i : i + 1], own, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", ["Gradient", "SmoothGrad", "RISE", "Occlusion"])
@pytest.mark.parametrize("kind", ["segmentation", "detection", "item", "predicted class"])
def test_chunks_do_not_matter(kind: str, name: str, set_chunk_size: Callable[[int], None]) -> None:
    case, maps = CASES[kind], []
    for size in (1, 3, 64):
        set_chunk_size(size)
        maps.append(EXPLAINERS[name](case.make()).attribute(case.inputs, case.target))
    for each in maps[1:]:
        torch.testing.assert_close(each, maps[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", [AbPC, MuFidelity, Infidelity, Sensitivity])
@pytest.mark.parametrize("kind", ["predicted class", "segmentation", "detection", "item", "itself"])
def test_scored_as_the_score_by_hand(kind: str, metric: type[Metric]) -> None:
    case, model = CASES[kind], CASES[kind].make()
    explainer = RISE(model, n_masks=8, grid_size=2)
    maps = explainer.attribute(case.inputs, case.target)
    judge = metric(model, explainer)
    found = judge.evaluate(case.inputs, case.target, maps)
    known = judge.evaluate(case.inputs, case.target, maps, judge.answers(case.inputs, case.target))
    torch.testing.assert_close(known, found)
    for i in range(N):
        own = ByHand(case, i)
        alone = metric(own, RISE(own, n_masks=8, grid_size=2))
        expected = alone.evaluate(case.inputs[i : i + 1], 0, maps[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-6, atol=1e-9)


def test_relevance_and_explainers_together_and_ranked() -> None:
    case = CASES["predicted class"]
    model, inputs = case.make(), case.inputs
    classes = model(inputs).argmax(1)
    explainer = LRPUniformEpsilon(seeded(MLP()))
    x = batch(4, 6)
    last = explainer.model(x).argmax(1)
    for found, own in zip(explainer.attribute_each(x, [ClassScore(), ClassScore(2)]), (last, 2), strict=True):
        torch.testing.assert_close(found, explainer.attribute(x, own))
    several = [SmoothGrad(model, n_samples=2), VarGrad(model, n_samples=2), Gradient(model)]
    with count_forwards() as counter:
        named = attribute_together(several, inputs, ClassScore())
    with count_forwards() as usual:
        plain = attribute_together(several, inputs, None)
    assert counter.n_samples == usual.n_samples
    for one, other in zip(named, plain, strict=True):
        torch.testing.assert_close(one, other)
    ensemble = RankEnsemble(model, several, [PostProcessor()] * 3)
    torch.testing.assert_close(ensemble.attribute(inputs, ClassScore()), ensemble.attribute(inputs, classes))


def test_parts_of_text_take_their_own_references() -> None:
    ids = torch.tensor([[0, 5, 3, 4, 2], [0, 7, 2, 2, 2], [0, 6, 9, 2, 2], [0, 8, 2, 2, 2]])
    others, model = batch(4, 5, seed=3, dtype=torch.float64), net(Reader)
    for explainer in (
        Gradient(model, TokenIds((0, 2))),
        RISE(model, TokenIds((0, 2)), n_masks=16),
        RELAX(model, TokenIds((0, 2)), n_masks=16),
        Occlusion(model, TokenIds((0, 2))),
    ):
        found = explainer.attribute(ids, SimilarityToItem(others))
        assert found[:, :, 1].abs().min() > 0
        for i in range(4):
            own = explainer.attribute(ids[i : i + 1], SimilarityToItem(others[i : i + 1]))
            torch.testing.assert_close(found[i : i + 1], own, rtol=1e-7, atol=1e-10)
    metric = AbPC(model, forward_arg_extractor=TokenIds((0, 2)))
    scores = metric.evaluate(ids, SimilarityToItem(others), found)
    for i in range(4):
        own = metric.evaluate(ids[i : i + 1], SimilarityToItem(others[i : i + 1]), found[i : i + 1])
        torch.testing.assert_close(scores[i : i + 1], own)


KINDS = {
    "image": (VGGLike, (3, 16, 16), 4),
    "series": (TimeCNN, (2, 24), 5),
    "features": (MLP, (6,), None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["item", "cluster"])
def test_relax_of_another_representation_is_the_formula(kind: str, to: str) -> None:
    make, shape, grid = KINDS[kind]
    model = seeded(make()).double().requires_grad_(False)
    inputs = batch(3, *shape, dtype=torch.float64)
    others = model(batch(3, *shape, seed=9, dtype=torch.float64))
    target = SimilarityToItem(others) if to == "item" else SimilarityToCluster(others, normalised=False)
    explainer = RELAX(model, n_masks=40, grid_size=grid or 7, batch_size=7)
    found = explainer.explain(inputs, target)
    size = shape if grid is None else shape[1:]
    masks = draw_masks(0, 40, size, None if grid is None else (grid,) * len(size), 0.5, seed=0).double()
    for i, x in enumerate(inputs):
        reference = others[i] if to == "item" else others.mean(0)
        kept = [model((x * mask)[None])[0] for mask in masks]
        scores = torch.stack([(h @ reference) / h.norm() / reference.norm() for h in kept])
        weights = masks.flatten(1)
        importance = (scores[:, None] * weights).sum(0) / weights.sum(0)
        uncertainty = ((scores[:, None] - importance) ** 2 * weights).sum(0) / weights.sum(0)
        torch.testing.assert_close(found.importance[i].flatten(), importance, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(found.uncertainty[i].flatten(), uncertainty, rtol=1e-5, atol=1e-12)
    assert torch.equal(explainer.attribute(inputs, target), found.importance)


def test_relax_of_the_input_itself_is_the_one_without_targets() -> None:
    model, inputs = seeded(TimeCNN()), batch(2, 2, 24)
    explainer = RELAX(model, n_masks=20)
    assert torch.equal(explainer.attribute(inputs, SimilarityToItself()), explainer.attribute(inputs))
    other = explainer.attribute(inputs, SimilarityToItem(model(inputs).detach().flip(0)))
    assert not torch.allclose(other, explainer.attribute(inputs), atol=1e-2)


def test_a_softmax_in_half_precision_is_known_by_a_named_target_too() -> None:
    model = seeded(nn.Sequential(nn.Linear(6, 4), nn.Softmax(1))).to(torch.bfloat16)
    inputs = batch(16, 6)
    assert (model(inputs.bfloat16()).float().sum(1) - 1).abs().max() > 1e-3  # no probabilities in single precision
    maps = torch.rand(16, 6, generator=torch.Generator().manual_seed(0))
    named = AbPC(model).evaluate(inputs, ClassScore(2, "probability"), maps)
    torch.testing.assert_close(named, AbPC(model).evaluate(inputs, 2, maps))


def test_too_few_rows_are_refused_at_the_door() -> None:
    model = net(Encoder)
    for explainer in (Gradient(model), RISE(model), RELAX(model)):
        with pytest.raises(TargetError, match="reference of SimilarityToItem with one row for each of 5 inputs"):
            explainer.attribute(IMAGES, SimilarityToItem(OTHERS[:3]))
        with pytest.raises(TargetError, match="ClassScore"):
            explainer.attribute(IMAGES, ClassScore(torch.arange(3)))
    with pytest.raises(TargetError, match="SegmentationScore"):
        Gradient(net(Segmenter)).attribute(IMAGES)
    with pytest.raises(TargetError, match="at least one position"):
        Gradient(net(Segmenter)).attribute(IMAGES, SegmentationScore(1, torch.zeros(1, 4, 4).bool()))


class Loudest(Target):
    """One of a user's own: the largest output, less a level of each sample."""

    PER_SAMPLE = ("level",)

    def __init__(self, level: Tensor) -> None:
        self.level = level

    def read(self, outputs: Tensor) -> Tensor:
        return (outputs.amax(1) - self.level.to(outputs)).square()

    def words(self, named: Any) -> str:
        return "largest output"


def test_a_target_of_ones_own_follows_its_samples() -> None:
    model, level = net(Encoder), torch.arange(N).double()
    found = Gradient(model).attribute(IMAGES, Loudest(level))
    for i in range(N):
        own = Gradient(model).attribute(IMAGES[i : i + 1], lambda outputs, i=i: (outputs.amax(1) - level[i]).square())
        torch.testing.assert_close(found[i : i + 1], own)
