from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from torch import Tensor, nn

import pnpxai
from pnpxai.errors import ParameterError, StudyError, UnknownNameError
from pnpxai.explainers import EXPLAINERS, Explainer, Gradient, GradientXInput, SmoothGrad
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request
from pnpxai.metrics import AbPC, Complexity, MoRF
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._split import split
from tests.nets import MLP, VGGLike, batch, seeded
from tests.registry import unregistered


@unregistered
class Mixed(Explainer):
    """The exact attribution of a linear model, spoilt by ``1 - share`` of its reverse: best at share 1."""

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"share": FloatDistribution(0.0, 1.0)}

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, share=0.3):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.share = share

    def explain_request(self, request: Request) -> Tensor:
        exact = request.input * self.model.weight[request.targets]
        return self.share * exact + (1 - self.share) * exact.flip(1)


@unregistered
class Failing(Explainer):
    """Fails, or returns NaN."""

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"level": FloatDistribution(0.0, 1.0)}

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, level=0.2):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.level = level

    def explain_request(self, request: Request) -> Tensor:
        if self.level > 0.5:
            raise ZeroDivisionError("the level is too high")
        return request.input / 0.0 * self.level


def linear() -> nn.Module:
    return seeded(nn.Linear(6, 3))


def tuned(model: nn.Module, inputs: Tensor, **options):
    return pnpxai.tune(model, inputs, progress=False, **options)


def test_finds_the_known_best_and_confirms_it_on_unseen_samples() -> None:
    result = tuned(linear(), batch(40, 6), explainers=[Mixed, "Gradient"], n_trials=25, metric="abpc")
    winner = result.winner
    assert winner.name == "Mixed"
    assert result.explainer.share > 0.6
    assert result.holdout.confirmed
    assert result.explainer == winner.tuned.explainer
    assert set(result.tuning_index).isdisjoint(result.holdout_index)
    assert len(result.tuning_index) == len(result.holdout_index) == 20


def test_scores_are_those_of_the_metric() -> None:
    model, inputs = linear(), batch(12, 6)
    result = tuned(model, inputs, explainers=[Mixed, Gradient], n_trials=6)
    metric = AbPC(model, channel_dim=None)
    targets = model(inputs).argmax(1)
    for entry in result.entries:
        for configuration in (entry.default, entry.tuned):
            for index, scores in (
                (result.tuning_index, configuration.tuning_scores),
                (result.holdout_index, configuration.holdout_scores),
            ):
                rows = list(index)
                maps = configuration.maps(inputs[rows], targets[rows])
                assert scores == pytest.approx(metric.evaluate(inputs[rows], targets[rows], maps).tolist(), abs=1e-6)
    gains = np.subtract(result.winner.tuned.holdout_scores, result.winner.default.holdout_scores)
    assert result.holdout.mean == pytest.approx(gains.mean())
    row = result.leaderboard.iloc[0]
    assert row["tuned_score"] == pytest.approx(np.mean(result.winner.tuned.holdout_scores))
    assert row["explainer"] == result.winner.name


def test_default_comes_first_and_is_kept_where_nothing_is_better() -> None:
    result = tuned(linear(), batch(16, 6), explainers=["GradientXInput"], n_trials=4)
    assert result.study.trials[0].user_attrs["default"] is True
    assert result.winner.tuned is result.winner.default
    assert result.explainer == GradientXInput(result.explainer.model)
    assert "default settings" in result.verdict


def test_unconfirmed_gain_recommends_the_default() -> None:
    result = tuned(linear(), batch(8, 6), explainers=[Mixed], n_trials=12, holdout=4)
    assert result.winner.tuned is not result.winner.default
    assert result.holdout.mean > 0
    assert not result.holdout.confirmed
    assert result.explainer == result.winner.default.explainer
    assert "not confirmed" in result.verdict
    assert any("cannot confirm" in each for each in result.caveats)


