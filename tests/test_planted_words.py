"""A word that decides the class is the word that the tuned explanation ranks first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pnpxai
from benchmarks.planted_words import PLANTED, found_first, sentences
from pnpxai.explainers import KernelShap, Lime
from pnpxai.modality import Text
from pnpxai.pieces import words_of
from pnpxai.words import Words

N_TRAINING, N_TUNING, N_CASES = 400, 24, 100


def test_cases_are_different_sentences_with_the_word_at_its_place() -> None:
    cases = sentences(300, seed=1)
    assert len({each.text for each in cases}) == 300
    assert {each.label for each in cases} == {0, 1}
    assert {each.place for each in cases} >= set(range(1, 9))
    for each in cases:
        words = each.text.split()
        assert words[each.place] == PLANTED[each.label]
        assert sum(word in PLANTED for word in words) == 1


def test_a_case_counts_where_the_largest_value_is_on_the_word() -> None:
    maps = torch.tensor([[9.0, 1.0, 3.0, 2.0], [0.0, -1.0, -2.0, -3.0]])
    words = torch.tensor([[-1, 0, 0, 1], [-1, 0, 1, 2]])
    assert found_first(maps, words, [0, 0]).tolist() == [True, True]
    assert found_first(maps, words, [1, 1]).tolist() == [False, False]


class Small(nn.Module):
    """Attention over embeddings with those of positions, and the mean over tokens."""

    def __init__(self, n_pieces: int, length: int, size: int = 16) -> None:
        super().__init__()
        self.pieces, self.places = nn.Embedding(n_pieces, size), nn.Embedding(length, size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(n, 2)``."""
        x = self.pieces(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        mixed, _ = self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)
        kept = attention_mask[..., None].to(x.dtype)
        logits: Tensor = self.head((self.norm(x + mixed) * kept).sum(1) / kept.sum(1))
        return logits


def in_pieces(texts: list[str], vocabulary: list[str]) -> dict[str, Tensor]:
    """Ids of the sentences; words of more than six letters fall in two pieces."""
    number = {piece: i for i, piece in enumerate(vocabulary)}
    rows = []
    for text in texts:
        pieces = [
            piece for word in text.split() for piece in ((word[:6], "##" + word[6:]) if len(word) > 6 else (word,))
        ]
        for piece in pieces:
            if piece not in number:
                number[piece] = len(vocabulary)
                vocabulary.append(piece)
        rows.append(torch.tensor([number[piece] for piece in pieces]))
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def test_a_small_network_s_tuned_explanation_finds_the_planted_word() -> None:
    every = sentences(N_TRAINING + N_TUNING + N_CASES)
    vocabulary = ["[PAD]", "[MASK]"]
    inputs, labels = in_pieces([each.text for each in every], vocabulary), torch.tensor([each.label for each in every])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Small(len(vocabulary), inputs["input_ids"].shape[1])
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            rows = torch.randint(N_TRAINING, (64,))
            loss = nn.functional.cross_entropy(net(**{name: each[rows] for name, each in inputs.items()}), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    own = {name: each[-N_CASES:] for name, each in inputs.items()}
    assert (net(**own).argmax(1) == labels[-N_CASES:]).all()
    tuning = {name: each[N_TRAINING:-N_CASES] for name, each in inputs.items()}
    text = Text(tokenizer=vocabulary)
    words = Words(vocabulary)
    result = pnpxai.tune(
        net,
        tuning,
        modality=text,
        explainers=[
            "Occlusion",
            "GradientXInput",
            KernelShap(net, n_samples=64, feature_mask_fn=words),
            Lime(net, n_samples=64, feature_mask_fn=words),
        ],
        n_trials=12,
        aims=(),
        progress=False,
    )
    numbers = words_of(vocabulary, own["input_ids"]).masked_fill(own["attention_mask"] == 0, -1)
    found = found_first(result.explain(own), numbers, [each.place for each in every[-N_CASES:]])
    assert int(found.sum()) >= 95
