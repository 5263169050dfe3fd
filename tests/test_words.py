"""Ids become words as tokenizers have them, and whole words are features."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import factorial
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

import pnpxai
from pnpxai.baselines import Token, baseline_for
from pnpxai.errors import InputError, ParameterError
from pnpxai.explainers import (
    RISE,
    ExpectedGradients,
    Explainer,
    GradientXInput,
    IntegratedGradients,
    KernelShap,
    Lime,
    Occlusion,
    SobolAttribution,
)
from pnpxai.feature_masks import SLIC, Each, FeatureMaskFunction, Grid, feature_mask_for, sums_by_feature
from pnpxai.forward import Request, TokenIds, count_forwards
from pnpxai.metrics import AbPC, Sensitivity
from pnpxai.modality import Image, Text
from pnpxai.pieces import has_words, marker_of, pieces_of, words_of
from pnpxai.tokenizers import absent_id, special_ids_of
from pnpxai.tunable import suggest, trial_params
from pnpxai.words import Words
from tests.harm import untouched
from tests.nets import batch, seeded
from tests.test_tokens import LENGTH, N_WORDS, Bag, Reader, embedded, padded, reader, some_ids, unpadded

CORPUS = [
    "the unhappiest gardener replanted the unhappy flowers",
    "flowers and gardens make unhappy people happier",
    "people replant gardens again and again",
    "éclairs and crème brûlée make people happy",
]


def trained(kind: str) -> Tokenizer:
    """A tokenizer of a kind, trained on `CORPUS` so that words fall into pieces."""
    special = ["[PAD]", "[MASK]", "[CLS]"]
    if kind == "##":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]", *special], show_progress=False)
    elif kind == "Ġ":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=70, special_tokens=special, show_progress=False)
    elif kind == "▁":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=70, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(
            vocab_size=70, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
        )
    made.train_from_iterator(CORPUS, trainer)
    return made


KINDS = ("##", "Ġ", "▁", "</w>")


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_tokenizer(kind: str) -> None:
    tokenizer = trained(kind)
    assert marker_of(tokenizer) == kind
    n_pieces = 0
    for sentence in CORPUS:
        found = tokenizer.encode(sentence)
        n_pieces += len(found.ids) - len(sentence.split())
        assert words_of(tokenizer, torch.tensor([found.ids]))[0].tolist() == found.word_ids
    assert n_pieces > 20  # words do fall into pieces
    for given in ({i: tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())},):
        assert marker_of(given) == kind
        assert torch.equal(
            words_of(given, torch.tensor([found.ids])), words_of(list(given.values()), torch.tensor([found.ids]))
        )


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_read_as_the_text_did(kind: str) -> None:
    tokenizer = trained(kind)
    for sentence in CORPUS:
        shown = pieces_of(tokenizer, torch.tensor(tokenizer.encode(sentence).ids))
        read = "".join(" " * (each.spaced and i > 0) + each.text for i, each in enumerate(shown))
        assert read.replace("\N{REPLACEMENT CHARACTER}", "") == sentence or "\N{REPLACEMENT CHARACTER}" in read
        assert [each.begins for each in shown][0]
    assert {tokenizer.id_to_token(i) for i in special_ids_of(tokenizer)} == {"[PAD]", "[MASK]", "[CLS]"}
    assert absent_id(tokenizer) == tokenizer.token_to_id("[MASK]")


def test_punctuation_stands_alone() -> None:
    pieces = ["▁The", "▁film", ",", "▁", "made", "'", "s", ".", "</s>", "▁end"]
    assert words_of(pieces, torch.arange(10)[None]).tolist() == [[0, 1, 2, 3, 3, 4, 5, 6, 7, 8]]
    assert "".join(" " * each.spaced + each.text for each in pieces_of(pieces, torch.arange(10))) == (
        " The film, made's. </s> end"
    )


def test_what_has_no_words() -> None:
    for given in (["good", "bad"], None, lambda i: f"##{i}"):
        assert not has_words(given)
    assert words_of(["good", "bad"], torch.tensor([[1, 0, 0]])).tolist() == [[0, 1, 2]]
    assert [each.text for each in pieces_of(None, torch.tensor([7, 5]))] == ["7", "5"]
    assert [each.text for each in pieces_of({7: "##x"}, torch.tensor([7, 5]))] == ["x", "5"]
    assert [each.text for each in pieces_of(lambda i: f"w{i}", torch.tensor([7, 5]))] == ["w7", "w5"]
    assert (special_ids_of(["[PAD]"]), absent_id(["a", "[PAD]"]), absent_id({4: "<mask>"}), absent_id(None)) == (
        (),
        1,
        4,
        None,
    )
    for wrong in (3, "bert-base-uncased"):
        with pytest.raises(ParameterError, match="a tokenizer, or a list"):
            pieces_of(wrong, torch.tensor([1]))  # type: ignore[arg-type]


VOCABULARY = [f"w{i}" if i < 14 else f"##p{i}" for i in range(N_WORDS)]
"""The last six pieces of the networks' twenty continue a word."""
SENTENCES = torch.tensor([[3, 14, 15, 5, 6, 16], [7, 8, 9, 17, 2, 3], [2, 4, 14, 15, 16, 9]])
WORDS = [[0, 0, 0, 1, 2, 2], [0, 1, 2, 2, 3, 4], [0, 1, 1, 1, 1, 2]]


