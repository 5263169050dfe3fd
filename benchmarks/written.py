"""Measured tables as Markdown, each with its command, date, machine and versions."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """The processor and how many cores of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def today() -> str:
    """The date."""
    return str(datetime.datetime.now(datetime.timezone.utc).date())


def named_versions(versions: Mapping[str, str]) -> str:
    """Packages and their versions."""
    return ", ".join(f"{name} {each}" for name, each in versions.items())


def circumstances(seconds: float, versions: Mapping[str, str]) -> str:
    """When, how long, on what and with which versions."""
    return f"{today()}, {seconds:.0f} s, {machine()}; {named_versions(versions)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(each)} |" for each in (columns, ["---"] * len(columns), *rows)]


def write(name: str, lines: Sequence[str]) -> Path:
    """Keep a page as ``results/<name>.md``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
