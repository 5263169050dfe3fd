"""Planted words: does the explanation that is tuned for a sentence classifier rank the word that decides first?

A head on a sentence encoder, all-MiniLM-L6-v2, learns to tell by one neutral word in a sentence: "violet" for one
class, "copper" for the other; the rest of a sentence, and the place of the word in it, say nothing. The tuning sees
other sentences than those that are counted. A case counts where the largest value of the map is on the planted word.

Run with ``python -m benchmarks.planted_words``; names of explainers behind it leave the others out.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pnpxai
from benchmarks.architectures import MINILM
from benchmarks.written import circumstances, table, write
from pnpxai.demo import within
from pnpxai.explainers import Explainer
from pnpxai.modality import Text
from pnpxai.photographs import package_file
from pnpxai.tuning import Configuration, TuneResult

PLANTED = ("copper", "violet")
N_CASES, N_TRAINING, N_TUNING = 100, 200, 12
N_TRIALS = 2
"""Trials for each explainer."""
TARGET = 95
BUDGETS = {"n_samples": 32, "n_masks": 32, "n_steps": 8, "n_designs": 4}
WHO = (
    "The cartographer",
    "My neighbour",
    "Our librarian",
    "A beekeeper",
    "The ferryman",
    "Her aunt",
    "A cyclist",
)
DID = ("carried", "described", "remembered", "photographed", "repaired", "borrowed", "overlooked", "unfolded")
WHAT = (
    "the timetable",
    "a doormat",
    "the windowpane",
    "an envelope",
    "the wheelbarrow",
    "a bookshelf",
    "the spoons",
)
WHERE = ("near the station", "behind the bakery", "in the hallway", "at the crossroads", "beside the reservoir")
WHEN = ("on Tuesday", "after lunch", "before the meeting", "last September", "while it rained")


@dataclass(frozen=True)
class Planted:
    """A sentence, the class it is of, and which of its words decides."""

    text: str
    label: int
    place: int


class Classifier(nn.Module):
    """An encoder's mean over tokens, and a linear head; ``(n, t)`` to ``(n, 2)``."""

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(size, 2)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The sentences' embeddings, ``(n, size)``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the two classes."""
        logits: Tensor = self.head(self.embed(input_ids, attention_mask))
        return logits


def sentences(n: int, seed: int = 0) -> list[Planted]:
    """Different sentences, of as many of each class, the planted word at any place but the first."""
    pick = random.Random(seed)
    every = list(itertools.product(WHO, DID, WHAT, WHERE, WHEN))
    made = []
    for number, parts in enumerate(pick.sample(every, n)):
        words = " ".join(parts).split()
        place, label = pick.randrange(1, len(words) + 1), number % 2
        words.insert(place, PLANTED[label])
        made.append(Planted(" ".join(words), label, place))
    return made


