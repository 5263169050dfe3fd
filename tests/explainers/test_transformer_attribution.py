"""Transformer attribution against its rules written out, operation by operation, without the relevance engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pnpxai.explainers import TransformerAttribution
from pnpxai.explainers.transformer_attribution import NormalisedSum
from pnpxai.relevance import Propagation, Settings, Stabilizer
from pnpxai.relevance.zennit_rules import composite_of, epsilon_rule
from tests.explainers.test_attention_rollout import Planted, close, spread
from tests.explainers.transformers import FAMILIES, D, Family, encoder, torchvision_vit
from tests.harm import untouched
from tests.nets import batch, seeded
from tests.relevance.explicit import stabilized
from tests.relevance.test_transformers import Done, Projections, chain, first_token, gelu

EPSILON = 1e-4


def linear(x: Tensor, layer: Any) -> Done:
    """Along positive contributions, without the bias."""
    weight = layer.weight.detach()
    signs = [(x.detach().clamp(min=0), weight.clamp(min=0)), (x.detach().clamp(max=0), weight.clamp(max=0))]
    positive = sum(part @ same.T for part, same in signs)

    def back(relevance: Tensor) -> Tensor:
        share = relevance / (positive + EPSILON)
        return sum(part * (share @ same) for part, same in signs)

    return Done(x @ layer.weight.T + layer.bias, back)


def unchanged(value: Tensor) -> Done:
    return Done(value, lambda relevance: relevance)


def norm(x: Tensor, layer: nn.LayerNorm) -> Done:
    mean = x.mean(-1, keepdim=True)
    deviation = ((x - mean).square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return unchanged((x - mean) / deviation * layer.weight + layer.bias)


def residual(x: Tensor, inner: Callable[[Tensor], Done]) -> Done:
    """``inner(x) + x``, scaled by what each gets in all."""
    done = inner(x)
    total = done.value + x

    def back(relevance: Tensor) -> Tensor:
        share = relevance / stabilized(total.detach(), EPSILON)
        parts = [done.value.detach() * share, x.detach() * share]
        sums = [float(each.sum()) for each in parts]
        weights = [abs(each) / (abs(sums[0]) + abs(sums[1])) * float(relevance.sum()) / each for each in sums]
        return parts[1] * weights[1] + done.back(parts[0] * weights[0])

    return Done(total, back)


class Taken:
    """The attentions of one sample: weights, and the relevance they get."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.relevance: dict[int, Tensor] = {}

    def attend(self, x: Tensor, layers: Projections, heads: int) -> Done:
        """Self-attention ``(1, t, d)``."""
        place = len(self.weights)

        def split(each: Tensor) -> Tensor:
            return each.unflatten(-1, (heads, -1)).transpose(1, 2)

        def join(each: Tensor) -> Tensor:
            return each.transpose(1, 2).flatten(2)

        mapped = [linear(x, each) for each in layers[:3]]
        q, k, v = (split(each.value) for each in mapped)
        products = torch.einsum("nhtd,nhsd->nhts", q, k)
        powers = (products / math.sqrt(q.shape[-1])).exp()
        weights = powers / powers.sum(-1, keepdim=True)
        if place == 0:
            weights = weights.detach().requires_grad_()
        self.weights.append(weights)
        mixed = torch.einsum("nhts,nhsd->nhtd", weights, v)
        out = linear(join(mixed), layers.out)

        def back(relevance: Tensor) -> Tensor:
            share = split(out.back(relevance)) / stabilized(mixed.detach(), EPSILON)
            at_weights = weights.detach() * torch.einsum("nhtd,nhsd->nhts", share, v.detach()) / 2
            self.relevance[place] = at_weights
            at_v = v.detach() * torch.einsum("nhts,nhtd->nhsd", weights.detach(), share) / 2
            inner = at_weights / stabilized(products.detach(), EPSILON) / 2
            at_q = q.detach() * torch.einsum("nhts,nhsd->nhtd", inner, k.detach())
            at_k = k.detach() * torch.einsum("nhts,nhtd->nhsd", inner, q.detach())
            return sum(each.back(join(part)) for each, part in zip(mapped, (at_q, at_k, at_v), strict=True))

        return Done(out.value, back)


def mlp(x: Tensor, first: nn.Linear, second: nn.Linear) -> Done:
    hidden = linear(x, first)
    out = linear(gelu(hidden.value), second)
    return Done(out.value, lambda relevance: hidden.back(out.back(relevance)))


def mean(x: Tensor) -> Done:
    total = x.mean(1)

    def back(relevance: Tensor) -> Tensor:
        return x.detach() / x.shape[1] * (relevance / stabilized(total.detach(), EPSILON))[:, None]

    return Done(total, back)


def vision(net: Any, taken: Taken) -> list[Callable[[Tensor], Done]]:
    """The steps of torchvision's transformer from the image on."""

    def embed(x: Tensor) -> Done:
        patches = net.conv_proj(x).flatten(2).transpose(1, 2)
        return unchanged(torch.cat([net.class_token, patches], 1) + net.encoder.pos_embedding)

    def block(layer: Any) -> list[Callable[[Tensor], Done]]:
        layers = Projections.of(layer.self_attention)
        first = lambda x: chain(x, lambda x: norm(x, layer.ln_1), lambda x: taken.attend(x, layers, 2))  # noqa: E731
        second = lambda x: chain(x, lambda x: norm(x, layer.ln_2), lambda x: mlp(x, layer.mlp[0], layer.mlp[3]))  # noqa: E731
        return [lambda x: residual(x, first), lambda x: residual(x, second)]

    blocks = [each for layer in net.encoder.layers for each in block(layer)]
    return [embed, *blocks, lambda x: norm(x, net.encoder.ln), first_token, lambda x: linear(x, net.heads[0])]


