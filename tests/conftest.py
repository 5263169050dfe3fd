from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from pnpxai import chunks, cli
from pnpxai.explainers import EXPLAINERS
from pnpxai.metrics import METRICS

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _registries_and_defaults() -> Iterator[None]:
    """Classes a test defines leave the registries with it; no test may change torch's defaults."""
    explainers, metrics = dict(EXPLAINERS), dict(METRICS)
    yield
    for registry, before in ((EXPLAINERS, explainers), (METRICS, metrics)):
        registry.clear()
        registry.update(before)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


@pytest.fixture(autouse=True)
def _allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command says to the C library would hold for all tests after it in the same process."""
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: False)


@pytest.fixture
def set_chunk_size(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make every request stream so many samples at once, unless it is told otherwise."""
    return lambda size: monkeypatch.setattr(chunks, "default_chunk_size", lambda inputs: size)
