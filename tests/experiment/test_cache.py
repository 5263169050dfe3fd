from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.baselines import Zeros
from pnpxai.explainers import Explainer, Gradient, IntegratedGradients, Occlusion, SmoothGrad
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, TokenIds, Tokens, count_forwards
from pnpxai.metrics import AbPC, Complexity, MoRF, RelevanceMass, Sensitivity
from pnpxai.postprocess import PostProcessor
from pnpxai.words import Words
from tests.experiment import killed
from tests.nets import MLP, batch, seeded
from tests.registry import unregistered
from tests.targets.nets import Reader, net
from tests.tuning.processes import wait_until

INPUTS = batch(6, 6)


@unregistered
class Counting(Explainer):
    """Inputs times a factor; counts what it explains."""

    SUPPORTED_MODULES = ANY_MODULE
    explained = 0

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, factor=2.0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.factor = factor

    def explain_request(self, request: Request) -> Tensor:
        Counting.explained += len(request)
        return request.input * self.factor


def experiment(folder: Path | None, **options: Any) -> pnpxai.Experiment:
    model = options.pop("model", None) or seeded(MLP())
    explainer = Counting(model, factor=options.pop("factor", 2.0))
    given = {"explainers": [explainer], "metrics": [AbPC(model, channel_dim=None)], **options}
    return pnpxai.Experiment(model, given.pop("data", INPUTS), modality="tabular", cache_dir=folder, **given)


def explained(exp: pnpxai.Experiment) -> tuple[int, list[float]]:
    """How many maps a run makes, and its scores in the order of the samples."""
    Counting.explained = 0
    found = exp.run(progress=False)
    return Counting.explained, found.sort_values(["metric", "postprocessor", "data_id"])["score"].tolist()


def test_a_later_run_makes_nothing_again(tmp_path: Path) -> None:
    made, scores = explained(experiment(tmp_path))
    assert made == 6
    assert scores == explained(experiment(None))[1]
    later = experiment(tmp_path)
    with count_forwards() as counter:
        assert explained(later) == (0, scores)
    assert counter.n_samples == 6  # what is predicted says which sample it is
    with count_forwards() as counter:
        maps = experiment(tmp_path).explain(0)
    assert counter.n_samples == 6
    assert torch.equal(maps, INPUTS * 2)


def smaller_weights() -> dict[str, Any]:
    model = seeded(MLP())
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-6
    return {"model": model}


def another_activation() -> dict[str, Any]:
    model = seeded(MLP())
    model[1] = nn.GELU()
    return {"model": model}


def with_a_buffer() -> dict[str, Any]:
    model = seeded(MLP())
    model.register_buffer("note", torch.ones(1))
    return {"model": model}


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "weights": smaller_weights,
    "activation": another_activation,
    "buffer": with_a_buffer,
    "parameter": lambda: {"factor": 2.5},
    "data": lambda: {"data": INPUTS + 1e-5},
    "targets": lambda: {"target_extractor": lambda outputs: outputs.argmin(-1)},
    "extractor": lambda: {"input_extractor": lambda inputs: inputs * 2},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_changed_does_not_meet_old_results(other: str, tmp_path: Path) -> None:
    _, old = explained(experiment(tmp_path))
    made, scores = explained(experiment(tmp_path, **OTHERS[other]()))
    assert made == 6
    assert scores == explained(experiment(None, **OTHERS[other]()))[1]
    assert scores != old or other in ("buffer", "parameter")
    assert explained(experiment(tmp_path)) == (0, old)


def test_weights_that_change_under_an_experiment_are_seen(tmp_path: Path) -> None:
    exp = experiment(tmp_path)
    _, old = explained(exp)
    with torch.no_grad():
        for each in exp.model.parameters():
            each.mul_(-1)
    made, scores = explained(exp)
    assert made == 6
    assert scores == explained(experiment(None, model=exp.model))[1]
    assert scores != old


def test_other_metrics_and_post_processors_need_no_other_maps(tmp_path: Path) -> None:
    explained(experiment(tmp_path))
    for changed in (
        lambda model: {"metrics": [AbPC(model, channel_dim=None, n_steps=3)]},
        lambda model: {"metrics": [AbPC(model, channel_dim=None, baseline_fn="mean"), MoRF(model, channel_dim=None)]},
        lambda model: {"postprocessors": [PostProcessor("sum", "min_max", None)], "metrics": [Complexity(model)]},
    ):
        model = seeded(MLP())
        made, scores = explained(experiment(tmp_path, model=model, **changed(model)))
        assert made == 0
        assert scores == explained(experiment(None, model=model, **changed(model)))[1]


def test_a_metric_that_is_added_is_asked_alone(tmp_path: Path) -> None:
    model = seeded(MLP())
    explained(experiment(tmp_path, model=model))
    both = [AbPC(model, channel_dim=None), AbPC(model, channel_dim=None, n_steps=2)]
    with count_forwards() as counter:
        made, scores = explained(experiment(tmp_path, model=model, metrics=both))
    assert made == 0
    predicted, ends, between = 1, 2, 2
    assert counter.n_samples == 6 * (2 * predicted + ends + between)
    assert len(scores) == 12


