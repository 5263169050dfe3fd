from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pnpxai.baselines import Zeros
from pnpxai.errors import ExplanationError
from pnpxai.explainers import Explainer, IntegratedGradients, SmoothGrad
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.tuning._maps import MapCache, Samples
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
    return MapCache(Samples(batch(6, 6), torch.zeros(6, dtype=torch.long)))


def test_each_sample_is_explained_once(cache: MapCache) -> None:
    net = seeded(MLP())
    assert torch.equal(cache.maps(Scaled(net), [4, 0]), cache.samples.inputs[[4, 0]] * 2)
    assert torch.equal(cache.maps(Scaled(net), [0, 1, 4]), cache.samples.inputs[[0, 1, 4]] * 2)
    assert Scaled.explained == [2, 1]


def test_other_parameters_are_other_maps(cache: MapCache) -> None:
    net = seeded(MLP())
    cache.maps(Scaled(net), [0])
    assert torch.equal(cache.maps(Scaled(net, factor=3.0), [0]), cache.samples.inputs[[0]] * 3)
    assert Scaled.explained == [1, 1]


def test_memory_is_bounded() -> None:
    Scaled.explained.clear()
    cache = MapCache(Samples(batch(6, 6), torch.zeros(6, dtype=torch.long)), max_bytes=3 * 6 * 4)
    net = seeded(MLP())
    cache.maps(Scaled(net), range(6))
    assert torch.equal(cache.maps(Scaled(net), [5, 4, 3]), cache.samples.inputs[[5, 4, 3]] * 2)
    assert Scaled.explained == [6]
    assert torch.equal(cache.maps(Scaled(net), [0]), cache.samples.inputs[[0]] * 2)
    assert Scaled.explained == [6, 1]


def test_a_map_that_is_none_is_refused(cache: MapCache) -> None:
    with pytest.raises(ExplanationError, match="finite"):
        cache.maps(Scaled(seeded(MLP()), factor=float("nan")), [0])
    with pytest.raises(ExplanationError, match="same value everywhere"):
        cache.maps(Scaled(seeded(MLP()), factor=0.0), [0])


NET = seeded(MLP())


def nested(**changes) -> SmoothGrad:
    return SmoothGrad(NET, n_samples=16, **changes)


def test_a_role_by_name_and_by_object_is_one_explainer(cache: MapCache) -> None:
    net = seeded(MLP())
    cache.maps(IntegratedGradients(net, baseline_fn="zeros"), [0, 1])
    with count_forwards() as counter:
        cache.maps(IntegratedGradients(net, baseline_fn=Zeros()), [0, 1])
    assert counter.n_samples == 0


def test_growing_budgets_cost_the_last_and_only_that_is_kept(cache: MapCache) -> None:
    explainer = nested()
    with count_forwards() as counter:
        steps = list(cache.refine(explainer, [0, 1, 2], [2, 4, 8]))
    assert counter.n_samples == 3 * 16
    inputs, targets = cache.samples.take([0, 1, 2])
    for n_samples, found in zip((2, 4, 8, 16), steps, strict=True):
        expected = explainer.set_kwargs(n_samples=n_samples).attribute(inputs, targets)
        assert torch.allclose(found, expected, atol=1e-6)
    with count_forwards() as counter:
        again = list(cache.refine(explainer, [0, 1, 2], [2, 4, 8]))
    assert counter.n_samples == 0
    assert torch.equal(again[0], steps[-1])
    assert len(again) == 1


def test_a_budget_left_early_costs_what_was_asked_and_is_priced_in_full(cache: MapCache) -> None:
    explainer = nested()
    with count_forwards() as counter:
        for step, _ in enumerate(cache.refine(explainer, [0, 1, 2], [2, 4, 8])):
            if step == 1:
                break
    assert counter.n_samples == 3 * 4
    assert cache.cost(explainer).forwards == 16
    with count_forwards() as counter:
        cache.maps(explainer, [0, 1, 2])
    assert counter.n_samples == 3 * 16


def test_maps_in_a_folder_outlive_the_process_but_not_the_problem(tmp_path: Path) -> None:
    data = Samples(batch(6, 6), torch.zeros(6, dtype=torch.long))
    first = MapCache(data, folder=tmp_path, identity={"model": "a"})
    made = first.maps(nested(), [0, 3])
    assert sorted(each.suffix for each in tmp_path.rglob("*") if each.is_file()) == [".safetensors"] * 2
    again = MapCache(data, folder=tmp_path, identity={"model": "a"})
    with count_forwards() as counter:
        assert torch.equal(again.maps(nested(), [0, 3]), made)
        assert again.cost(nested()).forwards == 16
    assert counter.n_samples == 0
    for other, explainer in (
        (MapCache(data, folder=tmp_path, identity={"model": "b"}), nested()),
        (MapCache(data, folder=tmp_path, identity={"model": "a"}), nested(seed=1)),
    ):
        with count_forwards() as counter:
            other.maps(explainer, [0])
        assert counter.n_samples == 16


def test_functions_are_not_told_apart_in_a_folder_and_stay_in_memory(tmp_path: Path) -> None:
    cache = MapCache(Samples(batch(6, 6), torch.zeros(6, dtype=torch.long)), folder=tmp_path)
    cache.maps(IntegratedGradients(seeded(MLP()), n_steps=2, baseline_fn=lambda inputs: inputs * 0), [0])
    assert not list(tmp_path.iterdir())
