"""A run that is slow enough to be killed on its way."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

import pnpxai
from pnpxai.explainers import Explainer
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request
from pnpxai.metrics import AbPC, Complexity
from tests.nets import MLP, batch, seeded
from tests.registry import unregistered

INPUTS = batch(12, 6)


@unregistered
class Slow(Explainer):
    """Inputs times the target's logit, after a while."""

    SUPPORTED_MODULES = ANY_MODULE

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, seconds=0.0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.seconds = seconds

    def explain_request(self, request: Request) -> Tensor:
        time.sleep(self.seconds)
        return request.input * request.outputs.sum(1, keepdim=True)


def experiment(folder: str | Path | None) -> pnpxai.Experiment:
    model = seeded(MLP())
    return pnpxai.Experiment(
        model,
        INPUTS,
        explainers=[Slow(model, seconds=0.2), "Gradient"],
        metrics=[AbPC, Complexity],
        batch_size=2,
        cache_dir=folder,
    )
