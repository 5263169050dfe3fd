"""What every metric is: one score a sample, and a declared direction."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from pnpxai.batches import Extractor, Targets
from pnpxai.callables import Model, check_model, module_of, same_model
from pnpxai.errors import ParameterError, unknown_name
from pnpxai.explainers._base import Explainer
from pnpxai.forward import Request, in_order, parts_of
from pnpxai.guard import guard
from pnpxai.metrics._answers import NO_ANSWERS, Question, ask, gathered, rows, settled, with_targets
from pnpxai.metrics._answers import Answers as Answers
from pnpxai.postprocess import Maps, PostProcessor, feature_values
from pnpxai.tunable import Tunable

M = TypeVar("M", bound="Metric")

METRICS: dict[str, type[Metric]] = {}
"""Every metric class that declares ``HIGHER_IS_BETTER``, by name."""


class Metric(Tunable, ABC):
    """Base of all metrics; a subclass that declares ``HIGHER_IS_BETTER`` is registered in `METRICS`.

    Attributes:
        HIGHER_IS_BETTER: the direction of the score.
        ORDER_ONLY: only the order of the features counts, so that normalising a map changes nothing.
        OUTPUTS_ONLY: it asks the model for nothing but outputs (beside what the explainer asks), so that maps of a
            function can be scored, too.
        EXPLAINS_AGAIN: the score depends on the explainer, not on the map alone.

    Args:
        model: the model that was explained.
        explainer: makes the attributions where `evaluate` is given none (and the metric needs to explain again).
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        channel_dim: the dimension of ``(n, c, …)`` inputs whose entries are removed together; None for none.
            Two-dimensional inputs ``(n, d)`` have none.
    """

    HIGHER_IS_BETTER: ClassVar[bool]
    ORDER_ONLY: ClassVar[bool] = False
    OUTPUTS_ONLY: ClassVar[bool] = False
    EXPLAINS_AGAIN: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "HIGHER_IS_BETTER" in cls.__dict__:
            METRICS[cls.__name__] = cls

    def __init__(
        self,
        model: Model,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = 1,
    ) -> None:
        self.model = model
        self.explainer = explainer
        self.forward_arg_extractor = forward_arg_extractor
        self.additional_forward_arg_extractor = additional_forward_arg_extractor
        self.channel_dim = channel_dim

    def evaluate(
        self, inputs: Any, targets: Targets = None, attributions: Any = None, answers: Answers | None = None
    ) -> Tensor:
        """Score maps of a batch.

        Args:
            inputs: as given to the explainer.
            targets: as given to the explainer; None scores the predicted classes.
            attributions: maps ``(n, h, w)``, ``(n, t)`` or ``(n, d)``, or with channels, which are summed; of several
                inputs one each, or ``(n, f)`` of all their features side by side; None asks the explainer.
            answers: what `answers` gave for these inputs and targets (the rows of these samples), which is then not
                asked again; None asks.

        Returns:
            ``(n,)``, one score a sample.

        Raises:
            InputError: attributions or answers that do not fit the inputs.
            ParameterError: neither attributions nor an explainer.
            TargetError: answers about other targets.
        """
        known = NO_ANSWERS if answers is None else answers
        with self.prepared(inputs, targets, attributions, known) as (request, values):
            parts = parts_of(request)
            scores = [
                self.evaluate_request(part.request, part.free(values), self.ask(part.request, rows(known, part)))
                for part in parts
            ]
            return in_order(parts, scores)

    def answers(self, inputs: Any, targets: Targets = None) -> Answers:
        """What `evaluate` asks of the model whatever the map is, to be kept and passed to it for any map.

        Args:
            inputs: as for `evaluate`.
            targets: as for `evaluate`.

        Returns:
            Name to a tensor ``(n, …)``, one row a sample; empty where nothing is asked.
        """
        with self.opened(inputs, targets) as request:
            parts = parts_of(request)
            return with_targets(request, gathered([self.ask(part.request) for part in parts], parts))

    def ask(self, request: Request, known: Answers = NO_ANSWERS) -> Answers:
        """The answers to `questions`; those in ``known`` are not asked again."""
        return ask(self.questions(), request, known)

    def questions(self) -> Mapping[str, Question]:
        """What the metric asks of the model whatever the map is, by names that equal settings alone share."""
        return {}

    @contextlib.contextmanager
    def prepared(
        self, inputs: Any, targets: Targets = None, attributions: Any = None, answers: Answers = NO_ANSWERS
    ) -> Iterator[tuple[Request, Tensor]]:
        """The checked request and one number a feature ``(n, f)``, with the model guarded inside the block."""
        maps = self.maps(inputs, targets, attributions)
        with self.opened(inputs, targets, answers) as request:
            yield request, self.feature_values(maps, request.explained)

    @contextlib.contextmanager
    def opened(self, inputs: Any, targets: Targets = None, answers: Answers = NO_ANSWERS) -> Iterator[Request]:
        """The checked request, about the targets of ``answers``, with the model guarded inside the block."""
        check_model(self.model)
        if not self.OUTPUTS_ONLY:
            module_of(self.model, type(self).__name__)
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model, inputs, targets, self.forward_arg_extractor, self.additional_forward_arg_extractor
            )
            yield settled(request, answers)

    def maps(self, inputs: Any, targets: Targets = None, attributions: Any = None) -> Any:
        """The attributions given, or those of the explainer; a tuple of one tensor is that tensor."""
        check_model(self.model)
        if attributions is None:
            attributions = self.need_explainer().attribute(inputs, targets)
        return attributions[0] if isinstance(attributions, tuple) and len(attributions) == 1 else attributions

    def feature_values(self, attributions: Any, inputs: Maps) -> Tensor:
        """One number a feature, ``(n, f)``, from maps of ``inputs``; channels are summed."""
        return feature_values(attributions, inputs, self.channel_dim)

    @abstractmethod
    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """The metric itself: ``(n,)`` from one number a feature, ``values`` ``(n, f)``, and the answers to `ask`."""

    def for_samples(self: M, index: Sequence[int]) -> M:
        """This metric for some of the samples it knows, in their order; for most metrics all samples are alike."""
        return self

    def judging(self: M, explainer: Explainer, postprocessor: PostProcessor) -> M:
        """This metric, set to judge maps that ``explainer`` made and ``postprocessor`` pooled."""
        return self.set_kwargs(explainer=explainer)

    def need_explainer(self) -> Explainer:
        """The explainer.

        Raises:
            ParameterError: there is none.
        """
        if self.explainer is None:
            raise ParameterError(
                f"attributions, or an explainer for {type(self).__name__} to ask",
                "neither",
                "Pass attributions to evaluate, or explainer= to the metric.",
            )
        return self.explainer


def metric_class(name: str) -> type[Metric]:
    """The metric of a name, whatever its capitals.

    Raises:
        UnknownNameError: there is none; the valid names are listed.
    """
    by_name = {each.lower(): METRICS[each] for each in METRICS}
    if name.lower() not in by_name:
        raise unknown_name("metric", name, METRICS)
    return by_name[name.lower()]


def metric_for(
    metric: str | type[Metric] | Metric,
    model: Model,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> Metric:
    """A metric on ``model`` from a name, class or instance.

    Raises:
        UnknownNameError: a name that is no metric.
        ParameterError: an instance on another model.
    """
    if isinstance(metric, str):
        metric = metric_class(metric)
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric(
            model,
            forward_arg_extractor=forward_arg_extractor,
            additional_forward_arg_extractor=additional_forward_arg_extractor,
        )
    if not isinstance(metric, Metric):
        raise unknown_name("metric", metric, METRICS)
    if not same_model(metric.model, model):
        raise ParameterError(
            "a metric on the model that is given",
            f"{type(metric).__name__} on another model",
            "Build it with this model, or pass its class.",
        )
    return metric
