"""Models that are no torch modules: functions, methods, partials and objects that answer a batch."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn

import pnpxai
from pnpxai import chunks
from pnpxai.callables import model_name, modules_in, same_model
from pnpxai.chunks import chunk_size_for
from pnpxai.errors import ModelError, ParameterError, StudyError, UnsupportedModelError
from pnpxai.explainers import EXPLAINERS, RELAX, RISE, Explainer, GradCam, RankEnsemble, attribute_together
from pnpxai.forward import Request, count_forwards
from pnpxai.metrics import METRICS, AbPC, MoRF, evaluate_together, metric_for
from pnpxai.modules import detect_model_architecture
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._identity import model_digest
from tests.harm import untouched
from tests.metrics.cases import Wild, build
from tests.nets import BatchNormNet, Opaque, batch, opaque, seeded

N_FEATURES = 5
OUTPUTS_ONLY = {name for name, each in EXPLAINERS.items() if each.OUTPUTS_ONLY}


def planted(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Five independent features in float64, of which the third alone decides the class."""
    x = np.random.default_rng(0).normal(size=(n, N_FEATURES))
    return x, (x[:, 2] > 0.5).astype(int)


@functools.cache
def classifier(kind: str, seed: int = 0) -> Any:
    ensemble = pytest.importorskip("sklearn.ensemble")
    linear = pytest.importorskip("sklearn.linear_model")
    made = {
        "forest": lambda: ensemble.RandomForestClassifier(20, random_state=seed),
        "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=10, random_state=seed),
        "logistic": lambda: linear.LogisticRegression(),
    }[kind]()
    return made.fit(*planted())


def function_of(kind: str, seed: int = 0) -> Callable[[Tensor], Tensor]:
    fitted = classifier(kind, seed)
    return lambda x: torch.from_numpy(fitted.predict_proba(x.numpy()))


def inputs(n: int = 6) -> Tensor:
    """Samples that are of the other class where their third feature is taken away."""
    x = torch.from_numpy(planted(n)[0])
    x[:, 2] = 1 + x[:, 2].abs()
    return x


class Scaled:
    """An object that answers, of a kind that can be sent to other processes but neither hashed nor referred to."""

    __slots__ = ("weights",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def __eq__(self, other: object) -> Any:
        return isinstance(other, Scaled) and self.weights == other.weights  # an array

    def __call__(self, x: Tensor) -> np.ndarray:
        return 1 / (1 + np.exp(-x.numpy() @ self.weights))

    def answer(self, x: Tensor) -> np.ndarray:
        return self(x)


def scaled(factor: float = 1.0) -> Scaled:
    return Scaled(factor * np.array([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0], [0.0, 0.0], [0.1, 0.0]]))


def answer(weights: np.ndarray, x: Tensor) -> np.ndarray:
    return Scaled(weights)(x)


@pytest.mark.parametrize("kind", ["forest", "boosting"])
def test_the_feature_that_decides_is_found(kind: str) -> None:
    x, model = inputs(), function_of(kind)
    with untouched(None, x):
        maps = RISE(model, n_masks=256).attribute(x)
    assert maps.dtype == torch.float64
    assert maps.argmax(1).tolist() == [2] * len(x)
    importance = RELAX(model, n_masks=256).explain(x).importance
    assert importance.argmax(1).tolist() == [2] * len(x)


def test_single_numbers_are_no_embeddings_and_similar_by_a_function_alone() -> None:
    x, model = inputs(), lambda batch: batch.numpy()[:, 2]
    with pytest.raises(ModelError, match="embedding"):
        RELAX(model, n_masks=8).attribute(x)
    near = RELAX(model, n_masks=256, similarity=lambda one, other: -(one - other)[:, 0].abs())
    assert near.attribute(x).argmax(1).tolist() == [2] * len(x)


