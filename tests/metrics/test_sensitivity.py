from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import InputError, ParameterError
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.forward import Request
from pnpxai.metrics import Sensitivity
from pnpxai.postprocess import PostProcessor
from tests.nets import MLP, VGGLike, batch, seeded

SEEN: list[tuple[Tensor, Any]] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    SEEN.clear()


class Square(Explainer):
    """The gradient of ``Σ x²`` … and a record of what it was asked."""

    def explain_request(self, request: Request) -> Tensor:
        SEEN.append((request.input, request.requested))
        return 2 * request.input


class Plain(Explainer):
    """The gradient of the target's score."""

    def explain_request(self, request: Request) -> Tensor:
        x = request.input.requires_grad_()
        return torch.autograd.grad(request.scores((x,)).sum(), x)[0]


class Distance(Explainer):
    """Zero at one point."""

    def __init__(self, model: nn.Module, centre: Tensor) -> None:
        super().__init__(model)
        self.centre = centre

    def explain_request(self, request: Request) -> Tensor:
        SEEN.append((request.input, request.requested))
        return request.input - self.centre


def test_a_linear_model_has_a_constant_gradient() -> None:
    model = seeded(nn.Linear(6, 3).double())
    found = Sensitivity(model, Plain(model), radius=0.5).evaluate(batch(4, 6, dtype=torch.float64), 1)
    assert torch.equal(found, torch.zeros(4, dtype=torch.float64))
    curved = seeded(MLP().double())
    assert (Sensitivity(curved, Plain(curved), radius=0.5).evaluate(batch(4, 6, dtype=torch.float64), 1) > 0.01).all()


@pytest.mark.parametrize("shape", [(3, 5), (3, 1, 20), (3, 1, 6, 6)])
def test_a_quadratic_in_closed_form(shape: tuple[int, ...]) -> None:
    model = seeded(nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(shape[1:]).prod()), 2)).double())
    x = batch(*shape, dtype=torch.float64)
    found = Sensitivity(model, Square(model), n_perturbations=6, radius=0.1).evaluate(x, 0)
    assert len(SEEN) == 7
    assert torch.equal(SEEN[0][0], x)
    deltas = [(each - x).flatten(1) for each, _ in SEEN[1:]]
    expected = torch.stack([delta.norm(dim=1) / x.flatten(1).norm(dim=1) for delta in deltas]).amax(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_single_input_is_changed_many_times_at_once_and_scored_as_in_a_batch() -> None:
    model, x = seeded(nn.Linear(5, 2).double()), batch(3, 5, dtype=torch.float64)
    metric = Sensitivity(model, Square(model), n_perturbations=40, radius=0.1)
    alone = torch.cat([metric.evaluate(x[i : i + 1], 0) for i in range(3)])
    sizes = [len(each) for each, _ in SEEN]
    assert sizes == 3 * [1, 32, 8]
    torch.testing.assert_close(alone, metric.evaluate(x, 0), rtol=1e-12, atol=0)


def test_perturbations_fill_the_ball_and_are_the_same_for_every_sample() -> None:
    model = seeded(nn.Sequential(nn.Flatten(), nn.Linear(300, 2)).double())
    x = batch(2, 3, 10, 10, dtype=torch.float64)
    Sensitivity(model, Square(model), n_perturbations=4, radius=0.25).evaluate(x, 0)
    ranges = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).reshape(2, 1, 1, 1)
    shares = torch.stack([(each - x) / ranges for each, _ in SEEN[1:]])  # (4, 2, 3, 10, 10)
    assert shares.abs().max() <= 0.25
    assert shares.abs().max() > 0.24
    assert shares.mean().abs() < 4 * 0.25 / 3**0.5 / 1200**0.5
    torch.testing.assert_close(shares[:, 0], shares[:, 1], rtol=0, atol=1e-12)
    assert (shares[0] - shares[1]).abs().max() > 0.1


def test_the_targets_of_the_unchanged_input_are_kept() -> None:
    model = seeded(MLP())
    x = batch(8, 6)
    Sensitivity(model, Square(model), radius=5.0).evaluate(x, None)
    assert SEEN[0][1] is None
    assert len(SEEN) == 11
    flipped = False
    for changed, targets in SEEN[1:]:
        assert torch.equal(targets, model(x).argmax(1))
        flipped |= not torch.equal(model(changed).argmax(1), targets)
    assert flipped


