"""Whole transformers against the same rules written out, operation by operation, without autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from pnpxai.explainers import LRPUniformEpsilon
from tests.harm import untouched
from tests.nets import batch, seeded
from tests.relevance.explicit import close, stabilized

D = torch.float64
EPSILON = 1e-3
RULES: dict[str, Any] = {"epsilon": EPSILON, "stabilizer": 1e-5}
each_attention = pytest.mark.parametrize("attention", ["constant", "attnlrp"])

Back = Callable[[Tensor], Any]


class Done(NamedTuple):
    """The value of an operation and its way back, from the value's relevance to the input's."""

    value: Tensor
    back: Back


def linear(x: Tensor, layer: Any) -> Done:
    """ε-rule."""
    z = x @ layer.weight.T
    z = z if layer.bias is None else z + layer.bias
    return Done(z, lambda relevance: x * ((relevance / stabilized(z, EPSILON)) @ layer.weight))


def norm(x: Tensor, layer: nn.LayerNorm) -> Done:
    """In proportion to contributions, the deviation held constant."""
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    deviation = (((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1] + layer.eps).sqrt()
    y = (x - mean) / deviation * layer.weight + layer.bias

    def back(relevance: Tensor) -> Tensor:
        share = relevance / stabilized(y, EPSILON) * layer.weight / deviation
        return x * (share - share.sum(-1, keepdim=True) / x.shape[-1])

    return Done(y, back)


def add(a: Tensor, b: Tensor) -> Done:
    """In proportion."""
    z = a + b
    return Done(z, lambda r: (a / stabilized(z, EPSILON) * r, b / stabilized(z, EPSILON) * r))


class Mask(NamedTuple):
    """1 where attention is allowed, else 0; ``added`` to the scores as zeros and minus infinities, or filled in."""

    allowed: Tensor
    added: bool


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, attention: str) -> Done:
    """``(n, heads, t, d)``; products of two matrices go half to each under AttnLRP, else all to the values."""
    products = torch.einsum("nhtd,nhsd->nhts", q, k)
    scale = 1 / math.sqrt(q.shape[-1])
    powers = (products * scale).exp() * (1.0 if mask is None else mask.allowed)
    weights = powers / powers.sum(-1, keepdim=True)
    z = torch.einsum("nhts,nhsd->nhtd", weights, v)

    def back(relevance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = relevance / stabilized(z, EPSILON)
        at_v = torch.einsum("nhts,nhsd,nhtd->nhsd", weights, v, share)
        if attention == "constant":
            return torch.zeros_like(q), torch.zeros_like(k), at_v
        at_weights = torch.einsum("nhts,nhsd,nhtd->nhts", weights, v, share) / 2
        at_scores = products * scale * (at_weights - weights * at_weights.sum(-1, keepdim=True))
        if mask is not None and mask.added:
            at_scores = at_scores * products * scale / stabilized(products * scale, EPSILON)
        inner = at_scores / stabilized(products, EPSILON) / 2
        return (
            q * torch.einsum("nhts,nhsd->nhtd", inner, k),
            k * torch.einsum("nhts,nhtd->nhsd", inner, q),
            at_v / 2,
        )

    return Done(z, back)


class Projections(NamedTuple):
    """The four linear layers of an attention."""

    query: Any
    key: Any
    value: Any
    out: Any

    @classmethod
    def of(cls, layer: nn.MultiheadAttention) -> Projections:
        parts = zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
        return cls(*(_Layer(*each) for each in parts), layer.out_proj)


class _Layer(NamedTuple):
    weight: Tensor
    bias: Tensor


def self_attention(x: Tensor, layers: Projections, heads: int, mask: Mask | None, attention: str) -> Done:
    """All of it, ``(n, t, d)``."""

    def split(each: Tensor) -> Tensor:
        return each.unflatten(-1, (heads, -1)).transpose(1, 2)

    def join(each: Tensor) -> Tensor:
        return each.transpose(1, 2).flatten(2)

    mapped = [linear(x, each) for each in layers[:3]]
    inner = attend(*(split(each.value) for each in mapped), mask, attention)
    out = linear(join(inner.value), layers.out)

    def back(relevance: Tensor) -> Tensor:
        parts = inner.back(split(out.back(relevance)))
        return sum(each.back(join(part)) for each, part in zip(mapped, parts, strict=True))

    return Done(out.value, back)


def mlp(x: Tensor, first: nn.Linear, activation: Callable[[Tensor], Tensor], second: nn.Linear) -> Done:
    """Activations pass relevance on."""
    hidden = linear(x, first)
    out = linear(activation(hidden.value), second)
    return Done(out.value, lambda relevance: hidden.back(out.back(relevance)))


def residual(x: Tensor, inner: Callable[[Tensor], Done]) -> Done:
    """``x + inner(x)``."""
    done = inner(x)
    total = add(done.value, x)

    def back(relevance: Tensor) -> Tensor:
        at_inner, at_x = total.back(relevance)
        return at_x + done.back(at_inner)

    return Done(total.value, back)


def chain(x: Tensor, *functions: Callable[[Tensor], Done]) -> Done:
    """One after another."""
    backs = []
    for each in functions:
        x, back = each(x)
        backs.append(back)

    def all_back(relevance: Tensor) -> Tensor:
        for back in reversed(backs):
            relevance = back(relevance)
        return relevance

    return Done(x, all_back)


def first_token(x: Tensor) -> Done:
    def back(relevance: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        found[:, 0] = relevance
        return found

    return Done(x[:, 0], back)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def same(net: nn.Module, x: Tensor, attention: Any, explicit: Callable[[Tensor], Done]) -> None:
    """The explainer's map is the explicit one, and the explicit outputs are the model's."""
    with untouched(net, x):
        found = LRPUniformEpsilon(net, attention=attention, **RULES).attribute(x, 1)
    with torch.no_grad():
        output, back = explicit(x)
        close(output, net(x), 1e-10)
        start = torch.zeros_like(output)
        start[:, 1] = output[:, 1]
        close(found, back(start), 1e-9)


@each_attention
def test_vision_transformer(attention: str) -> None:
    net = VisionTransformer(
        image_size=12, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3
    )
    net, x = seeded(net.double()), batch(2, 3, 12, 12, dtype=D)
    weight, bias = net.conv_proj.weight, net.conv_proj.bias

    def patches(x: Tensor) -> Done:
        corners = [(i, j) for i in range(0, 12, 4) for j in range(0, 12, 4)]
        windows = [x[:, :, i : i + 4, j : j + 4] for i, j in corners]
        z = torch.stack([torch.einsum("ncij,kcij->nk", each, weight) + bias for each in windows], 1)

        def back(relevance: Tensor) -> Tensor:
            found, share = torch.zeros_like(x), relevance / stabilized(z, EPSILON)
            for place, (i, j) in enumerate(corners):
                found[:, :, i : i + 4, j : j + 4] = windows[place] * torch.einsum(
                    "nk,kcij->ncij", share[:, place], weight
                )
            return found

        return Done(z, back)

    def token_and_positions(x: Tensor) -> Done:
        joined = torch.cat([net.class_token.expand(len(x), 1, -1), x], 1)
        z = joined + net.encoder.pos_embedding
        return Done(z, lambda relevance: (joined / stabilized(z, EPSILON) * relevance)[:, 1:])

    def block(layer: Any) -> Callable[[Tensor], Done]:
        def attends(x: Tensor) -> Done:
            layers = Projections.of(layer.self_attention)
            return chain(x, lambda x: norm(x, layer.ln_1), lambda x: self_attention(x, layers, 2, None, attention))

        def maps(x: Tensor) -> Done:
            return chain(x, lambda x: norm(x, layer.ln_2), lambda x: mlp(x, layer.mlp[0], gelu, layer.mlp[3]))

        return lambda x: chain(x, lambda x: residual(x, attends), lambda x: residual(x, maps))

    def explicit(x: Tensor) -> Done:
        blocks = [block(each) for each in net.encoder.layers]
        ends = (lambda x: norm(x, net.encoder.ln), first_token, lambda x: linear(x, net.heads[0]))
        return chain(x, patches, token_and_positions, *blocks, *ends)

    same(net, x, attention, explicit)


PADDING = torch.tensor([[False] * 5, [False, False, False, True, True]])


class Encoder(nn.Module):
    """A classifier on ``(n, t, d)`` with a padding mask."""

    def __init__(self, norm_first: bool, activation: str) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, activation, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=PADDING[: len(x)])[:, 0])


@each_attention
@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, "gelu")])
def test_transformer_encoder_with_padding(attention: str, norm_first: bool, activation: str) -> None:
    net, x = seeded(Encoder(norm_first, activation).double()), batch(2, 5, 8, dtype=D)
    act = gelu if activation == "gelu" else lambda x: x.clamp(min=0)
    mask = Mask((~PADDING).double()[:, None, None], added=True)

    def block(layer: Any) -> Callable[[Tensor], Done]:
        def attends(x: Tensor) -> Done:
            return self_attention(x, Projections.of(layer.self_attn), 2, mask, attention)

        def maps(x: Tensor) -> Done:
            return mlp(x, layer.linear1, act, layer.linear2)

        def explicit(x: Tensor) -> Done:
            if norm_first:
                first = lambda x: chain(x, lambda x: norm(x, layer.norm1), attends)  # noqa: E731
                second = lambda x: chain(x, lambda x: norm(x, layer.norm2), maps)  # noqa: E731
                return chain(x, lambda x: residual(x, first), lambda x: residual(x, second))
            ends = lambda x: norm(x, layer.norm1), lambda x: norm(x, layer.norm2)  # noqa: E731
            return chain(x, lambda x: residual(x, attends), ends[0], lambda x: residual(x, maps), ends[1])

        return explicit

    blocks = [block(each) for each in net.encoder.layers]
    same(net, x, attention, lambda x: chain(x, *blocks, first_token, lambda x: linear(x, net.head)))


@each_attention
@pytest.mark.parametrize("written", ["eager", "sdpa"])
def test_bert_with_padding(attention: str, written: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=6,
        attn_implementation=written,
    )

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(config)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.bert(inputs_embeds=x, attention_mask=(~PADDING).long()[: len(x)]).pooler_output)

    net, x = seeded(Classifier().double()), batch(2, 5, 8, dtype=D)
    bert, mask = net.bert, Mask((~PADDING).double()[:, None, None], added=written == "eager")

    def embeddings(x: Tensor) -> Done:
        kinds = add(x, bert.embeddings.token_type_embeddings.weight[:1].expand_as(x))
        places = add(kinds.value, bert.embeddings.position_embeddings.weight[:5].expand_as(x))
        return Done(places.value, lambda relevance: kinds.back(places.back(relevance)[0])[0])

    def block(layer: Any) -> Callable[[Tensor], Done]:
        own = layer.attention.self
        layers = Projections(own.query, own.key, own.value, layer.attention.output.dense)
        return lambda x: chain(
            x,
            lambda x: residual(x, lambda x: self_attention(x, layers, 2, mask, attention)),
            lambda x: norm(x, layer.attention.output.LayerNorm),
            lambda x: residual(x, lambda x: mlp(x, layer.intermediate.dense, gelu, layer.output.dense)),
            lambda x: norm(x, layer.output.LayerNorm),
        )

    def explicit(x: Tensor) -> Done:
        return chain(
            x,
            embeddings,
            lambda x: norm(x, bert.embeddings.LayerNorm),
            *(block(each) for each in bert.encoder.layer),
            first_token,
            lambda x: linear(x, bert.pooler.dense),
            lambda x: Done(x.tanh(), lambda relevance: relevance),
            lambda x: linear(x, net.head),
        )

    same(net, x, attention, explicit)
