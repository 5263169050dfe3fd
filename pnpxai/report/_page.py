"""Templates, their filters, and the one file that a page is."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import jinja2

from pnpxai.errors import ParameterError
from pnpxai.report import _numbers


def environment() -> jinja2.Environment:
    """Templates by the names of their files in this room."""
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": _numbers.number,
        "minus": _numbers.minus,
        "share": _numbers.share,
        "p_value": _numbers.p_value,
        "tick": _numbers.tick,
        "cost": _numbers.cost,
    }
    return made


def check_page(path: Path, **counts: int) -> None:
    """Refuse a folder as path, and counts of what is shown that are no whole numbers from 1.

    Raises:
        ParameterError: says which.
    """
    for what, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ParameterError(f"{what} to be a whole number from 1", f"{value!r}", "Show at least one.")
    if path.is_dir():
        raise ParameterError("the path of a file", f"the folder {path}", f"Pass {path / 'report.html'}, for example.")


def write(page: str, path: Path) -> Path:
    """Write a page; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _template(name: str) -> str:
    return importlib.resources.files("pnpxai.report").joinpath(name).read_text(encoding="utf-8")
