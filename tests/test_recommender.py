from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

import pnpxai
from pnpxai.errors import InputError, ModelError, ParameterError, UnknownNameError
from pnpxai.explainers import EXPLAINERS, Explainer, Gradient
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.modules import Attention, Convolution
from pnpxai.recommender import least_budget
from tests.nets import MLP, TimeCNN, TinyTransformer, VGGLike, Wrapped, batch, seeded
from tests.registry import unregistered


class SeriesClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(2, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.transpose(1, 2))[0][:, -1])


class Deciding(nn.Module):
    """Takes another branch for bright inputs than for dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branches = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.branches[int(x.mean() > 0.5)](x)
        for _ in range(int(x.abs().max()) % 3):
            x = x * 0.5
        return self.head(x.mean((2, 3)))


MODELS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (2, 3, 32, 32)),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), (2, 3, 32, 32)),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10), (2, 3, 32, 32)),
    "vision transformer": (
        lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=10),
        (2, 3, 32, 32),
    ),
    "swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=10),
        (2, 3, 32, 32),
    ),
    "LSTM": (SeriesClassifier, (2, 2, 20)),
    "1-D convolutions": (TimeCNN, (2, 2, 24)),
    "data-dependent": (Deciding, (2, 3, 16, 16)),
    "features": (MLP, (2, 6)),
}


def randomised(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return seeded(net)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_recommended_runs_and_what_is_not_has_a_reason(name: str) -> None:
    make, shape = MODELS[name]
    model, inputs = randomised(make()), batch(*shape)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules = list(model.named_modules())
    recommendation = pnpxai.recommend(model, inputs)
    names = {type(each).__name__ for each in recommendation.explainers}
    assert names | set(recommendation.rejected) == set(EXPLAINERS)
    assert names.isdisjoint(recommendation.rejected)
    assert {"RISE", "Gradient", "IntegratedGradients"} <= names
    for reason in recommendation.rejected.values():
        assert len(reason.split()) >= 6
        assert reason.endswith(".")
    for explainer in recommendation.explainers:
        maps = least_budget(explainer)[0].attribute(inputs)
        assert maps.shape[0] == 2
        assert torch.isfinite(maps).all()
        assert explainer.model is model
    assert modules == list(model.named_modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_lrp_is_recommended_where_its_rules_cover_the_model() -> None:
    plain = pnpxai.recommend(seeded(VGGLike()), batch(1, 3, 16, 16))
    assert {"LRPUniformEpsilon", "LRPEpsilonPlus", "LRPEpsilonAlpha2Beta1", "LRPEpsilonGammaBox"} <= {
        type(each).__name__ for each in plain.explainers
    }
    residual = pnpxai.recommend(randomised(torchvision.models.resnet18(num_classes=10)), batch(1, 3, 32, 32))
    assert "LRPEpsilonPlus" in {type(each).__name__ for each in residual.explainers}
    cumulative = Wrapped(seeded(MLP()), lambda outputs: outputs.sinh()).eval()
    assert "sinh in the model itself" in pnpxai.recommend(cumulative, batch(1, 6)).rejected["LRPEpsilonPlus"]


def test_costs_are_counted_and_extrapolated_to_the_own_budget() -> None:
    model, inputs = seeded(VGGLike()), batch(1, 3, 16, 16)
    recommendation = pnpxai.recommend(model, inputs)
    for explainer in recommendation.explainers:
        name = type(explainer).__name__
        with count_forwards() as counter:
            explainer.attribute(inputs)
        assert recommendation.dry_runs[name].full_forwards == pytest.approx(counter.n_samples, rel=0.35, abs=2), name


def test_declarations_alone_without_inputs() -> None:
    with count_forwards() as counter:
        recommendation = pnpxai.recommend(seeded(MLP()))
    assert counter.n_samples == 0
    assert not recommendation.dry_runs
    assert "Convolution" in recommendation.rejected["GradCam"]
    assert Convolution not in recommendation.detected_architectures


@unregistered
class Crashing(Explainer):
    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        raise ZeroDivisionError("no luck today")


@unregistered
class Constant(Explainer):
    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        return torch.ones_like(request.input)


@unregistered
class Strange(Explainer):
    """Overrides the door itself, and returns no map."""

    SUPPORTED_MODULES = (Attention, Convolution)

    def attribute(self, inputs, targets=None):
        return "a map"


def test_a_failing_explainer_stops_no_other() -> None:
    model = seeded(VGGLike())
    recommendation = pnpxai.recommend(
        model, batch(1, 3, 16, 16), explainers=[Crashing, Constant, Strange, "Gradient", Gradient(model)]
    )
    assert [type(each).__name__ for each in recommendation.explainers] == ["Gradient", "Gradient"]
    assert "ZeroDivisionError: no luck today" in recommendation.rejected["Crashing"]
    assert "same value everywhere" in recommendation.rejected["Constant"]
    assert "tensor" in recommendation.rejected["Strange"]


@unregistered
class OfBright(Explainer):
    """Says something about inputs whose mean is positive alone, and about no target 0."""

    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        return request.input * (request.input.mean(1) > 0)[:, None] * (request.targets > 0)[:, None]


@pytest.mark.parametrize(("bright", "fits"), [(1, True), (3, True), (4, False), (None, False)])
def test_an_explainer_with_nothing_to_say_about_the_first_input_is_tried_on_the_next(
    bright: int | None, fits: bool
) -> None:
    inputs = -batch(6, 6).abs()
    if bright is not None:
        inputs[bright] *= -1
    targets = torch.tensor([0, 1, 2, 2, 1, 0])
    found = pnpxai.recommend(seeded(MLP()), inputs, targets, explainers=[OfBright])
    assert bool(found.explainers) is fits
    if not fits:
        assert found.rejected["OfBright"].startswith(
            "it has to give a map that tells features apart, and gave the same"
        )


@unregistered
class OfSome(Explainer):
    """Maps of several inputs, all zeros but for those of one of them."""

    SUPPORTED_MODULES = ANY_MODULE

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, which: int = 0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.which = which

    def explain_request(self, request: Request) -> tuple[Tensor, ...]:
        return tuple(each if i == self.which else torch.zeros_like(each) for i, each in enumerate(request.inputs))


class Added(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


@pytest.mark.parametrize(("which", "fits"), [(0, True), (1, True), (2, False)])
def test_of_several_inputs_one_map_that_says_something_is_enough(which: int, fits: bool) -> None:
    model = Added()
    found = pnpxai.recommend(model, (batch(1, 3), batch(1, 3, seed=2)), explainers=[OfSome(model, which=which)])
    assert bool(found.explainers) is fits
    apart = pnpxai.recommend(Added(), (batch(1, 3, 8, 8), batch(1, 8)), explainers=["MP"])
    assert apart.rejected["MP"].startswith("it explains images (n, c, h, w), and one of these inputs has 2 dimensions")


def test_an_explainer_that_takes_time_for_channels_is_not_recommended() -> None:
    model, x = seeded(TinyTransformer()), batch(1, 8, 4)
    found = pnpxai.recommend(model, x, modality="text", explainers=["RISE", "KernelShap", "Occlusion", "Gradient"])
    assert [type(each).__name__ for each in found.explainers] == ["Gradient"]
    assert all("takes dimension 1 for channels" in why for why in found.rejected.values())
    assert len(pnpxai.recommend(model, x, explainers=["RISE", "Gradient"]).explainers) == 2  # as series (n, c, t)


@pytest.mark.parametrize(
    ("make", "shape", "name", "reason"),
    [
        (MLP, (1, 6), "GradCam", "it works on Convolution layers, and none is seen in this model."),
        (MLP, (1, 6), "MP", "it explains images (n, c, h, w), and these inputs have 2 dimensions, batch included."),
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
            (1, 6),
            "GuidedBackprop",
            "it needs a model whose activations are rectifiers such as ReLU, called as torch functions, and found "
            "Tanh. Use a method that takes any activation, e.g. GradCam, Gradient or IntegratedGradients.",
        ),
    ],
)
def test_reasons_say_what_is_needed_and_what_was_found(make, shape: tuple[int, ...], name: str, reason: str) -> None:
    assert pnpxai.recommend(seeded(make()), batch(*shape), explainers=[name]).rejected == {name: reason}


def test_prints_and_renders() -> None:
    recommendation = pnpxai.recommend(seeded(MLP()), batch(1, 6))
    text, html = str(recommendation), recommendation._repr_html_()
    for name in (*(type(each).__name__ for each in recommendation.explainers), *recommendation.rejected):
        assert name in text
        assert name in html
    for reason in recommendation.rejected.values():
        assert reason in text
    assert len(recommendation.table()) == len(EXPLAINERS)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: pnpxai.recommend(nn.Identity, torch.rand(1, 3)), ModelError),
        (lambda: pnpxai.recommend(MLP(), torch.rand(0, 6)), InputError),
        (lambda: pnpxai.recommend(MLP(), torch.rand(1, 7)), ModelError),
        (lambda: pnpxai.recommend(MLP(), torch.rand(1, 6), explainers=["Rice"]), UnknownNameError),
        (lambda: pnpxai.recommend(MLP(), torch.rand(1, 6), explainers=[Gradient(MLP())]), ParameterError),
        (lambda: pnpxai.recommend("resnet18", torch.rand(1, 6)), ModelError),
    ],
)
def test_bad_input(call, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


class Product(nn.Module):
    """Weights of its own, and no module or call of a known kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).sum(-1)


def test_a_method_that_asks_nothing_of_the_model_fits_any() -> None:
    found = pnpxai.recommend(Product(), batch(2, 2))
    assert not found.detected_architectures.evidence
    names = {type(each).__name__ for each in found.explainers}
    assert {"Gradient", "IntegratedGradients", "RISE", "SmoothGrad"} <= names
    assert "GradCam" in found.rejected


@pytest.mark.parametrize("explainers", ["RISE", Gradient])
def test_one_explainer_outside_a_list_is_named(explainers) -> None:
    with pytest.raises(ParameterError, match="a list of explainers"):
        pnpxai.recommend(MLP(), batch(1, 6), explainers=explainers)
