"""Explainers for studies that run in other processes, which import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor

from pnpxai.explainers import Explainer
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request
from tests.registry import unregistered


@unregistered
class Weighted(Explainer):
    """The input, each feature weighted by a power of its place; takes ``seconds`` for each call."""

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"power": FloatDistribution(-2.0, 2.0)}

    def __init__(
        self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, power=0.5, seconds=0.0
    ):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.power = power
        self.seconds = seconds

    def explain_request(self, request: Request) -> Tensor:
        time.sleep(self.seconds)
        places = request.input.new_tensor(range(1, request.input.shape[1] + 1))
        return request.input * places**self.power


@unregistered
class Deadly(Weighted):
    """Kills its process, once for each of ``times`` files it can still create in ``folder``."""

    def __init__(
        self,
        model,
        forward_arg_extractor=None,
        additional_forward_arg_extractor=None,
        power=0.5,
        seconds=0.0,
        folder="",
        times=1,
    ):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor, power, seconds)
        self.folder = folder
        self.times = times

    def explain_request(self, request: Request) -> Tensor:
        for number in range(self.times):
            path = Path(self.folder, f"killed-{number}")
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().explain_request(request)


@unregistered
class Switched(Explainer):
    """Few settings: three ways by four steps."""

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"way": CategoricalDistribution(("plain", "absolute", "reversed")), "shift": IntDistribution(0, 3)}

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, way="plain", shift=0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.way = way
        self.shift = shift

    def explain_request(self, request: Request) -> Tensor:
        maps = {"plain": request.input, "absolute": request.input.abs(), "reversed": -request.input}[self.way]
        return maps.roll(self.shift, 1)


@unregistered
class Fixed(Explainer):
    """Nothing to tune."""

    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        return request.input.clone()