@pytest.mark.parametrize("cls", [RISE, RELAX])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_is_explained_like_the_network_that_computes_the_same(
    cls: type[Explainer], dtype: torch.dtype
) -> None:
    fitted, x = classifier("logistic"), inputs().to(dtype)
    weights, bias = (torch.from_numpy(np.vstack([-each, each])) for each in (fitted.coef_, fitted.intercept_[:, None]))
    linear = nn.Linear(N_FEATURES, 2, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weights / 2)
        linear.bias.copy_(bias[:, 0] / 2)
    network = nn.Sequential(linear, nn.Softmax(1)).to(dtype)
    expected = cls(network, n_masks=100).attribute(x)
    assert expected.abs().max() > 0.05
    for model in (function_of("logistic"), fitted.predict_proba, Opaque(function_of("logistic"))):
        maps = cls(model, n_masks=100).attribute(x)
        assert maps.dtype == dtype
        torch.testing.assert_close(maps.double(), expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inputs_keep_their_dtype_and_values_whatever_the_function_does_to_them(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def greedy(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        answers = x[:, :2].double()
        x.numpy()[:] = 7
        return answers

    x = inputs().to(dtype)
    with untouched(None, x):
        RISE(greedy, n_masks=20).attribute(x)
        AbPC(greedy).evaluate(x, 0, x)
    assert set(seen) == {dtype}


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: x.numpy()[:, :2],
        lambda x: np.asfortranarray(x.numpy())[:, 1::-1][:, ::-1],
        lambda x: x.numpy()[:, :2].astype(">f8"),
        lambda x: x.numpy()[:, :2].astype(np.longdouble),
        lambda x: [x.numpy()[:, :2], "scores"],
        lambda x: {"labels": x.numpy()[:, 0].astype(int), "logits": x.numpy()[:, :2]},
    ],
)
def test_arrays_are_taken_for_tensors(returned: Callable[[Tensor], Any]) -> None:
    x = inputs()
    torch.testing.assert_close(Request.build(returned, x).outputs, x[:, :2])


def test_an_answer_that_is_used_again_is_copied() -> None:
    buffer = np.empty((1, 2))

    def reuses(x: Tensor) -> np.ndarray:
        buffer[:] = x[:, :2]
        return buffer

    x = inputs()
    torch.testing.assert_close(Request.build(reuses, x, chunk_size=1).outputs, x[:, :2])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x: x.numpy().argmax(1), "ndarray of shape .* int64"),
        (lambda x: None, "NoneType"),
        (lambda x: x.numpy()[:1], r"each of \d+ inputs.*\(1, 5\)"),
        (lambda x: x.numpy() * np.nan, "finite outputs"),
        (lambda x: 1 / 0, "ZeroDivisionError from <lambda>: division by zero"),
        (functools.partial(answer, np.ones(3)), "ValueError from answer: "),
    ],
)
def test_what_is_no_answer_is_said(returned: Callable[[Tensor], Any], words: str) -> None:
    for ask in (RISE(returned).attribute, functools.partial(AbPC(returned).evaluate, attributions=inputs())):
        with untouched(None), pytest.raises(ModelError, match=f"(?s){words}"):
            ask(inputs())


def test_the_random_states_stay_though_the_function_draws() -> None:
    def draws(x: Tensor) -> Tensor:
        np.random.rand(3)  # noqa: NPY002
        return x[:, :2] + torch.rand(1)

    with untouched(None):
        RISE(draws, n_masks=20).attribute(inputs())
        MoRF(draws).evaluate(inputs(), 0, inputs())


def test_a_network_that_a_function_names_is_asked_in_eval_mode_and_left_alone() -> None:
    net, x = seeded(BatchNormNet()).train(), batch(2, 3, 8, 8)

    class Holder:
        def __init__(self) -> None:
            self.net = net

        def __call__(self, x: Tensor) -> Tensor:
            assert not self.net.training
            return self.net(x)

    holder = Holder()
    for model in (lambda x: net(x), holder, holder.__call__, net.forward, functools.partial(net)):
        assert modules_in(model) == [net]
        with untouched(net, x):
            RISE(model, n_masks=4).attribute(x)
        assert net.calls == 0
    assert modules_in(opaque(net)) == modules_in(len) == modules_in(None) == []


def test_names_say_which_function_it_is() -> None:
    models: Sequence[Any] = (scaled(), scaled().answer, answer, functools.partial(answer, 1), nn.Flatten(), np.exp)
    names = ["Scaled", "Scaled.answer", "answer", "answer", "Flatten", "ufunc"]
    assert list(map(model_name, models)) == names


