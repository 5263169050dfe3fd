"""The benchmark beside other libraries counts, divides and writes as it says; none of them has to be there."""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import resident
from benchmarks.fresh import in_a_process
from benchmarks.peers import __main__ as peers
from benchmarks.peers import measuring, pairs
from benchmarks.peers.installed import REQUIREMENTS, environment, install
from pnpxai.explainers import RISE, SmoothGrad
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, Deletion, Insertion
from tests.nets import VGGLike, batch, seeded

SMALL = pairs.Size(n_masks=12, n_iterations=3, n_steps=4, n_noises=5, n_points=4)


@pytest.fixture
def model() -> nn.Module:
    return seeded(VGGLike())


@pytest.fixture
def x() -> Tensor:
    return batch(2, 3, 16, 16)


def rough(model: nn.Module, x: Tensor, targets: Tensor, size: pairs.Size) -> Tensor:
    """A gradient with everything left lying about."""
    given = x.clone().requires_grad_()
    model(given)[torch.arange(len(x)), targets].sum().backward()
    assert given.grad is not None
    torch.rand(1)
    return given.grad


PAIR = pairs.Pair("SmoothGrad", "a library", pairs.our_smooth_grad, rough, "{n_noises} noises", "`rough()`")


def test_hooks_count_what_the_explainers_count(model: nn.Module, x: Tensor) -> None:
    with count_forwards() as counter, measuring.counted(model) as passes:
        RISE(model, n_masks=12).attribute(x)
    assert (passes.forward, passes.backward) == (counter.n_samples, 0)
    with measuring.counted(model) as passes:
        SmoothGrad(model, n_samples=5).attribute(x, 0)
    assert (passes.forward, passes.backward) == (10, 10)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("way", ["grad", "backward"])
def test_every_way_back_is_counted(model: nn.Module, x: Tensor, way: str) -> None:
    given = x.clone().requires_grad_()
    with measuring.counted(model) as passes:
        score = model(given).sum()
        if way == "grad":
            torch.autograd.grad(score, given)
        else:
            score.backward(retain_graph=True)
            score.backward()
    assert (passes.forward, passes.backward) == (2, 2 if way == "grad" else 4)


def test_what_is_left_behind_is_named(model: nn.Module, x: Tensor) -> None:
    def left(change: Any) -> list[str]:
        own = copy.deepcopy(model)
        before = measuring.state(own)
        change(own)
        return measuring.left_behind(before, measuring.state(own))

    assert left(lambda own: own(x)) == []
    assert left(lambda own: own.train()) == ["training flags"]
    assert left(lambda own: own.requires_grad_(False)) == ["`requires_grad`"]
    assert left(lambda own: own(x).sum().backward()) == ["gradients on the parameters"]
    assert left(lambda own: own.register_forward_hook(print)) == ["hooks"]
    assert left(lambda own: setattr(own, "kept", 1)) == ["attributes"]
    assert left(lambda own: next(own.parameters()).data.add_(1)) == ["weights or buffers"]
    assert left(lambda own: torch.rand(1)) == ["torch's random state"]
    assert left(lambda own: np.random.rand()) == ["NumPy's random state"]  # noqa: NPY002  # as others do


def test_sides_take_turns_and_what_a_peer_leaves_is_reported(model: nn.Module, x: Tensor) -> None:
    found = measuring.timed(PAIR, model, x, SMALL, 3)
    assert {side: len(each) for side, each in found["seconds"].items()} == {"ours": 3, "theirs": 3}
    assert found["passes"] == {"ours": {"forward": 10, "backward": 10}, "theirs": {"forward": 2, "backward": 2}}
    assert found["left"] == {"ours": [], "theirs": ["gradients on the parameters", "torch's random state"]}
    assert all(each.grad is None for each in model.parameters())


