"""Cross-checks with Quantus where its definitions agree with ours."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pnpxai.metrics import (
    AOPC,
    AbPC,
    Complexity,
    FaithfulnessCorrelation,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    Sparseness,
)
from pnpxai.metrics._subsets import random_subsets
from pnpxai.metrics.localisation import RegionMetric
from tests.nets import batch, seeded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus: Any = pytest.importorskip("quantus")

MODEL = seeded(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)))
X = batch(3, 1, 6, 6)
MAPS = batch(3, 1, 6, 6, seed=4)
TARGETS = torch.tensor([0, 2, 1])


def by_quantus(name: str, softmax: bool = True, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = getattr(quantus, name)(
            abs=False, normalise=False, disable_warnings=True, display_progressbar=False, **arguments
        )
        return metric(
            model=MODEL,
            x_batch=X.numpy(),
            y_batch=TARGETS.numpy(),
            a_batch=MAPS.numpy(),
            softmax=softmax,
            channel_first=True,
        )


def test_complexity() -> None:
    found = Complexity(MODEL).evaluate(X, TARGETS, MAPS)
    np.testing.assert_allclose(found.numpy(), by_quantus_of_magnitudes("Complexity"), rtol=1e-5)


def test_sparseness() -> None:
    found = Sparseness(MODEL).evaluate(X, TARGETS, MAPS)
    np.testing.assert_allclose(found.numpy(), by_quantus_of_magnitudes("Sparseness"), rtol=1e-5)


def by_quantus_of_magnitudes(name: str) -> Any:
    """Quantus takes magnitudes outside of these metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = getattr(quantus, name)(abs=True, normalise=False, disable_warnings=True, display_progressbar=False)
        return metric(model=MODEL, x_batch=X.numpy(), y_batch=TARGETS.numpy(), a_batch=MAPS.numpy())


@pytest.mark.parametrize("softmax", [True, False])
def test_pixel_flipping_is_the_curve_most_relevant_first(softmax: bool) -> None:
    metric = AbPC(MODEL, n_steps=9, score="probability" if softmax else "logit")
    curves = metric.curves(X, TARGETS, MAPS)
    expected = by_quantus("PixelFlipping", softmax, features_in_step=4, perturb_baseline=0.0)
    np.testing.assert_allclose(curves.morf[:, 1:].numpy(), np.array(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_region_perturbation_is_what_the_score_has_lost(order: str) -> None:
    curves = AbPC(MODEL, n_steps=36).curves(X, TARGETS, MAPS)
    scores = curves.morf if order == "morf" else curves.lerf
    expected = by_quantus("RegionPerturbation", patch_size=1, regions_evaluation=36, perturb_baseline=0.0, order=order)
    np.testing.assert_allclose((scores[:, :1] - scores[:, 1:]).numpy(), np.array(expected), rtol=1e-4, atol=1e-6)
    if order == "morf":
        area = AOPC(MODEL, n_steps=36).evaluate(X, TARGETS, MAPS)
        np.testing.assert_allclose(area.numpy(), np.array(expected).sum(1) / 37, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("subset_size", [1, 9, 30])
def test_faithfulness_correlation(subset_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantus draws as it likes; it is handed the same subsets, one after the other for each of the 3 samples."""
    subsets = random_subsets(20, 36, subset_size, seed=5)
    drawn = iter([each.nonzero().flatten().numpy() for each in subsets for _ in range(3)])
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(drawn))
    expected = by_quantus(
        "FaithfulnessCorrelation", nr_runs=20, subset_size=subset_size, perturb_baseline=0.25, return_aggregate=False
    )
    metric = FaithfulnessCorrelation(MODEL, n_perturbations=20, subset_size=subset_size, baseline_fn=0.25, seed=5)
    np.testing.assert_allclose(metric.evaluate(X, TARGETS, MAPS).numpy(), np.array(expected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("RelevanceMassAccuracy", RelevanceMass),
        ("RelevanceRankAccuracy", RelevanceRank),
        ("PointingGame", PointingGame),
    ],
)
def test_localisation_of_positive_maps(name: str, metric: type[RegionMetric]) -> None:
    regions = batch(3, 6, 6, seed=7) > 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = getattr(quantus, name)(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
        expected = peer(
            model=MODEL,
            x_batch=X.numpy(),
            y_batch=TARGETS.numpy(),
            a_batch=MAPS.abs().numpy(),
            s_batch=regions[:, None].numpy(),
        )
    found = metric(MODEL, regions=regions).evaluate(X, TARGETS, MAPS.abs())
    np.testing.assert_allclose(found.numpy(), np.array(expected, dtype=float), rtol=1e-5)
