from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pnpxai.errors import ExplanationError
from pnpxai.explainers import Explainer
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request
from pnpxai.tuning._maps import MapCache
from tests.nets import MLP, batch, seeded
from tests.registry import unregistered


@unregistered
class Scaled(Explainer):
    """Inputs times a factor; counts what it explains."""

    SUPPORTED_MODULES = ANY_MODULE
    explained: list[int] = []

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, factor=2.0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.factor = factor

    def explain_request(self, request: Request) -> Tensor:
        Scaled.explained.append(len(request))
        return request.input * self.factor


@pytest.fixture
def cache() -> MapCache:
    Scaled.explained.clear()
    return MapCache(batch(6, 6), torch.zeros(6, dtype=torch.long))


def test_each_sample_is_explained_once(cache: MapCache) -> None:
    net = seeded(MLP())
    assert torch.equal(cache.maps(Scaled(net), [4, 0]), cache.inputs[[4, 0]] * 2)
    assert torch.equal(cache.maps(Scaled(net), [0, 1, 4]), cache.inputs[[0, 1, 4]] * 2)
    assert Scaled.explained == [2, 1]


def test_other_parameters_are_other_maps(cache: MapCache) -> None:
    net = seeded(MLP())
    cache.maps(Scaled(net), [0])
    assert torch.equal(cache.maps(Scaled(net, factor=3.0), [0]), cache.inputs[[0]] * 3)
    assert Scaled.explained == [1, 1]


def test_memory_is_bounded() -> None:
    Scaled.explained.clear()
    cache = MapCache(batch(6, 6), torch.zeros(6, dtype=torch.long), max_bytes=3 * 6 * 4)
    net = seeded(MLP())
    cache.maps(Scaled(net), range(6))
    assert torch.equal(cache.maps(Scaled(net), [5, 4, 3]), cache.inputs[[5, 4, 3]] * 2)
    assert Scaled.explained == [6]
    assert torch.equal(cache.maps(Scaled(net), [0]), cache.inputs[[0]] * 2)
    assert Scaled.explained == [6, 1]


def test_a_map_that_is_none_is_refused(cache: MapCache) -> None:
    with pytest.raises(ExplanationError, match="finite"):
        cache.maps(Scaled(seeded(MLP()), factor=float("nan")), [0])
    with pytest.raises(ExplanationError, match="same value everywhere"):
        cache.maps(Scaled(seeded(MLP()), factor=0.0), [0])
