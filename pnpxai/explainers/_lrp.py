"""What all explainers by layer-wise relevance propagation share: from a composite of rules to maps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from pnpxai.errors import ModelError, ParameterError
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import backward_errors, differentiable, in_chunks
from pnpxai.explainers._layers import LayerOutput, layer_name
from pnpxai.explainers._lrp_check import GraphWatch, check_rules
from pnpxai.forward import Extractor, Request, Targets, model_reference
from pnpxai.guard import guard
from pnpxai.limits import Limit, OrNone, WholeWithin, Within
from pnpxai.modules import GRU, LSTM, RNN, Attention, Embedding
from pnpxai.outputs import TargetFunction, select

if TYPE_CHECKING:
    from zennit.canonizers import Canonizer
    from zennit.core import Composite


def start_relevance(outputs: Tensor, targets: Tensor | TargetFunction, request: Request) -> Tensor:
    """What relevance starts from: ``outputs ⊙ ∂score/∂outputs``, the score itself at the output of a class.

    Args:
        outputs: ``(n, k)`` or ``(n,)``.
        targets: class indices ``(n,)`` or a function of the outputs.
        request: named in errors.

    Example:
        >>> start_relevance(torch.tensor([[3.0, -2.0]]), torch.tensor([1]), None).tolist()
        [[0.0, -2.0]]
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        scores = differentiable(select(leaf, targets), request)
        (slope,) = torch.autograd.grad(scores.sum(), (leaf,))
    return outputs.detach() * slope


class LRPBase(Explainer):
    """Base of the explainers by layer-wise relevance propagation (Bach et al., 2015); a subclass gives the rules.

    Relevance starts as the target's output (for a target function, the outputs times the score's gradient) and is
    handed down layer by layer, in proportion to what each input contributed. A ReLU and its kin pass it on, average
    pooling shares it in proportion to the pooled values, max-pooling gives it to the winner. Signed, of the inputs'
    shape, in units of the model's output. Before anything is explained one forward pass on the first input is watched:
    a model with an operation that has no correct rule here (a residual sum, batch norm, attention …) is refused.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        epsilon: of the ε-rule: absorbs relevance where ``|z|`` is small; larger gives sparser maps that sum to less.
        stabilizer: added in the same way to the denominators of all other rules.
        zennit_canonizers: `zennit.canonizers.Canonizer` objects; applied to a copy of the model, which is explained.
        layer: a module of the model or its name, to get the relevance of its output, in that output's shape.
        n_classes: how many outputs the model must have; None for any number.
    """

    EXCLUDED_MODULES = (Attention, RNN, LSTM, GRU, Embedding)
    TUNABLES = {"epsilon": FloatDistribution(1e-6, 1.0, log=True)}
    LIMITS: ClassVar[Mapping[str, Limit]] = {
        "epsilon": Within(0.0, low_open=True),
        "stabilizer": Within(0.0, low_open=True),
        "n_classes": OrNone(WholeWithin(1)),
    }

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        epsilon: float = 1e-6,
        stabilizer: float = 1e-6,
        zennit_canonizers: Sequence[Canonizer] | None = None,
        layer: str | nn.Module | None = None,
        n_classes: int | None = None,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.epsilon = epsilon
        self.stabilizer = stabilizer
        self.zennit_canonizers = zennit_canonizers
        self.layer = layer
        self.n_classes = n_classes

    @property
    @abstractmethod
    def zennit_composite(self) -> Composite:
        """The rules, built from the current parameters at each access; the canonizers are not part of it."""

    def attribute(self, inputs: Any, targets: Targets = None) -> Any:
        """Explain a batch, as `Explainer.attribute` does; with ``layer``, in the shape of that layer's output.

        Raises:
            UnsupportedOperationError: the model has an operation without a correct rule; says which and where.
            PnPXAIError: bad inputs, targets or model; see `pnpxai.errors`.
        """
        if self.layer is None:
            return super().attribute(inputs, targets)
        model_reference(self.model)
        with guard(self.model), torch.inference_mode(False):
            return self.explain_request(self.request(inputs, targets)).detach()

    def explain_request(self, request: Request) -> Tensor:
        """Relevance of the input, or of the output of ``layer``, for each sample."""
        inputs = request.input
        if self.n_classes is not None:
            self._check_outputs(request)
        name = None if self.layer is None else layer_name(self.model, self.layer)
        canonized = self._canonized(request) if self.zennit_canonizers else request
        self.check_model(canonized)
        maps: list[Tensor] = []

        def run(start: int, stop: int) -> None:
            index = torch.arange(start, stop, device=inputs.device)
            leaf = inputs[start:stop].detach().requires_grad_()
            with ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(self.zennit_composite.context(canonized.model))
                layer = stack.enter_context(LayerOutput(name).recorded(canonized.model)) if name else None
                outputs = canonized.call((leaf.clone(),), index)
                relevance = start_relevance(outputs, request.targets_for(index), request)
                reached = leaf if layer is None else layer.tensor
                with backward_errors(request):
                    maps.append(torch.autograd.grad(outputs, (reached,), grad_outputs=relevance)[0])

        in_chunks(request, len(request), run)
        return torch.cat(maps)

    def check_model(self, request: Request) -> GraphWatch:
        """Refuse a model in which some operation has no correct rule.

        Raises:
            UnsupportedOperationError: says which operation, where, and what to do.
        """
        return check_rules(request)

    def _check_outputs(self, request: Request) -> None:
        k = request.outputs.shape[-1] if request.outputs.ndim > 1 else 1
        if self.n_classes != k:
            raise ParameterError(
                f"n_classes of {type(self).__name__} to be the number of the model's outputs, {k}",
                f"{self.n_classes}",
                "Leave n_classes out, or pass the model it belongs to.",
            )

    def _canonized(self, request: Request) -> Request:
        """The same request to a copy of the model with the canonizers applied.

        Raises:
            ModelError: a canonizer fails, or the copy gives other outputs than the model.
        """
        twin = copy.deepcopy(request.model).requires_grad_(False)
        try:
            with torch.no_grad():
                for each in self.zennit_canonizers or ():
                    each.apply(twin)
        except Exception as error:
            raise ModelError(
                f"canonizers that can be applied to {type(request.model).__name__}",
                f"{type(error).__name__} from one of them: {error}",
                "These zennit_canonizers do not fit this model; choose others or none.",
            ) from error
        changed = replace(request, model=twin)
        scale = float(request.outputs.abs().max())
        if not torch.allclose(changed.outputs, request.outputs, rtol=1e-3, atol=1e-4 * scale):
            raise ModelError(
                "canonizers that leave the model's outputs as they are",
                f"outputs that differ by {float((changed.outputs - request.outputs).abs().max()):.3g}",
                "These zennit_canonizers do not fit this model; choose others or none.",
            )
        return changed
