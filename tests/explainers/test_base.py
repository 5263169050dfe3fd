from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import (
    DeclarationError,
    ExplanationError,
    InputError,
    ParameterError,
    UnsupportedModelError,
)
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.limits import Within
from pnpxai.modules import Convolution, Linear
from tests.harm import untouched
from tests.nets import MLP, BatchNormNet, VGGLike, batch, seeded

BEFORE = set(EXPLAINERS)


def scaled(**declared: Any) -> type[Explainer]:
    """An explainer that returns its inputs times a factor, declared anew in each test."""

    class Scaled(Explainer):
        SUPPORTED_MODULES = declared.pop("SUPPORTED_MODULES", ANY_MODULE)
        INPUT_NDIMS = declared.pop("INPUT_NDIMS", ())
        TUNABLES = {"factor": FloatDistribution(0.0, 10.0)}
        LIMITS = {"factor": Within(0.0)}

        def __init__(
            self,
            model: Model,
            forward_arg_extractor: Extractor | None = None,
            additional_forward_arg_extractor: Extractor | None = None,
            factor: float = 2.0,
        ) -> None:
            super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
            self.factor = factor

        def explain_request(self, request: Request) -> Any:
            return declared["returns"](request) if declared else request.input * self.factor

    return Scaled


def test_declaring_what_is_supported_registers_a_class() -> None:
    cls = scaled()
    assert EXPLAINERS["Scaled"] is cls

    class Child(cls):  # type: ignore[misc,valid-type]
        pass

    assert "Child" not in EXPLAINERS


def test_classes_of_one_test_are_gone_in_the_next() -> None:
    assert set(EXPLAINERS) == BEFORE
    assert "Scaled" not in EXPLAINERS


def test_a_class_without_a_method_is_refused() -> None:
    with pytest.raises(DeclarationError, match="explain_request or attribute"):

        class Empty(Explainer):
            SUPPORTED_MODULES = (Linear,)

    assert "Empty" not in EXPLAINERS


def test_overriding_attribute_is_enough() -> None:
    class Own(Explainer):
        SUPPORTED_MODULES = (Linear, Convolution)

        def attribute(self, inputs: Any, targets: Any = None) -> Any:
            return inputs * 3

    assert Own(seeded(MLP())).attribute(torch.ones(1, 6)).tolist() == [[3.0] * 6]
    with pytest.raises(NotImplementedError):
        Own(seeded(MLP())).explain_request(Request.build(seeded(MLP()), torch.ones(1, 6)))


class Growing(Explainer):
    """An explainer by `explain_further`: the inputs times the budget, added up one by one."""

    TUNABLES = {"n_terms": IntDistribution(1, 100)}
    BUDGET = ("n_terms",)
    NESTED = True

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_terms: int = 3,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_terms = n_terms

    def explain_further(self, request: Request, budget: int, state: Any) -> Any:
        n_known, total = state or (0, torch.zeros_like(request.input))
        for _ in range(n_known, budget):
            total = total + request.input
        return total.clone(), (budget, total)


def test_implementing_explain_further_is_enough() -> None:
    explainer = Growing(seeded(MLP()))
    assert explainer.attribute(torch.ones(1, 6)).tolist() == [[3.0] * 6]
    assert [each[0, 0].item() for each in explainer.refine(torch.ones(1, 6), 0, (1, 4, 9))] == [1, 4, 9]
    assert [each[0, 0].item() for each in explainer.refine(torch.ones(1, 6))] == [3]
    with pytest.raises(ParameterError, match=r"n_terms of Growing \(a whole number"):
        explainer.refine(torch.ones(1, 6), 0, (0, 1))


def test_a_subclass_with_a_way_of_its_own_is_not_nested() -> None:
    class Negative(Growing):
        def attribute(self, inputs: Any, targets: Any = None) -> Any:
            return -super().attribute(inputs, targets)

    class Bare(Negative):
        pass

    assert Growing.NESTED
    assert not Negative.NESTED
    assert not Bare.NESTED
    assert Bare(seeded(MLP())).attribute(torch.ones(1, 6)).tolist() == [[-3.0] * 6]
    with pytest.raises(ParameterError, match="budget can be continued"):
        Bare(seeded(MLP())).refine(torch.ones(1, 6), 0, (1, 2))


def test_nested_is_declared_of_what_can_be_continued_only() -> None:
    with pytest.raises(DeclarationError, match="Twice, which is NESTED.*one of those"):

        class Twice(Growing):
            NESTED = True

            def explain_request(self, request: Request) -> Any:
                return request.input

    with pytest.raises(DeclarationError, match="no explain_further"):

        class Nothing(Explainer):
            NESTED = True

    with pytest.raises(DeclarationError, match=r"Boundless, which implements explain_further, to name one budget"):

        class Boundless(Growing):
            BUDGET = ()


def test_the_constructor_computes_nothing() -> None:
    model = nn.Identity()
    with count_forwards() as counter:
        explainer = scaled()(model, factor=1.0)
    assert counter.n_calls == 0
    assert explainer.model is model
    assert explainer.get_params() == {
        "model": model,
        "forward_arg_extractor": None,
        "additional_forward_arg_extractor": None,
        "factor": 1.0,
    }
    assert list(inspect.signature(type(explainer)).parameters) == list(explainer.get_params())