def test_samples_are_known_by_their_content(tmp_path: Path) -> None:
    _, scores = explained(experiment(tmp_path, batch_size=4))
    order = [4, 2, 0]
    made, found = explained(experiment(tmp_path, data=INPUTS[order], batch_size=2))
    assert made == 0
    assert found == [scores[i] for i in order]
    more = torch.cat([batch(1, 6, seed=9), INPUTS])
    assert explained(experiment(tmp_path, data=more))[0] == 1
    Counting.explained = 0
    experiment(tmp_path, data=torch.cat([batch(1, 6, seed=10), INPUTS])).explain(0)
    assert Counting.explained == 1


@unregistered
class OfOutputs(Counting):
    OUTPUTS_ONLY = True

    def explain_request(self, request: Request) -> Tensor:
        return super().explain_request(request) * request.outputs.sum(1, keepdim=True)


def test_functions_are_known_by_their_answers(tmp_path: Path) -> None:
    net = seeded(MLP())

    def scored(folder: Path | None, factor: float) -> tuple[int, list[float]]:
        def model(inputs: Tensor) -> Tensor:
            return net(inputs) * factor

        metrics = [AbPC(model, channel_dim=None)]
        return explained(experiment(folder, model=model, explainers=[OfOutputs(model)], metrics=metrics))

    made, scores = scored(tmp_path, 1.0)
    assert made == 6
    assert scored(tmp_path, 1.0) == (0, scores)
    assert scored(tmp_path, -1.0) == (6, scored(None, -1.0)[1])


def test_what_belongs_to_a_sample_is_part_of_its_name(tmp_path: Path) -> None:
    def scored(order: list[int], folder: Path | None) -> tuple[int, list[float]]:
        model = seeded(MLP())
        regions = torch.eye(6)[order] > 0
        return explained(
            experiment(
                folder, model=model, data=INPUTS, metrics=[RelevanceMass(model, regions=regions, channel_dim=None)]
            )
        )

    forwards, backwards = list(range(6)), list(range(6))[::-1]
    _, first = scored(forwards, tmp_path)
    made, second = scored(backwards, tmp_path)
    assert made == 0
    assert second == scored(backwards, None)[1]
    assert first == scored(forwards, tmp_path)[1]
    assert first != second


def test_sensitivity_is_that_of_the_explainer_and_its_post_processing(tmp_path: Path) -> None:
    model = seeded(MLP())

    def scored(folder: Path | None, n_samples: int) -> list[float]:
        exp = experiment(
            folder,
            model=model,
            explainers=[SmoothGrad(model, n_samples=n_samples)],
            metrics=[Sensitivity(model, channel_dim=None)],
        )
        return explained(exp)[1]

    assert scored(tmp_path, 3) == scored(None, 3)
    assert scored(tmp_path, 5) == scored(None, 5)
    assert scored(tmp_path, 3) == scored(None, 3) != scored(None, 5)


def test_functions_cannot_be_told_apart_and_are_kept_nowhere(tmp_path: Path) -> None:
    model = seeded(MLP())
    explainer = IntegratedGradients(model, n_steps=2, baseline_fn=lambda inputs: inputs * 0)
    experiment(tmp_path, model=model, explainers=[explainer]).run(progress=False)
    assert not list(tmp_path.rglob("*.*"))
    role = IntegratedGradients(model, n_steps=2, baseline_fn=Zeros())
    metric = AbPC(model, channel_dim=None, baseline_fn=lambda inputs: inputs * 0)
    experiment(tmp_path, model=model, explainers=[role], metrics=[metric]).run(progress=False)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6
    assert not list(tmp_path.rglob("*.jsonl"))


@unregistered
class Flaky(Explainer):
    """Fails on everything until it is mended."""

    SUPPORTED_MODULES = ANY_MODULE
    broken = True

    def explain_request(self, request: Request) -> Tensor:
        if Flaky.broken:
            raise MemoryError("not now")
        return request.input


def test_failures_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = experiment(tmp_path, explainers=[Flaky]).run(progress=False)
    assert (failed["failure"] == "not now").all()
    monkeypatch.setattr(Flaky, "broken", False)
    again = experiment(tmp_path, explainers=[Flaky]).run(progress=False)
    assert (again["failure"] == "").all()


