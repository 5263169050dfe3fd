"""Token ids are explained as if the model took embeddings; what the tokenizer added stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor, nn

import pnpxai
from pnpxai.errors import InputError
from pnpxai.explainers import (
    RELAX,
    RISE,
    DeepLiftShap,
    ExpectedGradients,
    Explainer,
    Gradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    LRPEpsilonPlus,
    Occlusion,
    SmoothGrad,
    SobolAttribution,
    VarGrad,
    attribute_together,
)
from pnpxai.forward import Request, TokenIds, Tokens, count_forwards
from pnpxai.metrics import AbPC, Comprehensiveness, Infidelity, Metric, MuFidelity, Sensitivity, evaluate_together
from pnpxai.modality import Image, Text, modality_for
from tests.harm import untouched
from tests.nets import TinyTransformer, batch, seeded

N_WORDS, LENGTH, SIZE = 20, 6, 4


class Body(nn.Module):
    """From embeddings ``(n, d, t)``, with those of the positions added, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(N_WORDS, SIZE)  # as large as the table of words
        self.rest = TinyTransformer()

    def forward(self, embedded: Tensor, mask: Tensor | None = None) -> Tensor:
        words = embedded.mT
        if mask is not None:
            words = words * mask[..., None]
        logits: Tensor = self.rest(words + self.places(torch.arange(embedded.shape[2])))
        return logits