def test_same_seed_same_study_and_other_seed_another() -> None:
    model, inputs = linear(), batch(12, 6)
    first, again, other = (
        [
            trial.params
            for trial in tuned(model, inputs, explainers=[Mixed, Gradient], n_trials=14, seed=seed).study.trials
        ]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_failures_are_recorded_and_the_study_goes_on() -> None:
    result = tuned(linear(), batch(12, 6), explainers=[Failing, Mixed], n_trials=16)
    failed = [trial for trial in result.study.trials if trial.state == TrialState.FAIL]
    assert len(result.study.trials) == 16
    assert {trial.params["explainer"] for trial in failed} == {"Failing"}
    assert all(trial.user_attrs["failure"] for trial in failed)
    assert "finite map" in result.failed["Failing"]
    assert [entry.name for entry in result.entries] == ["Mixed"]
    assert "finite map" in result.leaderboard.set_index("explainer").loc["Failing", "failure"]


def test_nothing_that_works_is_an_error() -> None:
    with pytest.raises(StudyError, match="Failing: "):
        tuned(linear(), batch(6, 6), explainers=[Failing], n_trials=2)


def test_every_order_is_scored_on_one_explanation() -> None:
    """Of each image: an explanation, the clean and the baseline's score, and 18 points of each pooling's two curves."""
    model, inputs = seeded(VGGLike()), batch(4, 3, 16, 16)
    options = {"n_trials": 1, "holdout": 0, "aims": ()}
    cheap = tuned(model, inputs, explainers=[Gradient], **options)
    dear = tuned(model, inputs, explainers=[SmoothGrad(model, n_samples=5)], **options)
    assert cheap.study.trials[0].user_attrs["n_forwards"] == 4 * (1 + 2 + 5 * 18)
    assert dear.study.trials[0].user_attrs["n_forwards"] == 4 * (5 + 2 + 5 * 18)


def test_orders_that_cannot_differ_are_scored_once() -> None:
    """GradCam's maps have one channel and are not negative: every pooling keeps them. It asks once for its layer."""
    model, inputs = seeded(VGGLike()), batch(4, 3, 16, 16)
    result = tuned(model, inputs, explainers=["GradCam"], n_trials=1, holdout=0, aims=())
    assert result.search_forwards == 1 + 4 * (1 + 2 + 18)


def test_the_best_postprocessing_is_found_on_the_map() -> None:
    model, inputs = seeded(VGGLike()), batch(12, 3, 16, 16)
    result = tuned(model, inputs, explainers=[Gradient], n_trials=1, holdout=4, pruner=None)
    rows = list(result.tuning_index)
    targets = model(inputs).argmax(1)
    maps = Gradient(model).attribute(inputs[rows], targets[rows])
    scores = {
        name: AbPC(model).evaluate(inputs[rows], targets[rows], PostProcessor(name)(maps)).mean().item()
        for name in ("sum", "sum_abs", "max_abs", "l2", "positive")
    }
    best = max(scores, key=lambda name: scores[name])
    assert result.winner.tuned.params["postprocessor.pooling_fn"] == best
    assert result.winner.tuned.estimate == pytest.approx(scores[best])
    assert result.winner.default.estimate == pytest.approx(scores["sum"])
    assert result.study.trials[0].params["postprocessor.pooling_fn"] == best


def test_normalisation_is_searched_only_where_it_can_matter() -> None:
    model, inputs = seeded(VGGLike()), batch(3, 3, 16, 16)
    by_order = tuned(model, inputs, explainers=[Gradient], n_trials=1)
    by_value = tuned(model, inputs, explainers=[Gradient], metric="Complexity", n_trials=1)
    assert "postprocessor.normalization_fn" not in by_order.study.trials[0].params
    assert "postprocessor.normalization_fn" in by_value.study.trials[0].params


def test_lower_is_better_is_minimised() -> None:
    model, inputs = linear(), batch(30, 6)
    result = tuned(model, inputs, explainers=[Mixed], metric=MoRF, n_trials=20)
    assert result.study.direction == optuna.study.StudyDirection.MINIMIZE
    assert result.explainer.share > 0.6
    assert result.score < result.default_score


def test_the_race_stops_losers_and_returns_an_estimate() -> None:
    model, inputs = linear(), batch(64, 6)
    options = {"explainers": [Mixed(model, share=0.9)], "n_trials": 12, "holdout": 0, "sampler": "random"}
    raced, full = tuned(model, inputs, **options), tuned(model, inputs, pruner=None, **options)
    stopped = [trial for trial in raced.study.trials if len(trial.user_attrs["scores"]) < 64]
    assert stopped
    assert all(len(trial.user_attrs["scores"]) == 64 for trial in full.study.trials)
    assert raced.n_forwards < full.n_forwards
    assert raced.winner.tuned.params == full.winner.tuned.params
    trial = stopped[0]
    seen = len(trial.user_attrs["scores"])
    incumbents = [each for each in raced.study.trials[: trial.number] if len(each.user_attrs["scores"]) == 64]
    incumbent = max(incumbents, key=lambda each: np.mean(each.user_attrs["scores"])).user_attrs["scores"]
    expected = np.mean(incumbent) + np.mean(trial.user_attrs["scores"]) - np.mean(incumbent[:seen])
    assert trial.value == pytest.approx(expected)


def test_the_tuned_explainer_is_on_the_users_model_which_is_untouched() -> None:
    model, inputs = seeded(VGGLike()).train(), batch(6, 3, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    copied = inputs.clone()
    result = tuned(model, inputs, explainers=["Gradient", "SmoothGrad"], n_trials=4)
    assert result.explainer.model is model
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, copied)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_one_sample_has_no_holdout_and_says_so() -> None:
    result = tuned(linear(), batch(1, 6), explainers=[Mixed], n_trials=3)
    assert result.holdout is None
    assert any("no hold-out" in each for each in result.caveats)


@pytest.mark.parametrize("n", [2, 3, 8, 33])
@pytest.mark.parametrize("holdout", [0, 1, 0.25, 0.5])
def test_split_is_disjoint_complete_and_spread_over_classes(n: int, holdout: float) -> None:
    targets = torch.arange(n) % 2
    tuning, unseen = split(n, holdout, targets, seed=3)
    assert sorted(tuning + unseen) == list(range(n))
    assert len(unseen) == (int(n * holdout) if isinstance(holdout, float) else holdout)
    if len(unseen) >= 4:
        counts = torch.bincount(targets[unseen], minlength=2)
        assert (counts - len(unseen) / 2).abs().max() <= 1


def test_result_is_kept_without_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPLAINERS, "Mixed", Mixed)
    model, inputs = linear(), batch(12, 6)
    result = tuned(model, inputs, explainers=[Mixed, "SmoothGrad"], n_trials=8)
    folder = result.save(tmp_path / "kept")
    assert sorted(each.suffix for each in folder.iterdir()) == [".json", ".safetensors"]
    json.loads((folder / "result.json").read_text(encoding="utf-8"))
    loaded = pnpxai.TuneResult.load(folder, model)
    assert loaded.leaderboard.equals(result.leaderboard)
    assert loaded.verdict == result.verdict
    assert loaded.explainer == result.explainer
    assert loaded.explainer.model is model
    assert torch.equal(loaded.inputs, inputs)
    assert torch.equal(loaded.explainer.attribute(inputs), result.explainer.attribute(inputs))
    with pytest.raises(StudyError, match="other weights"):
        pnpxai.TuneResult.load(folder, seeded(nn.Linear(6, 3), seed=1))
    assert torch.equal(result.explain(inputs), result.recommended.maps(inputs))
    with pytest.raises(StudyError, match="Save"):
        pnpxai.TuneResult.load(tmp_path / "nowhere", model)


