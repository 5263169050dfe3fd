"""What bad input gets: a deliberate error that says what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.baselines import Blur, Constant
from pnpxai.errors import (
    InputError,
    ModelError,
    ParameterError,
    PnPXAIError,
    TargetError,
    UnknownNameError,
    UnsupportedModelError,
)
from pnpxai.explainers import EXPLAINERS, RELAX, RISE, Explainer, Gradient, IntegratedGradients, SmoothGrad
from pnpxai.metrics import AbPC, Complexity, MoRF, MuFidelity, metric_class
from pnpxai.modules import detect_model_architecture
from pnpxai.postprocess import PostProcessor
from tests.explainers.test_contract import cheap, grounds
from tests.harm import untouched
from tests.nets import MLP, RaisesAt, VGGLike, Wrapped, batch, seeded

IMAGES = batch(2, 3, 16, 16)
WITH_NAN = IMAGES.clone().index_put((torch.tensor(1),), torch.tensor(torch.nan))
WITH_INF = IMAGES.clone().index_put((torch.tensor(0),), torch.tensor(torch.inf))
TOKENS = torch.ones(2, 3, 16, 16, dtype=torch.long)

Call = Callable[[nn.Module], object]
Row = tuple[str, Call, type[PnPXAIError], tuple[str, ...]]


def _no_such_output(outputs: Tensor) -> Tensor:
    return outputs[:, 99]


def _tune(model: nn.Module, **kwargs: Any) -> object:
    return pnpxai.tune(model, IMAGES, 1, **{"explainers": ["Gradient"], "n_trials": 1, "progress": False, **kwargs})


PARAMETERS: list[Row] = [
    ("misspelt", lambda m: SmoothGrad(m, n_sample=3), ParameterError, ("n_sample", "Did you mean 'n_samples'?")),
    ("misspelt_later", lambda m: RISE(m).set_kwargs(p_kept=0.3), ParameterError, ("'p_kept'", "'p_keep'", "RISE")),
    ("misspelt_role", lambda m: RISE(m).set_kwargs(**{"baseline.sigma": 1.0}), ParameterError, ("'baseline_fn'",)),
    (
        "misspelt_in_role",
        lambda m: RISE(m, baseline_fn=Blur()).set_kwargs(**{"baseline_fn.sigam": 1.0}),
        ParameterError,
        ("'sigam'", "'sigma'", "Blur"),
    ),
    ("misspelt_of_metric", lambda m: AbPC(m, steps=3), ParameterError, ("'steps'", "'n_steps'", "AbPC")),
    ("negative", lambda m: SmoothGrad(m, noise_level=-0.1), ParameterError, ("noise_level", "SmoothGrad", "-0.1")),
    ("zero_masks", lambda m: RISE(m, n_masks=0), ParameterError, ("n_masks", "whole number", "0")),
    ("no_probability", lambda m: RISE(m, p_keep=1.5), ParameterError, ("p_keep", "1.5")),
    ("not_a_number", lambda m: RISE(m, p_keep=float("nan")), ParameterError, ("p_keep", "nan")),
    ("text_for_a_number", lambda m: RISE(m, n_masks="many"), ParameterError, ("n_masks", "'many'")),
    ("a_fraction_of_a_step", lambda m: IntegratedGradients(m, n_steps=2.5), ParameterError, ("n_steps", "2.5")),
    ("sigma_of_role", lambda m: Blur(sigma=0.0), ParameterError, ("sigma of Blur", "(0.0, inf)", "0.0")),
    ("unknown_estimator", lambda m: RISE(m, estimator="best"), ParameterError, ("estimator", "'best'", "'paper'")),
    ("no_model", lambda m: Gradient(), ParameterError, ("Gradient(model", "no model")),
]
NAMES: list[Row] = [
    (
        "baseline",
        lambda m: IntegratedGradients(m, baseline_fn="zreo").attribute(IMAGES),
        UnknownNameError,
        ("'zreo'", "blur", "invert", "mean", "zeros"),
    ),
    ("metric", lambda m: metric_class("abcp"), UnknownNameError, ("'abcp'", "MuFidelity", "Did you mean 'AbPC'?")),
    (
        "pooling",
        lambda m: PostProcessor("summ")(IMAGES),
        UnknownNameError,
        ("'summ'", "max_abs", "Did you mean 'sum'?"),
    ),
    ("normalization", lambda m: PostProcessor("sum", "minmax")(IMAGES), UnknownNameError, ("'minmax'", "'min_max'")),
    ("explainer_to_tune", lambda m: _tune(m, explainers=["Gradeint"]), UnknownNameError, ("'Gradeint'", "'Gradient'")),
    ("metric_to_tune", lambda m: _tune(m, metric="abcp"), UnknownNameError, ("'abcp'", "'AbPC'")),
    ("sampler_to_tune", lambda m: _tune(m, sampler="tep"), UnknownNameError, ("'tep'", "tpe", "random")),
    ("similarity", lambda m: RELAX(m, similarity="cosin").attribute(IMAGES), PnPXAIError, ("'cosin'", "cosine")),
]
INPUTS: list[Row] = [
    (
        "no_batch",
        lambda m: RISE(m, n_masks=2).attribute(IMAGES[0, 0, 0]),
        InputError,
        ("2 dimensions", "(16,)", "[None]"),
    ),
    (
        "features_for_images",
        lambda m: EXPLAINERS["MP"](m).attribute(IMAGES[:, 0]),
        InputError,
        ("4 dim", "3 dim", "MP"),
    ),
    ("empty", lambda m: Gradient(m).attribute(IMAGES[:0]), InputError, ("at least one", "(0, 3, 16, 16)")),
    ("nan", lambda m: Gradient(m).attribute(WITH_NAN), InputError, ("finite", "NaN")),
    ("infinity", lambda m: RISE(m).attribute(WITH_INF), InputError, ("finite", "infinity")),
    ("integers", lambda m: Gradient(m).attribute(TOKENS), InputError, ("floating-point", "torch.int64", ".float()")),
    ("array", lambda m: Gradient(m).attribute(np.zeros((2, 3, 16, 16))), InputError, ("tensor", "ndarray")),
    ("none", lambda m: Gradient(m).attribute(None), InputError, ("tensor", "NoneType")),
    ("two_lengths", lambda m: Gradient(m).attribute((IMAGES, IMAGES[:1])), InputError, ("one batch length", "2 and 1")),
    ("for_the_detector", lambda m: detect_model_architecture(m, WITH_NAN), InputError, ("finite",)),
    ("for_a_metric", lambda m: MoRF(m).evaluate(WITH_NAN, 1, IMAGES), InputError, ("finite",)),
    (
        "too_few_channels",
        lambda m: Gradient(m).attribute(IMAGES[:, :1]),
        ModelError,
        ("(n, 1, 16, 16)", "RuntimeError"),
    ),
    (
        "attributions_of_wrong_shape",
        lambda m: MoRF(m).evaluate(IMAGES, 1, IMAGES[..., :3]),
        InputError,
        ("(2, 16, 16)", "(2, 3, 16, 3)", "attribute()"),
    ),
    ("attributions_nan", lambda m: MoRF(m).evaluate(IMAGES, 1, WITH_NAN), InputError, ("finite attributions", "NaN")),
    ("no_attributions", lambda m: Complexity(m).evaluate(IMAGES, 1), ParameterError, ("Complexity", "neither")),
]
TARGETS: list[Row] = [
    ("too_few", lambda m: Gradient(m).attribute(IMAGES, torch.tensor([1])), TargetError, ("each of 2", "(1,)")),
    ("too_many", lambda m: RISE(m).attribute(IMAGES, [1, 2, 3]), TargetError, ("each of 2", "(3,)")),
    ("one_hot", lambda m: Gradient(m).attribute(IMAGES, torch.eye(5)[:2]), TargetError, ("class indices", "float32")),
    ("one_hot_of_ints", lambda m: Gradient(m).attribute(IMAGES, torch.eye(5).long()[:2]), TargetError, ("(2, 5)",)),
    ("booleans", lambda m: Gradient(m).attribute(IMAGES, torch.tensor([True, False])), TargetError, ("torch.bool",)),
    ("a_bool", lambda m: Gradient(m).attribute(IMAGES, True), TargetError, ("bool",)),
    ("a_fraction", lambda m: Gradient(m).attribute(IMAGES, 1.5), TargetError, ("float",)),
    ("a_name", lambda m: Gradient(m).attribute(IMAGES, "cat"), TargetError, ("str",)),
    ("class_too_high", lambda m: Gradient(m).attribute(IMAGES, 5), TargetError, ("from 0 to 4", "5")),
    ("class_too_high_for_rise", lambda m: RISE(m).attribute(IMAGES, [0, 7]), TargetError, ("from 0 to 4", "7")),
    ("negative_class", lambda m: Gradient(m).attribute(IMAGES, -1), TargetError, ("from 0", "-1")),
    ("class_for_a_metric", lambda m: MoRF(m).evaluate(IMAGES, 9, IMAGES), TargetError, ("from 0 to 4", "9")),
    (
        "function_of_wrong_shape",
        lambda m: Gradient(m).attribute(IMAGES, lambda outputs: outputs),
        TargetError,
        ("(2,)", "(2, 5)"),
    ),
    (
        "function_that_fails",
        lambda m: Gradient(m).attribute(IMAGES, _no_such_output),
        TargetError,
        ("(2, 5)", "IndexError"),
    ),
    ("function_of_classes", lambda m: RISE(m).attribute(IMAGES, lambda o: o.argmax(1)), TargetError, ("torch.int64",)),
]
MODELS: list[Row] = [
    ("no_function", lambda m: RISE("vgg16").attribute(IMAGES), ModelError, ("torch.nn.Module", "function", "str")),
    ("no_function_to_score", lambda m: MoRF({}).evaluate(IMAGES, 1, IMAGES), ModelError, ("function", "dict")),
    ("no_function_to_detect", lambda m: detect_model_architecture(m.state_dict()), ModelError, ("OrderedDict",)),
    ("class_not_built", lambda m: RISE(VGGLike).attribute(IMAGES), ModelError, ("class VGGLike", "Build")),
    (
        "no_module",
        lambda m: Gradient(lambda x: x).attribute(IMAGES),
        UnsupportedModelError,
        ("torch.nn.Module for Gradient", "<lambda>", "gradients", "RISE"),
    ),
    (
        "function_to_compile",
        lambda m: RISE(lambda x: x.flatten(1), compile=True).attribute(IMAGES),
        ParameterError,
        ("torch.nn.Module", "<lambda>", "compile=False"),
    ),
    ("no_tensor", lambda m: Gradient(Wrapped(m, str)).attribute(IMAGES), ModelError, ("tensor", "str", "Wrap")),
    ("nothing", lambda m: RISE(Wrapped(m, lambda o: None)).attribute(IMAGES), ModelError, ("tensor", "NoneType")),
    ("classes_only", lambda m: Gradient(Wrapped(m, lambda o: o.argmax(1))).attribute(IMAGES), ModelError, ("Tensor",)),
    ("nan_outputs", lambda m: Gradient(Wrapped(m, torch.log)).attribute(IMAGES), ModelError, ("finite outputs", "NaN")),
    (
        "other_rows",
        lambda m: Gradient(Wrapped(m, lambda o: o[:1])).attribute(IMAGES),
        ModelError,
        ("each of 2", "(1, 5)"),
    ),
    (
        "raises",
        lambda m: Gradient(RaisesAt(m, 1)).attribute(IMAGES),
        ModelError,
        ("RuntimeError", "RaisesAt", "the network broke here"),
    ),
    ("raises_when_detected", lambda m: detect_model_architecture(RaisesAt(m, 1), IMAGES), ModelError, ("broke here",)),
    (
        "dense_outputs_without_function",
        lambda m: Gradient(m.features[0]).attribute(IMAGES, 1),
        TargetError,
        ("function", "(2, 8, 16, 16)"),
    ),
]
BASELINES: list[Row] = [
    (
        "tensor_of_wrong_shape",
        lambda m: IntegratedGradients(m, baseline_fn=torch.zeros(5)).attribute(IMAGES),
        ParameterError,
        ("(2, 3, 16, 16)", "(5,)"),
    ),
    (
        "constant_of_wrong_shape",
        lambda m: RISE(m, baseline_fn=Constant(torch.zeros(4, 1, 1))).attribute(IMAGES),
        ParameterError,
        ("(2, 3, 16, 16)", "(4, 1, 1)", "(c, 1, 1)"),
    ),
    (
        "function_of_wrong_shape",
        lambda m: IntegratedGradients(m, baseline_fn=lambda x: x[:, :1]).attribute(IMAGES),
        ParameterError,
        ("(2, 3, 16, 16)", "(2, 1, 16, 16)"),
    ),
    (
        "function_of_no_tensor",
        lambda m: IntegratedGradients(m, baseline_fn=lambda x: 0).attribute(IMAGES),
        ParameterError,
        ("int",),
    ),
    (
        "not_finite",
        lambda m: MuFidelity(m, baseline_fn=torch.tensor(torch.nan)).evaluate(IMAGES, 1, IMAGES),
        ParameterError,
        ("finite", "NaN"),
    ),
    (
        "of_a_metric",
        lambda m: MoRF(m, baseline_fn=torch.zeros(5)).evaluate(IMAGES, 1, IMAGES),
        ParameterError,
        ("(2, 3, 16, 16)", "(5,)"),
    ),
]
TUNING: list[Row] = [
    ("holdout_larger_than_the_data", lambda m: _tune(m, holdout=5), ParameterError, ("holdout", "2", "5")),
    ("no_trials", lambda m: _tune(m, n_trials=0), ParameterError, ("n_trials", "0")),
]
TABLE = [
    pytest.param(*row[1:], id=f"{group}-{row[0]}")
    for group, rows in [
        ("parameter", PARAMETERS),
        ("name", NAMES),
        ("inputs", INPUTS),
        ("targets", TARGETS),
        ("model", MODELS),
        ("baseline", BASELINES),
        ("tuning", TUNING),
    ]
    for row in rows
]


@pytest.mark.parametrize(("call", "error", "words"), TABLE)
def test_bad_input(call: Call, error: type[PnPXAIError], words: tuple[str, ...]) -> None:
    model = seeded(VGGLike()).train()
    with untouched(model, IMAGES, WITH_NAN, TOKENS), pytest.raises(error) as caught:
        call(model)
    said = str(caught.value)
    assert said.startswith("expected ")
    assert f"; received {caught.value.received}. {caught.value.advice}" in said
    assert min(map(len, (caught.value.expected, caught.value.received, caught.value.advice))) > 0
    assert [word for word in words if word not in said] == [], said


EVERYWHERE: list[tuple[str, Any, Any, type[PnPXAIError]]] = [
    ("nan", WITH_NAN, 1, InputError),
    ("infinity", WITH_INF, 1, InputError),
    ("empty", IMAGES[:0], 1, InputError),
    ("integers", TOKENS, 1, InputError),
    ("text", "a cat", 1, InputError),
    ("one_dimension", torch.zeros(3), 1, InputError),
    ("wrong_channels", IMAGES[:, :1], 1, ModelError),
    ("targets_too_long", IMAGES, torch.zeros(3, dtype=torch.long), TargetError),
    ("targets_of_floats", IMAGES, torch.zeros(2), TargetError),
    ("negative_class", IMAGES, -1, TargetError),
]


@pytest.mark.parametrize(
    ("inputs", "targets", "error"), [each[1:] for each in EVERYWHERE], ids=[e[0] for e in EVERYWHERE]
)
@pytest.mark.parametrize("cls", [pytest.param(cls, id=name) for name, cls in sorted(EXPLAINERS.items())])
def test_every_explainer_refuses(cls: type[Explainer], inputs: Any, targets: Any, error: type[PnPXAIError]) -> None:
    model = seeded(VGGLike()).train()
    with untouched(model, inputs, targets), pytest.raises(error):
        cls(model, **cheap(cls)).attribute(inputs, targets)


@pytest.mark.parametrize("cls", [pytest.param(cls, id=name) for name, cls in sorted(EXPLAINERS.items())])
def test_every_explainer_that_asks_for_a_class_refuses_one_that_is_not_there(cls: type[Explainer]) -> None:
    ground = next(grounds(cls))
    model, inputs = ground.net(), ground.inputs(2)
    explainer, k = cls(model, **cheap(cls)), model(inputs).shape[1]
    if torch.equal(explainer.attribute(inputs, 0), explainer.attribute(inputs, 1)):
        assert "targets are checked but play no part" in " ".join((cls.__doc__ or "").split())
        return
    with untouched(model, inputs), pytest.raises(TargetError, match=f"from 0 to {k - 1}"):
        explainer.attribute(inputs, k)


def test_features_where_images_are_needed_say_so() -> None:
    with pytest.raises(PnPXAIError, match="2 dimensions"):
        EXPLAINERS["MP"](seeded(MLP())).attribute(batch(2, 6))
