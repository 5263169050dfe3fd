from __future__ import annotations

import pytest
import torch
from scipy import stats

from pnpxai.errors import ParameterError
from pnpxai.forward import count_forwards
from pnpxai.metrics import FaithfulnessCorrelation
from pnpxai.metrics._subsets import random_subsets
from tests.metrics.oracles import linear_model
from tests.nets import MLP, VGGLike, batch, seeded


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 12), (3, 1, 11, 13)])
def test_one_for_the_exact_map_of_a_linear_model(shape: tuple[int, ...]) -> None:
    x, weights = batch(*shape, dtype=torch.float64), batch(*shape[1:], seed=2, dtype=torch.float64)
    metric = FaithfulnessCorrelation(linear_model(weights.flatten().tolist()), score="logit")
    torch.testing.assert_close(metric.evaluate(x, 0, weights * x), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(metric.evaluate(x, 0, -7 * weights * x), -torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(("subset_size", "size"), [(None, 16), (1, 1), (40, 40)])
def test_single_pixels_in_a_slow_loop(subset_size: int | None, size: int) -> None:
    model, x = seeded(VGGLike().double()), batch(2, 3, 16, 16, dtype=torch.float64)
    maps = batch(2, 16, 16, seed=4, dtype=torch.float64)
    subsets = random_subsets(25, 256, size, seed=5)
    assert (subsets.sum(1) == size).all()
    metric = FaithfulnessCorrelation(model, n_perturbations=25, subset_size=subset_size, baseline_fn=0.5, seed=5)
    found = metric.evaluate(x, 1, maps)
    for i in range(2):
        given, lost = [], []
        clean = model(x[i : i + 1]).softmax(1)[0, 1].item()
        for subset in subsets:
            changed, total = x[i].clone(), 0.0
            for position in subset.nonzero().flatten().tolist():
                changed[:, position // 16, position % 16] = 0.5
                total += maps[i, position // 16, position % 16].item()
            given.append(total)
            lost.append(clean - model(changed[None]).softmax(1)[0, 1].item())
        assert found[i].item() == pytest.approx(stats.pearsonr(given, lost).statistic, abs=1e-9)


def test_the_cost() -> None:
    with count_forwards() as counter:
        FaithfulnessCorrelation(seeded(MLP()), n_perturbations=33).evaluate(batch(4, 6), None, batch(4, 6, seed=2))
    assert counter.n_samples == 4 * (1 + 33)


@pytest.mark.parametrize("subset_size", [0, 2.5, 6, 7])
def test_sizes_that_do_not_fit_are_refused(subset_size: float) -> None:
    with pytest.raises(ParameterError, match="subset_size"):
        FaithfulnessCorrelation(seeded(MLP()), subset_size=subset_size).evaluate(batch(2, 6), 0, batch(2, 6))