def test_stored_study_goes_on_and_refuses_other_data(tmp_path: Path) -> None:
    model, inputs = linear(), batch(12, 6)
    storage = f"sqlite:///{tmp_path}/study.db"
    first = tuned(model, inputs, explainers=[Mixed], n_trials=4, storage=storage, study_name="s").study.trials
    second = tuned(model, inputs, explainers=[Mixed], n_trials=9, storage=storage, study_name="s")
    assert len(second.study.trials) == 9
    assert [each.params for each in second.study.trials[:4]] == [each.params for each in first]
    with pytest.raises(StudyError, match="inputs"):
        tuned(model, inputs + 1, explainers=[Mixed], n_trials=9, storage=storage, study_name="s")
    with pytest.raises(StudyError, match="metric"):
        tuned(model, inputs, explainers=[Mixed], metric="lerf", n_trials=9, storage=storage, study_name="s")
    with pytest.raises(StudyError, match="minimize"):
        tuned(model, inputs, explainers=[Mixed], metric="morf", n_trials=9, storage=storage, study_name="s")


KILLED = """
    import sys, time
    import torch
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    import pnpxai
    from pnpxai.explainers import Gradient
    from tests.nets import MLP, batch, seeded

    class Slow(Gradient):
        SUPPORTED_MODULES = Gradient.SUPPORTED_MODULES
        def explain_request(self, request):
            time.sleep(0.15)
            return super().explain_request(request)

    torch.set_num_threads(1)
    kind, path, n_trials = sys.argv[1:]
    storage = f"sqlite:///{path}" if kind == "sqlite" else JournalStorage(JournalFileBackend(path))
    pnpxai.tune(seeded(MLP()), batch(8, 6), explainers=[Slow, "SmoothGrad"], n_trials=int(n_trials), storage=storage,
                study_name="killed", progress=False, metric="complexity")
"""


