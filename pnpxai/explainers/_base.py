"""What every explainer is: declared, registered, checked at one door, and harmless to the model."""

from __future__ import annotations

from abc import ABC
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model, check_model, module_of
from pnpxai.errors import DeclarationError, InputError, ParameterError
from pnpxai.explainers._maps import joined, like_inputs
from pnpxai.forward import Part, Request, parts_of
from pnpxai.guard import guard
from pnpxai.limits import WholeWithin
from pnpxai.modules import MODULE_KINDS
from pnpxai.tunable import Tunable

ANY_MODULE: tuple[type, ...] = MODULE_KINDS
"""The declaration of a method that does not mind what modules there are; see ``OUTPUTS_ONLY`` for gradients."""

_METHODS = ("attribute", "explain_request", "explain_further")

EXPLAINERS: dict[str, type[Explainer]] = {}
"""Every explainer class that declares ``SUPPORTED_MODULES``, by name."""


class Explainer(Tunable, ABC):
    """Base of all explainers; a subclass that declares ``SUPPORTED_MODULES`` is registered in `EXPLAINERS`.

    Implement `explain_request` (checked inputs, guarded model), or `explain_further` where a higher budget can continue
    a lower one, or override `attribute` altogether.

    Attributes:
        EXPLANATION_TYPE: what the maps are.
        SUPPORTED_MODULES: the explainer fits if the model has at least one of these kinds …
        EXCLUDED_MODULES: … and none of these.
        OUTPUTS_ONLY: it asks the model for nothing but outputs, so that any function can be explained, too; a subclass
            that overrides `attribute`, `explain_request` or `explain_further` has to say so again.
        OF_TARGETS: it explains the target; if not, the outputs as a whole, and two classes have one map.
        INPUT_NDIMS: numbers of input dimensions it takes, batch included; empty for any.
        NESTED: whether the one budget in ``BUDGET`` can be continued (see `refine`); a subclass that overrides
            `attribute` or `explain_request` is not nested unless it says so.

    Args:
        model: the module to be explained, or a function if ``OUTPUTS_ONLY``; never changed, never copied.
        forward_arg_extractor: from what `attribute` is given to the tensor(s) to be explained, which are the first
            arguments of the model's forward. Default: they are what `attribute` is given.
        additional_forward_arg_extractor: likewise to the model's further arguments. Default: none.
    """

    EXPLANATION_TYPE: ClassVar[str] = "attribution"
    SUPPORTED_MODULES: ClassVar[tuple[type, ...]]
    EXCLUDED_MODULES: ClassVar[tuple[type, ...]] = ()
    OUTPUTS_ONLY: ClassVar[bool] = False
    OF_TARGETS: ClassVar[bool] = True
    INPUT_NDIMS: ClassVar[tuple[int, ...]] = ()
    NESTED: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_way = cls.attribute is not Explainer.attribute or cls.explain_request is not Explainer.explain_request
        continues = cls.explain_further is not Explainer.explain_further
        if "NESTED" not in cls.__dict__:
            cls.NESTED = cls.NESTED and not own_way
        if "OUTPUTS_ONLY" not in cls.__dict__ and not cls.__dict__.keys().isdisjoint(_METHODS):
            cls.OUTPUTS_ONLY = False
        if cls.NESTED and (own_way or not continues):
            raise DeclarationError(
                f"{cls.__name__}, which is NESTED, to implement explain_further, not attribute or explain_request",
                "one of those" if own_way else "no explain_further",
                "Implement explain_further alone, or declare NESTED = False.",
            )
        if continues and len(cls.BUDGET) != 1:
            raise DeclarationError(
                f"{cls.__name__}, which implements explain_further, to name one budget", f"{cls.BUDGET}", "Set BUDGET."
            )
        if "SUPPORTED_MODULES" not in cls.__dict__:
            return
        if not (own_way or continues):
            raise DeclarationError(
                f"{cls.__name__} to implement explain_request or attribute", "neither", "Implement one of the two."
            )
        EXPLAINERS[cls.__name__] = cls

    def __init__(
        self,
        model: Model,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
    ) -> None:
        self.model = model
        self.forward_arg_extractor = forward_arg_extractor
        self.additional_forward_arg_extractor = additional_forward_arg_extractor

    def attribute(self, inputs: Any, targets: Targets = None) -> Any:
        """Explain a batch.

        Args:
            inputs: a tensor ``(n, …)`` or a tuple of tensors (or anything the extractors understand).
            targets: class indices ``(n,)``, one int for all, None for the predicted classes, or a function from the
                model's outputs to one score a sample ``(n,)``.

        Returns:
            Maps of the inputs' shape, or with one channel where the method has none; a tuple where inputs were.

        Raises:
            PnPXAIError: bad inputs, targets or model; see `pnpxai.errors`.
        """
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = self.request(inputs, targets)
            parts = parts_of(request)
            maps = [self.explain_request(part.request) for part in parts]
            return like_inputs(joined(maps, parts, request), inputs, request)

    def refine(self, inputs: Any, targets: Targets = None, budgets: Sequence[int] = ()) -> Iterator[Any]:
        """Explain a batch at growing budgets, each continuing the work of the one before.

        In all it costs the forwards of the last budget alone. Between two maps the model is as it was, and may be used.

        Args:
            inputs: as for `attribute`.
            targets: as for `attribute`.
            budgets: growing values of the argument named in ``BUDGET``; none for the explainer's own.

        Returns:
            An iterator over the maps that `attribute` returns with each of the budgets set, but for the rounding of
            a model whose answers depend on which samples share a batch.

        Raises:
            ParameterError: the budget of this explainer cannot be continued, or the budgets do not grow.
            PnPXAIError: bad inputs, targets or model, when the first map is asked for.
        """
        if not self.NESTED:
            raise ParameterError(
                f"an explainer whose budget can be continued, to refine ({', '.join(_nested()) or 'none is there'})",
                f"{type(self).__name__}",
                "Call attribute for each budget.",
            )
        (name,) = self.BUDGET
        steps = list(budgets) or [getattr(self, name)]
        limit = self.LIMITS.get(name, WholeWithin(1))
        if not all(map(limit.allows, steps)) or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ParameterError(
                f"budgets that grow from one to the next, each {name} of {type(self).__name__} ({limit})",
                f"{steps}",
                "Sort them, and take out what comes twice.",
            )
        return self._refined(inputs, targets, steps)

    def _refined(self, inputs: Any, targets: Targets, budgets: Sequence[int]) -> Iterator[Any]:
        check_model(self.model)
        request, parts = None, list[Part]()
        states: list[Any] = []
        for budget in budgets:
            with guard(self.model), torch.inference_mode(False):
                request = self.request(inputs, targets) if request is None else request
                parts = parts or parts_of(request)
                found = [
                    self.explain_further(part.request, budget, state)
                    for part, state in zip(parts, states or [None] * len(parts), strict=True)
                ]
                states = [state for _, state in found]
                made = like_inputs(joined([maps for maps, _ in found], parts, request), inputs, request)
            yield made

    def explain_request(self, request: Request) -> Tensor | tuple[Tensor, ...]:
        """The method itself: one map for each of ``request.inputs``."""
        if type(self).explain_further is Explainer.explain_further:
            raise NotImplementedError(f"{type(self).__name__} overrides attribute")
        return self.explain_further(request, self.budget, None)[0]

    def explain_further(self, request: Request, budget: int, state: Any) -> tuple[Tensor | tuple[Tensor, ...], Any]:
        """The method of a nested explainer: the maps at a budget, continued from a lower one.

        Args:
            request: the batch, the same for all budgets.
            budget: takes the place of the argument named in ``BUDGET``.
            state: what the call for the budget before returned, which stays as it is; None where there was none.

        Returns:
            The maps, as of `explain_request`, and what a call for a higher budget needs.
        """
        raise NotImplementedError(f"{type(self).__name__} is not nested")

    @property
    def budget(self) -> int:
        """The value of the one argument named in ``BUDGET``."""
        (name,) = self.BUDGET
        return int(getattr(self, name))

    def work(self) -> Hashable | None:
        """What the state of `explain_further` depends on beside the request and the budget.

        Explainers of the same work can go on from each other's states (see `attribute_together`). None for work that
        no other explainer shares.
        """
        return None

    def request(self, inputs: Any, targets: Targets = None) -> Request:
        """Check a batch and put it on the model's device.

        Raises:
            UnsupportedModelError: a function, where more than outputs is needed.
            PnPXAIError: bad inputs, targets or model.
        """
        if not self.OUTPUTS_ONLY:
            module_of(self.model, type(self).__name__)
        request = Request.build(
            self.model,
            inputs,
            targets,
            self.forward_arg_extractor,
            self.additional_forward_arg_extractor,
            self.chunk_size(),
            self.allows_integers(),
        )
        for each in request.inputs:
            if self.INPUT_NDIMS and each.ndim not in self.INPUT_NDIMS:
                allowed = " or ".join(str(ndim) for ndim in self.INPUT_NDIMS)
                raise InputError(
                    f"inputs with {allowed} dimensions for {type(self).__name__}, batch included",
                    f"{each.ndim} dimensions, shape {tuple(each.shape)}",
                    "Add the batch dimension with inputs[None], or choose an explainer for this kind of data.",
                )
        return request

    def allows_integers(self) -> bool:
        """Whether inputs may be whole numbers, such as token ids."""
        return False

    def chunk_size(self) -> int | None:
        """Samples that go through the model at once; None for as many as fit."""
        return None


def _nested() -> list[str]:
    return sorted(name for name, each in EXPLAINERS.items() if each.NESTED)
