"""The benchmark of the engine: bare passes amid a method's own, and what was reached."""

from __future__ import annotations

import functools
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
    for work in engine.works(model, x):
        names.append(work.name.partition(",")[0])
        assert work.kind in engine.AIMS
        with count_forwards() as counter:
            work.run(8)
        assert counter.n_samples > 0
    assert {"RISE", "RELAX", "AbPC", "MuFidelity", "Sensitivity of Gradient", "SmoothGrad", "MP"} <= set(names)
    assert "RISE in bfloat16" in [work.name for work in engine.works(model, x[:1])]


def test_bare_passes_are_made_amid_a_methods_own_and_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now, own = 0.0, 3.0  # seconds, and those that a call takes beside the model
    passed: list[int] = []

    def look() -> float:
        return now

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(VGGLike())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += len(x)
            passed.append(len(x))
            return self.net(x)

    def ask(n_masks: int) -> None:
        nonlocal now
        now += own
        RISE(model, n_masks=n_masks, batch_size=4).attribute(x, 0)

    monkeypatch.setattr(engine, "SETTLED", 12)
    monkeypatch.setattr(engine, "TURN", 0.0)
    monkeypatch.setattr(engine.time, "perf_counter", look)
    model, x = Slow(), batch(1, 3, 16, 16)
    passes = engine.BarePasses(model, x)
    passes.batch(engine.forward, 24)
    passed.clear()
    found = engine.measured(passes, engine.Work("one", "forward", ask), 1, 24, 2)
    assert "forward" not in vars(model)
    assert passed == [*[4] * 6, *[1, 4] * 12]  # without, and then twice with one for every four
    assert (found["n_passes"], found["batch"]) == (24, 1)
    assert found["ratios"] == pytest.approx([(24 + own) / 24] * 2)
    found = engine.measured(passes, engine.itself(passes), 1, 24, 2)
    assert (found["n_passes"], found["ratios"]) == (24, pytest.approx([1.0, 1.0]))


def test_a_page_of_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = seeded(VGGLike()).requires_grad_(False), batch(2, 3, 16, 16)
    log = engine.Log(tmp_path / "engine.jsonl")
    monkeypatch.setattr(engine, "TURN", 0.02)
    monkeypatch.setattr(engine, "SETTLED", 1)
    with torch.random.fork_rng([]):
        rise, relax, *_ = engine.works(model, x)
        for name, work in (("time: one", rise), ("time: other", relax)):
            log.once(name, functools.partial(engine.measured, engine.BarePasses(model, x[:1]), work, 2, 40, 1))
        log.once("batched: two", lambda: engine.batched(engine.BarePasses(model, x[:1]), x, 1))
        log.once("lowered: three", lambda: engine.lowered(model, x, 4))
    known = log.known()
    log.once("time: one", lambda: 1 / 0)
    assert log.known() == known
    assert known["time: one"]["n_passes"] == 80
    assert float(known["batched: two"][3]) > 0
    text = "\n".join(engine.page(known, 40, log.circumstances()))
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
