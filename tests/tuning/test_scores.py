from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pnpxai.explainers import Gradient, SmoothGrad
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC, Complexity, MuFidelity, Sensitivity
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._maps import Samples
from pnpxai.tuning._scores import ScoreBook, content
from tests.nets import MLP, batch, seeded


def samples(n: int = 6) -> Samples:
    return Samples(batch(n, 6), torch.arange(n) % 3)


def maps(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


PLAIN = PostProcessor(channel_dim=None)


@pytest.mark.parametrize("kind", [AbPC, MuFidelity, Complexity])
def test_scores_are_the_metrics_own(kind) -> None:
    net, data = seeded(MLP()), samples()
    metric = kind(net, channel_dim=None)
    book = ScoreBook(metric, data)
    first, second = book.scores([(None, None, maps(3)), (None, None, maps(3, seed=1))], [4, 0, 2])
    for seed, found in ((0, first), (1, second)):
        inputs, targets = data.take([4, 0, 2])
        assert found == pytest.approx(metric.evaluate(inputs, targets, maps(3, seed)).tolist(), abs=1e-6)


def test_what_is_known_costs_nothing() -> None:
    """AbPC of six features in ten steps at most: six points, of which the ends are shared by every map."""
    net = seeded(MLP())
    book = ScoreBook(AbPC(net, channel_dim=None), samples())

    def cost(values: Tensor, index: list[int]) -> int:
        with count_forwards() as counter:
            book.scores([(None, None, values)], index)
        return counter.n_samples

    assert cost(maps(), list(range(6))) == 6 * (2 + 2 * 5)
    assert cost(maps(), list(range(6))) == 0
    assert cost(10 * maps() + 1, list(range(6))) == 0  # the same order
    assert cost(maps()[[3, 1]], [3, 1]) == 0
    assert cost(-maps(), list(range(6))) == 6 * 2 * 5  # another order, the same ends


def test_maps_of_several_post_processings_are_asked_together() -> None:
    net = seeded(MLP())
    book = ScoreBook(AbPC(net, channel_dim=None), samples())
    with count_forwards() as counter:
        book.scores([(None, None, maps(seed=seed)) for seed in range(5)], list(range(6)))
    assert counter.n_samples == 6 * (2 + 5 * 2 * 5)
    assert counter.n_calls <= 4


def test_a_metric_that_explains_again_is_asked_for_each_explainer() -> None:
    net, data = seeded(MLP()), samples()
    metric = Sensitivity(net, channel_dim=None, n_perturbations=2)
    explainers = Gradient(net), SmoothGrad(net, n_samples=3)
    inputs, targets = data.take(range(6))
    judged = [(each, PLAIN, PLAIN(each.attribute(inputs, targets))) for each in explainers]
    found = ScoreBook(metric, data).scores(judged, list(range(6)))
    for explainer, (_, _, own), scores in zip(explainers, judged, found, strict=True):
        expected = metric.judging(explainer, PLAIN).evaluate(inputs, targets, own)
        assert scores == pytest.approx(expected.tolist(), abs=1e-6)


def test_order_is_what_ties_and_signs_leave() -> None:
    base = torch.tensor([0.1, -0.3, 0.1, 2.0])
    assert content(base, True) == content(base.exp(), True)
    assert content(base, True) != content(torch.tensor([0.1, -0.3, 0.2, 2.0]), True)  # a tie is broken
    assert content(base, True) != content(base.abs(), True)
    assert content(base, False) != content(2 * base, False)
    assert content(torch.tensor([0.0, 1.0]), False) == content(torch.tensor([-0.0, 1.0]), False)
