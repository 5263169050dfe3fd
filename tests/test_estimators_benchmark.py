"""The benchmark of RISE's estimators gives what the explainers and metrics give one by one."""

from __future__ import annotations

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


def test_shared_masks_give_each_estimators_own_map(tuned: Subject) -> None:
    found = {(each.estimator, each.n_masks): each for each in estimators.measured(tuned, (12, 40), 1)}
    x = tuned.inputs[1:]
    for estimator in ESTIMATORS:
        for n in (12, 40):
            maps = [RISE(tuned.model, n_masks=n, estimator=estimator, seed=seed).attribute(x) for seed in (0, 1)]
            expected = torch.cat([AbPC(tuned.model).evaluate(x, attributions=each) for each in maps]).mean()
            assert found[estimator, n].abpc == pytest.approx(float(expected), abs=1e-5)
            both = torch.corrcoef(torch.stack([each.flatten() for each in maps]))[0, 1]
            assert found[estimator, n].correlation == pytest.approx(float(both), abs=1e-4)


def test_the_page_has_all_of_it(tuned: Subject) -> None:
    with count_forwards() as counter:
        found = [each for i in (0, 1) for each in estimators.measured(tuned, (12, 300), i)]
    scoring = 2 * len(ESTIMATORS) * 2 * 2 * 60  # at most: samples, maps, metrics' baselines, points of the curves
    assert 2 * 2 * 300 < counter.n_samples < 2 * 2 * 300 + 2 * scoring
    lines = "\n".join(estimators.page({"a small network": found}, 1.0))
    for estimator in ESTIMATORS:
        assert f"| {estimator} |" in lines
    assert "| ridge, 300 masks | paper, 300 masks |" in lines
    assert "nan" not in lines
