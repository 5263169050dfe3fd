from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captum._utils.models.linear_model import SkLearnLinearRegression
from captum.attr import KernelShap as CaptumKernelShap
from captum.attr import Lime as CaptumLime
from torch import Tensor, nn

from pnpxai.baselines import Mean
from pnpxai.errors import InputError, ModelError, ParameterError, UnknownNameError
from pnpxai.explainers import KernelShap
from pnpxai.explainers._coalitions import shapley_pairs
from pnpxai.feature_masks import SLIC, Grid
from pnpxai.forward import count_forwards
from pnpxai.modality import Image, Tabular, TimeSeries
from pnpxai.tunable import trial_params
from tests.explainers.games import Rough, game, shapley
from tests.harm import untouched
from tests.nets import MLP, TimeCNN, VGGLike, Wrapped, batch, seeded


def exact(net: nn.Module, x: Tensor, baseline: Tensor, target: int) -> Tensor:
    """Shapley values of each of the features ``(n, d)``."""
    ids = torch.arange(x.shape[1])
    return torch.stack([shapley(game(net, *each, ids, target), len(ids)) for each in zip(x, baseline, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_all_coalitions_give_the_values_of_the_definition(d: int, dtype: torch.dtype) -> None:
    net, x = Rough(d).to(dtype), batch(3, d, dtype=dtype)
    found = KernelShap(net, n_samples=max(2**d - 2, 2)).attribute(x, 1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.double(), exact(net, x, torch.zeros_like(x), 1), rtol=tolerance, atol=tolerance)


def test_with_a_baseline_of_its_own_and_of_a_network_and_its_probability() -> None:
    net, x = seeded(MLP()).double(), batch(2, 6, dtype=torch.float64)
    for baseline_fn in ("mean", 0.7):
        explainer = KernelShap(net, baseline_fn=baseline_fn)
        baseline = Mean()(x) if baseline_fn == "mean" else torch.full_like(x, 0.7)
        torch.testing.assert_close(explainer.attribute(x, 2), exact(net, x, baseline, 2))
        soft = Wrapped(net, lambda outputs: outputs.softmax(1))
        found = explainer.set_kwargs(score="probability").attribute(x, 2)
        torch.testing.assert_close(found, exact(soft, x, baseline, 2))


def test_each_channel_of_each_segment_is_a_feature_of_its_own() -> None:
    net, x = seeded(TimeCNN()).double(), batch(2, 2, 24, dtype=torch.float64)
    mask = Grid(3, by_channel=True)
    found = KernelShap(net, feature_mask_fn=mask).attribute(x, 1)
    assert found.shape == x.shape
    for each, maps in zip(x, found, strict=True):
        ids = mask(x)[0]
        values = shapley(game(net, each, torch.zeros_like(each), ids, 1), 6)
        torch.testing.assert_close(maps, values[ids], rtol=1e-9, atol=1e-9)
    together = KernelShap(net, feature_mask_fn=Grid(3)).attribute(x, 1)
    assert together.shape == (2, 1, 24)


def test_samples_converge_to_the_values_of_the_definition() -> None:
    d = 10
    net, x = Rough(d), 0.4 * batch(2, d, dtype=torch.float64)
    values = exact(net, x, torch.zeros_like(x), 0)

    def error(n_samples: int) -> float:
        maps = [KernelShap(net, n_samples=n_samples, seed=seed).attribute(x, 0) for seed in range(8)]
        return float((torch.stack(maps) - values).square().mean().sqrt() / values.square().mean().sqrt())

    errors = [error(n) for n in (24, 96, 384, 1022)]
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2]
    assert errors[2] < 0.3
    assert errors[3] < 1e-10


def test_none_twice_is_better_than_draws_that_come_back() -> None:
    # the estimator of Covert & Lee, equations 8 to 12 with paired draws, written as they have it
    d, n_pairs = 10, 100
    net, x = Rough(d), 0.4 * batch(1, d, dtype=torch.float64)
    v, (values,) = game(net, x[0], torch.zeros(d).double(), torch.arange(d), 0), exact(net, x, torch.zeros_like(x), 0)
    none, whole = v(torch.tensor([[False] * d, [True] * d]))
    sizes = torch.arange(1, d)

    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        size = torch.multinomial(1 / (sizes * (d - sizes)), n_pairs, True, generator=generator) + 1
        z = torch.rand(n_pairs, d, generator=generator).argsort(1).argsort(1) < size[:, None]
        z = torch.cat([z, ~z])
        a = z.double().T @ z.double() / len(z)
        b = z.double().T @ (v(z) - none) / len(z)
        inverse, one = torch.linalg.inv(a), torch.ones(d).double()
        return inverse @ (b - one * (one @ inverse @ b - whole + none) / (one @ inverse @ one))

    def error(maps: list[Tensor]) -> float:
        return float((torch.stack(maps) - values).square().mean().sqrt())

    theirs = error([drawn(seed) for seed in range(20)])
    ours = error([KernelShap(net, n_samples=2 * n_pairs, seed=seed).attribute(x, 0)[0] for seed in range(20)])
    assert ours < theirs < 3 * ours


def test_a_linear_model_in_closed_form_from_as_many_pairs_as_it_takes() -> None:
    d = 30
    net, x = nn.Linear(d, 2).double(), batch(3, d, dtype=torch.float64)
    for n_samples in (80, 512):
        found = KernelShap(net, n_samples=n_samples, baseline_fn=0.5).attribute(x, 1)
        torch.testing.assert_close(found, (x - 0.5) * net.weight[1].detach())


def test_two_features_at_a_time_in_closed_form_from_few_pairs() -> None:
    # Mayer & Wüthrich, 2025, arXiv 2508.12947: paired samples leave no error where interactions are of order two
    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Parameter(batch(20, 20, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return ((x @ self.q) * x).sum(1, keepdim=True)

    net, x = Quadratic(), batch(2, 20, seed=3, dtype=torch.float64)
    both = (net.q + net.q.T).detach() / 2
    torch.testing.assert_close(KernelShap(net, n_samples=60).attribute(x), x * (x @ both))


def test_too_few_pairs_give_the_most_equal_values_that_fit() -> None:
    d = 12
    net, x = nn.Linear(d, 1).double(), batch(1, d, dtype=torch.float64)
    effects = (x * net.weight.detach())[0]
    pairs = shapley_pairs(d, 3, seed=0)
    found = KernelShap(net, n_samples=7).attribute(x, 0)[0]
    conditions = torch.cat([pairs.chosen.double(), torch.ones(1, d).double()])
    torch.testing.assert_close(conditions @ found, conditions @ effects)
    torch.testing.assert_close(found, torch.linalg.pinv(conditions) @ conditions @ effects)


def blocks(inputs: Tensor) -> Tensor:
    """Two features in the first image, three in the second, five in the third, and so on, with gaps in the numbers."""
    n, (h, w) = len(inputs), inputs.shape[2:]
    stripes = torch.arange(w).expand(n, h, w)
    counts = torch.tensor([int(each[0, 0, 0] * 10) for each in inputs])
    return 7 * (stripes * counts[:, None, None] // w)


def test_the_values_of_superpixels_and_their_sum_where_each_image_has_its_own() -> None:
    net, x = seeded(VGGLike()).double(), batch(4, 3, 16, 16, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor([0.21, 0.51, 0.31, 0.51])
    found = KernelShap(net, feature_mask_fn=blocks).attribute(x, 3)
    assert found.shape == (4, 1, 16, 16)
    for image, ids, own in zip(x, blocks(x) // 7, found[:, 0], strict=True):
        values = shapley(game(net, image, torch.zeros_like(image), ids, 3), int(ids.max()) + 1)
        torch.testing.assert_close(own, values[ids])
    alone = [KernelShap(net, feature_mask_fn=blocks).attribute(x[i : i + 1], 3) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), found)


@pytest.mark.parametrize("n_samples", [2, 9, 64, 300])
def test_values_sum_to_what_the_model_gains_over_the_baseline(n_samples: int) -> None:
    net, x, slic = seeded(VGGLike()).double(), batch(2, 3, 16, 16, dtype=torch.float64), SLIC(20)
    explainer = KernelShap(net, n_samples=n_samples, feature_mask_fn=slic, baseline_fn="mean")
    maps, features = explainer.attribute(x, 1), slic(x)
    sums = [sum(float(own[0][ids == k][0]) for k in ids.unique()) for own, ids in zip(maps, features, strict=True)]
    gain = (net(x) - net(Mean()(x)))[:, 1].detach()
    torch.testing.assert_close(torch.tensor(sums, dtype=torch.float64), gain)


def test_like_features_have_like_values_and_idle_ones_none() -> None:
    class Game(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor([1.3], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:  # 1 and 4 do the same, 2 and 5 nothing
            return torch.sin(self.a * (x[:, :1] + x[:, 1:2] * x[:, 4:5])) * (x[:, 3:4] + x[:, 6:]).exp()

    (found,) = KernelShap(Game()).attribute(torch.ones(1, 7, dtype=torch.float64))
    torch.testing.assert_close(found[1], found[4])
    torch.testing.assert_close(found[3], found[6])
    assert found[[2, 5]].abs().max() < 1e-12
    assert found[[0, 1, 3]].abs().min() > 0.01
    assert (found[0] - found[1]).abs() > 0.01


def test_captum_on_the_same_coalitions_and_in_the_limit() -> None:
    net, x = seeded(MLP()), batch(1, 6)
    found = KernelShap(net, n_samples=30, seed=4).attribute(x, 2)
    pairs = shapley_pairs(6, 15, seed=4)
    weights = torch.cat([torch.tensor([1e6, 1e6]), pairs.weights.repeat_interleave(2).float()])
    rows, kept = iter(pairs.coalitions.long()), iter(weights)
    theirs = CaptumLime(
        net,
        interpretable_model=SkLearnLinearRegression(),
        similarity_func=lambda *_, **__: next(kept),
        perturb_func=lambda *_, **__: next(rows)[None],
    ).attribute(x, target=2, n_samples=32)
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        limit = CaptumKernelShap(net).attribute(x, target=2, n_samples=6000, perturbations_per_eval=500)
    torch.testing.assert_close(KernelShap(net).attribute(x, 2), limit, rtol=0.02, atol=0.02)


def test_images_series_and_volumes_by_a_grid() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.a * x.flatten(1).sum(1, keepdim=True)

    for shape in [(2, 9), (2, 9, 8), (2, 4, 4, 6)]:
        x = batch(2, *shape, dtype=torch.float64)
        ids, found = Grid(3)(x), KernelShap(Sums(), feature_mask_fn=Grid(3)).attribute(x)
        assert found.shape == (2, 1, *shape[1:])
        for i in range(2):
            for k in ids[i].unique():
                expected = x[i].sum(0)[ids[i] == k].sum()
                torch.testing.assert_close(found[i, 0][ids[i] == k], expected.expand(int((ids[i] == k).sum())))


def test_what_it_costs_what_it_holds_and_what_it_leaves_alone(set_chunk_size: Callable[[int], None]) -> None:
    sizes = []
    net, x = Wrapped(seeded(TimeCNN()), lambda outputs: sizes.append(len(outputs)) or outputs), batch(3, 2, 24)
    set_chunk_size(5)
    with untouched(None, x), count_forwards() as counter:
        KernelShap(net, n_samples=21).attribute(x, 1)
    assert counter.n_samples == 3 * (2 + 20)
    assert max(sizes) == 5
    with count_forwards() as counter:
        KernelShap(net).attribute(x, 1)
    assert counter.n_samples == 3 * 2**7


def test_a_feature_mask_is_searched_where_the_data_offer_one() -> None:
    explainer = KernelShap(seeded(MLP()))
    names = [set(trial_params(explainer, kind().candidates)) for kind in (Image, TimeSeries, Tabular)]
    assert names[0] == names[1] == {"feature_mask_fn", "feature_mask_fn.size", "baseline_fn"}
    assert names[2] == {"baseline_fn"}
    assert KernelShap(seeded(MLP()), feature_mask_fn=None).attribute(batch(2, 6)).shape == (2, 6)


class PerLength(nn.Module):
    """Not a number at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x / x.norm(dim=1, keepdim=True)


def test_impossible_arguments_and_inputs() -> None:
    net, x = seeded(MLP()), batch(2, 6)
    for arguments in ({"n_samples": 1}, {"n_samples": 2**16 + 1}, {"score": "softmax"}, {"seed": -1}):
        with pytest.raises(ParameterError):
            KernelShap(net, **arguments)
    with pytest.raises(UnknownNameError, match="slic"):
        KernelShap(net, feature_mask_fn="slik").attribute(x)
    with pytest.raises(InputError, match="images"):
        KernelShap(net, feature_mask_fn="slic").attribute(x)
    with pytest.raises(ParameterError, match="whole numbers of shape"):
        KernelShap(net, feature_mask_fn=lambda inputs: inputs).attribute(x)
    with pytest.raises(ModelError, match="finite outputs on masked inputs"):
        KernelShap(PerLength()).attribute(x)
