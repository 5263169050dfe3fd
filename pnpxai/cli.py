"""The command ``pnpxai``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import pnpxai
from pnpxai.allocator import keep_freed_memory
from pnpxai.errors import ParameterError, PnPXAIError
from pnpxai.explainers import EXPLAINERS
from pnpxai.metrics import METRICS
from pnpxai.modules import MODULE_KINDS
from pnpxai.tunable import Role, Tunable

WIDTH = 130
"""Columns of a table where the output is no terminal."""

app = typer.Typer(
    help=pnpxai.__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command; a deliberate error is one message and exit code 1."""
    keep_freed_memory()
    try:
        app()
    except PnPXAIError as error:
        print(f"pnpxai: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        print(pnpxai.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and leaderboard.csv.")] = Path("pnpxai-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tuning.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Explain real photographs with a pretrained network, and say which explanation to trust."""
    from pnpxai.demo import run_demo

    run_demo(out, seed=seed, progress=not quiet)


@app.command()
def worker(
    study: Annotated[str, typer.Option(help="Name of the study, as tune() was given it.")],
    storage: Annotated[str, typer.Option(help="Where it is kept: postgresql://…, or a journal's file.")],
    problem: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:FUNCTION", help="A function that returns the arguments tune() was called with, as a dict."
        ),
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Take part in a study that tune() has begun, from this or another machine, until it has all its trials.

    The function has to give what the study is about: the same model and weights, inputs, explainers and metric.
    """
    from pnpxai.tuning import join

    done, asked = join(_problem(problem), storage=storage, study_name=study, progress=not quiet)
    if not quiet:
        print(f"The study {study!r} has {done} of {asked} trials.")


def _problem(described: str) -> Mapping[str, Any]:
    """What the function returns that ``FILE.py:FUNCTION`` describes."""
    place, _, name = described.rpartition(":")
    path = Path(place)
    if not path.is_file() or path.suffix != ".py":
        raise ParameterError("a problem as FILE.py:FUNCTION", f"{described!r}", "Name a Python file that exists.")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ParameterError(f"a function {name!r} in {path.name}", "none", "Name one that takes no arguments.")
    arguments = function()
    if not isinstance(arguments, Mapping):
        raise ParameterError(
            f"{name}() to return a dict of tune()'s arguments",
            type(arguments).__name__,
            "Return dict(model=…, inputs=…, …).",
        )
    return arguments


@app.command()
def explainers() -> None:
    """List the explainers: the models they fit, and what may be tuned."""
    rows = [
        (
            name,
            kinds(each.SUPPORTED_MODULES) + ", or a function" * each.OUTPUTS_ONLY,
            kinds(each.EXCLUDED_MODULES),
            tunables(each),
            tunables(each, budget=True),
        )
        for name, each in sorted(EXPLAINERS.items())
    ]
    _print(("explainer", "fits models with", "and without", "tunables", "budget"), rows)


@app.command()
def metrics() -> None:
    """List the metrics and which way is better."""
    rows = [
        (name, "higher" if each.HIGHER_IS_BETTER else "lower", inspect.getdoc(each) or "")
        for name, each in sorted(METRICS.items())
    ]
    _print(("metric", "better", "what it says"), rows)


def tunables(cls: type[Tunable], *, budget: bool = False) -> str:
    """The search space of a class in words, a line each: what is quality, or what buys it with time.

    Example:
        >>> from pnpxai.baselines import Blur
        >>> tunables(Blur), tunables(Blur, budget=True)
        ('sigma 2–20', '')
    """
    return "\n".join(
        f"{name} {_space(space)}" for name, space in cls.TUNABLES.items() if (name in cls.BUDGET) == budget
    )


def _space(space: BaseDistribution | type[Tunable]) -> str:
    if isinstance(space, CategoricalDistribution):
        return " | ".join(str(each) for each in space.choices)
    if isinstance(space, FloatDistribution | IntDistribution):
        return f"{space.low:g}–{space.high:g}"
    if isinstance(space, type) and issubclass(space, Role):
        return " | ".join(space.names())
    return getattr(space, "__name__", str(space))


def kinds(declared: Sequence[type]) -> str:
    """Kinds of modules by name, ``any`` for all of them."""
    return "any" if tuple(declared) == MODULE_KINDS else ", ".join(each.__name__ for each in declared)


def _print(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*(each.partition("\n\n")[0] for each in row))
    console = Console(markup=False, highlight=False)
    Console(markup=False, highlight=False, width=console.width if console.is_terminal else WIDTH).print(table)