class OfPresence(nn.Module):
    """A body asked about which words of one sentence are present, ``(m, w)``."""

    def __init__(self, net: Reader, ids: Tensor, words: list[int], absent: Tensor) -> None:
        super().__init__()
        self.net, self.own, self.words, self.absent = net, embedded(net, ids[None])[0], words, absent

    def forward(self, present: Tensor) -> Tensor:
        """``(m, 3)``."""
        mask = present[:, self.words][:, None]
        logits: Tensor = self.net.body(self.own * mask + self.absent[:, None] * (1 - mask))
        return logits


BUILT: list[Callable[..., Explainer]] = [
    lambda net, **more: KernelShap(net, n_samples=30, **more),
    lambda net, **more: Lime(net, n_samples=30, **more),
    lambda net, **more: RISE(net, n_masks=64, **more),
    lambda net, **more: RISE(net, n_masks=64, estimator="ridge", **more),
    lambda net, **more: SobolAttribution(net, n_designs=16, **more),
    lambda net, **more: Occlusion(net, **more),
    lambda net, **more: Occlusion(net, score="logit", batch_size=2, **more),
]


@pytest.mark.parametrize("build", BUILT)
def test_words_are_explained_as_the_features_of_a_model_of_their_presence(build: Callable[..., Explainer]) -> None:
    net = reader()
    absent = net.words.weight.detach()[1]
    explainer = build(net, feature_mask_fn=Words(VOCABULARY), baseline_fn=Token(1))
    with untouched(net, SENTENCES):
        found = explainer.attribute(SENTENCES, [2, 0, 1])
    assert found.shape == (3, 1, LENGTH)
    for i in range(3):  # the first and the last have as many words
        alone = OfPresence(net, SENTENCES[i], WORDS[i], absent)
        d = max(WORDS[i]) + 1
        own = build(alone, **({"feature_mask_fn": "each"} if isinstance(explainer, KernelShap | Lime) else {}))
        expected = own.attribute(torch.ones(1, d), [2, 0, 1][i])
        torch.testing.assert_close(found[i], expected[:, WORDS[i]], rtol=1e-4, atol=1e-6)


