"""Attention as torch has it, against torch itself going forward and against plain sums going backward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets import batch, seeded
from tests.relevance.explicit import Function, by_rules, close, gaps, stabilized

D = torch.float64


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return batch(*shape, seed=seed, dtype=D)


BOOLEAN = torch.tensor([[True, False, True, True], [True, True, False, True], [False, True, True, True]])
FLOATING = numbers(3, 4, seed=9)
SDPA: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean mask": {"attn_mask": BOOLEAN},
    "additive mask": {"attn_mask": FLOATING},
    "mask for each head": {"attn_mask": numbers(2, 2, 3, 4, seed=9)},
    "grouped queries": {"enable_gqa": True},
}


def weights_of(query: Tensor, key: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Scores and weights of the attention ``(…, t, s)``, exponentials over their sums."""
    scores = torch.einsum("...td,...sd->...ts", query, key) * arguments.get("scale", 1 / math.sqrt(query.shape[-1]))
    mask = arguments.get("attn_mask")
    allowed = torch.ones(scores.shape, dtype=torch.bool)
    if arguments.get("is_causal"):
        allowed = torch.tensor([[s <= t for s in range(scores.shape[-1])] for t in range(scores.shape[-2])]).expand_as(
            scores
        )
    elif mask is not None and mask.dtype == torch.bool:
        allowed = mask.expand_as(scores)
    elif mask is not None:
        scores = scores + mask
    powers = scores.exp() * allowed
    return scores, powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", SDPA)
def test_scaled_dot_product_attention(name: str) -> None:
    arguments = SDPA[name]
    query, key, value = numbers(2, 2, 3, 4), numbers(2, 2, 4, 4, seed=2), numbers(2, 2, 4, 5, seed=3)
    if name == "grouped queries":
        query = numbers(2, 4, 3, 4)
    upper = numbers(2, query.shape[1], 3, 5, seed=4)

    def function(*given: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*given, **arguments)

    several = query.shape[1] // 2
    keys, values = key.repeat_interleave(several, 1), value.repeat_interleave(several, 1)
    scores, weights = weights_of(query, keys, arguments)
    z = torch.einsum("...ts,...sd->...td", weights, values)
    close(function(query, key, value), z, 1e-12)
    share = upper / stabilized(z)
    at_values = torch.einsum("...ts,...sd,...td->...sd", weights, values, share)
    found = by_rules(function, query, key, value, upper=upper)
    close(found.output, z, 1e-10)
    close(found.relevance[2], at_values.unflatten(1, (2, several)).sum(2))
    assert not found.relevance[0].any()
    assert not found.relevance[1].any()
    assert found.total() == pytest.approx(float(upper.sum()))

    at_weights = torch.einsum("...ts,...sd,...td->...ts", weights, values, share) / 2
    at_scores = scores * (at_weights - weights * at_weights.sum(-1, keepdim=True))
    if "attn_mask" in arguments and arguments["attn_mask"].dtype != torch.bool:
        unmasked = scores - arguments["attn_mask"]
        at_scores = at_scores * unmasked / stabilized(scores)
        scores = unmasked
    scale = arguments.get("scale", 1 / math.sqrt(4))
    products = torch.einsum("...td,...sd->...tsd", query, keys) * scale
    parts = products * (at_scores / stabilized(scores))[..., None] / 2
    found = by_rules(function, query, key, value, upper=upper, attention="attnlrp")
    close(found.relevance[2], at_values.unflatten(1, (2, several)).sum(2) / 2)
    close(found.relevance[0], parts.sum(-2), 1e-8)
    close(found.relevance[1], parts.sum(-3).unflatten(1, (2, several)).sum(2), 1e-8)
    assert found.total() == pytest.approx(float(upper.sum()))
    assert gaps(found.accounts) < 1e-8


PADDED = torch.tensor([[False] * 5, [False, False, False, True, True]])
CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
MULTI: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "time first": ({"batch_first": False}, {}),
    "without biases": ({"bias": False}, {}),
    "padding": ({}, {"key_padding_mask": PADDED}),
    "additive padding": ({}, {"key_padding_mask": numbers(2, 5, seed=8)}),
    "mask": ({}, {"attn_mask": CAUSAL}),
    "additive mask": ({}, {"attn_mask": numbers(5, 5, seed=8)}),
    "mask for each head": ({}, {"attn_mask": numbers(4, 5, 5, seed=8)}),
    "both masks": ({}, {"attn_mask": CAUSAL, "key_padding_mask": PADDED}),
    "causal": ({}, {"attn_mask": CAUSAL, "is_causal": True}),
    "causal without weights": ({}, {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}),
    "without weights": ({}, {"need_weights": False}),
    "weights of each head": ({}, {"average_attn_weights": False}),
    "key and value biases": ({"add_bias_kv": True}, {"key_padding_mask": PADDED}),
    "a zero key": ({"add_zero_attn": True}, {"attn_mask": CAUSAL}),
    "both more": ({"add_zero_attn": True, "add_bias_kv": True}, {"attn_mask": CAUSAL, "key_padding_mask": PADDED}),
    "other widths": ({"kdim": 3, "vdim": 7}, {}),
}


