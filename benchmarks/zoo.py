"""Every model × every explainer: ``python -m benchmarks.zoo``.

`pnpxai.recommend` proves each explainer on one input with every budget at its least. What it recommends is run here
with its default arguments, on another real input and on noise. It must not fail, its maps must be finite, and model,
inputs and random states must be bit for bit what they were: anything else is an ERROR.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import re
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pnpxai
from benchmarks.written import circumstances, table, write
from benchmarks.zoo_models import Subject, zoo
from pnpxai.callables import Model
from pnpxai.errors import RelevanceWarning
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.tuning._problem import versions

LOG = Path("build") / "zoo.jsonl"
INPUTS = ("another input", "noise")
"""What a recommended explainer is run on."""
RAN, FLAT, WARNED, REJECTED, ERROR = "✓", "○", "△", "–", "ERROR"
LEGEND = {
    RAN: "recommended, and ran with its defaults on another real input and on noise",
    FLAT: "so, too, but one of those two maps was the same everywhere: nothing spoke for the target",
    WARNED: "so, too, with a warning that its relevance does not add up",
    REJECTED: "rejected; why is said below",
    ERROR: "recommended, and then failed, was not finite, or changed the model",
}


def short(name: str) -> str:
    """An explainer's column: its name if that is short, else the capitals and digits in it.

    Example:
        >>> short("RISE"), short("GradientXInput"), short("LRPEpsilonAlpha2Beta1"), short("Lime")
        ('RISE', 'GXI', 'LRPEA2B1', 'Lime')
    """
    return name if len(name) <= 5 else "".join(re.findall("[A-Z0-9]", name))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)


def held(model: Model, inputs: Any) -> dict[str, Any]:
    """What no explainer may change: model, inputs and random states."""
    keys, *place = np.random.get_state()[1:]  # noqa: NPY002  # compared, not used
    found: dict[str, Any] = {
        "Python's random state": random.getstate(),
        "NumPy's random state": (np.asarray(keys).tobytes(), *place),
        "torch's random state": torch.get_rng_state().clone(),
    }
    found |= {f"input {i}": each.clone() for i, each in enumerate(tensors_in(inputs))}
    if isinstance(model, nn.Module):
        found |= {f"weights of {name}": each.clone() for name, each in model.state_dict().items()}
        found |= {f"whether {name} learns": each.requires_grad for name, each in model.named_parameters()}
        for name, module in model.named_modules():
            hooks = [len(each) for key, each in vars(module).items() if key.endswith("_hooks") and each is not None]
            found[f"state of {name or 'the model'}"] = (module.training, hooks, "forward" in vars(module))
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is not as it was."""

    def same(one: Any, other: Any) -> bool:
        return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else bool(one == other)

    return [name for name in {**before, **after} if name not in before or not same(before[name], after.get(name, None))]


def flat(maps: Any) -> bool:
    """Whether every map is the same everywhere."""
    return all(bool((each == each.flatten()[0]).all()) for each in tensors_in(maps))


def ran(explainer: Explainer, subject: Subject, others: Sequence[Any]) -> dict[str, Any]:
    """What became of an explainer with its default arguments: a cell of the matrix."""
    notes: dict[str, Any] = {"error": [], "flat": [], "warned": []}
    start = time.perf_counter()
    for what, inputs in zip(INPUTS, others, strict=True):
        before = held(explainer.model, inputs)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                maps = explainer.attribute(inputs, subject.targets)
        except Exception as error:
            traceback.print_exc()
            notes["error"].append(f"on {what}: {type(error).__name__}: {error}")
        else:
            if not all(bool(torch.isfinite(each).all()) for each in tensors_in(maps)):
                notes["error"].append(f"on {what}: not finite")
            if flat(maps):
                notes["flat"].append(what)
            relevance = [str(each.message) for each in caught if issubclass(each.category, RelevanceWarning)]
            notes["warned"] += [f"on {what}: {each}" for each in dict.fromkeys(relevance)]
        harm = changed(before, held(explainer.model, inputs))
        if harm:
            notes["error"].append(f"on {what}: changed {', '.join(harm[:3])}")
    found = {name: each for name, each in notes.items() if each}
    return {**found, "seconds": time.perf_counter() - start}


