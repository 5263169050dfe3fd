"""Several explainers of the same inputs: their own maps, and the model asked once for what they share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pnpxai.errors import ParameterError
from pnpxai.experiment import Experiment
from pnpxai.explainers import RISE, Explainer, Gradient, IntegratedGradients, SmoothGrad, VarGrad, attribute_together
from pnpxai.forward import count_forwards
from tests.harm import untouched
from tests.nets import VGGLike, batch, seeded


def explainers(net: nn.Module) -> list[Explainer]:
    return [
        VarGrad(net, n_samples=6),
        Gradient(net),
        SmoothGrad(net, n_samples=9),
        IntegratedGradients(net, n_steps=4),
        SmoothGrad(net, n_samples=5, noise_level=0.3),
        SmoothGrad(net, n_samples=5, seed=1),
        RISE(net, n_masks=8),
    ]


def test_each_gives_its_own_map_and_shared_gradients_are_asked_for_once() -> None:
    net, x = seeded(VGGLike()).double(), batch(2, 3, 16, 16, dtype=torch.float64)
    several = explainers(net)
    with untouched(net, x), count_forwards() as counter:
        found = attribute_together(several, x)
    assert counter.n_samples == 2 * (1 + 9 + 1 + 4 + 5 + 5 + 8)  # the prediction, and no gradient of VarGrad's own
    for each, maps in zip(several, found, strict=True):
        torch.testing.assert_close(maps, each.attribute(x), rtol=1e-9, atol=1e-12)


def test_what_comes_in_comes_out() -> None:
    net, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    assert attribute_together([], x) == []
    (alone,) = attribute_together([SmoothGrad(net, n_samples=3)], x, 1)
    assert torch.equal(alone, SmoothGrad(net, n_samples=3).attribute(x, 1))
    with pytest.raises(ParameterError, match="same model"):
        attribute_together([Gradient(net), Gradient(seeded(VGGLike()))], x)


def test_an_experiment_asks_once_too() -> None:
    net, x = seeded(VGGLike()), batch(3, 3, 16, 16)
    mean, variance, more = SmoothGrad(net, n_samples=5), VarGrad(net, n_samples=4), VarGrad(net, n_samples=7)
    experiment = Experiment(net, x, explainers=[mean, variance, more])
    with count_forwards() as counter:
        found = [experiment.explain(each) for each in (mean, variance)]
    assert counter.n_samples == 3 * (1 + 5)
    torch.testing.assert_close(found[1], variance.attribute(x))
    with count_forwards() as counter:
        experiment.explain(more)
    assert counter.n_samples == 3 * (1 + 7)  # more than was asked before
