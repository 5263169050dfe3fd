"""What every explainer is: declared, registered, checked at one door, and harmless to the model."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pnpxai.errors import DeclarationError, ExplanationError, InputError
from pnpxai.forward import Extractor, Request, Targets, model_reference
from pnpxai.guard import guard
from pnpxai.modules import MODULE_KINDS
from pnpxai.tunable import Tunable

ANY_MODULE: tuple[type, ...] = MODULE_KINDS
"""The declaration of a method that asks nothing of the model but its outputs (and gradients)."""

EXPLAINERS: dict[str, type[Explainer]] = {}
"""Every explainer class that declares ``SUPPORTED_MODULES``, by name."""


class Explainer(Tunable, ABC):
    """Base of all explainers; a subclass that declares ``SUPPORTED_MODULES`` is registered in `EXPLAINERS`.

    Implement `explain_request` (checked inputs, guarded model), or override `attribute` altogether.

    Attributes:
        EXPLANATION_TYPE: what the maps are.
        SUPPORTED_MODULES: the explainer fits if the model has at least one of these kinds …
        EXCLUDED_MODULES: … and none of these.
        INPUT_NDIMS: numbers of input dimensions it takes, batch included; empty for any.

    Args:
        model: the module to be explained; never changed, never copied.
        forward_arg_extractor: from what `attribute` is given to the tensor(s) to be explained, which are the first
            arguments of the model's forward. Default: they are what `attribute` is given.
        additional_forward_arg_extractor: likewise to the model's further arguments. Default: none.
    """

    EXPLANATION_TYPE: ClassVar[str] = "attribution"
    SUPPORTED_MODULES: ClassVar[tuple[type, ...]]
    EXCLUDED_MODULES: ClassVar[tuple[type, ...]] = ()
    INPUT_NDIMS: ClassVar[tuple[int, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "SUPPORTED_MODULES" not in cls.__dict__:
            return
        if cls.attribute is Explainer.attribute and cls.explain_request is Explainer.explain_request:
            raise DeclarationError(
                f"{cls.__name__} to implement explain_request or attribute", "neither", "Implement one of the two."
            )
        EXPLAINERS[cls.__name__] = cls

    def __init__(
        self,
        model: nn.Module,
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
        model_reference(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = self.request(inputs, targets)
            maps = self.explain_request(request)
            return like_inputs(maps, inputs, request)

    def explain_request(self, request: Request) -> Tensor | tuple[Tensor, ...]:
        """The method itself: one map for each of ``request.inputs``."""
        raise NotImplementedError(f"{type(self).__name__} overrides attribute")

    def request(self, inputs: Any, targets: Targets = None) -> Request:
        """Check a batch and put it on the model's device.

        Raises:
            PnPXAIError: bad inputs, targets or model.
        """
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


def like_inputs(maps: Tensor | Sequence[Tensor], inputs: Any, request: Request) -> Any:
    """Check the maps against the inputs and give them the device, dtype and structure of what came in."""
    several = tuple(maps) if isinstance(maps, tuple | list) else (maps,)
    if len(several) != len(request.inputs) or not all(isinstance(each, Tensor) for each in several):
        raise ExplanationError(
            f"a map for each of {len(request.inputs)} inputs",
            ", ".join(type(each).__name__ for each in several) or "none",
            "This is a fault of the explainer.",
        )
    for each, explained in zip(several, request.inputs, strict=True):
        one_channel = (len(explained), 1, *explained.shape[2:])
        if each.shape != explained.shape and (explained.ndim < 3 or tuple(each.shape) != one_channel):
            raise ExplanationError(
                f"a map of the inputs' shape {tuple(explained.shape)}",
                f"{tuple(each.shape)}",
                "This is a fault of the explainer.",
            )
        if not torch.isfinite(each).all():
            raise ExplanationError(
                "a finite map",
                "NaN or infinity in it",
                "Check that the model's outputs and gradients are finite on these inputs, or try model.double().",
            )
    origin = inputs if isinstance(inputs, Tensor) else inputs[0] if isinstance(inputs, tuple | list) else None
    like = origin if isinstance(origin, Tensor) and origin.is_floating_point() else request.inputs[0]
    several = tuple(each.detach().to(like.device, like.dtype) for each in several)
    return several if isinstance(inputs, tuple | list) and len(several) == len(inputs) else several[0]
