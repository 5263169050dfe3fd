"""What an experiment is about: a model and a data set, and the parts chosen for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor, Targets, check_targets
from pnpxai.callables import Model, check_model
from pnpxai.errors import ParameterError, TargetError
from pnpxai.experiment._parts import Part, default_inputs, default_labels
from pnpxai.explainers import Explainer
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.metrics import AbPC, Metric, metric_for
from pnpxai.modality import Modality, modality_for
from pnpxai.outputs import TargetFunction
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import ExplainerLike, Recommendation, explainers_for, recommend
from pnpxai.samples import Ids, Samples
from pnpxai.targets import Target, is_open, take_targets
from pnpxai.tuning._identity import N_PROBES, model_digest, weights_digest


class Setup:
    """A model and a data set, with what is chosen for them; arguments as of `Experiment`."""

    DEFAULT_METRICS: ClassVar[tuple[type[Metric], ...]] = (AbPC,)

    def __init__(
        self,
        model: Model,
        data: Any,
        modality: str | type[Modality] | Modality | None = None,
        explainers: Sequence[ExplainerLike] | None = None,
        postprocessors: Sequence[PostProcessor] | None = None,
        metrics: Sequence[str | type[Metric] | Metric] | None = None,
        input_extractor: Extractor | None = None,
        label_extractor: Extractor | None = None,
        target_extractor: Callable[[Tensor], Tensor | Target] | None = None,
        target_labels: bool = False,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        batch_size: int = 16,
        cache_dir: str | Path | None = None,
        targets: Targets = None,
    ) -> None:
        if targets is not None and (target_labels or target_extractor is not None):
            raise ParameterError(
                "targets, or target_extractor and target_labels", "both", "Leave out one of the two: each says what."
            )
        self.model = model
        self.data = data
        self.chosen_modality = modality
        self.chosen_explainers = explainers
        self.chosen_postprocessors = postprocessors
        self.chosen_metrics = metrics
        self.input_extractor = input_extractor or default_inputs
        self.label_extractor = label_extractor or default_labels
        self.target_extractor = target_extractor
        self.target_labels = target_labels
        self.forward_arg_extractor = forward_arg_extractor
        self.additional_forward_arg_extractor = additional_forward_arg_extractor
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.chosen_targets = targets

    @cached_property
    def samples(self) -> Samples:
        """The data by id."""
        return Samples(self.data)

    def inputs(self, data_ids: Ids = None) -> Any:
        """The model's inputs of some samples."""
        return self.input_extractor(self.samples.batch(data_ids))

    def labels(self, data_ids: Ids = None) -> Any:
        """The labels of some samples."""
        return self.label_extractor(self.samples.batch(data_ids))

    def targets(self, data_ids: Ids = None) -> Tensor | TargetFunction:
        """What is explained: class indices ``(n,)`` or a named target on the CPU, or a function of the outputs."""
        ids = self.samples.ids(data_ids)
        batch = self.samples.batch(ids)
        return self._targets(ids, batch, self.input_extractor(batch))

    def part(self, ids: Sequence[int]) -> Part:
        """Some samples in hand, each loaded once."""
        batch = self.samples.batch(ids)
        inputs = self.input_extractor(batch)
        return Part(tuple(ids), inputs, self._targets(ids, batch, inputs))

    def identity(self) -> str:
        """What tells models apart: their weights as they are now, or a function's answers to the first samples."""
        if isinstance(self.model, nn.Module) and any(True for _ in self.model.state_dict()):
            return weights_digest(self.model)
        return self._answers_digest

    @cached_property
    def _answers_digest(self) -> str:
        first = self.inputs(range(min(len(self.samples), N_PROBES)))
        return model_digest(self.model, first, self.forward_arg_extractor, self.additional_forward_arg_extractor)

    def _targets(self, ids: Sequence[int], batch: Any, inputs: Any) -> Tensor | TargetFunction:
        chosen = self._chosen_targets(ids, batch)
        if chosen is not None and not is_open(chosen):
            return chosen
        check_model(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model, inputs, chosen, self.forward_arg_extractor, self.additional_forward_arg_extractor
            )
            extractor = self.target_extractor if chosen is None else None
            found = extractor(request.outputs) if extractor else request.targets
            if isinstance(found, Target):
                found = found.for_batch(len(request), request.inputs[0].device)
                return (found.fixed(request.outputs) if found.is_open else found).cpu()
        if not isinstance(found, Tensor) or found.shape != (len(request),):
            received = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(
                f"target_extractor to return class indices ({len(request)},)", f"{received}", "Use outputs.argmax(-1)."
            )
        return found.cpu()

    def _chosen_targets(self, ids: Sequence[int], batch: Any) -> Tensor | TargetFunction | None:
        """The targets that were given, or that the labels say; None where the model's outputs do."""
        if self.target_labels:
            found = self.label_extractor(batch)
            found = self.target_extractor(found) if self.target_extractor else found
            cpu = torch.device("cpu")
            return found.for_batch(len(ids), cpu) if isinstance(found, Target) else torch.as_tensor(found).cpu()
        return None if self._given_targets is None else take_targets(self._given_targets, ids)

    @cached_property
    def _given_targets(self) -> Tensor | TargetFunction | None:
        return check_targets(self.chosen_targets, len(self.samples), torch.device("cpu"))

    @cached_property
    def recommendation(self) -> Recommendation:
        """What fits the model, tried on the first sample."""
        return recommend(
            self.model,
            self.inputs([0]),
            self.targets([0]),
            modality=self.modality,
            forward_arg_extractor=self.forward_arg_extractor,
            additional_forward_arg_extractor=self.additional_forward_arg_extractor,
        )

    @cached_property
    def modality(self) -> Modality:
        """The kind of data."""
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model,
                self.inputs([0]),
                None,
                self.forward_arg_extractor,
                self.additional_forward_arg_extractor,
            )
            first, n = request.inputs[0], len(request.inputs)
            return modality_for(self.chosen_modality, first, request.tokens, request.word_ids, n > 1)

    @cached_property
    def explainers(self) -> list[Explainer]:
        """The explainers, by id."""
        if self.chosen_explainers is None:
            return list(self.recommendation.explainers)
        return explainers_for(
            self.model,
            self.chosen_explainers,
            self.forward_arg_extractor,
            self.additional_forward_arg_extractor,
            self.modality,
        )

    @cached_property
    def postprocessors(self) -> list[PostProcessor]:
        """The post-processors, by id."""
        if self.chosen_postprocessors is None:
            return [self.modality.postprocessor]
        return list(self.chosen_postprocessors)

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics, by id."""
        made = []
        for each in self.DEFAULT_METRICS if self.chosen_metrics is None else self.chosen_metrics:
            metric = metric_for(each, self.model, self.forward_arg_extractor, self.additional_forward_arg_extractor)
            if not isinstance(each, Metric):
                metric = self.modality.settled(metric.set_kwargs(channel_dim=self.modality.channel_dim))
            made.append(metric)
        return made
