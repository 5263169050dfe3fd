from __future__ import annotations

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnRidge
from captum.attr import Lime as CaptumLime
from scipy.spatial import distance
from sklearn.linear_model import Lasso, Ridge
from torch import Tensor, nn

from pnpxai.errors import ParameterError
from pnpxai.explainers import Lime, attribute_together
from pnpxai.explainers._coalitions import random_coalitions
from pnpxai.explainers._linear_fits import lasso
from pnpxai.explainers.lime import similarities
from pnpxai.feature_masks import Grid
from pnpxai.forward import count_forwards
from pnpxai.modality import Image, Tabular
from pnpxai.tunable import trial_params
from tests.explainers.games import Rough, banzhaf, game
from tests.nets import MLP, VGGLike, Wrapped, batch, seeded, softmax


def by_hand(net: nn.Module, x: Tensor, ids: Tensor, target: int, coalitions: Tensor) -> Tensor:
    """Probabilities of one sample under coalitions, one forward pass each."""
    return game(Wrapped(net, softmax), x, torch.zeros_like(x), ids, target)(coalitions)


def weights_by_hand(coalitions: Tensor, similarity: str, kernel_width: float) -> Tensor:
    d = coalitions.shape[1]
    whole, found = np.ones(d), []
    for z in coalitions.double().numpy():
        if similarity == "cosine":
            away = distance.cosine(whole, z) if z.any() else 1.0
        else:
            away = distance.euclidean(whole, z) / distance.euclidean(whole, np.zeros(d))
        found.append(np.exp(-(away**2) / kernel_width**2))
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("kernel_width", [0.25, 0.8])
@pytest.mark.parametrize("regression", ["ridge", "lasso"])
@pytest.mark.parametrize("n_samples", [10, 200])
def test_the_regressions_of_scikit_learn_on_the_same_samples(
    similarity: str, kernel_width: float, regression: str, n_samples: int
) -> None:
    net, x, share = seeded(VGGLike()).double(), batch(3, 3, 16, 16, dtype=torch.float64), 0.03
    maps = Lime(
        net,
        n_samples=n_samples,
        feature_mask_fn=Grid(4),
        kernel_width=kernel_width,
        similarity=similarity,
        regression=regression,
        regularization=share,
        seed=5,
    ).attribute(x, 3)
    ids, z = Grid(4)(x), random_coalitions(16, n_samples, seed=5)
    weights = weights_by_hand(z, similarity, kernel_width)
    torch.testing.assert_close(similarities(z, similarity, kernel_width), weights)
    for image, own, found in zip(x, ids, maps[:, 0], strict=True):
        scores = by_hand(net, image, own, 3, z)
        if regression == "ridge":
            model = Ridge(alpha=share * float(weights.sum()), tol=1e-12)
        else:
            shares = weights / weights.sum()
            centred = z.double() - shares @ z.double()
            least = ((scores - shares @ scores) * shares @ centred).abs().max()
            model = Lasso(alpha=share * float(least), tol=1e-12, max_iter=100_000)
        model.fit(z.double().numpy(), scores.numpy(), sample_weight=weights.numpy())
        torch.testing.assert_close(found, torch.from_numpy(model.coef_)[own], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("regression", ["ridge", "lasso"])
def test_captum_on_the_same_samples(regression: str) -> None:
    net, x = seeded(MLP()), batch(1, 6)
    explainer = Lime(net, n_samples=40, regression=regression, score="logit", seed=2)
    z = random_coalitions(6, 40, seed=2)
    weights = weights_by_hand(z, "cosine", 0.25)
    shares = (weights / weights.sum()).numpy()
    if regression == "ridge":
        model = SkLearnRidge(alpha=0.01 * float(weights.sum()))
    else:
        scores = game(net, x[0], torch.zeros(6), torch.arange(6), 1)(z).numpy()
        centred = z.double().numpy() - shares @ z.double().numpy()
        model = SkLearnLasso(alpha=0.01 * float(np.abs((scores - shares @ scores) * shares @ centred).max()))
    rows, kept = iter(z.long()), iter(weights.float())
    theirs = CaptumLime(
        net,
        interpretable_model=model,
        similarity_func=lambda *_, **__: next(kept),
        perturb_func=lambda *_, **__: next(rows)[None],
    ).attribute(x, target=1, n_samples=40)
    torch.testing.assert_close(explainer.attribute(x, 1), theirs, rtol=1e-3, atol=1e-4)


def test_all_samples_weighted_alike_without_a_penalty_give_banzhaf_values() -> None:
    # Hammer & Holzman, 1992: the best linear approximation of a game has its Banzhaf values for coefficients
    net, x = Rough(6), batch(2, 6, dtype=torch.float64)
    found = Lime(net, n_samples=64, score="logit", kernel_width=1e9, regularization=0.0).attribute(x, 1)
    for each, own in zip(x, found, strict=True):
        torch.testing.assert_close(own, banzhaf(game(net, each, torch.zeros(6).double(), torch.arange(6), 1), 6))


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_a_linear_model_in_closed_form_and_how_the_penalties_shrink_it(similarity: str) -> None:
    d = 20
    net, x = nn.Linear(d, 2).double(), batch(2, d, dtype=torch.float64)
    effects = (x - 0.5) * net.weight[1].detach()
    explainer = Lime(net, n_samples=60, score="logit", baseline_fn=0.5, similarity=similarity, regularization=0.0)
    for regression in ("ridge", "lasso"):
        torch.testing.assert_close(explainer.set_kwargs(regression=regression).attribute(x, 1), effects)
    flat = explainer.set_kwargs(kernel_width=1e6, n_samples=20_000)
    shrunk = flat.set_kwargs(regularization=0.1).attribute(x, 1)  # features have the variance 1/4
    torch.testing.assert_close(shrunk, effects / (1 + 4 * 0.1), rtol=0.05, atol=0.02)
    sparse = flat.set_kwargs(regression="lasso", regularization=0.4).attribute(x, 1)
    threshold = 0.4 * effects.abs().amax(1, keepdim=True)
    torch.testing.assert_close(sparse, effects.sign() * (effects.abs() - threshold).clamp(min=0), rtol=0.05, atol=0.02)
    assert 0 < (sparse == 0).sum() < sparse.numel()


def test_the_samples_converge() -> None:
    net, x = seeded(VGGLike()).double(), batch(2, 3, 16, 16, dtype=torch.float64)
    explainer = Lime(net, feature_mask_fn=Grid(3), kernel_width=0.5)
    limit = explainer.set_kwargs(n_samples=512).attribute(x, 1)  # all there are

    def error(n_samples: int) -> float:
        maps = [explainer.set_kwargs(n_samples=n_samples, seed=seed).attribute(x, 1) for seed in range(6)]
        return float((torch.stack(maps) - limit).norm() / (6**0.5 * limit.norm()))

    errors = [error(n) for n in (24, 96, 384)]
    assert errors[0] > 1.6 * errors[1] > 2.6 * errors[2]
    assert errors[2] < 0.1
    torch.testing.assert_close(explainer.set_kwargs(n_samples=9999, seed=8).attribute(x, 1), limit)


def test_the_lasso_ends_at_the_conditions_of_its_minimum_with_more_features_than_samples() -> None:
    z, y = batch(15, 40, dtype=torch.float64), batch(3, 15, seed=2, dtype=torch.float64)
    weights = batch(15, seed=3, dtype=torch.float64).abs()
    for share in (0.02, 0.3):
        found = lasso(z, y, weights, share)
        slopes = ((y - found @ z.T) * weights) @ z
        penalty = share * ((y * weights) @ z).abs().amax(1, keepdim=True)
        assert (slopes.abs() <= penalty * (1 + 1e-6)).all()
        settled = (slopes - penalty * found.sign()).abs() <= 1e-6 * penalty
        assert settled[found != 0].all()
        assert (found == 0).any(1).all()
    assert lasso(z, torch.zeros_like(y), weights, 0.1).abs().max() == 0


def test_what_it_costs_and_what_is_asked_once_for_several() -> None:
    net, x = seeded(MLP()), batch(3, 6)
    with count_forwards() as counter:
        Lime(net, n_samples=30).attribute(x, 1)
    assert counter.n_samples == 3 * 30
    several = [
        Lime(net, n_samples=30),
        Lime(net, n_samples=50, kernel_width=0.7, similarity="euclidean", regularization=0.1),
        Lime(net, n_samples=30, regression="lasso"),
        Lime(net, n_samples=30, seed=1),
    ]
    with count_forwards() as counter:
        found = attribute_together(several, x, 1)
    assert counter.n_samples == 3 * (50 + 30)
    for explainer, own in zip(several, found, strict=True):
        torch.testing.assert_close(own, explainer.attribute(x, 1))


def test_what_is_searched() -> None:
    own = {"kernel_width", "similarity", "regression", "regularization", "baseline_fn"}
    explainer = Lime(seeded(MLP()))
    assert set(trial_params(explainer, Tabular().candidates)) == own
    assert set(trial_params(explainer, Image().candidates)) == own | {"feature_mask_fn", "feature_mask_fn.size"}


def test_impossible_arguments() -> None:
    net, x = seeded(MLP()), batch(2, 6)
    for name, value in [
        *(("n_samples", 1), ("n_samples", 2**16 + 1), ("score", "softmax"), ("kernel_width", 0.0), ("seed", -1)),
        *(("similarity", "l2"), ("regression", "ols"), ("regularization", 1.0), ("regularization", -0.1)),
    ]:
        with pytest.raises(ParameterError, match=name):
            Lime(net, **{name: value})
    with pytest.raises(ParameterError, match="kernel_width that gives samples"):
        Lime(net, kernel_width=0.01, n_samples=20).attribute(x)
