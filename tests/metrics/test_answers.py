"""What is asked of a model once for all maps, and once for several metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import InputError, ParameterError, TargetError
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, Complexity, Metric, MoRF, MuFidelity, answers_together, evaluate_together
from pnpxai.metrics._answers import answer_name
from pnpxai.targets import ClassScore
from tests.metrics.cases import CURVES, JUDGED_BY_STEADINESS, NAMES, SUBSETS, Wild, build
from tests.nets import VGGLike, batch, seeded
from tests.registry import unregistered

X, MAPS = batch(4, 3, 16, 16), batch(4, 16, 16, seed=2)
MODEL = seeded(VGGLike())
BANK = {"FaithfulnessCorrelation": 100, "Infidelity": 200, "MuFidelity": 200}


def forwards(call: Any, *arguments: Any, **named: Any) -> tuple[Any, int]:
    with count_forwards() as counter:
        found = call(*arguments, **named)
    return found, counter.n_samples


@pytest.mark.parametrize("targets", [None, 2, torch.tensor([0, 1, 2, 3]), lambda outputs: outputs[:, 1]])
@pytest.mark.parametrize("name", NAMES)
def test_answers_change_no_score_and_are_not_asked_again(name: str, targets: Any) -> None:
    metric = build(name, MODEL, X)
    plain, whole = forwards(metric.evaluate, X, targets, MAPS)
    answers, once = forwards(metric.answers, X, targets)
    found, again = forwards(metric.evaluate, X, targets, MAPS, answers=answers)
    assert torch.equal(found, plain)
    assert once + again == whole
    assert all(len(each) == 4 and not each.requires_grad for each in answers.values())
    if name in CURVES:
        assert (once, again) == (4 * 2, 4 * 18)
    elif name in SUBSETS:
        assert (once, again) == (4 * (1 + BANK[name]), 0)
    elif name in JUDGED_BY_STEADINESS:
        assert once == (4 if targets is None else 0)
    else:
        assert (once, again, dict(answers)) == (0, 0, {})


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_answers_are_the_answers_of_some_samples(name: str) -> None:
    metric, index = build(name, MODEL, X), [2, 0, 2]
    whole = metric.evaluate(X, 1, MAPS)
    rows = {key: each[index] for key, each in metric.answers(X, 1).items()}
    some = metric.for_samples(index)
    found, again = forwards(some.evaluate, X[index], 1, MAPS[index], answers=rows)
    torch.testing.assert_close(found, whole[index], rtol=1e-4, atol=1e-5)
    assert again == forwards(some.evaluate, X[index], 1, MAPS[index])[1] - forwards(some.answers, X[index], 1)[1]


@pytest.mark.parametrize("targets", [None, 2])
def test_all_metrics_together_are_each_alone(targets: int | None) -> None:
    metrics = [build(name, MODEL, X) for name in NAMES]
    alone = [each.evaluate(X, targets, MAPS) for each in metrics]
    for answers in (None, answers_together(metrics, X, targets), metrics[0].answers(X, targets)):
        found = evaluate_together(metrics, X, targets, MAPS, answers)
        for name, mine, expected in zip(NAMES, found, alone, strict=True):
            assert torch.equal(mine, expected), name


@pytest.mark.parametrize("targets", [None, 2])
def test_the_metrics_of_the_curves_cost_the_forwards_of_one(targets: int | None) -> None:
    metrics = [build(name, MODEL, X, baseline_fn="blur") for name in sorted(CURVES)]
    assert len(metrics) == 8
    _, one = forwards(metrics[0].evaluate, X, targets, MAPS)
    found, together = forwards(evaluate_together, metrics, X, targets, MAPS)
    assert together == one == 4 * 20
    assert len({tuple(each.tolist()) for each in found}) == 6  # Deletion is MoRF, Insertion LeRF
    answers, once = forwards(answers_together, metrics, X, targets)
    assert once == 4 * 2
    assert forwards(evaluate_together, metrics, X, targets, MAPS, answers)[1] == 4 * 18


def test_other_settings_are_measured_anew_with_the_clean_scores_in_common() -> None:
    metrics: list[Metric] = [
        AbPC(MODEL),
        MoRF(MODEL, n_steps=5),
        AbPC(MODEL, baseline_fn="mean"),
        AbPC(MODEL, seed=3),
        MuFidelity(MODEL, n_perturbations=7),
        MuFidelity(MODEL, n_perturbations=7, correlation="spearman"),
        build("Infidelity", MODEL, X, n_perturbations=7),
        build("Infidelity", MODEL, X, n_perturbations=7, seed=1),
    ]
    _, together = forwards(evaluate_together, metrics, X, 1, MAPS)
    assert together == 4 * (1 + (1 + 18) + 8 + (1 + 18) + 18 + 7 + 0 + 0 + 7)


def test_the_explainer_is_asked_once_for_all() -> None:
    explainer = Wild(MODEL)
    metrics: list[Metric] = [AbPC(MODEL, explainer), Complexity(MODEL, explainer.copy())]
    maps = explainer.attribute(X, 1)
    found = evaluate_together(metrics, X, 1)
    for mine, metric in zip(found, metrics, strict=True):
        assert torch.equal(mine, metric.evaluate(X, 1, maps))
    with pytest.raises(ParameterError, match="explainer"):
        evaluate_together([*metrics, build("MoRF", MODEL, X)], X, 1)


def test_metrics_of_several_models_are_not_taken_together() -> None:
    other = AbPC(seeded(VGGLike(), seed=5))
    for call in (lambda each: evaluate_together(each, X, 1, MAPS), lambda each: answers_together(each, X, 1)):
        with pytest.raises(ParameterError, match="model"):
            call([AbPC(MODEL), other])
        with pytest.raises(ParameterError, match="forward_arg_extractor"):
            call([AbPC(MODEL), AbPC(MODEL, forward_arg_extractor=lambda x: x)])
    assert evaluate_together([], X, 1, MAPS) == []
    assert dict(answers_together([], X, 1)) == {}


def test_answers_of_other_samples_or_targets_are_refused() -> None:
    metric = AbPC(MODEL)
    answers = metric.answers(X, 1)
    with pytest.raises(TargetError, match="same targets"):
        metric.evaluate(X, 2, MAPS, answers)
    with pytest.raises(TargetError, match="same targets"):
        metric.evaluate(X, lambda outputs: outputs[:, 1], MAPS, answers)
    with pytest.raises(InputError, match="one row for each of 2 inputs"):
        metric.evaluate(X[:2], 1, MAPS[:2], answers)
    functional = metric.answers(X, lambda outputs: outputs[:, 1])
    for wrong in (torch.zeros(3), torch.tensor(1.0), "clean"):
        with pytest.raises(InputError, match="one row for each of 4 inputs"):
            metric.evaluate(X, 1, MAPS, {name: wrong for name in functional})


def test_answers_to_other_questions_are_left_aside() -> None:
    metric = AbPC(MODEL)
    answers = AbPC(MODEL, baseline_fn="mean").answers(X, 1)
    found, cost = forwards(metric.evaluate, X, 1, MAPS, answers=answers)
    assert torch.equal(found, metric.evaluate(X, 1, MAPS))
    assert cost == 4 * 19  # the clean scores are the same


def test_names_tell_functions_tensors_and_objects_apart() -> None:
    def made(value: float) -> Any:
        return lambda inputs: torch.full_like(inputs, value)

    zeros, ones = made(0.0), made(1.0)
    names = {answer_name("baseline", each) for each in (zeros, ones, torch.zeros(1), torch.ones(1), "zeros", 0.0)}
    assert len(names) == 6
    assert answer_name("baseline", zeros) == answer_name("baseline", zeros)
    metrics = [AbPC(MODEL, baseline_fn=each) for each in (zeros, ones)]
    for mine, metric in zip(evaluate_together(metrics, X, 1, MAPS), metrics, strict=True):
        assert torch.equal(mine, metric.evaluate(X, 1, MAPS))


def test_a_baseline_is_made_once() -> None:
    seen: list[int] = []

    def counted(inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        return torch.zeros_like(inputs)

    metrics: list[Metric] = [each(MODEL, baseline_fn=counted) for each in (AbPC, MoRF)]
    answers = answers_together(metrics, X, 1)
    for _ in range(3):
        evaluate_together(metrics, X, 1, MAPS, answers)
    assert seen == [4]


def test_metrics_that_read_maps_in_other_ways_do_not_share() -> None:
    @unregistered
    class OfMagnitudes(AbPC):
        def feature_values(self, attributions: Any, inputs: Tensor) -> Tensor:
            return super().feature_values(attributions, inputs).abs()

    metrics: list[Metric] = [AbPC(MODEL), OfMagnitudes(MODEL), AbPC(MODEL)]
    found = evaluate_together(metrics, X, 1, MAPS)
    expected = [AbPC(MODEL).evaluate(X, 1, each) for each in (MAPS, MAPS.abs(), MAPS)]
    for mine, alone in zip(found, expected, strict=True):
        assert torch.equal(mine, alone)
    assert not torch.equal(*expected[:2])


def test_answers_about_another_named_target_are_refused() -> None:
    net, x = seeded(nn.Sequential(nn.Flatten(), nn.Linear(12, 4))), batch(3, 3, 2, 2)
    maps = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    metric, classes = AbPC(net), torch.tensor([0, 1, 2])
    about = ClassScore(classes)
    known = metric.answers(x, about)
    assert torch.equal(metric.evaluate(x, about, maps, known), metric.evaluate(x, about, maps))
    rows = [2, 0]
    some = {name: each[rows] for name, each in known.items()}
    torch.testing.assert_close(
        metric.evaluate(x[rows], ClassScore(classes[rows]), maps[rows], some), metric.evaluate(x, about, maps)[rows]
    )
    for other in (ClassScore(torch.tensor([0, 1, 3])), ClassScore(classes, score="probability"), classes, 1, None):
        with pytest.raises(TargetError, match="answers about"):
            metric.evaluate(x, other, maps, known)
    with pytest.raises(TargetError, match="answers about"):
        metric.evaluate(x, about, maps, metric.answers(x, classes))
    still_open = metric.answers(x, ClassScore())
    assert torch.equal(metric.evaluate(x, ClassScore(), maps, still_open), metric.evaluate(x, ClassScore(), maps))