@pytest.mark.parametrize("kind", ["sqlite"])
def test_killed_study_resumes_with_every_finished_trial(tmp_path: Path, kind: str) -> None:
    script, path = tmp_path / "study.py", tmp_path / "study.store"
    script.write_text(textwrap.dedent(KILLED), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def finished() -> dict[int, dict]:
        backend = optuna.storages.journal.JournalFileBackend
        storage = f"sqlite:///{path}" if kind == "sqlite" else optuna.storages.JournalStorage(backend(str(path)))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.load_study(study_name="killed", storage=storage)
        trials = study.get_trials()
        return {each.number: each for each in trials if each.state == TrialState.COMPLETE}

    def count_finished() -> int:
        """Read only: opening a storage by Optuna would create it, at the same time as the other process."""
        if kind == "journal":
            return path.read_text(encoding="utf-8").count('"state":1')
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]

    process = subprocess.Popen([sys.executable, str(script), kind, str(path), "300"], env=environment)
    try:
        deadline = time.monotonic() + 90
        n_done = 0
        while n_done < 5 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
            with contextlib.suppress(OSError, sqlite3.Error):  # the other process is still creating its storage
                n_done = count_finished()
        assert process.poll() is None, "the study ended before it could be killed"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    before = finished()
    assert 5 <= len(before) < 300
    goal = len(before) + 4
    subprocess.run([sys.executable, str(script), kind, str(path), str(goal)], env=environment, check=True, timeout=120)
    after = finished()
    assert len(after) == goal
    for number, trial in before.items():
        assert after[number].params == trial.params
        assert after[number].user_attrs["scores"] == trial.user_attrs["scores"]