def test_a_zero_map_counts_the_change_itself() -> None:
    model, x = seeded(MLP().double()), batch(3, 6, dtype=torch.float64)
    found = Sensitivity(model, Distance(model, x), n_perturbations=3).evaluate(x, 0)
    expected = torch.stack([(changed - x).norm(dim=1) for changed, _ in SEEN[1:]]).amax(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert (found > 0).all()


def test_an_input_without_a_range_is_not_changed() -> None:
    model = seeded(MLP())
    assert torch.equal(Sensitivity(model, Square(model)).evaluate(torch.full((2, 6), 3.0), 0), torch.zeros(2))


def test_given_maps_are_those_of_the_unchanged_input() -> None:
    model, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    explainer = Plain(model)
    raw = explainer.attribute(x, 1)
    for postprocessor in (
        None,
        PostProcessor("l2"),
        PostProcessor("sum_abs", "max_abs"),
        PostProcessor("sum", "min_max"),
    ):
        metric = Sensitivity(model, explainer, n_perturbations=3, postprocessor=postprocessor)
        pooled = raw.sum(1) if postprocessor is None else postprocessor(raw)
        asked = metric.evaluate(x, 1)
        assert torch.equal(metric.evaluate(x, 1, raw), asked)
        assert torch.equal(metric.evaluate(x, 1, pooled), asked)
        assert (asked > 0).all()
    assert not torch.equal(asked, Sensitivity(model, explainer, n_perturbations=3).evaluate(x, 1))


def test_extractors_and_further_arguments() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(MLP())

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.net(x * scale)

    model, x, scale = Scaled(), batch(3, 6), torch.tensor([[0.5], [1.0], [2.0]])
    extractors = {"forward_arg_extractor": lambda d: d["x"], "additional_forward_arg_extractor": lambda d: d["scale"]}
    metric = Sensitivity(model, Plain(model, **extractors), **extractors, radius=0.3)
    found = metric.evaluate({"x": x, "scale": scale}, 1)
    alone = [metric.evaluate({"x": x[i : i + 1], "scale": scale[i : i + 1]}, 1) for i in range(3)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-6)
    assert (found > 0).all()


def test_against_captum() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.metrics import sensitivity_max
    model, x = seeded(MLP().double()), batch(3, 6, dtype=torch.float64)
    changed: list[Tensor] = []

    class Recorded(Plain):
        def explain_request(self, request: Request) -> Tensor:
            changed.append(request.input.detach().clone())
            return super().explain_request(request)

    found = Sensitivity(model, Recorded(model), n_perturbations=5, radius=0.4).evaluate(x, 1)
    inputs = torch.stack(changed[1:], 1).flatten(0, 1)  # (n · perturbations, d)
    plain = Plain(model)
    expected = sensitivity_max(
        lambda each, target: plain.attribute(each, target),
        x,
        perturb_func=lambda *_: inputs,
        n_perturb_samples=5,
        target=1,
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert (found > 0.01).all()


def test_it_needs_the_explainer() -> None:
    model = seeded(MLP())
    with pytest.raises(ParameterError, match="explainer"):
        Sensitivity(model).evaluate(batch(2, 6), 0, batch(2, 6))
    with pytest.raises(InputError, match="finite"):
        Sensitivity(model, Square(model)).evaluate(batch(2, 6), 0, torch.full((2, 6), torch.nan))
    for arguments in ({"radius": 0.0}, {"n_perturbations": 0}, {"seed": -1}):
        with pytest.raises(ParameterError):
            Sensitivity(model, **arguments)


def test_the_explainers_of_this_file_are_not_listed() -> None:
    assert not {"Square", "Plain", "Distance"} & set(EXPLAINERS)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_maps_does_not_matter(scale: float) -> None:
    """Squares of 1e±30 do not exist in single precision."""

    class Scaled(Explainer):
        def explain_request(self, request: Request) -> Tensor:
            return scale * request.input**2

    model, x = seeded(MLP()), batch(3, 6)
    found = Sensitivity(model, Scaled(model), radius=0.1).evaluate(x, 0)
    expected = Sensitivity(model.double(), Scaled(model), radius=0.1).evaluate(x.double(), 0)
    assert (expected > 0.01).all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