def test_maps_are_judged_by_the_metrics_one_by_one(model: nn.Module, x: Tensor) -> None:
    found = measuring.judged(PAIR, model, x, SMALL)
    own = SmoothGrad(model, n_samples=5).attribute(x[1:])
    insertion = float(Insertion(model, baseline_fn="blur").evaluate(x[1:], attributions=own))
    deletion = float(Deletion(model, baseline_fn="blur").evaluate(x[1:], attributions=own))
    zeros = float(Deletion(model, baseline_fn="zeros").evaluate(x[1:], attributions=own))
    assert found["ours"][1] == pytest.approx([insertion - deletion, deletion, zeros], abs=1e-5)
    other = rough(model, x[1:], model(x[1:]).argmax(1), SMALL)
    both = torch.stack([each.sum(1).flatten() for each in (own, other)])
    assert found["correlation"][1] == pytest.approx(float(torch.corrcoef(both)[0, 1]), abs=1e-5)


def test_a_map_that_is_not_finite_has_no_quality(model: nn.Module, x: Tensor) -> None:
    def theirs(model: nn.Module, x: Tensor, targets: Tensor, size: pairs.Size) -> Tensor:
        return torch.full((len(x), 1, 16, 16), math.nan)

    found = measuring.judged(replace(PAIR, theirs=theirs), model, x, SMALL)
    assert np.isnan(found["theirs"]).all()
    assert np.isnan(found["correlation"]).all()
    assert np.isfinite(found["ours"]).all()


def test_area_between_curves_without_ends_is_abpc(model: nn.Module, x: Tensor) -> None:
    maps = pairs.edges(x)
    targets = model(x).argmax(1)
    metric = AbPC(model, n_steps=SMALL.n_points)
    curves = metric.curves(x, targets, maps)
    expected = metric.evaluate(x, targets, maps)
    torch.testing.assert_close(pairs.between(curves.morf[:, 1:], curves.lerf[:, 1:]), expected)
    torch.testing.assert_close(pairs.our_abpc(model, x, targets, SMALL), expected)


@pytest.mark.parametrize(("n_masks", "expected"), [(20, (20, 1)), (100, (100, 1)), (1000, (100, 10)), (150, (100, 2))])
def test_masks_fill_batches(n_masks: int, expected: tuple[int, int]) -> None:
    assert pairs.relax_batches(n_masks) == expected


