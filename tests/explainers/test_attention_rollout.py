"""Attention rollout against attention computed from the weights, one pair of tokens at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.errors import TargetError
from pnpxai.explainers import AttentionRollout
from pnpxai.explainers._mixed_tokens import MixedTokens, find_mixed_tokens
from tests.explainers.transformers import FAMILIES, PADDING, D, Embedded, Family, attentions, encoder
from tests.harm import untouched
from tests.nets import batch, seeded

each_family = pytest.mark.parametrize("name", FAMILIES)


def shares(weights: list[Tensor], family: Family, fusion: str = "mean", discard: float = 0.0) -> Tensor:
    """The rollout ``(n, N)``, layer by layer and entry by entry."""
    n, heads, t, _ = weights[0].shape
    found = []
    for sample in range(n):
        product = torch.eye(t, dtype=D)
        for layer in weights:
            matrix = torch.zeros(t, t, dtype=D)
            for i in range(t):
                for j in range(t):
                    entries = [float(layer[sample, head, i, j]) for head in range(heads)]
                    matrix[i, j] = {"mean": sum(entries) / heads, "max": max(entries), "min": min(entries)}[fusion]
            for number in sorted(range(t * t), key=lambda k: float(matrix[k // t, k % t]))[: int(discard * t * t)]:
                matrix[number // t, number % t] = 0
            for i in range(t):
                row = [0.5 * float(matrix[i, j]) + 0.5 * (i == j) for j in range(t)]
                matrix[i] = torch.tensor(row, dtype=D) / sum(row)
            product = matrix @ product
        found.append(product[family.read, family.first :].mean(0))
    return torch.stack(found)


def spread(tokens: Tensor, family: Family) -> Tensor:
    """Of a map's shape."""
    n = len(tokens)
    if len(family.shape) == 2:
        return tokens[:, :, None].expand(n, *family.shape)
    return F.interpolate(tokens.reshape(n, 1, *family.grid), size=family.shape[1:], mode="bilinear")


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


def tolerance(name: str) -> float:
    """Hugging Face's eager vision and language models may take their softmax in single precision."""
    return 1e-6 if "eager" in name or "own" in name else 1e-9


@each_family
def test_the_map_is_the_rollout_of_attention_from_the_weights(name: str) -> None:
    family = FAMILIES[name]()
    inputs = batch(2, *family.shape, dtype=D)
    with untouched(family.net, inputs):
        maps = AttentionRollout(family.net).attribute(inputs, 1)
    close(maps, spread(shares(attentions(family, inputs), family), family), tolerance(name))


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.3, 0.9])
def test_fusion_and_discarding(fusion: Any, discard: float) -> None:
    family = FAMILIES["torchvision"]()
    inputs = batch(2, *family.shape, dtype=D)
    maps = AttentionRollout(family.net, head_fusion=fusion, discard_ratio=discard).attribute(inputs)
    close(maps, spread(shares(attentions(family, inputs), family, fusion, discard), family))


@pytest.mark.parametrize("name", ["BERT, eager", "BERT, sdpa", "DistilBERT, eager", "DistilBERT, sdpa", "encoder"])
def test_padding_gets_nothing(name: str) -> None:
    family = encoder(padded=True, mean=False) if name == "encoder" else FAMILIES[name]()
    family = replace(family, allowed=lambda sample, _query, key: not PADDING[sample, key])
    mask = PADDING if name == "encoder" else (~PADDING).long()
    inputs = batch(2, *family.shape, dtype=D)
    maps = AttentionRollout(
        family.net, forward_arg_extractor=lambda data: data[0], additional_forward_arg_extractor=lambda data: data[1]
    ).attribute((inputs, mask), 1)
    net = family.net

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(x, mask)

    masked = replace(family, net=Masked(), projections=lambda _: family.projections(net))
    close(maps, spread(shares(attentions(masked, inputs), family), family))
    assert (maps[1, 3:] == 0).all()


@pytest.mark.parametrize("name", ["Hugging Face ViT, sdpa", "BERT, sdpa", "DistilBERT, sdpa"])
def test_hugging_faces_own_attentions(name: str) -> None:
    family = FAMILIES[name]()
    eager = FAMILIES[name.replace("sdpa", "eager")]().net
    inputs = batch(2, *family.shape, dtype=D)
    body = eager.body if isinstance(eager, Embedded) else eager
    key = "inputs_embeds" if isinstance(eager, Embedded) else "pixel_values"
    with torch.no_grad():
        weights = list(body(**{key: inputs}, output_attentions=True).attentions)
    close(AttentionRollout(family.net).attribute(inputs, 1), spread(shares(weights, family), family), tolerance("own"))


