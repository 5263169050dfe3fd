"""The benchmark of RISE's estimators gives what the explainers and metrics give one by one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import estimators
from benchmarks.race_subjects import Subject
from pnpxai.explainers import RISE
from pnpxai.explainers.rise import ESTIMATORS
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC
from tests.nets import VGGLike, batch, seeded


@pytest.fixture(scope="module")
def tuned() -> Subject:
    return Subject("a small network", seeded(VGGLike()), batch(2, 3, 16, 16), [], {})


BANKS = [estimators.Bank("independent", 0, (12, 40)), estimators.Bank("independent", 1, (12,))]


@pytest.mark.parametrize("scored", [1, 2])
def test_shared_masks_give_each_estimators_own_map(tuned: Subject, scored: int) -> None:
    banks = [replace(each, scored=each.seed < scored) for each in BANKS]
    found = {(each.estimator, each.n_masks): each for each in estimators.measured(tuned, banks, 1)}
    x = tuned.inputs[1:]
    for estimator in ESTIMATORS:
        for n in (12, 40):
            own = RISE(tuned.model, n_masks=n, estimator=estimator, sampling="independent")
            maps = [own.set_kwargs(seed=seed).attribute(x) for seed in (0, 1)]
            scores = [float(AbPC(tuned.model).evaluate(x, attributions=each)) for each in maps]
            expected = sum(scores) / 2 if (scored, n) == (2, 12) else scores[0]
            assert found[estimator, n].abpc == pytest.approx(expected, abs=1e-5)
            both = float(torch.corrcoef(torch.stack([each.flatten() for each in maps]))[0, 1])
            expected = both if n == 12 else math.nan
            assert found[estimator, n].correlation == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_masks_of_a_sobol_sequence_have_names_of_their_own(tuned: Subject) -> None:
    found = estimators.measured(tuned, [estimators.Bank("sobol", 0, (16,))], 0)
    assert [each.estimator for each in found] == ["centered, sobol", "ridge, sobol"]
    own = RISE(tuned.model, n_masks=16, sampling="sobol").attribute(tuned.inputs[:1])
    assert found[0].abpc == pytest.approx(float(AbPC(tuned.model).evaluate(tuned.inputs[:1], attributions=own)))


def test_the_page_has_all_of_it(tuned: Subject) -> None:
    banks = [estimators.Bank("independent", seed, (12, 300)) for seed in (0, 1)]
    with count_forwards() as counter:
        found = [each for i in (0, 1) for each in estimators.measured(tuned, banks, i)]
    scoring = 2 * len(ESTIMATORS) * 2 * 60  # at most: samples, maps, metrics' baselines, points of the curves
    assert 2 * 2 * 300 < counter.n_samples < 2 * 2 * 300 + 2 * scoring
    lines = "\n".join(estimators.page({"a small network": found}, 1.0))
    for estimator in ESTIMATORS:
        assert f"| {estimator} |" in lines
    assert "| ridge, 300 masks | paper, 300 masks |" in lines
    assert "nan" not in lines


def test_a_log_is_read_back(tuned: Subject, tmp_path: Path) -> None:
    found = estimators.measured(tuned, BANKS, 0)
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"title": "net", **asdict(each)}) + "\n" for each in found))
    assert str(estimators.kept(log)) == str({"net": found})