def test_maps_take_the_form_of_the_inputs() -> None:
    explainer = scaled()(seeded(MLP()).double())
    for given in (batch(2, 6), [batch(2, 6)], (batch(2, 6),), batch(2, 6).half()):
        made = explainer.attribute(given)
        assert type(made) is (torch.Tensor if isinstance(given, Tensor) else tuple)
        origin, one = (given, made) if isinstance(given, Tensor) else (given[0], made[0])
        assert one.dtype == origin.dtype
        assert torch.allclose(one, origin * 2, rtol=1e-6)


def test_maps_of_several_inputs_are_several() -> None:
    class Both(MLP):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x + y)

    explainer = scaled(returns=lambda request: [2 * each for each in request.inputs])(seeded(Both()))
    x, y = batch(2, 6), batch(2, 6, seed=3)
    made = explainer.attribute((x, y))
    assert isinstance(made, tuple)
    assert torch.equal(made[0], 2 * x)
    assert torch.equal(made[1], 2 * y)


def test_one_input_picked_from_several_gives_one_map() -> None:
    explainer = scaled()(seeded(MLP()), forward_arg_extractor=lambda each: each[0])
    assert torch.equal(explainer.attribute((batch(2, 6), "label")), 2 * batch(2, 6))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 16, 16)])
def test_maps_have_the_inputs_shape_or_one_channel(shape: tuple[int, ...]) -> None:
    explainer = scaled(returns=lambda request: torch.ones(shape, requires_grad=True))(seeded(VGGLike()))
    made = explainer.attribute(batch(2, 3, 16, 16))
    assert tuple(made.shape) == shape
    assert not made.requires_grad


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.ones(2, 2, 16, 16), ("(2, 3, 16, 16)", "(2, 2, 16, 16)")),
        (torch.ones(2, 16, 16), ("(2, 3, 16, 16)", "(2, 16, 16)")),
        (torch.ones(1, 3, 16, 16), ("(2, 3, 16, 16)", "(1, 3, 16, 16)")),
        (torch.full((2, 3, 16, 16), torch.nan), ("finite", "NaN")),
        (torch.full((2, 3, 16, 16), torch.inf), ("finite", "infinity")),
        ((torch.ones(2, 3, 16, 16),) * 2, ("1 inputs", "Tensor, Tensor")),
        ((), ("1 inputs", "none")),
        (None, ("1 inputs", "NoneType")),
    ],
)
def test_what_is_no_map(returned: Any, words: tuple[str, ...]) -> None:
    explainer = scaled(returns=lambda request: returned)(seeded(VGGLike()))
    with pytest.raises(ExplanationError) as caught:
        explainer.attribute(batch(2, 3, 16, 16))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_features_have_no_channels() -> None:
    explainer = scaled(returns=lambda request: torch.ones(2, 1))(seeded(MLP()))
    with pytest.raises(ExplanationError, match=r"\(2, 6\).*\(2, 1\)"):
        explainer.attribute(batch(2, 6))


def test_the_number_of_dimensions_is_checked() -> None:
    explainer = scaled(INPUT_NDIMS=(3, 4))(seeded(MLP()))
    with pytest.raises(InputError, match="3 or 4 dimensions for Scaled.*2 dimensions"):
        explainer.attribute(batch(2, 6))


def test_a_chunk_size_of_ones_own_is_kept_to() -> None:
    class Small(scaled()):  # type: ignore[misc]
        def chunk_size(self) -> int:
            return 2

    explainer = Small(seeded(MLP()))
    with count_forwards() as counter:
        assert len(explainer.request(batch(5, 6)).outputs) == 5
    assert (counter.n_samples, counter.n_calls) == (5, 3)


def test_a_method_may_do_what_it_likes_to_the_model() -> None:
    def havoc(request: Request) -> Tensor:
        net = request.model
        net.train()
        net(request.input)
        net.conv = nn.Identity()
        net.norm.register_forward_hook(lambda *_: None)
        torch.manual_seed(3)
        request.input.mul_(0)
        return torch.ones_like(request.input)

    model, inputs = seeded(BatchNormNet()).train(), batch(2, 3, 8, 8)
    explainer = scaled(returns=havoc)(model)
    with untouched(model, inputs):
        explainer.attribute(inputs)


def test_the_model_must_be_a_module_unless_outputs_are_enough() -> None:
    cls, inputs = scaled(), batch(2, 6)
    explainer = cls(lambda x: x)
    with pytest.raises(UnsupportedModelError, match=r"torch\.nn\.Module for Scaled.*<lambda>, a function"):
        explainer.attribute(inputs)
    cls.OUTPUTS_ONLY = True
    assert explainer.attribute(inputs).shape == inputs.shape
    assert type("Same", (cls,), {}).OUTPUTS_ONLY
    assert not type("Other", (cls,), {"explain_request": cls.explain_request}).OUTPUTS_ONLY


def test_arguments_are_checked_by_the_declared_limits() -> None:
    with pytest.raises(ParameterError, match=r"factor of Scaled to be a number in \[0\.0, inf\)"):
        scaled()(seeded(MLP()), factor=-1.0)