def test_pixels_divide_into_the_points_of_a_curve() -> None:
    for size in (pairs.Size(), pairs.SMALLEST, peers.QUICK):
        assert pairs.N_PIXELS % (3 * pairs.N_PIXELS // size.n_points) == 0
        assert 3 * pairs.N_PIXELS % size.n_points == 0


def test_our_side_of_every_pair_gives_a_map_or_a_score_for_each_image(model: nn.Module, x: Tensor) -> None:
    for each in pairs.PAIRS.values():
        found = each.ours(model, x, model(x).argmax(1), SMALL)
        assert found.shape == (2,) if each.scores else (found.shape[0], found.shape[2:]) == (2, (16, 16))
        assert "{" not in each.work_of(SMALL)
        assert any(one.startswith(f"{each.package}==") for one in REQUIREMENTS)


def test_ratio_is_theirs_over_ours_turn_by_turn() -> None:
    assert peers.ratios({"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 3.0, 2.0]}) == [3.0, 1.5, 0.5]


def test_means_say_of_how_many() -> None:
    assert peers.mean([0.25, 0.75]) == "0.500"
    assert peers.mean([0.25, math.nan]) == "0.250 (1 of 2)"
    assert peers.mean([math.nan]) == "none"


def record(pair: str, images: int = 1) -> dict[str, Any]:
    """As a pair's processes write it."""
    settings = {"pair": pair, "images": images, "runs": 3, "scored": 2, "size": asdict(SMALL)}
    quality = [[0.5], [0.25]] if pairs.PAIRS[pair].scores else [[0.5, 0.25, 0.125], [0.25, 0.25, 0.125]]
    return {
        "settings": settings,
        "failed": {},
        "timed": {
            "seconds": {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 3.0, 2.0]},
            "first": {side: {"forward": 1013, "backward": 0} for side in ("ours", "theirs")},
            "passes": {"ours": {"forward": 1000, "backward": 0}, "theirs": {"forward": 1001, "backward": 0}},
            "left": {"ours": [], "theirs": ["hooks"]},
            "version": "1.2.3",
        },
        "as it comes": {"seconds": {"ours": [1.0, 2.0, 4.0], "theirs": [6.0, 8.0, 4.0]}},
        "judged": {"ours": quality, "theirs": quality[::-1], "correlation": [0.5, math.nan]},
        "ours": 12.3,
        "theirs": 1234.5,
    }


def test_page_has_every_figure() -> None:
    records = [record("rise/muppet"), record("rise/muppet", 8), record("abpc/quantus")]
    del records[1]["timed"], records[1]["as it comes"], records[1]["theirs"]
    records[0]["failed"] = {"theirs": "MemoryError"}
    lines = peers.page(json.loads(json.dumps(records)), 1.0)
    work = pairs.PAIRS["rise/muppet"].work_of(SMALL)
    assert (
        f"| RISE | muppet-xai | {work} | 1 | 1,000 / 1,001 | 0 / 0 | 2.00 / 3.00 | 1.50 | 0.50 to 3.00 | 4.00 | "
        "1.00 to 6.00 | 12 / 1234 |" in lines
    )
    assert f"| RISE | muppet-xai | {work} | 8 |  |  |  | failed |  | failed |  | 12 / failed |" in lines
    assert "| RISE | muppet-xai | 0.375 / 0.375 | 0.250 / 0.250 | 0.125 / 0.125 | 0.500 (1 of 2) |" in lines
    assert "| AbPC | quantus | 0.375 | 0.375 | 0.2500 |" in lines
    assert any("| hooks | theirs: MemoryError |" in each for each in lines)
    assert lines[-1].endswith("muppet-xai 1.2.3, quantus 1.2.3")
    assert len({line for line in lines if line.startswith("| RISE")}) == 4


def test_repaired_pairs_are_told_apart() -> None:
    rows = [peers.cost_row(record(each))[0] for each in pairs.PAIRS if each.startswith("mp/")]
    assert rows == ["MP, destructive", "MP, destructive, repaired", "MP, constructive"]


def test_a_log_is_read_back(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert peers.kept(log) == []
    log.write_text("".join(json.dumps(record(each)) + "\n" for each in ("rise/muppet", "abpc/quantus")))
    assert [each["settings"]["pair"] for each in peers.kept(log)] == ["rise/muppet", "abpc/quantus"]


def test_a_folder_that_holds_the_libraries_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("benchmarks.peers.installed.subprocess.run", lambda command, check: commands.append(command))
    (tmp_path / "peers").mkdir()
    assert install(tmp_path / "peers") == install(tmp_path / "peers")
    assert len(commands) == 1
    assert {"--no-deps", "--target", *REQUIREMENTS} <= set(commands[0])


def test_the_folder_comes_before_everything_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = environment(tmp_path, MALLOC_MMAP_THRESHOLD_="65536")
    assert found["PYTHONPATH"].split(":") == [str(tmp_path), "elsewhere"]
    assert (found["OMP_NUM_THREADS"], found["MALLOC_MMAP_THRESHOLD_"]) == ("1", "65536")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_memory_that_is_held_and_let_go_is_in_the_peak() -> None:
    resident.forget_peak()
    before = resident.resident_peak()
    held = bytearray(b"1" * 2**26)
    del held
    assert 63 < resident.resident_peak() - before < 160


def test_what_a_process_has_held_is_not_in_the_peak_of_another() -> None:
    held = bytearray(b"1" * 2**28)
    assert resident.resident_peak() > 256
    assert in_a_process("benchmarks.resident", "resident_peak()") < 128
    del held
