"""Maps and scores in a folder, found again by the model, the sample and the parameters they were made with."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pnpxai.batches import Extractor
from pnpxai.errors import PnPXAIError
from pnpxai.experiment._parts import Part
from pnpxai.explainers import Explainer
from pnpxai.forward._given import given as sorted_out
from pnpxai.kept import digest, plain
from pnpxai.metrics import Metric
from pnpxai.postprocess import PostProcessor
from pnpxai.targets import Target
from pnpxai.tunable import Tunable, to_json

GIVEN = ("model", "forward_arg_extractor", "additional_forward_arg_extractor")
"""Arguments that are named by what they give: weights, and what is taken of a sample."""
JUDGING = (*GIVEN, "explainer")
"""Likewise of a metric, whose scores lie beside the explainer's maps."""


class Disk:
    """A folder of maps and scores.

    ``folder / explainer / sample.safetensors`` holds a map, ``folder / explainer / scores / metric.jsonl`` the scores
    of its maps; each name is a digest. Nothing is kept of an explainer, post-processor or metric with a function or
    another object without a JSON form among its parameters.

    Args:
        folder: made when something is written.
        weights: the model's digest.
    """

    def __init__(self, folder: str | Path, weights: str) -> None:
        self.folder = Path(folder)
        self.weights = weights
        self._samples: dict[tuple[int, int, int], str] = {}
        self._folders: dict[Explainer, Path | None] = {}

    def map_files(self, explainer: Explainer, part: Part) -> list[Path | None]:
        """Where the map of each sample is kept; None for nowhere."""
        place = self._place(explainer)
        samples = self.samples(explainer, part) if place is not None else None
        if place is None or samples is None:
            return [None] * len(part.ids)
        return [place / f"{each}.safetensors" for each in samples]

    def score_file(self, explainer: Explainer, postprocessor: PostProcessor, metric: Metric) -> Path | None:
        """Where the scores of one combination are kept; None for nowhere."""
        place = self._place(explainer)
        if place is None or not plain(postprocessor) or not plain(metric, JUDGING):
            return None
        own = _described(metric, JUDGING) if metric.for_samples([0]) is metric else type(metric).__qualname__
        return place / "scores" / f"{digest([to_json(postprocessor), own], 32)}.jsonl"

    def score_names(self, explainer: Explainer, metric: Metric, part: Part) -> list[str] | None:
        """What the scores of each sample are called in such a file; None for a sample that cannot be described."""
        made, judged = self.samples(explainer, part), self.samples(metric, part)
        if made is None or judged is None:
            return None
        names = [one if one == other else f"{one}+{other}" for one, other in zip(made, judged, strict=True)]
        own = [metric.for_samples([i]) for i in part.ids]
        return [
            name if each is metric else f"{name}+{digest(_described(each, JUDGING))}"
            for name, each in zip(names, own, strict=True)
        ]

    def samples(self, owner: Explainer | Metric, part: Part) -> list[str] | None:
        """A digest of each sample: what was loaded, what the extractors take of it, and the target."""
        extractors = owner.forward_arg_extractor, owner.additional_forward_arg_extractor
        keys = [(id(extractors[0]), id(extractors[1]), i) for i in part.ids]
        if not all(each in self._samples for each in keys):
            found = _digests(part, *extractors)
            if found is None:
                return None
            self._samples |= {key: self._samples.get(key, each) for key, each in zip(keys, found, strict=True)}
        return [self._samples[each] for each in keys]

    def _place(self, explainer: Explainer) -> Path | None:
        if explainer not in self._folders:
            own = [self.weights, importlib.metadata.version("pnpxai"), _described(explainer, GIVEN)]
            self._folders[explainer] = self.folder / digest(own, 32) if plain(explainer, GIVEN) else None
        return self._folders[explainer]


def read_scores(path: Path) -> dict[str, float]:
    """Sample to score; what a killed process did not write to its end is left out."""
    found: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                name, score = json.loads(line)
            except ValueError:
                continue
            found[name] = score
    return found


def write_scores(path: Path, scores: Mapping[str, float]) -> None:
    """Add scores, by sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps([name, score])}\n" for name, score in scores.items())
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            lines = lines if file.read(1) == b"\n" else f"\n{lines}"
        file.write(lines.encode())


def _described(owner: Tunable, given: Collection[str]) -> Any:
    params = {name: each for name, each in to_json(owner)["params"].items() if name not in given}
    return [type(owner).__module__, type(owner).__qualname__, params]


def _digests(part: Part, extractor: Extractor | None, additional: Extractor | None) -> list[str] | None:
    try:
        found = sorted_out(part.inputs, extractor, additional, allow_integers=True)
    except PnPXAIError:
        return None
    tokens = [[each.fixed, each.embeddings, each.words] for each in found.tokens.values()]
    if not plain(part.targets):
        return None
    whole = [part.inputs, found.tensors, tokens, found.names, found.extra, part.targets]
    return [digest(to_json(_row(whole, row, len(part.ids))), 32) for row in range(len(part.ids))]


def _row(value: Any, row: int, n: int) -> Any:
    """What belongs to one of ``n`` samples: its row of every tensor that has one for each, all of anything else."""
    if isinstance(value, Tensor):
        return value[row] if value.ndim and len(value) == n else value
    if isinstance(value, Target):
        return value.for_samples([row])
    if isinstance(value, Mapping):
        return {name: _row(each, row, n) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_row(each, row, n) for each in value]
    return value