def test_a_causal_model_is_rolled_out_from_the_token_that_is_read() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}
    inputs = batch(2, 5, 8, dtype=D)
    nets = []
    for written in ("eager", "sdpa"):
        body = transformers.GPT2Model(transformers.GPT2Config(**sizes, attn_implementation=written))
        nets.append(seeded(Embedded(body, -1).double()))
    every = seeded(Embedded(nets[1].body, slice(None)).double())
    with torch.no_grad():
        weights = list(nets[0].body(inputs_embeds=inputs, output_attentions=True).attentions)
    family = Family(nets[1], (5, 8), lambda _: [], first=0, read=slice(4, 5), grid=(5,))
    for net in nets:
        close(AttentionRollout(net).attribute(inputs, 1), spread(shares(weights, family), family), tolerance("own"))
    middle = AttentionRollout(every).attribute(inputs, lambda outputs: outputs[:, 2, 0])
    close(middle, spread(shares(weights, replace(family, read=slice(2, 3))), family), tolerance("own"))
    assert (middle[:, 3:] == 0).all()


class Planted(nn.Module):
    """A class token that attends to the patch at one place only, patches that attend to themselves."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 2, 4, 4)
        self.head = nn.Linear(2, 2)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.new_zeros(len(tokens), 1, 2), tokens], 1)
        scores = tokens @ tokens.transpose(1, 2) * 0
        aim = torch.eye(tokens.shape[1], dtype=tokens.dtype)
        aim[0] = aim[self.place + 1]
        tokens = tokens + (scores + 200 * aim).softmax(-1) @ tokens
        return self.head(tokens[:, 0])


@pytest.mark.parametrize("place", [0, 4, 5, 7])
def test_all_relevance_goes_to_the_patch_that_is_attended_to(place: int) -> None:
    net = seeded(Planted(place))
    maps = AttentionRollout(net).attribute(batch(1, 1, 8, 16), 0)
    cells = F.avg_pool2d(maps, 4)[0, 0]
    assert int(cells.argmax()) == place
    tokens = find_mixed_tokens(AttentionRollout(net).request(batch(1, 1, 8, 16), 0))
    assert (tokens.n_attentions, tokens.n, tokens.grid) == (1, 9, (1, 2, 4))
    flat = torch.zeros(1, 9)
    flat[0, place + 1] = 0.5
    close(maps, F.interpolate(flat[:, 1:].reshape(1, 1, 2, 4), size=(8, 16), mode="bilinear"), 1e-6)


@each_family
def test_the_target_does_not_matter(name: str) -> None:
    family = FAMILIES[name]()
    inputs = batch(2, *family.shape, dtype=D)
    explainer = AttentionRollout(family.net)
    maps = explainer.attribute(inputs, 0)
    assert torch.equal(maps, explainer.attribute(inputs, 2))
    with pytest.raises(TargetError, match="class indices from 0 to 2"):
        explainer.attribute(inputs, 3)


def test_single_precision_and_a_fast_path_that_would_be_taken() -> None:
    family = encoder(mean=False)
    inputs = batch(2, *family.shape, dtype=D)
    expected = spread(shares(attentions(family, inputs), family), family)
    net = family.net.float()
    called: list[str] = []
    with torch.no_grad(), torch.profiler.profile() as profile:
        net(inputs.float())
    called = [each.name for each in profile.events()]
    assert "aten::_transformer_encoder_layer_fwd" in called
    with torch.no_grad():
        close(AttentionRollout(net).attribute(inputs.float(), 1).double(), expected, 1e-5)


class Tabular(nn.Module):
    """A token for each feature; ``(n, 6)`` to ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4))
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x[..., None] * self.weight).mean(1))


class Series(nn.Module):
    """Patches of a series ``(n, 2, 24)`` behind two convolutions, a class token at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.GELU(), nn.Conv1d(4, 4, 3, 2, 1))
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.stem(x).transpose(1, 2), self.token.expand(len(x), -1, -1)], 1)
        return self.head(self.encoder(tokens)[:, -1])


@pytest.mark.parametrize(
    ("build", "shape", "grid", "places", "mapped"),
    [(Tabular, (6,), (6,), range(6), (2, 6)), (Series, (2, 24), (1, 6), range(6), (2, 1, 24))],
)
def test_tokens_of_features_and_of_series(build: Any, shape: Any, grid: Any, places: Any, mapped: Any) -> None:
    net, inputs = seeded(build()), batch(2, *shape)
    tokens = find_mixed_tokens(AttentionRollout(net).request(inputs, 0))
    assert tokens.grid == grid
    assert tokens.places.tolist() == list(places)
    assert tuple(AttentionRollout(net).attribute(inputs, 0).shape) == mapped


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (2, 3), (24, 12)])
def test_maps_are_bilinear(size: tuple[int, int]) -> None:
    relevance, places = batch(2, 7), torch.tensor([1, 2, 3, 4, 5, 6])
    maps = MixedTokens(1, 7, places, (1, 2, 3)).maps(relevance, (3, *size))
    expected = F.interpolate(relevance[:, 1:].reshape(2, 1, 2, 3), size=size, mode="bilinear")
    torch.testing.assert_close(maps, expected)
