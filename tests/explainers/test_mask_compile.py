"""RISE and RELAX on a compiled model: it is the one that is asked, the map is the same, and the model as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ParameterError
from pnpxai.explainers import RELAX, RISE, Explainer
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import MLP, VGGLike, batch, seeded


@pytest.mark.parametrize("cls", [RISE, RELAX])
def test_the_compiled_model_is_asked(cls: type[Explainer], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            asked.append(len(x))
            found: Tensor = model(x)
            return found

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    model, inputs = seeded(VGGLike()), batch(2, 3, 16, 16)
    plain = cls(model, n_masks=20).attribute(inputs)
    assert asked == []
    with count_forwards() as counter:
        assert torch.equal(cls(model, n_masks=20, compile=True).attribute(inputs), plain)
    assert sum(asked) == counter.n_samples == 2 * 21


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU by g++")
def test_by_torch() -> None:
    model, inputs = seeded(MLP()), batch(3, 6)
    plain = RISE(model, n_masks=64).attribute(inputs)
    with untouched(model, inputs):
        found = RISE(model, n_masks=64, compile=True).attribute(inputs)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


def test_it_is_yes_or_no() -> None:
    with pytest.raises(ParameterError, match="compile"):
        RISE(seeded(MLP()), compile="reduce-overhead")