def sequence(net: Any, taken: Taken) -> list[Callable[[Tensor], Done]]:
    """The steps of torch's encoder."""

    def block(layer: Any) -> list[Callable[[Tensor], Done]]:
        layers = Projections.of(layer.self_attn)
        return [
            lambda x: residual(x, lambda x: taken.attend(x, layers, 2)),
            lambda x: norm(x, layer.norm1),
            lambda x: residual(x, lambda x: mlp(x, layer.linear1, layer.linear2)),
            lambda x: norm(x, layer.norm2),
        ]

    blocks = [each for layer in net.encoder.layers for each in block(layer)]
    return [*blocks, mean if net.mean else first_token, lambda x: linear(x, net.head)]


def explicit(family: Family, steps: Any, inputs: Tensor, target: int, fusion: str) -> Tensor:
    """The rows of C, ``(n, N)``."""
    found = []
    for sample in inputs:
        taken = Taken()
        output, back = chain(sample[None], *steps(family.net, taken))
        close(output.detach(), family.net(sample[None]).detach(), 1e-9)
        slopes = torch.autograd.grad(output[0, target], taken.weights)
        back(torch.eye(output.shape[1], dtype=D)[target][None])
        product = torch.eye(taken.weights[0].shape[-1], dtype=D)
        for place, slope in enumerate(slopes):
            positive = (slope * taken.relevance[place])[0].clamp(min=0)
            layer = {"mean": positive.mean(0), "max": positive.amax(0), "min": positive.amin(0)}[fusion]
            product = (torch.eye(len(layer), dtype=D) + layer) @ product
        product = product - torch.eye(len(product), dtype=D)
        found.append(product[family.read, family.first :].mean(0))
    return torch.stack(found)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize(
    ("build", "steps"),
    [(torchvision_vit, vision), (encoder, sequence), (lambda: encoder(mean=False, batch_first=False), sequence)],
    ids=["vision transformer", "encoder, mean", "encoder, first step, time first"],
)
def test_the_map_is_the_papers(build: Callable[[], Family], steps: Any, fusion: Any) -> None:
    family = build()
    inputs = batch(2, *family.shape, dtype=D)
    explainer = TransformerAttribution(family.net, epsilon=EPSILON, head_fusion=fusion)
    with untouched(family.net, inputs):
        maps = explainer.attribute(inputs, 1)
    expected = explicit(family, steps, inputs, 1, fusion)
    assert float(expected.std(1).max() / expected.max()) > 0.1
    close(maps, spread(expected, family), 1e-8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("timm, fused", "timm, written out"),
        ("Hugging Face ViT, eager", "Hugging Face ViT, sdpa"),
        ("BERT, eager", "BERT, sdpa"),
        ("DistilBERT, eager", "DistilBERT, sdpa"),
        ("encoder", "encoder, time first"),
    ],
)
def test_it_does_not_matter_how_a_model_is_written(one: str, other: str) -> None:
    families = [FAMILIES[each]() for each in (one, other)]
    inputs = batch(2, *families[0].shape, dtype=D)
    maps = [TransformerAttribution(each.net).attribute(inputs, 1) for each in families]
    assert float((maps[0].flatten(1).std(1) / maps[0].flatten(1).amax(1)).min()) > 0.1
    close(*maps, 1e-4)
    assert not torch.allclose(maps[0], TransformerAttribution(families[0].net).attribute(inputs, 2), rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_target_function_of_one_output_is_that_target(name: str) -> None:
    family = FAMILIES[name]()
    inputs = batch(2, *family.shape, dtype=D)
    explainer = TransformerAttribution(family.net)
    with untouched(family.net, inputs):
        maps = explainer.attribute(inputs, lambda outputs: outputs[:, 2])
    close(maps, explainer.attribute(inputs, 2), 1e-12)
    assert float(maps.min()) >= 0


@pytest.mark.parametrize(("place", "seed"), [(0, 1), (5, 3), (7, 3)])
def test_relevance_is_at_the_patch_that_is_attended_to_and_nowhere_else(place: int, seed: int) -> None:
    net = seeded(Planted(place).double(), seed)
    maps = [TransformerAttribution(net).attribute(batch(1, 1, 8, 16, dtype=D), target) for target in (0, 1)]
    found = max(maps, key=lambda each: float(each.max()))
    assert found.max() > 1e-3
    cells = torch.zeros(8, dtype=D)
    cells[place] = 1
    near = nn.functional.interpolate(cells.reshape(1, 1, 2, 4), size=(8, 16), mode="bilinear")
    close(found / found.max(), near / near.max())


def test_a_sum_hands_down_what_there_is() -> None:
    """Two terms whose shares by proportion are 3 and -1 of 2 get 1.5 and 0.5; a constant gets nothing."""
    rule, stabilizer = NormalisedSum(), Stabilizer(1e-12)
    everywhere = epsilon_rule(stabilizer)
    settings = Settings(composite_of(everywhere, everywhere), stabilizer, stabilizer, "attnlrp", {"add": rule})

    class Adds(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y + 5

    x, y = torch.tensor([[6.0, 0.0]], dtype=D), torch.tensor([[-2.0, 1.0]], dtype=D)
    leaves = [each.requires_grad_() for each in (x, y)]
    net, upper = Adds(), torch.tensor([[2.0, 0.0]], dtype=D)
    propagation = Propagation(net, settings)
    with propagation.ready(*leaves), propagation:
        output = net(*leaves)
    found = torch.autograd.grad(output, leaves, upper)
    torch.testing.assert_close(torch.cat(found), torch.tensor([[1.5, 0.0], [0.5, 0.0]], dtype=D))
