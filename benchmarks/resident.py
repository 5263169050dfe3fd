"""The most memory that a process holds at once, on Linux."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""With these variables a process gives all but small blocks back at once, so that what was freed does not count."""


def resident_peak() -> float:
    """The most memory that this process has held since `forget_peak` or its start, in megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith("VmHWM")) / 1024


def forget_peak() -> None:
    """Let the peak start anew; where that is not allowed it stays, and the rise is read off what comes above it."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