def test_a_method_looked_up_again_is_the_same_model() -> None:
    model, other = scaled(), scaled()
    assert same_model(model.answer, model.answer)
    assert not same_model(model, other)
    x, first = inputs(), RISE(model.answer, n_masks=20)
    assert RISE(model.answer, n_masks=20) == first
    assert RISE(model, n_masks=20) != RISE(other, n_masks=20)
    assert hash(RISE(model)) == hash(RISE(model).copy())
    assert repr(first) == "RISE(n_masks=20)"
    assert metric_for(AbPC(model.answer), model.answer).model == model.answer
    assert len(attribute_together([first, RELAX(model.answer, n_masks=20)], x)) == 2
    assert len(evaluate_together([AbPC(model.answer), MoRF(model.answer)], x, 0, x)) == 2
    ensemble = RankEnsemble(model.answer, [first, RELAX(model.answer, n_masks=20)], [PostProcessor()] * 2)
    assert ensemble.attribute(x).shape == x.shape
    with pytest.raises(ParameterError, match="another model"):
        pnpxai.recommend(model.answer, x, explainers=[RISE(other.answer)])


def test_chunks_are_remembered_where_an_object_can_be_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "TIMED_BYTES", 0)
    monkeypatch.setattr(chunks, "WORTH_TIMING", 1)
    tried: list[int] = []
    for model, times in ((opaque(nn.Flatten()), 1), (scaled(), 0), (functools.partial(answer, 1), 1)):
        tried.clear()
        sizes = {chunk_size_for(model, [inputs()], "forward", 10**4, tried.append) for _ in range(3)}
        assert len(sizes) == 1
        assert tried.count(64) <= 3 * times
        assert bool(tried) == bool(times)


def test_the_recommender_offers_what_asks_for_outputs_alone() -> None:
    x, model = inputs(), function_of("forest")
    for found in (pnpxai.recommend(model, x), pnpxai.recommend(model, x, dry_run=False)):
        assert {type(each).__name__ for each in found.explainers} == OUTPUTS_ONLY >= {"RISE", "RELAX"}
        assert set(found.rejected) == set(EXPLAINERS) - OUTPUTS_ONLY
        assert all("a function that is no torch.nn.Module" in reason for reason in found.rejected.values())
        assert all(each.model is model for each in found.explainers)
        assert not found.detected_architectures.kinds
        assert "Tabular model with no known kind of module" in str(found)
    assert not detect_model_architecture(model).kinds


def test_a_module_without_weights_is_tried() -> None:
    found = pnpxai.recommend(Opaque(function_of("forest")), inputs())
    assert {type(each).__name__ for each in found.explainers} == OUTPUTS_ONLY
    assert "Can't call numpy() on Tensor that requires grad" in found.rejected["Gradient"]
    differentiable = pnpxai.recommend(Opaque(lambda x: torch.stack([x[:, 2], -(x[:, 2] ** 2)], 1)), inputs())
    assert "Gradient" in {type(each).__name__ for each in differentiable.explainers}


def test_a_method_with_gradients_says_what_to_do_instead() -> None:
    for name in sorted(set(EXPLAINERS) - OUTPUTS_ONLY):
        with pytest.raises(UnsupportedModelError, match=f"torch.nn.Module for {name}.*<lambda>.*such as RISE"):
            EXPLAINERS[name](lambda x: x).attribute(batch(2, 3, 8, 8))


def tuned(model: Any, x: Tensor | None = None, **options: Any) -> pnpxai.TuneResult:
    given = {"explainers": ["RISE", "RELAX"], "n_trials": 3, "progress": False, **options}
    return pnpxai.tune(model, inputs() if x is None else x, **given)


def test_a_function_is_tuned_kept_and_reported(tmp_path: Path) -> None:
    model, x = scaled().answer, inputs(8)
    with untouched(None, x):
        result = tuned(model, x, explainers=None, n_trials=4)
    assert result.recommendation is not None
    assert result.explainer.model is model
    assert result.explain(x).shape == x.shape
    assert set(result.leaderboard["explainer"]) <= OUTPUTS_ONLY | {"RankEnsemble"}
    page = result.report(tmp_path / "report.html", n_samples=1).read_text()
    assert "Scaled.answer</title>" in page.replace(" to trust", "")
    assert "a function that was asked for its outputs alone" in page
    folder = result.save(tmp_path / "kept")
    again = pnpxai.TuneResult.load(folder, scaled())
    torch.testing.assert_close(again.explain(x), result.explain(x))
    with pytest.raises(StudyError, match="a function with other answers"):
        pnpxai.TuneResult.load(folder, scaled(0.9))
    with pytest.raises(StudyError, match="the model that was tuned"):
        pnpxai.TuneResult.load(folder, seeded(nn.Linear(N_FEATURES, 2)))


