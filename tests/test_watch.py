from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pnpxai.errors import ModelError
from pnpxai.forward import count_forwards
from pnpxai.watch import Watch, plain_name, watch
from tests.harm import untouched
from tests.nets import BatchNormNet, RaisesAt, VGGLike, batch, seeded


class Attends(nn.Module):
    """Attention written with products, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x)
        if self.way == "operators":
            return (q @ x.transpose(1, 2) / 2.0).softmax(-1) @ x
        if self.way == "bmm":
            return torch.bmm(F.softmax(torch.bmm(q, x.transpose(1, 2)), dim=-1), x)
        if self.way == "einsum":
            weights = torch.einsum("nid,njd->nij", q, x).mul(0.5).softmax(-1)
            return torch.einsum("nij,njd->nid", F.dropout(weights, 0.1, False), x)
        if self.way == "masked":
            scores = torch.matmul(q, x.transpose(-1, -2)).masked_fill(torch.eye(8, dtype=torch.bool), -1e9)
            return torch.matmul(torch.softmax(scores.float(), -1).type_as(x), x)
        if self.way == "keywords":
            scores = torch.matmul(input=q, other=x.transpose(1, 2))
            return torch.matmul(input=F.softmax(input=scores, dim=-1), other=x)
        if self.way == "softmax only":
            return q.softmax(-1) * x
        if self.way == "two products":
            return q @ x.transpose(1, 2) @ x
        raise NotImplementedError


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        *(("operators", True), ("bmm", True), ("einsum", True), ("masked", True), ("keywords", True)),
        *(("softmax only", False), ("two products", False)),
    ],
)
def test_attention_is_a_product_with_a_softmax_of_a_product(way: str, expected: bool) -> None:
    watched = watch(seeded(Attends(way)), batch(2, 8, 4))
    assert sum(each.attends for each in watched.operations) == int(expected)


def test_each_call_belongs_to_the_innermost_module() -> None:
    model = seeded(VGGLike())
    watched = watch(model, batch(2, 3, 16, 16))
    named = [(each.name, each.path) for each in watched.operations if each.has_parameter]
    assert named == [
        ("conv2d", "features.0"),
        ("conv2d", "features.3"),
        ("linear", "classifier.1"),
        ("linear", "classifier.4"),
    ]
    relus = [each.path for each in watched.operations if each.name == "relu"]
    assert relus == ["features.1", "features.4", "classifier.2"]
    assert all(each.module is model.get_submodule(each.path) for each in watched.operations)


def test_calls_after_a_submodule_belong_to_the_parent_again() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(self.first(torch.cos(x)), 1)

    operations = watch(Parent(), batch(1, 4)).operations
    seen = [(each.name, each.path) for each in operations if each.name in ("cos", "linear", "cumsum")]
    assert seen == [("cos", ""), ("linear", "first"), ("cumsum", "")]


def test_it_is_one_forward_of_one_sample() -> None:
    with count_forwards() as counter:
        watch(seeded(VGGLike()), batch(5, 3, 16, 16))
    assert (counter.n_samples, counter.n_calls) == (1, 1)


def test_the_model_is_unchanged() -> None:
    model, inputs = seeded(BatchNormNet()).train(), batch(2, 3, 8, 8)
    with untouched(model, inputs):
        watch(model, inputs)


@pytest.mark.parametrize("inside", [False, True])
def test_the_model_is_unchanged_also_when_it_raises(inside: bool) -> None:
    model, inputs = seeded(VGGLike()).train(), batch(2, 3, 16, 16)
    if inside:
        model.classifier[3] = RaisesAt(model.classifier[3], 1)
    else:
        model = RaisesAt(model, 1).train()
    with untouched(model, inputs), pytest.raises(ModelError, match="the network broke here"):
        watch(model, inputs)


def test_leaving_the_block_stops_the_watch() -> None:
    model, inputs = seeded(VGGLike()), batch(1, 3, 16, 16)
    watched = Watch(model)
    with untouched(model), contextlib.suppress(KeyError), watched.running():
        torch.cos(inputs)
        raise KeyError
    model(inputs)
    assert [(each.name, each.path, each.module) for each in watched.operations] == [("cos", "", model)]


def test_a_submodule_that_raises_and_is_caught_keeps_the_paths_right() -> None:
    class Fallback(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.broken = nn.Linear(3, 3)
            self.good = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.broken(x)
            except RuntimeError:
                return torch.cos(self.good(x))

    operations = watch(Fallback(), batch(1, 4)).operations
    assert [(each.name, each.path) for each in operations if each.name in ("linear", "cos")] == [
        ("linear", "good"),
        ("cos", ""),
    ]


def test_token_ids_are_watched_as_they_are() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 2))
    with untouched(model):
        names = [each.name for each in watch(model, torch.tensor([[1, 2]])).operations]
    assert "embedding" in names


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu_", "relu"), ("__rmatmul__", "matmul"), ("__getitem__", "__getitem__"), ("conv2d", "conv2d"), ("", "")],
)
def test_plain_name(name: str, expected: str) -> None:
    assert plain_name(name) == expected


@given(st.sampled_from(["add", "sub", "mul", "truediv", "matmul"]), st.sampled_from(["__{}__", "__i{}__", "__r{}__"]))
def test_operators_are_known_by_one_name(operator: str, form: str) -> None:
    expected: Any = {"truediv": "div"}.get(operator, operator)
    assert plain_name(form.format(operator)) == expected
