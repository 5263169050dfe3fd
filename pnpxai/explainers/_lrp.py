"""What all explainers by layer-wise relevance propagation share: from rules to maps and to the ledger."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor, Targets, check_targets
from pnpxai.callables import check_model, module_of
from pnpxai.errors import ModelError, ParameterError
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._gradients import in_chunks
from pnpxai.explainers._layers import layer_name
from pnpxai.explainers._maps import like_inputs
from pnpxai.explainers._relevance import Books, relevance_of_chunk
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.limits import Limit, OneOf, OrNone, WholeWithin, Within
from pnpxai.outputs import TargetFunction
from pnpxai.relevance import AttentionRule, Ledger, Settings, Stabilizer

if TYPE_CHECKING:
    from zennit.canonizers import Canonizer
    from zennit.core import Composite


class LRPBase(Explainer):
    """Base of the explainers by layer-wise relevance propagation (Bach et al., 2015); a subclass gives the rules.

    Relevance starts as the target's output (for a target function, the outputs times the score's gradient) and is
    handed down operation by operation, in proportion to what each input contributed. Layers with weights go by the
    composite, everything else by the list in `pnpxai.relevance._operations`: sums are shared in proportion, activations
    pass relevance on, gates and norms' deviations are held constant, batch norm is merged into the layer before it.
    Signed, of the inputs' shape, in units of the model's output. An operation without a rule is refused when relevance
    reaches it.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        epsilon: of the ε-rule, by which also sums, norms and products of matrices go: absorbs relevance where ``|z|``
            is small; larger gives sparser maps that sum to less.
        stabilizer: added in the same way to the denominators of all other rules, averages among them.
        zennit_canonizers: `zennit.canonizers.Canonizer` objects, which are never needed; applied to a copy of the
            model, which is explained in its place.
        layer: a module of the model or its name, to get the relevance of its output, in that output's shape; of its
            last call, where it is called more than once. Inputs may then be whole numbers, such as token ids above an
            embedding.
        n_classes: how many outputs the model must have; None for any number.
        attention: ``"constant"`` holds the weights of attention constant (CP-LRP, Ali et al., 2022,
            arXiv 2202.07304); ``"attnlrp"`` expands the softmax to first order and shares products of matrices
            equally (Achtibat et al., 2024, arXiv 2402.05602).
        relative_epsilon: multiply ``epsilon`` and ``stabilizer`` with the scale of the activation they are added to
            (see `pnpxai.relevance.Stabilizer`), so that one value means the same in every layer.
    """

    TUNABLES = {
        "epsilon": FloatDistribution(1e-6, 1.0, log=True),
        "attention": CategoricalDistribution(("constant", "attnlrp")),
    }
    LIMITS: ClassVar[Mapping[str, Limit]] = {
        "epsilon": Within(0.0, low_open=True),
        "stabilizer": Within(0.0, low_open=True),
        "n_classes": OrNone(WholeWithin(1)),
        "attention": OneOf(("constant", "attnlrp")),
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
        attention: AttentionRule = "constant",
        relative_epsilon: bool = False,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.epsilon = epsilon
        self.stabilizer = stabilizer
        self.zennit_canonizers = zennit_canonizers
        self.layer = layer
        self.n_classes = n_classes
        self.attention = attention
        self.relative_epsilon = relative_epsilon

    @property
    @abstractmethod
    def zennit_composite(self) -> Composite:
        """The rules of layers with weights, built from the current parameters at each access."""

    def stabilized_by(self, epsilon: float) -> Stabilizer:
        """What keeps denominators from zero, absolute or relative."""
        return Stabilizer(epsilon, self.relative_epsilon)

    def attribute(self, inputs: Any, targets: Targets = None) -> Any:
        """Explain a batch, as `Explainer.attribute` does; with ``layer``, in the shape of that layer's output.

        Raises:
            UnsupportedOperationError: relevance reaches an operation without a rule; says which and where.
            PnPXAIError: bad inputs, targets or model; see `pnpxai.errors`.

        Warns:
            RelevanceWarning: more than `UNEXPLAINED` of the outputs' relevance is neither in the map nor absorbed by
                biases, stabilizers and constants.
        """
        if self.layer is None:
            return super().attribute(inputs, targets)
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            return self.explain_request(self.request(inputs, targets))

    def attribute_each(self, inputs: Any, targets: Sequence[Targets]) -> list[Any]:
        """Explain a batch for several targets with one forward pass.

        Args:
            inputs: as for `attribute`.
            targets: a list of what `attribute` takes as targets.

        Returns:
            What `attribute` returns, for each of the targets.
        """
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = self.request(inputs, next((each for each in targets if each is not None), None))
            found = [check_targets(each, len(request), request.inputs[0].device) for each in targets]
            maps = self._explained(request, [request.settled(each) for each in found])
            several = (each[0] if len(each) == 1 else each for each in maps)
            return [each if self.layer is not None else like_inputs(each, inputs, request) for each in several]

    def ledger(self, inputs: Any, targets: Targets = None) -> Ledger:
        """Where relevance goes: in, out and absorbed, for each operation in the order in which the model runs them.

        Args:
            inputs: as for `attribute`; the numbers are sums over the batch, so pass one sample for one explanation.
            targets: as for `attribute`.

        Returns:
            Prints as a table; see `pnpxai.relevance.Ledger`.
        """
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = self.request(inputs, targets)
            books = Books(measured=True)
            self._explained(request, [request.targets], books)
            return books.ledger()

    def allows_integers(self) -> bool:
        """Whole numbers are let through where relevance ends at a layer."""
        return self.layer is not None

    def explain_request(self, request: Request) -> Tensor | tuple[Tensor, ...]:
        """Relevance of the inputs, or of the output of ``layer``, for each sample."""
        (found,) = self._explained(request, [request.targets])
        return found[0] if len(found) == 1 else found

    def settings(self) -> Settings:
        """The rules, from the current parameters."""
        return Settings(
            self.zennit_composite,
            self.stabilized_by(self.epsilon),
            self.stabilized_by(self.stabilizer),
            self.attention,
        )

    def _explained(
        self, request: Request, targets: Sequence[Tensor | TargetFunction], books: Books | None = None
    ) -> list[tuple[Tensor, ...]]:
        """For each target, the relevance of each input, or of the layer."""
        self._check_outputs(request)
        name = None if self.layer is None else layer_name(module_of(self.model, type(self).__name__), self.layer)
        if self.zennit_canonizers:
            request = self._canonized(request)
        settings = self.settings()
        kept = Books() if books is None else books
        pieces: list[list[tuple[Tensor, ...]]] = [[] for _ in targets]

        def run(start: int, stop: int) -> None:
            found = relevance_of_chunk(request, settings, start, stop, targets, name, kept)
            for piece, each in zip(pieces, found, strict=True):
                piece.append(each)

        in_chunks(request, len(request), run)
        if name is None:
            kept.warn(type(self).__name__)
        return [tuple(torch.cat(each) for each in zip(*piece, strict=True)) for piece in pieces]

    def _check_outputs(self, request: Request) -> None:
        if self.n_classes is None:
            return
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
        twin = copy.deepcopy(request.module).requires_grad_(False)
        try:
            with torch.no_grad():
                for each in self.zennit_canonizers or ():
                    each.apply(twin)
        except Exception as error:
            raise ModelError(
                f"canonizers that can be applied to {type(request.model).__name__}",
                f"{type(error).__name__} from one of them: {error}",
                "These zennit_canonizers do not fit this model; leave them out, they are not needed.",
            ) from error
        changed = replace(request, model=twin)
        scale = float(request.outputs.abs().max())
        if not torch.allclose(changed.outputs, request.outputs, rtol=1e-3, atol=1e-4 * scale):
            raise ModelError(
                "canonizers that leave the model's outputs as they are",
                f"outputs that differ by {float((changed.outputs - request.outputs).abs().max()):.3g}",
                "These zennit_canonizers do not fit this model; leave them out, they are not needed.",
            )
        return changed
