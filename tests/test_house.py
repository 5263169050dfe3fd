"""The order of the rooms, their names, and what opening the front door costs; read from the sources."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pnpxai

PACKAGE = Path(pnpxai.__file__).parent
ORDER: list[set[str]] = [
    {"allocator", "errors"},
    {"limits", "tokenizers"},
    {"callables"},
    {"tunable"},
    {"guard", "kept", "outputs"},
    {"targets"},
    {"batches", "chunks", "pieces", "precision", "replacing", "scratch"},
    {"forward"},
    {"watch"},
    {"modules"},
    {"baselines", "feature_masks", "postprocess", "spectrum"},
    {"words"},
    {"relevance"},
    {"explainers"},
    {"metrics"},
    {"modality"},
    {"map_checks"},
    {"recommender"},
    {"tuning"},
    {"samples"},
    {"experiment"},
    {"__init__"},
    {"report"},
    {"photographs"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
HEAVY = (
    "scipy",
    "pandas",
    "timm",
    "transformers",
    "shap",
    "matplotlib.pyplot",
    "skimage",
    "captum",
    "zennit",
    "quantus",
)
SECONDS = 1.0

Imports = list[tuple[int, tuple[str, ...]]]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def parts(path: Path, package: Path = PACKAGE) -> tuple[str, ...]:
    """``("explainers", "rise")`` for explainers/rise.py, ``("explainers",)`` for explainers/__init__.py."""
    names = path.relative_to(package).with_suffix("").parts
    return names[:-1] if names[-1] == "__init__" and len(names) > 1 else names


@cache
def modules(package: Path = PACKAGE) -> frozenset[tuple[str, ...]]:
    return frozenset(parts(path, package) for path in package.rglob("*.py"))


def imports_of(path: Path, package: Path = PACKAGE) -> Imports:
    """The package's modules that a file imports anywhere in it, functions and type checks included."""
    here = path.relative_to(package.parent).with_suffix("").parts[:-1]
    found: Imports = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named = [tuple(each.name.split(".")) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            base = (*here[: len(here) - node.level + 1], *base) if node.level else base
            named = [
                (*base, each.name) if (*base, each.name)[1:] in modules(package) or base == (package.name,) else base
                for each in node.names
            ]
        else:
            continue
        for each in named:
            if each[:1] == (package.name,):
                target = each[1:]
                while target and target not in modules(package):
                    target = target[:-1]
                found.append((node.lineno, target or ("__init__",)))
    return found


def wrong_way(package: Path = PACKAGE) -> Iterator[str]:
    """Each import that goes to the right, or within one room from a private file to a public one."""
    for path in sorted(package.rglob("*.py")):
        own = parts(path, package)
        for line, other in imports_of(path, package):
            text = f"{'.'.join(own)}:{line} imports {'.'.join(other)}"
            if own[0] != other[0]:
                if LEVEL[other[0]] >= LEVEL[own[0]]:
                    yield text
            elif len(own) == len(other) == 2 and own != other:
                if own[1].startswith("_") and not other[1].startswith("_"):
                    yield text + ", a public file"
            elif len(own) == 2 and len(other) == 1:
                yield text + ", its own room's front"


def test_every_room_has_its_place() -> None:
    rooms = {parts(path)[0] for path in sources()}
    assert rooms <= set(LEVEL), f"add to ORDER: {sorted(rooms - set(LEVEL))}"


def test_imports_go_one_way() -> None:
    assert list(wrong_way()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("errors.py", "from pnpxai.tunable import Tunable"),
        ("forward.py", "def late():\n    import pnpxai.watch"),
        ("metrics/sparseness.py", "from ..recommender import recommend"),
        ("explainers/rise.py", "from pnpxai.metrics._base import Metric"),
        ("explainers/rise.py", "from pnpxai.explainers import Explainer"),
        ("explainers/_masks.py", "from pnpxai.explainers.rise import RISE"),
        ("tuning/page.py", "from pnpxai import tune"),
        ("report/page.py", "from pnpxai import demo"),
        ("baselines.py", "from . import postprocess"),
    ],
)
def test_an_import_the_wrong_way_is_seen(tmp_path: Path, file: str, source: str) -> None:
    package = tmp_path / "pnpxai"
    rooms = ("errors", "forward", "watch", "tunable", "recommender", "demo", "baselines", "postprocess")
    for name in (*(f"{room}.py" for room in rooms), "metrics/_base.py", "explainers/rise.py", "explainers/__init__.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    (package / "__init__.py").write_text("from pnpxai.recommender import recommend")
    modules.cache_clear()
    assert list(wrong_way(package)) == []
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(source)
    modules.cache_clear()
    assert len(list(wrong_way(package))) == 1


def test_rooms_are_named_for_what_belongs_in_them() -> None:
    for path in sources():
        for name in parts(path):
            assert not set(name.strip("_").split("_")) & {
                "utils",
                "util",
                "helpers",
                "core",
                "common",
                "manager",
                "misc",
            }


def test_each_file_says_what_it_is() -> None:
    for path in sources():
        assert ast.get_docstring(ast.parse(path.read_text())), path.name


EVERY_ROOM = [".".join(("pnpxai", *each)) for each in sorted(modules()) if each[0] not in ("__init__", "__main__")]


def run(code: str) -> Any:
    """What a fresh process prints as JSON; it may say nothing else."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def open_front_door() -> tuple[float, list[str]]:
    """Seconds of processor time over torch, and the modules loaded."""
    seconds, loaded = run(
        "import json, sys, time, torch; start = time.process_time(); import pnpxai; "
        "print(json.dumps([time.process_time() - start, sorted(sys.modules)]))"
    )
    return seconds, loaded


@pytest.fixture(scope="module")
def front_door() -> tuple[float, list[str]]:
    return open_front_door()


@pytest.fixture(scope="module")
def every_room() -> list[str]:
    loaded: list[str] = run(f"import json, sys, {', '.join(EVERY_ROOM)}; print(json.dumps(sorted(sys.modules)))")
    return loaded


def heavy(loaded: list[str]) -> list[str]:
    return [each for each in loaded if each in HEAVY or each.startswith(tuple(f"{name}." for name in HEAVY))]


def test_the_front_door_pulls_in_nothing_heavy(front_door: tuple[float, list[str]]) -> None:
    assert heavy(front_door[1]) == []


def test_no_room_pulls_in_anything_heavy(every_room: list[str]) -> None:
    assert set(EVERY_ROOM) <= set(every_room)
    assert heavy(every_room) == []


def test_importing_costs_about_a_second_over_torch(front_door: tuple[float, list[str]]) -> None:
    costs = [front_door[0]]
    while costs[-1] > SECONDS and len(costs) < 4:
        costs.append(open_front_door()[0])
    assert min(costs) <= SECONDS, f"{costs} seconds of processor time over torch"


STATE = """
import gc, importlib, json, logging, os, random, signal, sys, threading, warnings
import numpy, torch
def state():
    loggers = {name: (each.level, len(each.handlers), each.propagate, each.disabled)
               for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    return {
        "warnings filters": repr(warnings.filters),
        "showwarning": repr(warnings.showwarning),
        "python's random state": random.getstate(),
        "numpy's random state": repr(numpy.random.get_state()),
        "torch's random state": torch.get_rng_state().tolist(),
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()),
        "matmul precision": torch.get_float32_matmul_precision(),
        "numpy errors": numpy.geterr(),
        "numpy printing": repr(numpy.get_printoptions()),
        "root logger": (logging.root.level, len(logging.root.handlers), logging.root.manager.disable),
        "loggers": loggers,
        "hooks": (repr(sys.excepthook), repr(sys.displayhook), repr(signal.getsignal(signal.SIGINT))),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
        "garbage": gc.get_threshold(),
    }
"""


def changed_by_importing(names: list[str], others: list[str]) -> list[str]:
    """Which global state changes with ``names`` once the modules of others are there."""
    changed: list[str] = run(
        f"{STATE}\nfor name in {others!r}:\n"
        "    try:\n        importlib.import_module(name)\n    except ImportError:\n        pass\n"
        f"before = state()\n{chr(10).join(names)}\nafter = state()\n"
        "print(json.dumps([each for each in before if before[each] != after[each]]))"
    )
    return changed


def test_importing_says_nothing_and_sets_nothing(every_room: list[str]) -> None:
    others = [each for each in every_room if each.partition(".")[0] not in ("pnpxai", "__main__", "__mp_main__")]
    assert changed_by_importing([f"import {each}" for each in EVERY_ROOM], others) == []


def test_what_an_import_could_set_is_seen() -> None:
    sets = [
        "warnings.simplefilter('ignore')",
        "logging.getLogger('pnpxai').addHandler(logging.NullHandler())",
        "torch.manual_seed(0)",
        "os.environ['OMP'] = '1'",
    ]
    seen = ["warnings filters", "torch's random state", "loggers", "environment"]
    assert changed_by_importing(sets, []) == seen
