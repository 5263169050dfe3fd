"""The benchmark of ``tol=`` follows RISE itself, and its oracle knows the true error."""

from __future__ import annotations

import pytest
import torch

from benchmarks import settling
from benchmarks.race_subjects import Subject
from pnpxai.explainers import RISE
from pnpxai.explainers._mask_settling import looks
from tests.nets import VGGLike, batch, seeded


def test_it_stops_where_rise_does() -> None:
    model, inputs = seeded(VGGLike()), batch(3, 3, 16, 16)
    explainer = RISE(model, n_masks=300, grid_size=3, estimator="ridge", seed=4)
    maps, found = settling.followed(explainer, inputs, (0.2, 0.05))
    for tol, each in found.items():
        own = explainer.set_kwargs(tol=tol).explain(inputs)
        at_most = own.n_masks.clamp(max=list(looks(0, 300))[-1])
        assert each.n_masks.tolist() == at_most.tolist()
        stopped = own.n_masks == at_most
        torch.testing.assert_close(
            each.relevance[stopped], own.relevance.flatten(1)[stopped].double(), rtol=1e-4, atol=1e-6
        )
    assert found[0.2].n_masks.sum() < found[0.05].n_masks.sum()
    expected = RISE(model, n_masks=128, grid_size=3, estimator="ridge", seed=4).attribute(inputs)
    torch.testing.assert_close(maps[0], expected.flatten(1).double(), rtol=1e-4, atol=1e-6)


def test_a_row_says_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MOST": 400, "OF_TRUTH": 2000, "N_BANKS": 2, "TOLERANCES": (0.2,)}.items():
        monkeypatch.setattr(settling, name, value)
    tuned = Subject("a small network", seeded(VGGLike()), batch(4, 3, 16, 16), [], {})
    (stops,) = settling.measured(tuned, {"sampling": "independent", "p_keep": 0.5}).values()
    assert len(stops.ratios) == 2 * len(stops.oracle) > 0
    assert all(128 < n <= 400 for n in stops.oracle)
    assert "reached" in settling.row("net", {}, 0.2, settling.Stops([1.1, 0.9], [200], [0.93, 0.95], 0.1))[-1]
    assert settling.row("net", {}, 0.2, settling.Stops([2.0, 2.0], [200], [0.5, 0.5], 0.1))[-1] == "missed and missed"
    assert "tol" in "\n".join(settling.page([settling.row("net", {}, 0.1, stops)], 1.0))