def test_shapley_values_of_words_by_their_definition() -> None:
    net = reader().double()
    absent = net.words.weight.detach()[1]
    found = KernelShap(net, feature_mask_fn=Words(VOCABULARY), baseline_fn=Token(1)).attribute(SENTENCES[:1], 0)
    game = OfPresence(net, SENTENCES[0], WORDS[0], absent)

    def worth(players: tuple[int, ...]) -> float:
        present = torch.zeros(1, 3, dtype=torch.float64)
        present[0, list(players)] = 1
        return float(game(present)[0, 0].detach())

    values = []
    for player in range(3):
        others = [each for each in range(3) if each != player]
        values.append(
            sum(
                factorial(size) * factorial(2 - size) / factorial(3) * (worth((*some, player)) - worth(some))
                for size in range(3)
                for some in itertools.combinations(others, size)
            )
        )
    expected = torch.tensor([values[word] for word in WORDS[0]], dtype=torch.float64)
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("build", BUILT)
def test_words_of_padded_sentences_are_those_of_the_sentences_alone(build: Callable[..., Explainer]) -> None:
    net = seeded(Bag())
    explainer = build(net, feature_mask_fn=Words(VOCABULARY), baseline_fn=Token(1))
    together = explainer.attribute(padded(), 1)
    for i in range(4):
        kept = padded()["attention_mask"][i] == 1
        torch.testing.assert_close(together[i][:, kept], explainer.attribute(unpadded(i), 1)[0], rtol=1e-4, atol=1e-6)
        assert (together[i][:, ~kept] == 0).all()


@pytest.mark.parametrize("build", BUILT)
def test_a_text_of_one_word(build: Callable[..., Explainer]) -> None:
    net, ids = seeded(Bag()), torch.tensor([[3, 14, 15]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = build(net, feature_mask_fn=Words(VOCABULARY), baseline_fn=Token(1)).attribute(given, 1)
    assert found.isfinite().all()
    assert found.unique().numel() == 1


def test_inputs_may_say_what_the_words_are() -> None:
    net, ids = reader(), some_ids(2)
    words = torch.tensor([[-1, 0, 0, 1, 2, 2], [-1, 0, 1, 2, 3, 3]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "word_ids": words}
    found = Occlusion(net, feature_mask_fn="words").attribute(given, 0)
    assert (found[0, 0, 1] == found[0, 0, 2]) & (found[0, 0, 4] == found[0, 0, 5])
    assert found[0, 0].unique().numel() == 4
    assert found[1, 0].unique().numel() == 5
    for other in (given, (TokenIds((99,)), given)):
        extractor, inputs = other if isinstance(other, tuple) else (None, other)
        explainer = Occlusion(net, extractor, feature_mask_fn="words")
        torch.testing.assert_close(explainer.attribute(inputs, 0), found)
    assert pnpxai.recommend(net, given, dry_run=False).modality == Text(channel_dim=1, word_ids=True)
    with pytest.raises(InputError, match="word_ids"):
        Occlusion(net, feature_mask_fn="words").attribute({**given, "word_ids": words[:, 1:]}, 0)
    with pytest.raises(InputError, match=r"Words\(tokenizer\)"):
        Occlusion(net, feature_mask_fn="words").attribute(ids, 0)
    with pytest.raises(InputError, match=r"Words\(tokenizer\)"):
        Occlusion(net, feature_mask_fn=Words(["a", "b"])).attribute(ids, 0)
    with pytest.raises(InputError, match="token ids"):
        KernelShap(net.body, feature_mask_fn="words").attribute(embedded(net, ids), 0)


def test_words_that_inputs_say_are_those_of_the_tokenizer() -> None:
    net = seeded(Bag())
    said = {**padded(), "word_ids": words_of(VOCABULARY, padded()["input_ids"])}
    for build in BUILT:
        explainer = build(net, feature_mask_fn="words", baseline_fn=Token(1))
        known = explainer.set_kwargs(feature_mask_fn=Words(VOCABULARY))
        assert torch.equal(explainer.attribute(said, 1), known.attribute(padded(), 1))
    steady = Sensitivity(net, explainer=explainer), Sensitivity(net, explainer=known)
    torch.testing.assert_close(steady[0].evaluate(said, 1), steady[1].evaluate(padded(), 1))


def test_superpixels_take_the_place_of_a_grid() -> None:
    net, x = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))), batch(2, 3, 16, 16)
    cells = feature_mask_for(SLIC(n_segments=20), x)
    found = Occlusion(net, feature_mask_fn=SLIC(n_segments=20), score="logit").attribute(x, 1)
    weights = (net[1].weight.detach()[1].reshape(3, 16, 16) * x).sum(1)
    expected = sums_by_feature(weights, cells).gather(1, cells.flatten(1)).reshape(cells.shape)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-5)
    with count_forwards() as counter:
        Occlusion(net, feature_mask_fn=SLIC(n_segments=20)).attribute(x[:1], 1)
    assert counter.n_samples == int(cells[0].max()) + 2
    with pytest.raises(ParameterError, match="without feature_mask_fn"):
        RISE(net, feature_mask_fn="slic", estimator="ridge").explain(x)