class Reader(nn.Module):
    """Looks ids up, in one of several ways, and goes on as its `Body`."""

    def __init__(self, look_up: Callable[[nn.Embedding, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.body, self.look_up = nn.Embedding(N_WORDS, SIZE), Body(), look_up

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.body(self.look_up(self.words, input_ids).mT, attention_mask)
        return logits


WAYS: dict[str, Callable[[nn.Embedding, Tensor], Tensor]] = {
    "module": lambda words, ids: words(ids),
    "function": lambda words, ids: F.embedding(ids, words.weight),
    "operator": lambda words, ids: torch.embedding(words.weight, ids),
    "index": lambda words, ids: words.weight[ids],
    "select": lambda words, ids: words.weight.index_select(0, ids.flatten()).reshape(*ids.shape, -1),
    "other shape": lambda words, ids: words(ids.view(-1)).view(*ids.shape, -1),
    "other dtype": lambda words, ids: words(ids.int()),
    "in place": lambda words, ids: words(ids).mul_(2.0).div_(2.0),
}


def reader(way: str = "module") -> Reader:
    net = seeded(Reader(WAYS[way]))
    assert isinstance(net, Reader)
    return net


def some_ids(n: int = 3) -> Tensor:
    return torch.randint(2, N_WORDS, (n, LENGTH), generator=torch.Generator().manual_seed(1))


def embedded(net: Reader, ids: Tensor) -> Tensor:
    return net.words.weight.detach()[ids].mT.contiguous()


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_the_embeddings(way: str) -> None:
    net, ids = reader(way), some_ids()
    with untouched(net, ids):
        found = Gradient(net).attribute(ids, 1)
    leaf = embedded(net, ids).requires_grad_()
    (expected,) = torch.autograd.grad(net.body(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


EXPLAINERS: list[Callable[[nn.Module], Explainer]] = [
    lambda net: RISE(net, n_masks=64),
    lambda net: RISE(net, n_masks=64, baseline_fn="mean", batch_size=5),
    lambda net: RELAX(net, n_masks=64),
    lambda net: SmoothGrad(net, n_samples=5),
    lambda net: IntegratedGradients(net, n_steps=10),
    lambda net: ExpectedGradients(net, n_samples=6),
    lambda net: KernelShap(net, n_samples=30),
    lambda net: Lime(net, n_samples=30),
    lambda net: Occlusion(net),
    lambda net: SobolAttribution(net, n_designs=8, grid_size=3),
    lambda net: LRPEpsilonPlus(net),
    lambda net: DeepLiftShap(net),
]


@pytest.mark.parametrize("build", EXPLAINERS)
def test_explained_as_the_model_of_the_embeddings_is(build: Callable[[nn.Module], Explainer]) -> None:
    net, ids = reader(), some_ids()
    found = build(net).attribute(ids)
    torch.testing.assert_close(found, build(net.body).attribute(embedded(net, ids)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", [AbPC, MuFidelity, Infidelity, Sensitivity])
def test_scored_as_the_model_of_the_embeddings_is(cls: type[Metric]) -> None:
    net, ids = reader().double(), some_ids()
    scores = [
        cls(each, explainer=Gradient(each)).evaluate(x, 1) for each, x in ((net, ids), (net.body, embedded(net, ids)))
    ]
    torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-12)


def test_the_table_of_positions_is_another() -> None:
    net = reader()
    ids = torch.arange(LENGTH)[None]
    found = Gradient(net).attribute(ids, 0)
    torch.testing.assert_close(found, Gradient(net.body).attribute(embedded(net, ids), 0))


def test_fixed_tokens_are_never_perturbed() -> None:
    seen: list[Tensor] = []

    def look(words: nn.Embedding, ids: Tensor) -> Tensor:
        found = words(ids)
        seen.append(found.detach())
        return found

    net, ids = seeded(Reader(look)), some_ids(2)
    assert isinstance(net, Reader)
    ids[:, 0], ids[0, -2:] = 0, 1
    extractor = TokenIds(special_ids=(0, 1))
    fixed = (ids == 0) | (ids == 1)
    for explainer in (
        RISE(net, extractor, n_masks=32),
        SmoothGrad(net, extractor),
        IntegratedGradients(net, extractor),
    ):
        seen.clear()
        maps = explainer.attribute(ids)
        asked = torch.cat(seen)
        of_first = (asked[:, -1] == embedded(net, ids)[0, :, -1]).all(1)
        assert of_first.any()
        assert (asked[:, 0] == net.words.weight[0]).all()
        assert (asked[of_first, -2] == net.words.weight[1]).all()
        free = ~fixed[:, None].expand_as(maps)
        assert (maps[~free] == 0).all()
        assert (maps[free] != 0).any()


def test_a_mapping_as_a_tokenizer_returns_it() -> None:
    net, ids = reader(), some_ids(2)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    added = torch.zeros_like(ids)
    added[:, 0] = 1
    given = {"input_ids": ids, "attention_mask": mask, "special_tokens_mask": added}
    request = Request.build(net, given)
    torch.testing.assert_close(request.outputs, net(ids, mask))
    maps = RISE(net, n_masks=64).attribute(given)
    assert (maps[:, 0, 0] == 0).all()
    assert (maps[1, 0, -2:] == 0).all()
    assert (maps[0, 0, 1:] != 0).any()
    alone = RISE(net, n_masks=64).attribute({name: each[1:] for name, each in given.items()})
    torch.testing.assert_close(alone[0, 0, 1:], maps[1, 0, 1:], rtol=1e-4, atol=1e-6)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    scores = Sensitivity(net, explainer=Gradient(net)).evaluate(whole, 1)
    body = Sensitivity(net.body, explainer=Gradient(net.body))
    torch.testing.assert_close(scores, body.evaluate(embedded(net, ids), 1), rtol=1e-4, atol=1e-6)


class Bag(nn.Module):
    """The masked mean of what a layer makes of each word: padding counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.outer = nn.Embedding(N_WORDS, SIZE), nn.Linear(SIZE, 5), nn.Linear(5, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = self.inner(self.words(input_ids)).tanh() * attention_mask[..., None]
        logits: Tensor = self.outer(kept.sum(1))
        return logits


def padded() -> dict[str, Tensor]:
    """Four sentences, the longest first, two of them of the same length."""
    ids, mask = some_ids(4), torch.ones(4, LENGTH, dtype=torch.long)
    mask[1, -2:], mask[2, 0], mask[3, :2] = 0, 0, 0
    return {"input_ids": ids, "attention_mask": mask}


CLASSES = torch.tensor([0, 1, 2, 0])


def unpadded(number: int) -> dict[str, Tensor]:
    kept = padded()["attention_mask"][number] == 1
    return {name: each[number : number + 1, kept] for name, each in padded().items()}


@pytest.mark.parametrize("build", EXPLAINERS[:-2])
def test_padding_and_neighbours_change_no_map(build: Callable[[nn.Module], Explainer]) -> None:
    net = seeded(Bag())
    together = build(net).attribute(padded(), CLASSES)
    for i in range(4):
        kept = padded()["attention_mask"][i] == 1
        torch.testing.assert_close(
            together[i, :, kept], build(net).attribute(unpadded(i), CLASSES[i : i + 1])[0], rtol=1e-4, atol=1e-6
        )
        assert (together[i, :, ~kept] == 0).all()


@pytest.mark.parametrize("build", EXPLAINERS[:-2])
def test_a_text_of_padding_alone_is_refused_in_words(build: Callable[[nn.Module], Explainer]) -> None:
    net, given = seeded(Bag()), padded()
    given["attention_mask"][2] = 0
    with untouched(net, given["input_ids"]), pytest.raises(InputError, match="none in sample 2. Leave empty texts out"):
        build(net).attribute(given, CLASSES)
    with pytest.raises(InputError, match="none in sample 2"):
        AbPC(net).evaluate(given, CLASSES, torch.rand(4, LENGTH))


@pytest.mark.parametrize("cls", [AbPC, Comprehensiveness, MuFidelity, Infidelity, Sensitivity])
def test_padding_and_neighbours_change_no_score(cls: type[Metric]) -> None:
    net = seeded(Bag().double())
    metric = cls(net, explainer=IntegratedGradients(net))
    whole = metric.evaluate(padded(), CLASSES)
    answers = metric.answers(padded(), CLASSES)
    maps = IntegratedGradients(net).attribute(padded(), CLASSES)
    torch.testing.assert_close(metric.evaluate(padded(), CLASSES, maps, answers), whole)
    with count_forwards() as again:
        metric.evaluate(padded(), CLASSES, maps)
    with count_forwards() as known:
        metric.evaluate(padded(), CLASSES, maps, answers)
    assert known.n_samples < again.n_samples or not answers
    (beside, _) = evaluate_together([metric, AbPC(net, explainer=metric.explainer)], padded(), CLASSES, maps)
    torch.testing.assert_close(beside, whole)
    alone = torch.cat([metric.evaluate(unpadded(i), CLASSES[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, whole, rtol=1e-9, atol=1e-12)


def test_curves_of_texts_are_those_of_the_texts_alone() -> None:
    net = seeded(Bag().double())
    metric, maps = AbPC(net, n_steps=3), IntegratedGradients(net).attribute(padded(), CLASSES)
    scores = metric.evaluate(padded(), CLASSES, maps)
    for i, found in enumerate(metric.curves_of_each(padded(), CLASSES, maps)):
        kept = padded()["attention_mask"][i] == 1
        alone = metric.curves(unpadded(i), CLASSES[i : i + 1], maps[i : i + 1, :, kept])
        assert found.n_features == int(kept.sum())
        for name in ("fractions", "morf", "lerf", "lerf_fractions"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name))
        torch.testing.assert_close((found.lerf_area - found.morf_area)[0], scores[i])
    with pytest.raises(InputError, match="4, 5, 6 tokens that may change"):
        metric.curves(padded(), CLASSES, maps)


def test_refined_and_together_as_alone() -> None:
    net = seeded(Bag())
    maps = list(RISE(net).refine(padded(), CLASSES, [16, 64]))
    torch.testing.assert_close(maps[-1], RISE(net, n_masks=64).attribute(padded(), CLASSES))
    both = [SmoothGrad(net), VarGrad(net)]
    for found, each in zip(attribute_together(both, padded(), CLASSES), both, strict=True):
        torch.testing.assert_close(found, each.attribute(padded(), CLASSES))


def test_recommended_tuned_and_experimented_with() -> None:
    net, ids = reader(), some_ids(8)
    extractor = TokenIds((0, 1))
    recommendation = pnpxai.recommend(net, ids, forward_arg_extractor=extractor)
    assert recommendation.modality == Text(channel_dim=1)
    assert {"RISE", "IntegratedGradients", "LRPEpsilonPlus"} <= {type(e).__name__ for e in recommendation.explainers}
    result = pnpxai.tune(
        net, ids, explainers=["RISE", "Gradient"], n_trials=4, forward_arg_extractor=extractor, progress=False
    )
    assert result.postprocessor(result.explainer.attribute(ids)).shape == ids.shape
    experiment = pnpxai.Experiment(net, ids, explainers=["Gradient"], forward_arg_extractor=extractor)
    scores = experiment.run(progress=False)
    assert len(scores) == 8
    assert (scores["failure"] == "").all()


def test_looking_for_the_table_takes_one_forward_of_one_sample() -> None:
    net = reader()
    with count_forwards() as counter:
        Request.build(net, some_ids(5))
    assert counter.n_samples == 1


class OneHot(nn.Module):
    """Looks nothing up."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(N_WORDS, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(F.one_hot(ids, N_WORDS).float().mean(1))
        return logits


@pytest.mark.parametrize(
    ("net", "given"),
    [
        (OneHot(), some_ids()),
        (nn.Linear(LENGTH, 2), some_ids()),
        (reader(), some_ids()[None]),
        (reader(), some_ids() > 3),
        (reader(), {"attention_mask": some_ids()}),
        (reader(), Tokens(batch(2, LENGTH))),
    ],
)
def test_what_is_no_text(net: nn.Module, given: Any) -> None:
    extractor = (lambda inputs: given) if isinstance(given, Tokens) else None
    with pytest.raises(InputError, match=r"floating-point|token ids|mapping"):
        Gradient(net, extractor).attribute(torch.zeros(2, LENGTH) if isinstance(given, Tokens) else given)


def test_text_has_its_channels_where_they_are() -> None:
    assert modality_for("text", torch.zeros(1, 4, 6), tokens=True) == Text(channel_dim=1)
    assert modality_for(None, torch.zeros(1, 4, 6), tokens=True) == Text(channel_dim=1)
    assert modality_for(Image, torch.zeros(1, 4, 6), tokens=True) == Image()
    assert modality_for("text", torch.zeros(1, 6, 4)) == Text(channel_dim=2)


def test_bert_from_a_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        num_labels=3,
    )
    net = seeded(transformers.BertForSequenceClassification(config))
    ids, mask = some_ids(2), torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    leaf = net.bert.embeddings.word_embeddings(ids).detach().requires_grad_()
    (expected,) = torch.autograd.grad(net(inputs_embeds=leaf, attention_mask=mask).logits[:, 2].sum(), leaf)
    found = Gradient(net).attribute(given, 2)
    torch.testing.assert_close(found[0], expected[0].T, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found[1, :, :-2], expected[1, :-2].T, rtol=1e-4, atol=1e-7)
    assert (found[1, :, -2:] == 0).all()