def examined(subject: Subject) -> dict[str, Any]:
    """A row of the matrix."""
    start = time.perf_counter()
    model = subject.built()
    built = time.perf_counter()
    first, *others = subject.inputs()
    before = held(model, first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recommendation = pnpxai.recommend(
            model, first, subject.targets, modality=subject.modality, **subject.extractors
        )
    harm = changed(before, held(model, first))
    tried = time.perf_counter()
    cells: dict[str, Any] = {name: {"rejected": why} for name, why in recommendation.rejected.items()}
    for explainer in recommendation.explainers:
        cells[type(explainer).__name__] = ran(explainer, subject, others)
    return {
        "name": subject.name,
        "family": subject.family,
        "kinds": [kind.__name__ for kind in recommendation.detected_architectures],
        **({"harm": harm} if harm else {}),
        "cells": cells,
        "seconds": {"built": built - start, "recommend": tried - built, "all": time.perf_counter() - start},
    }


def word(cell: Mapping[str, Any] | None) -> str:
    """A cell in the matrix."""
    if cell is None:
        return "?"
    found = {"error": ERROR, "rejected": REJECTED, "warned": WARNED, "flat": FLAT}
    return next((mark for name, mark in found.items() if name in cell), RAN)


def line(record: Mapping[str, Any]) -> str:
    """A row, for the terminal."""
    if "failed" in record:
        return f"{record['name']}: {record['failed']}"
    marks = [word(each) for each in record["cells"].values()]
    slowest = sorted(record["cells"].items(), key=lambda each: -each[1].get("seconds", 0.0))[:3]
    parts = [f"{sum(mark in (RAN, FLAT, WARNED) for mark in marks)} ran", f"{marks.count(REJECTED)} rejected"]
    parts += [f"harm: {record['harm']}"] if "harm" in record else []
    parts += [f"{name}: {each['error']}" for name, each in record["cells"].items() if "error" in each]
    seconds = record["seconds"]
    slow = ", ".join(f"{name} {each.get('seconds', 0.0):.1f}" for name, each in slowest)
    time_taken = f"[{seconds['all']:.0f} s; recommend {seconds['recommend']:.0f}; {slow}]"
    return f"{record['name']} {time_taken}: " + "; ".join(parts)


# The page.


def errors(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must not be there."""
    found = [f"- {each['name']}: recommend failed: {each['failed']}" for each in records if "failed" in each]
    found += [f"- {each['name']}: recommend changed {each['harm']}" for each in records if "harm" in each]
    return found + [
        f"- {record['name']}, {name}: {'; '.join(cell['error'])}"
        for record in records
        for name, cell in record.get("cells", {}).items()
        if "error" in cell
    ]


def reasons(record: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Why explainers were rejected, each reason with those it holds for; then what warned or was flat."""
    found: dict[str, list[str]] = {}
    for name, cell in record.get("cells", {}).items():
        if "rejected" in cell:
            found.setdefault(" ".join(cell["rejected"].split()), []).append(name)
        if "warned" in cell:
            found.setdefault("ran, with a warning that its relevance does not add up", []).append(name)
        if "flat" in cell:
            found.setdefault(f"ran, but on {' and '.join(cell['flat'])} nothing spoke for the target", []).append(name)
    return tuple((why, tuple(names)) for why, names in found.items())


def explained(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The reasons, models with the same ones together."""
    together: dict[Any, list[str]] = {}
    for record in records:
        if "failed" not in record:
            together.setdefault(reasons(record), []).append(record["name"])
    lines: list[str] = []
    for found, names in together.items():
        lines += [f"**{'; '.join(names)}**", ""]
        lines += [f"- {', '.join(explainers)}: {why}" for why, explainers in found] or ["- nothing was rejected."]
        lines += [""]
    return lines


def page(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is known as lines of Markdown."""
    names = list(EXPLAINERS)
    rows = []
    for record in records:
        cells = record.get("cells", {})
        marks = [word(cells.get(name)) for name in names]
        count = sum(mark in (RAN, FLAT, WARNED) for mark in marks)
        rows.append([record["name"], record["family"], *marks, str(count), f"{record['seconds']['all']:.0f}"])
    marks = [word(cell) for record in records for cell in record.get("cells", {}).values()]
    fits = [sum(row[2 + place] in (RAN, FLAT, WARNED) for row in rows) for place in range(len(names))]
    rows.append(["**models it ran on**", "", *map(str, fits), str(sum(fits)), ""])
    found = errors(records)
    n_ran, n_flat, n_warned = (marks.count(each) for each in (RAN, FLAT, WARNED))
    taken = sum(each["seconds"]["all"] for each in records)
    return [
        "# What is recommended, and whether it runs",
        "",
        f"{len(records)} models × {len(names)} explainers: {n_ran + n_flat + n_warned} recommended and ran, "
        f"{marks.count(REJECTED)} rejected, {len(found)} errors.",
        "",
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "Up to four inputs for `recommend`, batches of one for the runs; pictures of 16 to 64 pixels; models that are "
        "not trained have random weights and biases, and batch-norm statistics of the pictures.",
        "",
        *[f"- {mark}: {meaning}." for mark, meaning in LEGEND.items()],
        "",
        "Explainers: " + ", ".join(f"{short(each)} {each}" if short(each) != each else each for each in names) + ".",
        "",
        *table(["model", "from", *map(short, names), "ran", "s"], rows),
        "",
        "## Errors",
        "",
        *(found or ["None."]),
        "",
        "## Reasons",
        "",
        *explained(records),
        f"`python -m benchmarks.zoo`: {circumstances(taken, versions())}, {torch.get_num_threads()} thread(s)",
    ]


def known_rows(log: Path) -> dict[str, dict[str, Any]]:
    """The rows in a log by their models' names; of several, the last."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return {each["name"]: each for each in map(json.loads, lines)}


def measure(subject: Subject, log: Path) -> None:
    """Examine a model, whatever it does, and keep the row."""
    try:
        record = examined(subject)
    except Exception as error:
        traceback.print_exc()
        failed = f"{type(error).__name__}: {error}"
        record = {"name": subject.name, "family": subject.family, "failed": failed, "seconds": {"all": 0.0}}
    gc.collect()
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(line(record), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="models with one of these in their names, examined again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, one a model, as soon as it is examined")
    parser.add_argument("--resume", action="store_true", help="keep what the log holds, and go on from there")
    parser.add_argument("--partial", action="store_true", help="write the page even if some models are not known yet")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    if not (arguments.resume or arguments.only):
        arguments.log.unlink(missing_ok=True)
    subjects = list(zoo())
    for subject in subjects:
        chosen = any(each in subject.name for each in arguments.only)
        if chosen or (not arguments.only and subject.name not in known_rows(arguments.log)):
            measure(subject, arguments.log)
    known = known_rows(arguments.log)
    records = [known[each.name] for each in subjects if each.name in known]
    if arguments.dry:
        print("\n".join(page(records)))
    elif arguments.partial or len(records) == len(subjects):
        write("zoo", page(records))
    else:
        print(f"{len(subjects) - len(records)} models are not known yet: no page is written.")


if __name__ == "__main__":
    main()
