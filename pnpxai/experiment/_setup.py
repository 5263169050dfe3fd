"""What an experiment is about: a model and a data set, and the parts chosen for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import TargetError
from pnpxai.experiment._parts import Part, default_inputs, default_labels
from pnpxai.explainers import Explainer
from pnpxai.forward import Request, model_reference
from pnpxai.guard import guard
from pnpxai.metrics import AbPC, Metric, metric_for
from pnpxai.modality import Modality, modality_for
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import ExplainerLike, Recommendation, explainers_for, recommend
from pnpxai.samples import Ids, Samples
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
        target_extractor: Callable[[Tensor], Tensor] | None = None,
        target_labels: bool = False,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        batch_size: int = 16,
        cache_dir: str | Path | None = None,
    ) -> None:
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

    def targets(self, data_ids: Ids = None) -> Tensor:
        """What is explained: class indices ``(n,)`` on the CPU."""
        batch = self.samples.batch(data_ids)
        return self._targets(batch, self.input_extractor(batch))

    def part(self, ids: Sequence[int]) -> Part:
        """Some samples in hand, each loaded once."""
        batch = self.samples.batch(ids)
        inputs = self.input_extractor(batch)
        return Part(tuple(ids), inputs, self._targets(batch, inputs))

    def identity(self) -> str:
        """What tells models apart: their weights as they are now, or a function's answers to the first samples."""
        if isinstance(self.model, nn.Module) and any(True for _ in self.model.state_dict()):
            return weights_digest(self.model)
        return self._answers_digest

    @cached_property
    def _answers_digest(self) -> str:
        first = self.inputs(range(min(len(self.samples), N_PROBES)))
        return model_digest(self.model, first, self.forward_arg_extractor, self.additional_forward_arg_extractor)

    def _targets(self, batch: Any, inputs: Any) -> Tensor:
        if self.target_labels:
            chosen = self.label_extractor(batch)
            chosen = self.target_extractor(chosen) if self.target_extractor else chosen
            return torch.as_tensor(chosen).cpu()
        model_reference(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model, inputs, None, self.forward_arg_extractor, self.additional_forward_arg_extractor
            )
            found = self.target_extractor(request.outputs) if self.target_extractor else request.targets
        if not isinstance(found, Tensor) or found.shape != (len(request),):
            received = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(
                f"target_extractor to return class indices ({len(request)},)", f"{received}", "Use outputs.argmax(-1)."
            )
        return found.cpu()

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
            return modality_for(self.chosen_modality, request.inputs[0], request.tokens)

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
