"""What the pages in docs name is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pnpxai
from pnpxai.explainers import EXPLAINERS
from pnpxai.metrics import METRICS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "from-pnpxai-0.1.md"
NAME = re.compile(r"^(?P<path>pnpxai(?:\.\w+)*)(?:\((?P<argument>\w+)\))?$")


def rows() -> Iterator[list[str]]:
    """The cells of each row of each table, headings and rules left out."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [each.strip() for each in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[1] != "here" and set(cells[0]) != {"-"}:
            yield cells


def new_names() -> list[str]:
    return [each for cells in rows() for each in re.findall(r"`([^`]*)`", cells[1])]


def resolve(path: str) -> object:
    """A module, or what lies in one, by its whole name."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for each in parts[length:]:
            found = getattr(found, each) if hasattr(found, each) else declared(found, each)
        return found
    raise LookupError(path)


def declared(owner: object, name: str) -> object:
    """A name that a class only annotates, such as a field of a dataclass without a default."""
    if isinstance(owner, type) and any(name in vars(each).get("__annotations__", {}) for each in owner.__mro__):
        return owner
    raise AttributeError(f"{owner!r} has no {name}")


@pytest.mark.parametrize("name", sorted(set(new_names())))
def test_every_new_name_is_there(name: str) -> None:
    matched = NAME.match(name)
    assert matched, f"not the whole name of something of pnpxai: {name}"
    found = resolve(matched["path"])
    if matched["argument"]:
        assert callable(found)
        taken = {argument for each in _signatures(found) for argument in inspect.signature(each).parameters}
        assert matched["argument"] in taken


def _signatures(found: object) -> list[object]:
    """Of a class also those it passes further arguments to."""
    return [each.__init__ for each in found.__mro__ if "__init__" in vars(each)] if isinstance(found, type) else [found]


def test_a_name_that_is_not_there_is_seen() -> None:
    for name in ("pnpxai.explainers.Nothing", "pnpxai.nothing", "pnpxai.TuneResult.nothing"):
        with pytest.raises((AttributeError, LookupError)):
            resolve(name)
    with pytest.raises(AssertionError):
        test_every_new_name_is_there("pnpxai.tune(nothing)")
    with pytest.raises(AssertionError):
        test_every_new_name_is_there("Experiment")


def test_every_row_has_something_new() -> None:
    found = list(rows())
    assert len(found) > 80
    for cells in found:
        assert len(cells) == 3
        assert re.search(r"`pnpxai", cells[1]), cells


OLD = [
    "XaiRecommender",
    "AutoExplanationForImageClassification",
    "input_extractor",
    "label_extractor",
    "target_extractor",
    "target_labels",
    "channel_dim",
    "mask_token_id",
    "run_batch",
    "optimize",
    "get_tunables",
    "set_kwargs",
    "AbPC",
    "MoRF",
    "LeRF",
    "MuFidelity",
    "Sensitivity",
    "Complexity",
    "Optimizer",
    "core",
    "evaluator",
    "explainers.utils",
]


@pytest.mark.parametrize("name", OLD)
def test_what_people_know_is_on_the_left(name: str) -> None:
    assert any(name in cells[0] for cells in rows())


def test_what_has_the_same_name_says_so() -> None:
    """A name of 0.1 that there is here, too, is not given another."""
    known = {**EXPLAINERS, **METRICS} | {name: getattr(pnpxai, name) for name in pnpxai.__all__}
    new = set(new_names())
    for cells in rows():
        for old in re.findall(r"`(\w+)`", cells[0]):
            if old in known and old not in ("Composite",):
                assert any(each.rpartition(".")[2] == old for each in new) or "EXPLAINERS" in cells[1], old


def test_the_example_is_python_and_the_readme_links_the_page() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    called = {
        each.func.attr
        for each in ast.walk(ast.parse(code))
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
    }
    assert {"optimize", "explain", "inputs", "targets"} <= called
    assert "(docs/from-pnpxai-0.1.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
