"""Models whose attentions cannot be rolled out say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from pnpxai.errors import UnsupportedModelError
from pnpxai.explainers import AttentionRollout
from tests.harm import untouched
from tests.nets import TimeCNN, batch, seeded


class Made(nn.Module):
    """Two attentions over ``(n, 6, 4)``, with something done between or around them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(4, 2, batch_first=True)
        self.second = nn.MultiheadAttention(4, 2, batch_first=True)
        self.map = nn.Linear(6, 6)
        self.heads = nn.Linear(2, 2)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.query = nn.Parameter(torch.zeros(1, 1, 4))
        self.head = nn.Linear(4, 3)
        self.way = way

    def attend(self, layer: nn.Module, query: Tensor, memory: Tensor) -> Tensor:
        return query + layer(query, memory, memory, need_weights=False)[0]

    def forward(self, x: Tensor) -> Tensor:
        way = self.way
        if way == "instance norm before":
            x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
        if way == "turned round before":
            x = x.flip(1)
        if way == "overlapping":
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        if way == "windows":
            return self.head(
                self.attend(self.first, x.reshape(-1, 3, 4), x.reshape(-1, 3, 4)).reshape(-1, 6, 4).mean(1)
            )
        if way == "channels":
            x = self.first.out_proj(x).transpose(1, 2)
            return self.head((x + (x @ x.mT).softmax(-1) @ x).mean(2))
        if way == "einsum":
            weights = torch.einsum("nid,njd->nij", x, x).softmax(-1)
            return self.head(torch.einsum("nij,njd->nid", weights, x).mean(1))
        if way == "talking heads":
            parts = x.unflatten(-1, (2, 2)).transpose(1, 2)
            weights = (parts @ parts.mT).softmax(-1)
            mixed = self.heads(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = self.attend(self.first, x, x)
            return self.head(x.mean(1)) + (mixed @ parts).mean((1, 2)).repeat(1, 2)[:, :3]
        if way == "closed":
            layer = self.first
            maps = layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias
            return self.head(torch._native_multi_head_attention(x, x, x, 4, 2, *maps)[0].mean(1))
        if way == "softmax over queries":
            return self.head((x + (x @ x.mT * 5).softmax(-2) @ x).mean(1))
        x = self.attend(self.first, x, x)
        if way == "convolution between":
            x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        if way == "mixer between":
            x = x + self.map(x.transpose(1, 2)).transpose(1, 2)
        if way == "turned round between":
            x = x.flip(1)
        if way == "pooled between":
            x = x.unflatten(1, (3, 2)).mean(2)
        if way == "cross-attention":
            memory = self.map(x.detach().transpose(1, 2)).transpose(1, 2)
            return self.head(self.attend(self.second, x, memory).mean(1))
        if way == "pooling by attention":
            return self.head(self.attend(self.second, self.query.expand(len(x), -1, -1), x)[:, 0])
        if way == "two streams":
            return self.head(
                self.attend(self.second, self.query.expand(len(x), 6, -1) + 1, self.query + x * 0 + 1).mean(1)
            )
        x = self.attend(self.second, x, x)
        if way == "zero head":
            return self.head(x.mean(1)) * 0
        return self.head(x.mean(1))


class Decoder(nn.Module):
    """Encoder and decoder of torch, on the same steps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(4, 2, 1, 1, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x, x).mean(1))


STREAM = "self-attentions that all mix the same tokens"
WAYS = {
    "instance norm before": "grid of positions.*6 depend on the input",
    "turned round before": "in another order",
    "overlapping": "grid of positions",
    "windows": "windows or groups",
    "channels": "grid of positions",
    "closed": "whose weights can be seen; received torch._native_multi_head_attention",
    "einsum": "by matmul or bmm; received einsum",
    "talking heads": "multiplied with the values as they are; received 2 softmaxes of products, of which 1",
    "softmax over queries": "sum to 1 over the last dimension",
    "convolution between": f"{STREAM}.*come from tokens 0, 1, 2, 3, 4, 5 of",
    "mixer between": f"{STREAM}.*come from tokens 0, 1, 2, 3, 4, 5 of the attention before",
    "turned round between": f"{STREAM}.*tokens 0, 5 and 3 come from tokens 0, 2, 5 of",
    "pooled between": f"{STREAM}.*from 3 to 3 tokens after one over 6",
    "cross-attention": f"{STREAM}.*come from tokens 0 of the attention before",
    "pooling by attention": f"{STREAM}.*from 1 to 6 tokens",
    "two streams": f"{STREAM}.*come from no token",
    "zero head": "outputs that depend on the last attention",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_has_no_rollout_is_refused(way: str) -> None:
    net, inputs = seeded(Made(way)), batch(2, 6, 4)
    with untouched(net, inputs), pytest.raises(UnsupportedModelError, match=WAYS[way]):
        AttentionRollout(net).attribute(inputs, 0)


def test_the_same_model_is_taken_when_nothing_is_in_the_way() -> None:
    assert AttentionRollout(seeded(Made("plain"))).attribute(batch(2, 6, 4), 0).shape == (2, 6, 4)


def swin() -> nn.Module:
    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=3)


@pytest.mark.parametrize(
    ("build", "shape", "said"),
    [
        (swin, (3, 32, 32), f"{STREAM}.*as through windows"),
        (Decoder, (5, 4), STREAM),
        (TimeCNN, (2, 24), "a model with self-attention"),
    ],
)
def test_swin_decoders_and_convolutional_networks_are_refused(
    build: Callable[[], nn.Module], shape: Any, said: str
) -> None:
    net, inputs = seeded(build()), batch(2, *shape)
    with untouched(net, inputs), pytest.raises(UnsupportedModelError, match=said):
        AttentionRollout(net).attribute(inputs, 0)