def test_a_file_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    _, scores = explained(experiment(tmp_path))
    (lines,) = tmp_path.rglob("*.jsonl")
    text = lines.read_bytes()
    lines.write_bytes(text[: len(text) - len(text.splitlines()[-1]) // 2])
    assert explained(experiment(tmp_path)) == (0, scores)
    assert len(lines.read_text().splitlines()) == 7  # six, and what was cut off
    assert explained(experiment(tmp_path)) == (0, scores)
    for each in tmp_path.rglob("*.safetensors"):
        each.write_bytes(each.read_bytes()[:20])
    assert torch.equal(experiment(tmp_path).explain(0), INPUTS * 2)
    assert Counting.explained == 6


def test_what_an_earlier_run_has_done_is_not_left(tmp_path: Path) -> None:
    experiment(tmp_path).run([0, 1], progress=False)
    assert experiment(tmp_path).estimate()["n"].tolist() == [4, 4, 4]
    experiment(tmp_path).explain(0, [2])
    assert experiment(tmp_path).estimate()["n"].tolist() == [4, 3, 4]


def test_extractors_are_known_by_what_they_take(tmp_path: Path) -> None:
    def scored(extractor: Callable[[Any], Any]) -> int:
        model = seeded(MLP())
        exp = experiment(
            tmp_path,
            model=model,
            forward_arg_extractor=extractor,
            explainers=[Counting(model, extractor)],
            metrics=[AbPC(model, forward_arg_extractor=extractor, channel_dim=None)],
        )
        return explained(exp)[0]

    assert scored(lambda inputs: inputs) == 6
    assert scored(lambda given: given * 1) == 0
    assert scored(lambda inputs: inputs * 2) == 6


def test_special_tokens_are_part_of_a_sample(tmp_path: Path) -> None:
    net = seeded(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)))
    ids = torch.tensor([[1, 5, 2], [1, 7, 2]])
    maps = [
        pnpxai.Experiment(
            net, ids, explainers=["Gradient"], forward_arg_extractor=TokenIds(special), cache_dir=tmp_path
        ).explain(0)
        for special in ((1,), (2,), (1,))
    ]
    assert [(each.abs().sum((0, 1)) == 0).tolist() for each in maps] == [
        [True, False, False],
        [False, False, True],
        [True, False, False],
    ]
    assert torch.equal(maps[0], maps[2])


def test_memory_is_bounded_where_there_is_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = experiment(tmp_path, batch_size=2)
    exp.run(progress=False)
    maps = exp._maps()
    maps.kept.max_bytes = 2 * 6 * 4
    maps.kept.shrink()
    Counting.explained = 0
    assert torch.equal(exp.explain(0), INPUTS * 2)
    assert Counting.explained == 0
    assert maps.kept._bytes <= 2 * 6 * 4


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    code = f"from tests.experiment import killed; killed.experiment({str(tmp_path)!r}).run(progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: len(list(tmp_path.rglob("*.safetensors"))) >= 7)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = sum(len(each.read_text().splitlines()) for each in tmp_path.rglob("*.jsonl"))
    assert 4 <= done < 4 * 12
    judged = 2 * (done // 4)  # two samples by two metrics, one after the other: it may have been killed between them
    exp = killed.experiment(tmp_path)
    left = exp.estimate()
    assert left[left["step"] == "scores"]["n"].sum() == 2 * 12 - judged
    with count_forwards() as counter:
        found = exp.run(progress=False)
    expected = killed.experiment(None).run(progress=False)
    order = ["explainer", "metric", "data_id"]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True)
    )
    whole, recognised, between = 12 * (1 + 2 + 2 * (1 + 10)), 12, 10
    assert counter.n_samples <= whole + recognised - between * judged


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment(None, explainers=["Gradient"], metrics=[AbPC]).run(progress=False)
    assert not list(tmp_path.iterdir())


def test_gradients_of_one_explainer_and_another_are_two(tmp_path: Path) -> None:
    model = seeded(MLP())
    exp = experiment(tmp_path, model=model, explainers=[Gradient(model), Counting(model)])
    assert not torch.equal(exp.explain(0), exp.explain(1))
    again = experiment(tmp_path, model=model, explainers=[Counting(model), Gradient(model)])
    assert torch.equal(again.explain("Gradient"), exp.explain("Gradient"))
    assert torch.equal(again.explain("Counting"), exp.explain("Counting"))


def test_the_words_of_tokens_are_part_of_a_sample(tmp_path: Path) -> None:
    model, ids = net(Reader), torch.tensor([[3, 4, 5, 6], [7, 3, 9, 2]])
    for words in ([0, 0, 1, 1], [0, 1, 1, 2]):

        def tokens(ids: Tensor, words: list[int] = words) -> Tokens:
            return Tokens(ids, words=torch.tensor(words).expand(len(ids), -1))

        experiment = pnpxai.Experiment(
            model,
            ids,
            explainers=[Occlusion(model, tokens, feature_mask_fn=Words())],
            metrics=["Complexity"],
            forward_arg_extractor=tokens,
            cache_dir=tmp_path,
        )
        experiment.run(progress=False)
        own = Occlusion(model, tokens, feature_mask_fn=Words()).attribute(ids, model(ids).argmax(1))
        torch.testing.assert_close(experiment.explain("Occlusion"), own)
