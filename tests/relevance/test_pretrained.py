"""The four composites on a pretrained network and real photographs."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized
from tests.harm import untouched

pytestmark = pytest.mark.pretrained
FOUR = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox)


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return standardized([cropped(each.open()) for each in photographs(["A cup of coffee", "A dahlia"])])


def test_the_maps_are_finite_and_differ(lite0: nn.Module, photos: Tensor) -> None:
    with untouched(lite0, photos):
        maps = [cls(lite0).attribute(photos) for cls in FOUR]
    for first, second in itertools.combinations(maps, 2):
        assert F.cosine_similarity(first.flatten(1), second.flatten(1)).abs().max() < 0.95
    assert all(torch.isfinite(each).all() for each in maps)


@pytest.mark.parametrize("cls", FOUR)
def test_all_relevance_is_accounted_for(cls: type, lite0: nn.Module, photos: Tensor) -> None:
    explainer = cls(lite0)
    ledger = explainer.ledger(photos[:1])
    output = float(lite0(photos[:1]).detach().max())
    found = float(explainer.attribute(photos[:1]).double().sum())
    assert ledger.output == pytest.approx(output, rel=1e-5)
    assert found + ledger.bias + ledger.epsilon + ledger.constants == pytest.approx(output, rel=1e-4)
    assert ledger.largest_gap < 1e-5
    modules = {each.place.split(" ")[0] for each in ledger.entries if each.operation == "conv2d"}
    assert {name for name, each in lite0.named_modules() if isinstance(each, nn.Conv2d)} == modules
