"""The benchmark of the engine asks for as many bare passes as the method does, and says what was reached."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks import engine
from pnpxai.forward import count_forwards
from tests.nets import VGGLike, batch, seeded


class Counting(nn.Module):
    """Counts the samples that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(VGGLike()).requires_grad_(False)
        self.passed: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passed.append(len(x))
        logits: Tensor = self.net(x)
        return logits


def test_bare_passes_are_as_many_as_asked_for() -> None:
    model, x = Counting(), batch(4, 3, 16, 16)
    for step in (engine.forward, engine.backward):
        model.passed.clear()
        engine.bare(model, x, step, 10)
        assert model.passed == [4, 4, 2]
        assert len(engine.fastest(model, x[:1], step)) in engine.BATCHES


def test_every_method_is_set_against_passes_of_its_kind() -> None:
    model, x = seeded(VGGLike()).requires_grad_(False), batch(2, 3, 16, 16)
    names = []
    for work in engine.works(model, x, 8):
        names.append(work.name.partition(",")[0])
        assert work.kind in engine.AIMS
        with count_forwards() as counter:
            work.run()
        assert counter.n_samples > 0
    assert {"RISE", "RELAX", "AbPC", "MuFidelity", "Sensitivity of Gradient", "SmoothGrad", "MP"} <= set(names)


def test_a_page_of_it() -> None:
    model, x = seeded(VGGLike()).requires_grad_(False), batch(2, 3, 16, 16)
    with torch.random.fork_rng([]):
        rows = engine.measured(model, x, 4, 1)
        together = engine.batched(model, x, 1)
    assert all(row[-1] in ("reached", "missed") for row in [*rows, together])
    text = "\n".join(engine.page(rows, [together], [], 4, 1.0))
    assert "| RISE, 4 masks | 2 |" in text
    assert float(together[3]) > 0
