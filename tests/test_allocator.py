"""Memory that is freed is used again, counted by the pages that a process has to have mapped."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told")

BLOCKS = """
import resource
import torch
from pnpxai.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {keep}:
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(12_000_000)  # more than the C library keeps by default
before = faults()
for _ in range(10):
    torch.ones(12_000_000)
print(faults() - before)
"""


def mapped(keep: bool) -> int:
    """Page faults of ten blocks of 48 MB, one after the other."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS.format(keep=keep)], env=plain, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_kept_memory_is_not_mapped_again() -> None:
    left_to_itself = mapped(keep=False)
    assert left_to_itself >= 10 * 48_000_000 // 2**21  # a page of 2 MB at most
    assert mapped(keep=True) < left_to_itself / 20


def test_the_package_leaves_the_allocator_alone() -> None:
    code = "import sys; import pnpxai; print('pnpxai.allocator' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from pnpxai.allocator import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