def test_a_default_that_was_running_when_killed_is_asked_again(tmp_path: Path) -> None:
    model, inputs = linear(), batch(8, 6)
    storage = f"sqlite:///{tmp_path}/study.db"
    options = {"explainers": [Mixed, Gradient], "storage": storage, "study_name": "s"}
    tuned(model, inputs, n_trials=1, **options)
    study = optuna.load_study(study_name="s", storage=storage)
    stuck = study.ask()
    assert stuck.user_attrs["default"]
    script = "from pnpxai.tuning._claims import worker_name; print(worker_name())"
    gone = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    stuck.set_user_attr("worker", gone)
    result = tuned(model, inputs, n_trials=4, **options)
    assert result.study.trials[stuck.number].user_attrs["failure"] == "interrupted"
    defaults = [each for each in result.study.trials if each.user_attrs.get("default") and each.value is not None]
    assert sorted(each.params["explainer"] for each in defaults) == ["Gradient", "Mixed"]
    assert sum(each.state == TrialState.COMPLETE for each in result.study.trials) == 4


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"holdout": 6}, ParameterError, "holdout"),
        ({"holdout": 1.0}, ParameterError, "holdout"),
        ({"holdout": -1}, ParameterError, "holdout"),
        ({"n_trials": 0}, ParameterError, "n_trials"),
        ({"timeout": 0}, ParameterError, "timeout"),
        ({"timeout": "1 h"}, ParameterError, "timeout"),
        ({"seed": -1}, ParameterError, "seed"),
        ({"seed": None}, ParameterError, "seed"),
        ({"postprocessor": "sum"}, ParameterError, "PostProcessor"),
        ({"storage": "study.db"}, StudyError, "sqlite:///"),
        ({"storage": 3}, StudyError, "sqlite:///"),
        ({"workers": 0}, ParameterError, "workers"),
        ({"workers": 2, "storage": optuna.storages.InMemoryStorage()}, ParameterError, "journal"),
        ({"sampler": "gp", "explainers": [Mixed, Gradient]}, ParameterError, "one explainer"),
        ({"sampler": "tp"}, UnknownNameError, "gp, grid, random, tpe"),
        ({"pruner": "median"}, UnknownNameError, "wilcoxon"),
        ({"metric": "abcp"}, UnknownNameError, "Did you mean 'AbPC'"),
        ({"explainers": ["Gradeint"]}, UnknownNameError, "Did you mean 'Gradient'"),
        ({"modality": "images"}, UnknownNameError, "image"),
        ({"explainers": [Gradient(MLP())]}, ParameterError, "another model"),
        ({"metric": AbPC(MLP())}, ParameterError, "another model"),
        ({"explainers": []}, StudyError, "explainer"),
    ],
)
def test_bad_arguments(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tuned(linear(), batch(6, 6), **{"explainers": [Mixed], "n_trials": 1, **options})


def test_a_metric_that_explains_again_has_no_controls() -> None:
    result = tuned(linear(), batch(4, 6), explainers=["SmoothGrad"], metric="sensitivity", n_trials=2)
    assert dict(result.controls) == {}
    assert result.score >= 0


def test_controls_are_scored_by_the_metric() -> None:
    model, inputs = linear(), batch(6, 6)
    result = tuned(model, inputs, explainers=[Mixed], metric=Complexity, n_trials=1, holdout=2)
    assert set(result.controls) == {"random", "edge", "centre"}
    assert all(len(scores) == 2 for scores in result.controls.values())


@pytest.mark.parametrize("share", [0.0, 3.0, -2.0])
def test_the_default_is_what_the_user_gave_also_outside_the_declared_range(share: float) -> None:
    model = linear()
    result = tuned(model, batch(12, 6), explainers=[Mixed(model, share=share)], n_trials=6)
    assert result.study.trials[0].state == TrialState.COMPLETE
    assert result.winner.default.explainer == Mixed(model, share=share)
    assert result.winner.failures == ()


@unregistered
class FailsAsGiven(Mixed):
    """Fails at its default only."""

    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        if self.share == 0.3:
            raise ZeroDivisionError("not at the default")
        return super().explain_request(request)


def test_a_default_that_fails_is_not_replaced_by_another_configuration() -> None:
    result = tuned(linear(), batch(16, 6), explainers=[FailsAsGiven], n_trials=5)
    entry = result.winner
    assert entry.default.explainer.share == 0.3
    assert entry.default.tuning_scores == entry.default.holdout_scores == ()
    assert entry.gain is None
    assert entry.recommended is entry.tuned
    assert entry.tuned.explainer.share != 0.3
    assert np.isnan(result.default_score)
    assert "its default settings failed" in result.verdict
    assert "not at the default" in entry.failures[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"postprocessor": PostProcessor("sum_abs")}, "the postprocessor that"),
        ({"model": seeded(nn.Linear(6, 3), seed=5)}, "the model"),
    ],
)
def test_a_stored_study_refuses_another_model_or_postprocessor(tmp_path: Path, change: dict, words: str) -> None:
    stored = {"storage": f"sqlite:///{tmp_path}/study.db", "study_name": "s", "explainers": [Mixed], "targets": 1}
    call = {"model": linear(), "inputs": batch(8, 6), **stored}
    tuned(**call, n_trials=2)
    with pytest.raises(StudyError, match=words):
        tuned(**{**call, **change}, n_trials=3)


@unregistered
class Interrupted(Mixed):
    """The user presses Ctrl-C at its default."""

    SUPPORTED_MODULES = ANY_MODULE
    pressed = True

    def explain_request(self, request: Request) -> Tensor:
        if Interrupted.pressed and self.share == 0.3:
            raise KeyboardInterrupt
        return super().explain_request(request)


def test_a_default_interrupted_by_the_user_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = linear(), batch(8, 6)
    call = {"explainers": [Gradient, Interrupted], "n_trials": 5, "storage": f"sqlite:///{tmp_path}/study.db"}
    with pytest.raises(KeyboardInterrupt):
        tuned(model, inputs, **call)
    monkeypatch.setattr(Interrupted, "pressed", False)
    result = tuned(model, inputs, **call)
    finished = [each for each in result.study.trials if each.state == TrialState.COMPLETE]
    assert len(finished) == 5
    entry = next(each for each in result.entries if each.name == "Interrupted")
    assert len(entry.default.tuning_scores) == 4
    assert entry.default.explainer.share == 0.3
