"""The table of what it takes to give freed memory back."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest

from benchmarks import freed_memory, fresh


def test_processes_take_turns_and_a_row_is_their_median(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def rates(network: str, n_threads: int, keep: bool) -> dict[int, float]:
        asked.append(keep)
        turn = (len(asked) + 1) // 2
        return {size: turn * size * (3.0 if keep else 2.0) for size in freed_memory.BATCHES}

    monkeypatch.setattr(freed_memory, "fresh_rates", rates)
    rows = freed_memory.rows("ResNet-18", 1, 3)
    assert asked == [True, False] * 3
    assert rows[1] == ["ResNet-18", "1", "2", "12.0", "8.0", "1.50", "1.50 to 1.50"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told")
def test_a_process_of_its_own_knows_nothing_of_this_ones_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def run(command: list[str], **others: Any) -> Any:
        given.append(others["env"])
        assert "rates('ResNet-18', 2, True)" in command[-1]
        return type("Done", (), {"stdout": 'other\n{"1": 2.5}\n'})

    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setattr(fresh.subprocess, "run", run)
    assert freed_memory.fresh_rates("ResNet-18", 2, True) == {1: 2.5}
    assert not [name for name in given[0] if name.startswith("MALLOC_")]
    assert given[0]["PATH"] == os.environ["PATH"]
