"""The benchmark of the engine asks for as many bare passes as the method does, and says what was reached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import engine
from benchmarks.written import machine, today
from pnpxai.explainers import RISE
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
        assert len(engine.BarePasses(model, x[:1]).batch(step, 5)) in (1, 2, 4)


def test_every_method_is_set_against_passes_of_its_kind() -> None:
    model, x = seeded(VGGLike()).requires_grad_(False), batch(2, 3, 16, 16)
    names = []
    for together in engine.works(model, x):
        for work in together:
            names.append(work.name.partition(",")[0])
            assert work.kind in engine.AIMS
            with count_forwards() as counter:
                work.run(8)
            assert counter.n_samples > 0
    assert {"RISE", "RELAX", "AbPC", "MuFidelity", "Sensitivity of Gradient", "SmoothGrad", "MP"} <= set(names)
    assert "RISE in bfloat16" in [work.name for work in engine.works(model, x[:1])[0]]


@pytest.mark.parametrize(("most", "share"), [(2000, 4), (3, 3)])
def test_methods_share_bare_passes_as_many_as_one_of_them_takes(
    most: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_BARE", most)
    monkeypatch.setattr(engine, "SETTLED", 1)
    monkeypatch.setattr(engine, "TURN", 0.0)
    monkeypatch.setattr(engine, "seconds", lambda run: (run(), 1.0)[1])
    model = Counting()
    x, asked = batch(1, 3, 16, 16), []

    def ask(n_masks: int) -> None:
        asked.append(RISE(model.net, n_masks=n_masks).attribute(x, 0))

    works = [engine.Work(name, "forward", ask) for name in ("one", "other", "third")]
    passes = engine.BarePasses(model, x)
    passes.batch(engine.forward, 12)
    model.passed.clear()
    found = engine.measured(passes, works, 1, 12, 2)
    assert sum(model.passed) == 2 * 3 * share  # two runs, a third of the bare passes after each method, or the most
    assert [each["n_passes"] for each in found] == [12] * 3
    for each in found:  # a method's second by that of its share of its passes, pass by pass
        assert each["ratios"] == pytest.approx([share / 12] * 2)


def test_a_page_of_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = seeded(VGGLike()).requires_grad_(False), batch(2, 3, 16, 16)
    log = engine.Log(tmp_path / "engine.jsonl")
    monkeypatch.setattr(engine, "TURN", 0.02)
    monkeypatch.setattr(engine, "SETTLED", 1)
    with torch.random.fork_rng([]):
        work = engine.works(model, x)[0]
        log.once("time: one", lambda: engine.measured(engine.BarePasses(model, x[:1]), work, 2, 4, 1))
        log.once("batched: two", lambda: engine.batched(engine.BarePasses(model, x[:1]), x, 1))
        log.once("lowered: three", lambda: engine.lowered(model, x, 4))
    known = log.known()
    log.once("time: one", lambda: 1 / 0)
    assert log.known() == known
    assert known["time: one"][0]["n_passes"] == 8
    assert float(known["batched: two"][3]) > 0
    text = "\n".join(engine.page(known, 4, log.circumstances()))
    assert f"{today()}, {machine()}; python" in text
    assert "| RISE | 2 |" in text
    assert "| RELAX | 2 |" in text


def test_median_against_the_aim_of_its_kind() -> None:
    ratios = [1.0, 9.0, 1.05]
    assert engine.Measured("RISE", "forward", 1, 1, 1000, 4, ratios).row()[-3:] == [
        "1.050",
        "1.000 to 9.000",
        "reached",
    ]
    assert engine.Measured("RISE", "bfloat16", 1, 1, 1000, 4, ratios).row()[-1] == "missed"