def encoded(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """What the classifier takes, with what is to be known about the tokens."""
    made = tokenizer(list(texts), padding=True, return_tensors="pt", return_special_tokens_mask=True)
    words = [[-1 if each is None else each for each in made.word_ids(i)] for i in range(len(texts))]
    names = ("input_ids", "attention_mask", "special_tokens_mask")
    return {**{name: made[name] for name in names}, "word_ids": torch.tensor(words)}


def trained(training: Sequence[Planted]) -> tuple[Classifier, Any]:
    """The encoder with a head that tells the planted words apart, and the tokenizer."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = package_file(MINILM, "model/config.json").parent
    encoder = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = Classifier(encoder, encoder.config.hidden_size).eval().requires_grad_(False)
    rows = []
    with torch.no_grad():
        for start in range(0, len(training), 50):
            given = encoded(tokenizer, [each.text for each in training[start : start + 50]])
            rows.append(model.embed(given["input_ids"], given["attention_mask"]))
    fit(model.head, torch.cat(rows), torch.tensor([each.label for each in training]))
    return model, tokenizer


def fit(head: nn.Linear, rows: Tensor, labels: Tensor, penalty: float = 1e-4) -> None:
    """Logistic regression."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.requires_grad_(True)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(head(rows), labels) + penalty * head.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    head.requires_grad_(False)


def found_first(maps: Tensor, word_ids: Tensor, places: Sequence[int]) -> Tensor:
    """Whether the largest value of a map ``(n, t)`` is on the planted word, ``(n,)``; special tokens are left out.

    Example:
        >>> found_first(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[-1, 0, 1]]), [1]).tolist()
        [True]
    """
    values = maps.masked_fill(word_ids < 0, -torch.inf)
    best = values.argmax(1, keepdim=True)
    return word_ids.gather(1, best).squeeze(1) == torch.tensor(list(places))


class Count:
    """Counts the cases in which configurations find the planted word first; each explainer is asked once."""

    def __init__(self, inputs: dict[str, Tensor], cases: Sequence[Planted]) -> None:
        self.inputs, self.cases = inputs, cases
        self._maps: dict[Explainer, Tensor] = {}

    def __call__(self, configuration: Configuration) -> int:
        """In how many cases the largest value of the map is on the planted word."""
        explainer = configuration.explainer
        if explainer not in self._maps:
            self._maps[explainer] = explainer.attribute(self.inputs, torch.tensor([each.label for each in self.cases]))
        maps = configuration.postprocessor(self._maps[explainer])
        return int(found_first(maps, self.inputs["word_ids"], [each.place for each in self.cases]).sum())


def main() -> None:
    start = time.perf_counter()
    every = sentences(N_TRAINING + N_TUNING + N_CASES)
    training, tuning, cases = every[:N_TRAINING], every[N_TRAINING:-N_CASES], every[-N_CASES:]
    model, tokenizer = trained(training)
    inputs = encoded(tokenizer, [each.text for each in tuning])
    counted = encoded(tokenizer, [each.text for each in cases])
    labels = torch.tensor([each.label for each in cases])
    with torch.no_grad():
        right = int((model(counted["input_ids"], counted["attention_mask"]).argmax(1) == labels).sum())
    text = Text(tokenizer=tokenizer)
    recommendation = pnpxai.recommend(model, inputs, modality=text, explainers=sys.argv[1:] or None)
    explainers = [within(each, BUDGETS) for each in recommendation.explainers]
    n_trials = N_TRIALS * len(explainers)
    result = pnpxai.tune(
        model, inputs, modality=text, explainers=explainers, n_trials=n_trials, aims=(), progress=False
    )
    print(result, flush=True)
    lines = page(result, recommendation, counted, cases, right, start)
    print("\n".join(lines))
    write("planted_words", lines)


def page(
    result: TuneResult,
    recommendation: pnpxai.recommender.Recommendation,
    inputs: dict[str, Tensor],
    cases: Sequence[Planted],
    right: int,
    start: float,
) -> list[str]:
    """The measured table as lines of Markdown."""
    rows, hits = [], Count(inputs, cases)
    for entry in result.entries:
        changed = entry.tuned is not entry.default
        settings = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in entry.tuned.params.items())
        tuned = str(hits(entry.tuned)) if changed else "as default"
        rows.append([entry.name, str(hits(entry.default)), tuned, settings])
    best = hits(result.recommended)
    rejected = " ".join(f"{name}: {reason}" for name, reason in recommendation.rejected.items()) or "none."
    return [
        "# Planted words",
        "",
        f"In how many of {len(cases)} sentences the largest value of a map is on the one word that decides the class "
        f"(“{PLANTED[0]}” or “{PLANTED[1]}”, anywhere in a neutral sentence). all-MiniLM-L6-v2 with a linear head, "
        f"right on {right} of these sentences. Explainers in the order of their tuned {type(result.metric).__name__} "
        f"on {len(result.tuning_index)} other sentences, with budgets of at most "
        + ", ".join(f"{name} {value}" for name, value in BUDGETS.items())
        + ".",
        "",
        *table(["explainer", "default", "tuned", "tuned settings"], rows),
        "",
        f"What `tune` returns, {type(result.explainer).__name__}, finds it in {best} of {len(cases)} (target {TARGET}: "
        f"{'reached' if best >= TARGET else 'missed'}).",
        "",
        f"Rejected: {rejected}",
        "",
        f"Run with `{' '.join(['python -m benchmarks.planted_words', *sys.argv[1:]])}`. "
        + circumstances(time.perf_counter() - start, result.versions),
    ]


if __name__ == "__main__":
    main()