def test_budgets_of_words_continue() -> None:
    net = seeded(Bag())
    for explainer in (
        RISE(net, feature_mask_fn=Words(VOCABULARY)),
        SobolAttribution(net, feature_mask_fn=Words(VOCABULARY)),
    ):
        (name,) = explainer.BUDGET
        with count_forwards() as counter:
            *_, last = explainer.refine(padded(), 1, [8, 32])
        torch.testing.assert_close(last, explainer.set_kwargs(**{name: 32}).attribute(padded(), 1))
        with count_forwards() as once:
            explainer.set_kwargs(**{name: 32}).attribute(padded(), 1)
        assert counter.n_samples == once.n_samples


def test_the_embedding_of_a_token_stands_for_absence() -> None:
    net, ids = reader(), some_ids()
    row = net.words.weight.detach()[1]
    wide = row[:, None].expand(3, -1, LENGTH).contiguous()
    for build in (
        lambda model, baseline: IntegratedGradients(model, n_steps=10, baseline_fn=baseline),
        lambda model, baseline: RISE(model, n_masks=64, baseline_fn=baseline),
        lambda model, baseline: SobolAttribution(model, n_designs=8, grid_size=3, baseline_fn=baseline),
        lambda model, baseline: ExpectedGradients(model, n_samples=6, background=baseline),
    ):
        found = build(net, Token(1)).attribute(ids, 0)
        expected = build(net.body, lambda x: wide[: len(x)]).attribute(embedded(net, ids), 0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    maps = GradientXInput(net).attribute(ids, 0)
    scores = AbPC(net, baseline_fn=Token(1)).evaluate(ids, 0, maps)
    torch.testing.assert_close(
        scores, AbPC(net.body, baseline_fn=row[:, None]).evaluate(embedded(net, ids), 0, maps), rtol=1e-5, atol=1e-7
    )
    with pytest.raises(ParameterError, match="below the 20 rows"):
        IntegratedGradients(net, baseline_fn=Token(20)).attribute(ids, 0)
    with pytest.raises(InputError, match=r"token ids .* Token\(1\)"):
        baseline_for(Token(1), batch(1, 4))
    with pytest.raises(ParameterError, match="token_id"):
        Token(-1)


def test_text_offers_words_and_the_mask_where_they_are_known() -> None:
    def names(modality: Text) -> dict[str, list[str]]:
        return {role.__name__: [each.NAME for each in listed] for role, listed in modality.candidates.items()}

    mask = ["[MASK]", *VOCABULARY]
    assert names(Text(1, mask))["FeatureMaskFunction"] == ["words", "each"]
    assert names(Text(1, mask))["BaselineFunction"] == ["zeros", "token"]
    assert names(Text(1))["FeatureMaskFunction"] == ["each"]
    assert names(Text(1, mask_id=7))["BaselineFunction"] == ["zeros", "token"]
    assert names(Text(2, mask))["BaselineFunction"] == ["zeros"]
    assert names(Text(1, word_ids=True))["FeatureMaskFunction"] == ["words", "each"]
    assert Text(1, ["a", "b"]).candidates[FeatureMaskFunction] == [Each()]
    net = reader()
    for kind in (Text(1, mask), Text(1)):
        first = kind.candidates[FeatureMaskFunction][0]
        for cls in (KernelShap, Lime, RISE, Occlusion, SobolAttribution):
            assert kind.settled(cls(net)) == cls(net, feature_mask_fn=first)
        assert kind.settled(IntegratedGradients(net)) == IntegratedGradients(net)
    for kind in (Text(2, mask), Image()):
        assert kind.settled(KernelShap(net)) == KernelShap(net)


def test_what_means_nothing_beside_words_is_not_searched() -> None:
    import optuna

    net = reader()
    kind = Text(1, ["[MASK]", *VOCABULARY])
    for cls, gone in ((RISE, "grid_size"), (SobolAttribution, "upsampling"), (Occlusion, "window")):
        assert gone in trial_params(cls(net), kind.candidates)
        chosen = trial_params(kind.settled(cls(net)), kind.candidates)
        assert gone not in chosen
        assert chosen["feature_mask_fn"] == "words"
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        found = {
            suggest(study.ask(), kind.settled(cls(net)), kind.candidates).get_params()["feature_mask_fn"].NAME
            for _ in range(12)
        }
        assert found == {"words", "each"}


def test_recommended_and_tuned_with_words() -> None:
    net, ids = reader(), some_ids(8)
    text = Text(tokenizer=["[MASK]", *VOCABULARY[1:]])
    recommendation = pnpxai.recommend(net, ids, modality=text)
    chosen = {type(each).__name__: each for each in recommendation.explainers}
    assert chosen["KernelShap"].get_params()["feature_mask_fn"] == Words(text.tokenizer)
    mine = KernelShap(net, n_samples=32, feature_mask_fn=Grid(2))
    result = pnpxai.tune(
        net, ids, modality=text, explainers=[mine, "Occlusion"], n_trials=8, progress=False, sampler="random"
    )
    defaults = {each.name: each.default.explainer.get_params()["feature_mask_fn"] for each in result.entries}
    assert defaults == {"KernelShap": Grid(2), "Occlusion": Words(text.tokenizer)}
    assert result.modality == Text(1, text.tokenizer)


def test_maps_are_summed_to_words() -> None:
    maps = batch(3, LENGTH)
    for by_word, own, numbers, ids in zip(
        Text(tokenizer=VOCABULARY).by_word(SENTENCES, maps), maps, WORDS, SENTENCES, strict=True
    ):
        assert [text for text, _ in by_word] == [
            "".join(
                VOCABULARY[i].removeprefix("##")
                for i, number in zip(ids.tolist(), numbers, strict=True)
                if number == word
            )
            for word in range(max(numbers) + 1)
        ]
        for word, (_, value) in enumerate(by_word):
            parts = [own[i] for i, number in enumerate(numbers) if number == word]
            assert value == pytest.approx(float(sum(parts)), abs=1e-6)
    said = Text().by_word(SENTENCES[:1], maps[:1], torch.tensor([[4, 4, 9, 9, 9, 2]]))
    assert [text for text, _ in said[0]] == ["314", "1556", "16"]


def test_an_experiment_takes_a_tokenizer() -> None:
    tokenizer = trained("##")
    net = seeded(Bag())
    ids = torch.tensor([tokenizer.encode("make people happy").ids[:3]]) % N_WORDS
    experiment = pnpxai.AutoExplanationForTextClassification(
        net, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tokenizer=tokenizer, special_ids=(7,)
    )
    assert experiment.modality == Text(1, tokenizer)
    assert experiment.forward_arg_extractor == TokenIds((7, *special_ids_of(tokenizer)))
    assert Request.build(net, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).word_ids is False


def test_a_result_is_kept_with_what_its_tokenizer_says(tmp_path: Path) -> None:
    net, ids, tokenizer = reader(), some_ids(6), trained("##")
    extractor = TokenIds((3, 4))
    result = pnpxai.tune(
        net,
        ids,
        modality=Text(tokenizer=tokenizer),
        explainers=["Occlusion", "GradientXInput"],
        n_trials=2,
        progress=False,
        forward_arg_extractor=extractor,
    )
    again = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), net)
    assert again.explainer.forward_arg_extractor == extractor
    assert (
        again.modality.candidates[FeatureMaskFunction][0]
        .of_tokens(  # type: ignore[attr-defined]
            batch(6, 4, LENGTH), Request.build(net, ids).lookup()
        )
        .tolist()
        == words_of(tokenizer, ids).tolist()
    )
    assert torch.equal(again.explain(ids), result.explain(ids))
    kept = {each.name: each.tuned.maps(ids) for each in again.entries}
    for each in result.entries:
        assert torch.equal(kept[each.name], each.tuned.maps(ids))
