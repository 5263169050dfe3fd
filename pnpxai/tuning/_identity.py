"""What tells models apart: their weights, or the answers of one that shows none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.kept import digest, plain
from pnpxai.outputs import joined, select
from pnpxai.tunable import to_json

N_PROBES = 64
"""How many inputs a model is asked about at most, and about as many mixtures of them."""
STEPS = 1000 / math.pi
"""To so many parts of the largest answer are answers told apart; no share of a forest's trees lies on an edge."""


def model_digest(
    model: Model,
    inputs: Any,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> str:
    """What trials on one model have in common: of a module with weights `weights_digest`, else `answers_digest`."""
    if isinstance(model, nn.Module) and next(_weights(model), None) is not None:
        return weights_digest(model)
    with guard(model), torch.inference_mode(False):
        return answers_digest(
            Request.build(model, inputs, None, forward_arg_extractor, additional_forward_arg_extractor)
        )


def weights_digest(model: nn.Module) -> str:
    """A digest of a model's modules with their settings, parameters and buffers: with others it is another model.

    Example:
        >>> weights_digest(nn.Sequential(nn.ReLU())) == weights_digest(nn.Sequential(nn.GELU()))
        False
    """
    modules = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))
    return digest([type(model).__qualname__, modules, *([name, to_json(each)] for name, each in _weights(model))], 64)


def answers_digest(request: Request) -> str:
    """A digest of what a function answers to inputs, and to each with half of its features of the next input.

    Answers that differ by rounding count as the same. Functions that give the same answers here are not told apart.
    """
    n = min(len(request), N_PROBES)
    generator = torch.Generator().manual_seed(0)
    mixed = []
    for each in request.inputs:
        own = torch.rand(each[:n].shape, generator=generator).to(each.device) < 0.5
        mixed.append(torch.where(own, each[:n], each[:n].roll(1, 0)))
    return _rounded(joined([_answers(request, rows) for rows in (request.rows(0, n), mixed)]))


def targets_identity(request: Request) -> Any:
    """What tells targets apart, as JSON: what they are; a function's name, and its scores of the inputs themselves."""
    targets = request.targets
    if plain(targets):
        return to_json(targets)
    return [to_json(targets), _rounded(select(request.outputs, targets))]


def _rounded(answers: Tensor) -> str:
    answers = answers.double().cpu().nan_to_num()
    scale = float(answers.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
    return digest([round(STEPS * math.log(scale)), to_json(torch.round(STEPS * (answers / scale)).long())], 64)


def _answers(request: Request, rows: Sequence[Tensor]) -> Tensor:
    kept: list[Tensor] = []
    request.stream(
        len(rows[0]),
        lambda start, stop: ([each[start:stop] for each in rows], torch.arange(start, stop)),
        lambda start, stop, outputs: kept.append(outputs.cpu()),
    )
    return joined(kept)


def _weights(model: nn.Module) -> Any:
    yield from model.named_parameters()
    yield from model.named_buffers()
