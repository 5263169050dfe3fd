"""Tiny transformers of several packages, from configurations, and what they attend to by plain sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tests.nets import seeded

D = torch.float64
PADDING = torch.tensor([[False] * 5, [False, False, False, True, True]])
"""Of two sequences of five steps."""


@dataclass(frozen=True)
class Projections:
    """Queries and keys of one attention, and the module whose input they are made of."""

    source: nn.Module
    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]
    heads: int


@dataclass(frozen=True)
class Family:
    """A model on inputs of a shape, where its attentions are, and which of its tokens is which."""

    net: nn.Module
    shape: tuple[int, ...]
    projections: Callable[[nn.Module], list[Projections]]
    first: int
    """The first token that comes from the input."""
    read: slice
    """The tokens that the outputs are read from."""
    grid: tuple[int, ...]
    allowed: Callable[[int, int, int], bool] = lambda sample, query, key: True
    time_first: bool = False


def halves(layer: nn.MultiheadAttention, source: nn.Module) -> Projections:
    """Of torch's own attention."""
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    return Projections(source, (weights[0], biases[0]), (weights[1], biases[1]), layer.num_heads)


def linears(source: nn.Module, query: nn.Linear, key: nn.Linear, heads: int) -> Projections:
    """Of two linear layers."""
    return Projections(source, (query.weight, query.bias), (key.weight, key.bias), heads)


def attentions(family: Family, inputs: Tensor) -> list[Tensor]:
    """The weights of each attention, ``(n, heads, t, t)``, one at a time from the layers' inputs."""
    found: list[Tensor] = []
    several = family.projections(family.net)
    kept: dict[int, Tensor] = {}
    handles = []
    for place, each in enumerate(several):

        def keep(_module: Any, args: Any, kwargs: Any, place: int = place) -> None:
            kept[place] = (args or tuple(kwargs.values()))[0].detach()

        handles.append(each.source.register_forward_pre_hook(keep, with_kwargs=True))
    with torch.enable_grad():
        family.net(inputs)
    for each in handles:
        each.remove()
    for place, each in enumerate(several):
        query_map, key_map = ([part.detach() for part in each_map] for each_map in (each.query, each.key))
        tokens = kept[place].transpose(0, 1) if family.time_first else kept[place]
        n, t, width = tokens.shape
        size = width // each.heads
        weights = torch.zeros(n, each.heads, t, t, dtype=D)
        for sample in range(n):
            query = tokens[sample] @ query_map[0].T + query_map[1]
            key = tokens[sample] @ key_map[0].T + key_map[1]
            for head in range(each.heads):
                part = slice(head * size, (head + 1) * size)
                for i in range(t):
                    powers = [
                        math.exp(float(query[i, part] @ key[j, part]) / math.sqrt(size))
                        if family.allowed(sample, i, j)
                        else 0.0
                        for j in range(t)
                    ]
                    weights[sample, head, i] = torch.tensor(powers, dtype=D) / sum(powers)
        found.append(weights)
    return found


def torchvision_vit() -> Family:
    net = VisionTransformer(
        image_size=12, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3
    )
    return Family(
        seeded(net.double()),
        (3, 12, 12),
        lambda net: [halves(each.self_attention, each.self_attention) for each in net.encoder.layers],
        first=1,
        read=slice(0, 1),
        grid=(3, 3),
    )


def timm_vit(fused: bool, **kwargs: Any) -> Family:
    timm = pytest.importorskip("timm")
    given = {"class_token": True, "reg_tokens": 0, "global_pool": "token", **kwargs}
    net = timm.models.vision_transformer.VisionTransformer(
        img_size=(8, 12), patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=3, **given
    )
    for each in net.blocks:
        each.attn.fused_attn = fused

    def projections(net: nn.Module) -> list[Projections]:
        found = []
        for each in net.blocks:
            weights, biases = each.attn.qkv.weight.chunk(3), each.attn.qkv.bias.chunk(3)
            found.append(Projections(each.attn, (weights[0], biases[0]), (weights[1], biases[1]), 2))
        return found

    first = given["class_token"] + given["reg_tokens"]
    read = slice(0, 1) if given["global_pool"] == "token" else slice(first, None)
    return Family(seeded(net.double()), (3, 8, 12), projections, first, read, grid=(2, 3))