@pytest.mark.parametrize("name", MULTI)
def test_multi_head_attention_going_forward(name: str) -> None:
    built, called = MULTI[name]
    net = seeded(nn.MultiheadAttention(4, 2, **{"batch_first": True, **built}).double()).requires_grad_(False)
    given = [numbers(2, 5, 4), numbers(2, 5, net.kdim, seed=2), numbers(2, 5, net.vdim, seed=3)]
    if not net.batch_first:
        given = [each.transpose(0, 1).contiguous() for each in given]
    called = {"need_weights": True, **called}
    expected, expected_weights = net(*given, **called)
    seen: list[Any] = []

    def function(*given: Tensor) -> Tensor:
        output, weights = net(*given, **called)
        seen.append(weights)
        return output

    model = Function(function, net=net)
    for attention in ("constant", "attnlrp"):
        found = by_rules(model, *given, attention=attention)
        close(found.output, expected, 1e-10)
        if called["need_weights"]:
            close(seen[-1].detach(), expected_weights, 1e-10)
        assert found.total() == pytest.approx(float((expected).sum()), rel=1e-8)
        assert gaps(found.accounts) < 1e-8


def test_multi_head_attention_of_one_sequence() -> None:
    net, x = seeded(nn.MultiheadAttention(4, 2).double()).requires_grad_(False), numbers(5, 4)
    found = by_rules(Function(lambda x: net(x, x, x, key_padding_mask=PADDED[1])[0], net=net), x)
    close(found.output, net(x, x, x, key_padding_mask=PADDED[1])[0], 1e-10)
    whole = by_rules(Function(lambda x: net(x, x, x, key_padding_mask=PADDED[1:])[0], net=net), x[:, None])
    close(found.relevance[0], whole.relevance[0][:, 0], 1e-12)
    assert not found.relevance[0][3:].any() or found.output[3:].any()


@pytest.mark.parametrize("name", ["plain", "padding", "mask", "key and value biases", "a zero key", "other widths"])
def test_multi_head_attention_going_backward_with_weights_held_constant(name: str) -> None:
    """Relevance of queries and keys is nothing; that of values goes through two linear layers and a weighted sum."""
    built, called = MULTI[name]
    net = seeded(nn.MultiheadAttention(4, 2, batch_first=True, **built).double()).requires_grad_(False)
    for bias in (net.in_proj_bias, net.out_proj.bias):
        bias.copy_(numbers(*bias.shape, seed=5))
    query, key, value = numbers(2, 5, 4), numbers(2, 5, net.kdim, seed=2), numbers(2, 5, net.vdim, seed=3)
    output, weights = net(query, key, value, average_attn_weights=False, **called)
    upper = numbers(2, 5, 4, seed=4)
    matrix = net.in_proj_weight[8:] if net.in_proj_weight is not None else net.v_proj_weight
    v = value @ matrix.T + net.in_proj_bias[8:]
    for extra in (net.bias_v, torch.zeros(1, 1, 4, dtype=D) if built.get("add_zero_attn") else None):
        v = v if extra is None else torch.cat([v, extra.expand(2, 1, 4)], 1)
    heads = v.reshape(2, -1, 2, 2)
    joined = torch.einsum("nhts,nshd->nthd", weights, heads).reshape(2, 5, 4)
    close(joined @ net.out_proj.weight.T + net.out_proj.bias, output, 1e-10)
    at_joined = joined * ((upper / stabilized(output)) @ net.out_proj.weight)
    share = (at_joined / stabilized(joined)).reshape(2, 5, 2, 2)
    at_v = (heads * torch.einsum("nhts,nthd->nshd", weights, share)).reshape(2, -1, 4)[:, :5]
    right = value * ((at_v / stabilized(v[:, :5])) @ matrix)
    model = Function(lambda *given: net(*given, **called)[0], net=net)
    found = by_rules(model, query, key, value, upper=upper)
    close(found.relevance[2], right)
    assert not found.relevance[0].any()
    assert not found.relevance[1].any()


def test_ways_to_write_an_attention_are_one() -> None:
    net, x, upper = (
        seeded(nn.MultiheadAttention(4, 1, batch_first=True).double()),
        numbers(2, 5, 4),
        numbers(2, 5, 4, seed=4),
    )
    net.requires_grad_(False)

    def mapped(x: Tensor) -> list[Tensor]:
        return list(F.linear(x, net.in_proj_weight, net.in_proj_bias).chunk(3, -1))

    def operators(x: Tensor) -> Tensor:
        q, k, v = mapped(x)
        return net.out_proj((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v)

    def bmm(x: Tensor) -> Tensor:
        q, k, v = mapped(x)
        return net.out_proj(torch.bmm(F.dropout(F.softmax(torch.bmm(q / 2, k.mT), -1), 0.1, False), v))

    def einsum(x: Tensor) -> Tensor:
        q, k, v = mapped(x)
        weights = torch.einsum("nid,njd->nij", q, k).mul(0.5).float().double().softmax(-1)
        return net.out_proj(torch.einsum("nij,njd->nid", weights, v))

    def fused(x: Tensor) -> Tensor:
        return net.out_proj(F.scaled_dot_product_attention(*mapped(x)))

    def baddbmm(x: Tensor) -> Tensor:
        q, k, v = mapped(x)
        scores = torch.baddbmm(torch.zeros(2, 5, 5, dtype=D), q, k.mT, beta=0.0, alpha=0.5)
        return net.out_proj(torch.matmul(nn.Softmax(-1)(scores), v))

    for attention in ("constant", "attnlrp"):
        right = by_rules(Function(lambda x: net(x, x, x)[0], net=net), x, upper=upper, attention=attention).relevance[0]
        for function in (operators, bmm, einsum, fused, baddbmm):
            tolerance = 1e-4 if function is einsum else 1e-9
            found = by_rules(Function(function, net=net), x, upper=upper, attention=attention)
            close(found.relevance[0], right, tolerance)
