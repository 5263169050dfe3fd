"""Metrics that read a number off something measured, so that those with equal settings can share it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pnpxai.forward import Request
from pnpxai.metrics._answers import Answers, Question
from pnpxai.metrics._base import Metric
from pnpxai.tunable import Tunable


class Measurement(Tunable, ABC):
    """What is measured of a model and a map. Its arguments determine it: equal settings measure the same."""

    @abstractmethod
    def questions(self) -> Mapping[str, Question]:
        """What it asks of the model whatever the map is, by name."""

    @abstractmethod
    def measure(self, request: Request, values: Tensor, answers: Answers) -> Any:
        """The measured, from one number a feature ``(n, f)`` and the answers to `questions`."""


class MeasuringMetric(Metric):
    """A metric that reads one number a sample off its `measurement`."""

    @property
    @abstractmethod
    def measurement(self) -> Measurement:
        """What is measured; metrics for which it is equal share it in `evaluate_together`."""

    @abstractmethod
    def read(self, measured: Any) -> Tensor:
        """The metric itself: ``(n,)`` from what was measured."""

    def questions(self) -> Mapping[str, Question]:
        """Those of the measurement."""
        return self.measurement.questions()

    def evaluate_request(self, request: Request, values: Tensor, answers: Answers) -> Tensor:
        """Measure, then read."""
        return self.read(self.measurement.measure(request, values, answers))