def test_a_layer_that_is_a_module_is_not_kept_as_the_model(tmp_path: Path) -> None:
    net, x = seeded(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2))), batch(4, 1, 6, 6)
    result = tuned(net, x, explainers=[GradCam(net, layer=net[0])], n_trials=1)
    with pytest.raises(StudyError, match="Conv2d"):
        result.save(tmp_path)


def test_a_study_goes_on_with_the_same_function_alone(tmp_path: Path) -> None:
    storage = f"{tmp_path / 'study'}.journal"
    tuned(function_of("forest"), storage=storage, n_trials=2, cache_dir=tmp_path / "maps")
    with count_forwards() as counter:
        result = tuned(function_of("forest"), storage=storage, n_trials=2, cache_dir=tmp_path / "maps")
    assert result.study is not None
    assert len(result.study.get_trials(states=(TrialState.COMPLETE,))) == 2
    assert counter.n_samples < 512  # maps were kept
    with pytest.raises(StudyError, match="the model that the study"):
        tuned(function_of("forest", seed=1), storage=storage)


def test_models_without_weights_are_told_apart_by_their_answers() -> None:
    x = samples = batch(20, N_FEATURES, dtype=torch.float64)
    shown = torch.where(x[:, 2:3] > 0, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    functions = {
        "forest": function_of("forest"),
        "wrapped": Opaque(function_of("forest")),
        "by rounding": lambda x: function_of("forest")(x) * (1 + 1e-12),
        "another forest": function_of("forest", seed=1),
        "scaled": lambda x: 2 * function_of("forest")(x),
        "shown": lambda x: torch.where(x[:, 2:3] > 0, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])),
        "same on the inputs": lambda x: torch.where(
            x[:, 2:3] - 1e-3 * x[:, :1].abs() > 0, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
        ).where((x[:, None] == samples).all(2).any(1, keepdim=True), torch.tensor(0.5)),
    }
    assert torch.equal(functions["shown"](x), shown)
    assert torch.equal(functions["same on the inputs"](x), shown)
    digests = {name: model_digest(each, x) for name, each in functions.items()}
    assert digests["forest"] == digests["wrapped"] == digests["by rounding"]
    assert len(set(digests.values())) == 5
    net = seeded(nn.Linear(N_FEATURES, 2).double())
    with count_forwards() as counter:
        assert model_digest(net, x) != model_digest(seeded(nn.Linear(N_FEATURES, 2).double(), 1), x)
    assert counter.n_samples == 0  # weights are read


def test_workers_get_what_can_be_sent() -> None:
    explainer = RISE(scaled(), n_masks=20)
    sent, x = pickle.loads(pickle.dumps((explainer, explainer.model))), inputs()
    assert sent[0].model is sent[1]
    torch.testing.assert_close(sent[0].attribute(x), explainer.attribute(x))
    with pytest.raises(ParameterError, match="sent to another process.*no lambdas"):
        tuned(lambda x: x[:, :2], workers=2)


def test_an_experiment_on_a_function() -> None:
    x, y = inputs(), [0, 1, 0, 1, 0, 1]
    experiment = pnpxai.Experiment(
        function_of("boosting"), list(zip(x, y, strict=True)), metrics=["AbPC", "Complexity"]
    )
    assert {type(each).__name__ for each in experiment.explainers} == OUTPUTS_ONLY
    found = experiment.run_batch("RISE", 0, "AbPC", range(3))
    assert found["evaluation"].shape == (3,)
    assert (found["evaluation"] > 0.2).all()
    assert len(experiment.leaderboard) == len(OUTPUTS_ONLY)


@pytest.mark.parametrize("name", sorted(name for name, each in METRICS.items() if each.OUTPUTS_ONLY))
def test_answers_in_another_dtype_than_the_inputs_give_the_same_scores(name: str) -> None:
    x, maps = inputs().float(), batch(6, N_FEATURES, seed=4)
    single, double = (lambda x: scaled()(x).astype(np.float32)), (lambda x: scaled()(x).astype(np.float64))
    found = [build(name, each, x, Wild(each)).evaluate(x, 0, maps).double() for each in (single, double)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
