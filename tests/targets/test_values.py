"""What each named target reads, written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pnpxai.errors import ModelError, ParameterError, TargetError, UnknownNameError
from pnpxai.outputs import DETECTION, joined, output_tensor, select
from pnpxai.targets import (
    TARGETS,
    BinaryScore,
    ClassScore,
    DetectionScore,
    LabelScore,
    OutputScore,
    SegmentationScore,
    Similarity,
    SimilarityToCluster,
    SimilarityToItem,
    SimilarityToItself,
    Target,
)
from tests.nets import batch

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, -3.0]], dtype=torch.float64)
SINGLE = torch.tensor([2.0, -0.5], dtype=torch.float64)


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softmax(row: list[float], place: int) -> float:
    return math.exp(row[place]) / sum(map(math.exp, row))


@pytest.mark.parametrize(
    ("target", "outputs", "expected"),
    [
        (ClassScore(1), LOGITS, [2.0, -1.0]),
        (ClassScore(torch.tensor([2, 0])), LOGITS, [4.0, 0.0]),
        (ClassScore(1, "probability"), LOGITS, [softmax([1.0, 2.0, 4.0], 1), softmax([0.0, -1.0, -3.0], 1)]),
        (ClassScore(2, "probability"), torch.tensor([[0.2, 0.3, 0.5]]), [0.5]),
        (BinaryScore(True), SINGLE, [2.0, -0.5]),
        (BinaryScore(False), SINGLE[:, None], [-2.0, 0.5]),
        (BinaryScore(torch.tensor([False, True])), SINGLE, [-2.0, -0.5]),
        (BinaryScore(False, "probability"), SINGLE, [logistic(-2.0), logistic(0.5)]),
        (LabelScore(1), LOGITS, [2.0, -1.0]),
        (LabelScore((0, 2)), LOGITS, [5.0, -3.0]),
        (LabelScore([0, 2], "probability"), LOGITS, [logistic(1.0) + logistic(4.0), 0.5 + logistic(-3.0)]),
        (LabelScore(torch.tensor([[True, True, False], [False, False, True]])), LOGITS, [3.0, -3.0]),
        (OutputScore(), SINGLE, [2.0, -0.5]),
        (OutputScore(2), LOGITS, [4.0, -3.0]),
        (OutputScore(2, rising=False), LOGITS, [-4.0, 3.0]),
        (OutputScore((1, 0)), torch.arange(8.0).reshape(2, 2, 2), [2.0, 6.0]),
    ],
)
def test_one_number_of_each_row(target: Target, outputs: Tensor, expected: list[float]) -> None:
    assert not target.is_open
    assert select(outputs, target).tolist() == pytest.approx(expected, rel=1e-6)


def dense() -> Tensor:
    return batch(3, 4, 5, 6, dtype=torch.float64)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("label", [2, torch.tensor([0, 3, 2])])
@pytest.mark.parametrize("mask", ["given", "predicted"])
def test_the_mean_over_a_mask(mask: str, label: int | Tensor, score: str) -> None:
    outputs = dense()
    given = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(3)) < 0.4
    target = SegmentationScore(label, given if mask == "given" else None, score)  # type: ignore[arg-type]
    found = select(outputs, target.fixed(outputs) if target.is_open else target)
    for i, own in enumerate(outputs.tolist()):
        c = label if isinstance(label, int) else int(label[i])
        values = []
        for y in range(5):
            for x in range(6):
                column = [own[k][y][x] for k in range(4)]
                if bool(given[i, y, x]) if mask == "given" else max(column) == column[c]:
                    values.append(column[c] if score == "logit" else softmax(column, c))
        assert found[i].item() == pytest.approx(sum(values) / len(values), rel=1e-9)


def test_a_single_channel_is_positive_where_it_is_predicted() -> None:
    outputs = torch.tensor([[[[1.0, -2.0, 3.0]]]])
    assert SegmentationScore(0)(outputs).tolist() == [2.0]
    expected = (logistic(1.0) + logistic(3.0)) / 2
    assert SegmentationScore(0, score="probability")(outputs).item() == pytest.approx(expected, rel=1e-6)


def test_a_large_mask_is_counted_in_single_precision() -> None:
    outputs = torch.zeros(1, 2, 40, 40, dtype=torch.bfloat16)
    outputs[:, 1] = 1
    assert SegmentationScore(1)(outputs).item() == 1.0


def found_boxes() -> list[dict[str, Tensor]]:
    return [
        {
            "boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], [5.0, 5.0, 8.0, 8.0]]),
            "labels": torch.tensor([1, 1, 1]),
            "scores": torch.tensor([0.3, 0.6, 0.9]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)},
        {
            "boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 4.0, 4.0]]),
            "labels": torch.tensor([2, 1]),
            "scores": torch.tensor([0.8, 0.4]),
        },
    ]


def slow_overlap(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.51, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("label", [1, 2, torch.tensor([1, 2, 2])])
def test_the_best_score_of_a_box_that_overlaps(label: int | Tensor, overlap: float) -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 4.0, 4.0]])
    found = select(output_tensor(found_boxes()), DetectionScore(label, boxes, overlap)).tolist()
    for i, sample in enumerate(found_boxes()):
        c = label if isinstance(label, int) else int(label[i])
        rows = zip(sample["boxes"].tolist(), sample["labels"].tolist(), sample["scores"].tolist(), strict=True)
        scores = [s for box, own, s in rows if own == c and slow_overlap(box, boxes[i].tolist()) >= overlap]
        assert found[i] == pytest.approx(max(scores, default=0.0))


def test_detections_are_a_tensor_and_join() -> None:
    found = output_tensor(found_boxes())
    assert found.shape == (3, 3, len(DETECTION))
    assert found[1, :, 4].tolist() == [-1.0] * 3
    apart = [output_tensor([each]) for each in found_boxes()]
    assert [each.shape[1] for each in apart] == [3, 1, 2]
    assert torch.equal(joined(apart), found)
    assert torch.equal(joined([LOGITS, LOGITS]), torch.cat([LOGITS, LOGITS]))


def test_the_gradient_is_that_of_the_best_score() -> None:
    given = found_boxes()
    for each in given:
        each["scores"].requires_grad_()
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(3, 4)
    DetectionScore(1, boxes, 0.4)(output_tensor(given)).sum().backward()
    assert [each["scores"].grad.tolist() for each in given] == [[0.0, 1.0, 0.0], [], [0.0, 1.0]]  # type: ignore[union-attr]


def slow_cosine(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))


def distance(a: Tensor, b: Tensor) -> Tensor:
    return -(a - b).norm(dim=1)


def test_similarity_to_an_item_a_cluster_and_itself() -> None:
    outputs, others = batch(3, 5, dtype=torch.float64), batch(3, 5, seed=7, dtype=torch.float64)
    item = SimilarityToItem(others)(outputs).tolist()
    shared = SimilarityToItem(others[:1])(outputs).tolist()
    lengths = [math.sqrt(sum(p * p for p in row)) for row in others.tolist()]
    rows = [[p / length for p in row] for row, length in zip(others.tolist(), lengths, strict=True)]
    centre = [sum(column) / 3 for column in zip(*rows, strict=True)]
    plain = [sum(column) / 3 for column in zip(*others.tolist(), strict=True)]
    for i, row in enumerate(outputs.tolist()):
        assert item[i] == pytest.approx(slow_cosine(row, others[i].tolist()))
        assert shared[i] == pytest.approx(slow_cosine(row, others[0].tolist()))
        assert SimilarityToCluster(others)(outputs)[i].item() == pytest.approx(slow_cosine(row, centre))
        unscaled = SimilarityToCluster(others, normalised=False)(outputs)[i].item()
        assert unscaled == pytest.approx(slow_cosine(row, plain))
        far = SimilarityToItem(others, distance)(outputs)[i].item()
        assert far == pytest.approx(-math.dist(row, others[i].tolist()))
    itself = SimilarityToItself().fixed(outputs)
    assert itself(outputs).tolist() == pytest.approx([1.0] * 3)
    assert itself.for_samples([2, 0])(others[:2])[0].item() == pytest.approx(
        slow_cosine(others[0].tolist(), outputs[2].tolist())
    )


def test_what_is_open_is_read_off_the_unchanged_inputs() -> None:
    clean, changed = LOGITS, LOGITS.flip(1)
    assert ClassScore().fixed(clean)(changed).tolist() == [1.0, -3.0]
    assert BinaryScore().fixed(SINGLE)(-SINGLE).tolist() == [-2.0, -0.5]
    assert BinaryScore(boundary=3.0).fixed(SINGLE)(SINGLE).tolist() == [-2.0, 0.5]
    pixels = torch.tensor([[[[1.0, 5.0]], [[2.0, 0.0]]]])
    assert SegmentationScore(1).fixed(pixels)(pixels.flip(3)).tolist() == [0.0]


BOX = torch.tensor([[0.0, 0.0, 4.0, 4.0]])


@pytest.mark.parametrize(
    ("target", "outputs", "words"),
    [
        (ClassScore(3), LOGITS, ("class from 0 to 2", "3")),
        (ClassScore(-1), LOGITS, ("class from 0 to 2", "-1")),
        (ClassScore(1.5), LOGITS, ("whole number", "1.5")),  # type: ignore[arg-type]
        (ClassScore(True), LOGITS, ("whole number", "True")),
        (ClassScore(0), SINGLE, ("BinaryScore",)),
        (ClassScore(0), dense(), ("SegmentationScore",)),
        (BinaryScore(), LOGITS, ("one output a sample", "ClassScore")),
        (BinaryScore(torch.tensor([1, 0])), SINGLE, ("bool", "int64")),
        (LabelScore(()), LOGITS, ("at least one label",)),
        (LabelScore((1, 1)), LOGITS, ("each once",)),
        (LabelScore((0, 5)), LOGITS, ("label from 0 to 2", "5")),
        (LabelScore(torch.tensor([0, 1])), LOGITS, ("bool tensor (2, 3)",)),
        (OutputScore(), LOGITS, ("one output a sample",)),
        (OutputScore(3), LOGITS, ("place from 0 to 2",)),
        (OutputScore(1), dense(), ("3 numbers",)),
        (OutputScore((0, 0)), LOGITS, ("outputs (n, k, …)",)),
        (SegmentationScore(1), LOGITS, ("(n, k, h, w)",)),
        (SegmentationScore(4), dense(), ("class from 0 to 3",)),
        (SegmentationScore(1, torch.ones(3, 5, 5).bool()), dense(), ("(3, 5, 6)", "(3, 5, 5)")),
        (SegmentationScore(1, torch.ones(3, 5, 6)), dense(), ("bool mask", "float32")),
        (SegmentationScore(1, torch.zeros(3, 5, 6).bool()), dense(), ("at least one position", "3 of 3")),
        (DetectionScore(1, BOX), LOGITS, ("boxes, labels and scores",)),
        (DetectionScore(1, BOX[0]), output_tensor(found_boxes()), ("(3, 4) or (1, 4)", "(4,)")),
        (DetectionScore(1, BOX.flip(1)), output_tensor(found_boxes()), ("x1 < x2",)),
        (SimilarityToItem(torch.ones(3)), LOGITS, ("one a row", "(3,)")),
        (SimilarityToItem(torch.ones(2, 4)), LOGITS, ("references (2, 3)", "(2, 4)")),
        (SimilarityToItem(torch.full((1, 3), math.nan)), LOGITS, ("finite",)),
        (SimilarityToCluster(torch.ones(2, 3, 1)), LOGITS, ("members", "(2, 3, 1)")),
    ],
)
def test_what_does_not_fit_is_refused_in_words(target: Target, outputs: Tensor, words: tuple[str, ...]) -> None:
    with pytest.raises(TargetError) as caught:
        select(outputs, target)
    assert all(each in str(caught.value) for each in words), str(caught.value)


def test_arguments_that_cannot_be() -> None:
    with pytest.raises(ParameterError, match="score of ClassScore"):
        ClassScore(1, "odds")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="overlap"):
        DetectionScore(1, BOX, 0.0)
    with pytest.raises(UnknownNameError, match="cosine"):
        select(LOGITS, SimilarityToItem(torch.ones(1, 3), "cosin"))
    with pytest.raises(ModelError, match="2 numbers a sample"):
        select(SINGLE, SimilarityToItem(torch.ones(1, 1)))
    with pytest.raises(ParameterError, match="one number a row"):
        select(LOGITS, SimilarityToItem(torch.ones(1, 3), lambda a, b: a * b))


def test_places_and_labels_are_the_same_for_all_samples() -> None:
    # rows that belong to samples would not follow them into chunks of another order
    rows: Any = torch.tensor([0, 2])
    for target in (OutputScore(rows), OutputScore((rows,)), LabelScore([rows])):
        with pytest.raises(TargetError, match="the same for all samples"):
            select(LOGITS, target)
    assert select(LOGITS, OutputScore(rows[1])).tolist() == LOGITS[:, 2].tolist()


def test_rows_follow_samples() -> None:
    target = SegmentationScore(torch.tensor([1, 2, 0]), torch.arange(6).reshape(3, 2, 1) % 2 == 0)
    some = target.for_samples(torch.tensor([2, 0, 2]))
    assert isinstance(some.label, Tensor)
    assert some.label.tolist() == [0, 1, 0]
    whole = ClassScore(torch.tensor([1])).for_batch(4, torch.device("cpu"))
    assert isinstance(whole.label, Tensor)
    assert whole.label.tolist() == [1] * 4
    one = ClassScore(torch.tensor([1])).for_samples([3, 0])  # not yet of a batch: the row of all samples
    assert isinstance(one.label, Tensor)
    assert one.label.tolist() == [1, 1]
    with pytest.raises(TargetError, match=r"label of ClassScore with one row for each of 3 inputs"):
        ClassScore(torch.tensor([1, 2])).for_batch(3, torch.device("cpu"))


def in_words(target: Target) -> str:
    return target.words(lambda c: f"<{c}>")


def test_words() -> None:
    assert in_words(ClassScore(2, "probability")) == "probability of <2>"
    assert in_words(ClassScore(torch.tensor([2, 2]))) == "logit of <2>"
    assert in_words(ClassScore()) == "logit of the predicted class"
    assert in_words(BinaryScore(torch.tensor([False]))) == "logit of the negative class"
    assert in_words(LabelScore((2, 0))) == "logit of <2> + <0>"
    assert in_words(LabelScore(torch.tensor([[False, True, True]]))) == "logit of <1> + <2>"
    assert in_words(OutputScore(1, rising=False)) == "falling output 1"
    assert in_words(SegmentationScore(1, torch.ones(1, 2, 3).bool())) == "mean logit of <1> over 6 positions"
    assert in_words(DetectionScore(1, BOX)) == "best score of <1> at box (0, 0, 4, 4)"
    assert in_words(SimilarityToCluster(torch.ones(4, 2))) == "similarity to the mean of 4 representations"


def test_all_are_listed_and_at_the_front_door() -> None:
    import pnpxai

    named = {name for name, each in TARGETS.items() if each.__module__.startswith("pnpxai") and each is not Similarity}
    assert named == {name for name in pnpxai.__all__ if name.endswith("Score") or name.startswith("Similarity")}