def hugging_face_vit(written: str) -> Family:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        **{"image_size": (8, 12), "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "intermediate_size": 12, "num_labels": 3, "attn_implementation": written},
    )
    net = seeded(transformers.ViTForImageClassification(config).double())

    def projections(net: nn.Module) -> list[Projections]:
        layers = [each for each in net.modules() if type(each).__name__ == "ViTAttention"]
        return [linears(each, *_named(each, "query", "q_proj"), *_named(each, "key", "k_proj"), 2) for each in layers]

    return Family(net, (3, 8, 12), projections, first=1, read=slice(0, 1), grid=(2, 3))


def _named(module: nn.Module, *names: str) -> list[nn.Linear]:
    return [
        each for name, each in module.named_modules() if name.split(".")[-1] in names and isinstance(each, nn.Linear)
    ]


class Embedded(nn.Module):
    """A language model of Hugging Face on embedded tokens, with padding, and a head on one of them."""

    def __init__(self, body: nn.Module, token: int | slice, padded: bool = True) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(8, 3)
        self.token = token
        self.padded = padded

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        given = {"attention_mask": mask} if self.padded and mask is not None else {}
        return self.head(self.body(inputs_embeds=x, **given)[0][:, self.token])


def bert(written: str) -> Family:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        **{"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 12, "max_position_embeddings": 6, "attn_implementation": written},
    )
    return Family(
        seeded(Embedded(transformers.BertModel(config), 0).double()),
        (5, 8),
        lambda net: [
            linears(each.attention.self, each.attention.self.query, each.attention.self.key, 2)
            for each in net.body.encoder.layer
        ],
        first=0,
        read=slice(0, 1),
        grid=(5,),
    )


def distilbert(written: str) -> Family:
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        **{"vocab_size": 11, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12},
        **{"max_position_embeddings": 6, "attn_implementation": written},
    )
    return Family(
        seeded(Embedded(transformers.DistilBertModel(config), 0).double()),
        (5, 8),
        lambda net: [
            linears(each.attention, each.attention.q_lin, each.attention.k_lin, 2)
            for each in net.body.transformer.layer
        ],
        first=0,
        read=slice(0, 1),
        grid=(5,),
    )


class Encoder(nn.Module):
    """A classifier on ``(n, t, d)``, from the mean or the first step, with its fast path ready."""

    def __init__(self, norm_first: bool, batch_first: bool, mean: bool, padded: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, "gelu", batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=padded)
        self.head = nn.Linear(8, 3)
        self.batch_first, self.mean, self.padded = batch_first, mean, padded

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, src_key_padding_mask=mask if self.padded else None)
        x = x if self.batch_first else x.transpose(0, 1)
        return self.head(x.mean(1) if self.mean else x[:, 0])


def encoder(norm_first: bool = False, batch_first: bool = True, mean: bool = True, padded: bool = False) -> Family:
    return Family(
        seeded(Encoder(norm_first, batch_first, mean, padded).double()),
        (5, 8),
        lambda net: [halves(each.self_attn, each.self_attn) for each in net.encoder.layers],
        first=0,
        read=slice(None) if mean else slice(0, 1),
        grid=(5,),
        time_first=not batch_first,
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "torchvision": torchvision_vit,
    "timm, fused": lambda: timm_vit(True),
    "timm, written out": lambda: timm_vit(False),
    "timm, mean of the patches": lambda: timm_vit(True, class_token=False, global_pool="avg"),
    "timm, mean beside a class token": lambda: timm_vit(True, global_pool="avg"),
    "timm, registers": lambda: timm_vit(True, reg_tokens=2),
    "Hugging Face ViT, eager": lambda: hugging_face_vit("eager"),
    "Hugging Face ViT, sdpa": lambda: hugging_face_vit("sdpa"),
    "BERT, eager": lambda: bert("eager"),
    "BERT, sdpa": lambda: bert("sdpa"),
    "DistilBERT, eager": lambda: distilbert("eager"),
    "DistilBERT, sdpa": lambda: distilbert("sdpa"),
    "encoder": encoder,
    "encoder, norm first": lambda: encoder(norm_first=True),
    "encoder, first step": lambda: encoder(mean=False),
    "encoder, time first": lambda: encoder(batch_first=False),
}
