"""RAP against its definition, neuron by neuron; layers are written out as lists of edges."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from pnpxai.explainers import RAP
from tests.harm import untouched
from tests.nets import MLP, LSTMClassifier, TimeCNN, TinyTransformer, VGGLike, batch, seeded

Neurons = list[float]


class Edge(NamedTuple):
    """A weight from input ``i`` to output ``j`` of a layer."""

    i: int
    j: int
    w: float


def doubled(net: nn.Module, seed: int = 0) -> nn.Module:
    return seeded(net.double(), seed)


def inputs(n: int, *shape: int, seed: int = 1) -> Tensor:
    return batch(n, *shape, seed=seed, dtype=torch.float64)


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def dense(layer: nn.Linear) -> list[Edge]:
    return [Edge(i, j, w) for j, row in enumerate(layer.weight.tolist()) for i, w in enumerate(row)]


def convolved(layer: nn.Conv2d, side: int) -> list[Edge]:
    """The edges of a convolution of square images of a side, without what falls on the padding."""
    (kernel, _), (stride, _), (padding, _) = layer.kernel_size, layer.stride, layer.padding
    assert isinstance(padding, int)
    out = (side + 2 * padding - kernel) // stride + 1
    edges = []
    for o, c, row, column in product(range(layer.out_channels), range(layer.in_channels), range(out), range(out)):
        for a, b in product(range(kernel), range(kernel)):
            y, x = row * stride + a - padding, column * stride + b - padding
            if 0 <= y < side and 0 <= x < side:
                i, j = (c * side + y) * side + x, (o * out + row) * out + column
                edges.append(Edge(i, j, layer.weight[o, c, a, b].item()))
    return edges


def influence(edges: list[Edge], x: Neurons, relevance: Neurons) -> Neurons:
    """Below the outputs: each contribution's share of the sum of absolute contributions."""
    found = [0.0] * len(x)
    for j, above in enumerate(relevance):
        into = [each for each in edges if each.j == j]
        total = sum(abs(x[each.i] * each.w) for each in into)
        for each in into:
            found[each.i] += above * abs(x[each.i] * each.w) / total
    return found


def prioritised(edges: list[Edge], x: Neurons, relevance: Neurons) -> Neurons:
    """Positive contributions share all, negative ones their part of it again; the surplus is shifted off the active."""
    found = [0.0] * len(x)
    for j, above in enumerate(relevance):
        into = [(each.i, x[each.i] * each.w) for each in edges if each.j == j]
        positive = sum(z for _, z in into if z > 0)
        negative = -sum(z for _, z in into if z < 0)
        for i, z in into:
            if z > 0:
                found[i] += above * z / positive
            elif z < 0:
                ratio = negative / (positive + negative)
                found[i] += above * ratio * -z / negative
    active = [i for i, each in enumerate(found) if each != 0]
    surplus = sum(found) - sum(relevance)
    return [each - surplus / len(active) if i in active else 0.0 for i, each in enumerate(found)]


def boxed(edges: list[Edge], x: Neurons, relevance: Neurons) -> Neurons:
    """The zB-rule between the lowest and the highest value of the sample."""
    low, high = min(x), max(x)
    found = [0.0] * len(x)
    for j, above in enumerate(relevance):
        into = [(e.i, x[e.i] * e.w - low * max(e.w, 0.0) - high * min(e.w, 0.0)) for e in edges if e.j == j]
        total = sum(z for _, z in into)
        for i, z in into:
            found[i] += above * z / total
    return found


def test_a_small_mlp_neuron_by_neuron() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    net, x, expected = doubled(net, seed=1), inputs(6, 4), []
    for sample in x:
        first = net[:2](sample).tolist()
        second = net[:4](sample).tolist()
        relevance = [0.0, 0.0, net(sample)[2].item()]
        relevance = influence(dense(net[4]), second, relevance)
        relevance = prioritised(dense(net[2]), first, relevance)
        expected.append(prioritised(dense(net[0]), sample.tolist(), relevance))
    same(RAP(net).attribute(x, 2), torch.tensor(expected, dtype=torch.float64))


def test_a_small_cnn_neuron_by_neuron() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 2, stride=2), nn.ReLU()),
        *(nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)),
    )
    net, x = doubled(net, seed=3), inputs(4, 2, 5, 5)
    expected = []
    for sample in x:
        at = [net[:k](sample[None]).flatten().tolist() for k in (2, 4, 6)]
        relevance = [0.0, net(sample[None])[0, 1].item(), 0.0]
        relevance = influence(dense(net[7]), at[2], relevance)
        relevance = prioritised(convolved(net[4], 2), at[1], relevance)
        relevance = prioritised(convolved(net[2], 5), at[0], relevance)
        expected.append(boxed(convolved(net[0], 5), sample.flatten().tolist(), relevance))
    assert all(any(each) for each in expected)
    same(RAP(net).attribute(x, 1), torch.tensor(expected, dtype=torch.float64).reshape(x.shape))


def test_a_linear_layer_over_steps_is_shifted_step_by_step() -> None:
    net = doubled(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(10, 2)))
    x = inputs(3, 2, 3)
    expected = []
    for sample in x:
        hidden = net[:2](sample[None])[0]
        above = influence(dense(net[3]), hidden.flatten().tolist(), [net(sample[None])[0, 0].item(), 0.0])
        steps = zip(sample.tolist(), (above[:5], above[5:]), strict=True)
        expected.append([prioritised(dense(net[0]), *each) for each in steps])
    same(RAP(net).attribute(x, 0), torch.tensor(expected, dtype=torch.float64))


def test_a_target_function_starts_from_several_outputs() -> None:
    net, x = doubled(MLP()), inputs(3, 6)
    expected = []
    for sample in x:
        outputs = net(sample).tolist()
        relevance = influence(dense(net[2]), net[1](net[0](sample)).tolist(), [outputs[0], 0.0, -2 * outputs[2]])
        expected.append(prioritised(dense(net[0]), sample.tolist(), relevance))
    maps = RAP(net).attribute(x, lambda outputs: outputs[:, 0] - 2 * outputs[:, 2])
    same(maps, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "shape"),
    [(MLP, (6,)), (VGGLike, (3, 16, 16)), (TimeCNN, (2, 24)), (lambda: VGGLike(inplace=True), (3, 16, 16))],
)
def test_each_samples_sum_is_its_output_with_biases_too(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net, x, targets = doubled(make()), inputs(4, *shape), torch.tensor([1, 0, 2, 1])
    maps = RAP(net).attribute(x, targets)
    same(maps.flatten(1).sum(1), net(x)[range(4), targets].detach())
    ledger = RAP(net).ledger(x, targets)
    assert ledger.bias == ledger.constants == 0
    assert ledger.largest_gap < 1e-13


def test_what_only_a_bias_made_is_absorbed_by_it() -> None:
    net = doubled(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    net[0].bias.data.fill_(1.0)
    x = torch.zeros(1, 3, dtype=torch.float64)
    assert not RAP(net).attribute(x, 1).any()
    ledger = RAP(net).ledger(x, 1)
    assert ledger.bias == pytest.approx(net(x)[0, 1].item(), rel=1e-12)
    flat = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    image = RAP(doubled(VGGLike())).ledger(flat, 1)
    assert image.largest_gap < 1e-13
    assert image.bias == pytest.approx(image.output, rel=1e-12)


def test_the_least_important_turn_negative_for_a_positive_output() -> None:
    net = nn.Sequential(nn.Linear(3, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    net[0].weight.data.copy_(torch.tensor([[3.0, 0.25, -2.0]]))
    net[2].weight.data.fill_(1.0)
    maps = RAP(net).attribute(torch.ones(1, 3, dtype=torch.float64))
    # z 1.25, P 3.25, N 2: shares 3/3.25, .25/3.25 and 2/5.25 of 1.25; the last is also what is taken off in thirds.
    off = 1.25 * 2 / 5.25 / 3
    same(maps, torch.tensor([[1.25 * 3 / 3.25 - off, 1.25 * 0.25 / 3.25 - off, 2 * off]], dtype=torch.float64))
    assert maps[0, 1] < 0 < maps[0, 0]


def _two_sided() -> nn.Module:
    """Class 0 sees the left half of the image, class 1 the right half."""
    net = doubled(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 2)))
    weight = net[3].weight.data.abs_().view(2, 4, 8, 8)
    weight[0, ..., 4:] = weight[1, ..., :4] = 0
    return net


def test_the_map_depends_on_the_target() -> None:
    net, x = _two_sided(), inputs(3, 1, 8, 8)
    left, right = (RAP(net).attribute(x, each) for each in (0, 1))
    assert not left[..., 5:].any()
    assert not right[..., :3].any()
    for a, b in zip(left, right, strict=True):
        assert spearmanr(a.flatten(), b.flatten()).statistic < 0.5


@pytest.mark.parametrize(("make", "shape"), [(MLP, (6,)), (TimeCNN, (2, 24)), (TinyTransformer, (8, 4))])
def test_two_targets_rank_otherwise(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net, x = doubled(make()), inputs(8, *shape)
    maps = [RAP(net).attribute(x, each).flatten(1) * net(x)[:, each, None].sign().detach() for each in (0, 1)]
    rho = [spearmanr(a, b).statistic for a, b in zip(*maps, strict=True)]
    assert sum(rho) / len(rho) < 0.95


@pytest.mark.parametrize(
    ("make", "shape"),
    [(VGGLike, (3, 16, 16)), (MLP, (6,)), (TinyTransformer, (8, 4)), (LSTMClassifier, (8, 4))],
)
def test_a_batch_is_its_samples_and_several_targets_are_each(
    make: Callable[[], nn.Module], shape: tuple[int, ...], set_chunk_size: Callable[[int], None]
) -> None:
    net, x, targets = doubled(make()), inputs(5, *shape), torch.tensor([1, 0, 2, 1, 0])
    maps = RAP(net).attribute(x, targets)
    same(torch.cat([RAP(net).attribute(x[i : i + 1], targets[i : i + 1]) for i in range(5)]), maps)
    set_chunk_size(2)
    several = RAP(net).attribute_each(x, [targets, 2, 0])
    for found, each in zip(several, (targets, 2, 0), strict=True):
        same(found, RAP(net).attribute(x, each))


class TwoHeads(nn.Module):
    """Two output layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(8, 2), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return torch.cat([each(x) for each in self.heads], 1)


def test_each_of_several_heads_is_an_output_layer() -> None:
    net, x = doubled(TwoHeads()), inputs(4, 6)
    for head, target, inner in ((0, 1, 1), (1, 4, 2)):
        alone = nn.Sequential(net.body, net.heads[head])
        same(RAP(net).attribute(x, target), RAP(alone).attribute(x, inner))


class Residual(nn.Module):
    """A block with batch norm and a shortcut; ``(n, 3, 8, 8)`` to ``(n, 4)``."""

    def __init__(self, normed: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4) if normed else nn.Identity()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.norm(self.conv(x))).mean((2, 3)))


def _residual() -> nn.Module:
    net = doubled(Residual())
    net.norm.running_mean.copy_(inputs(4, seed=5))
    net.norm.running_var.copy_(inputs(4, seed=6) ** 2 + 0.5)
    return net


def test_batch_norm_is_merged_into_the_layer_before_it() -> None:
    net, x = _residual(), inputs(3, 3, 8, 8)
    plain = Residual(normed=False).double().eval()
    plain.conv.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    plain.stem.load_state_dict(net.stem.state_dict())
    plain.head.load_state_dict(net.head.state_dict())
    plain.conv.weight.data = (net.conv.weight * scale[:, None, None, None]).detach()
    plain.conv.bias.data = (net.norm.bias - net.norm.running_mean * scale).detach()
    same(net(x), plain(x))
    same(RAP(net).attribute(x, 2), RAP(plain).attribute(x, 2), 1e-9)


def test_the_ledger_of_a_residual_network_closes() -> None:
    net, x = _residual(), inputs(3, 3, 8, 8)
    explainer = RAP(net, stabilizer=1e-12)
    ledger = explainer.ledger(x, 1)
    assert ledger.largest_gap < 1e-9
    assert ledger.bias == ledger.constants == 0
    assert ledger.explained == pytest.approx(float(explainer.attribute(x, 1).sum()), rel=1e-9)
    assert ledger.explained + ledger.epsilon == pytest.approx(net(x)[:, 1].sum().item(), rel=1e-9)
    assert abs(ledger.epsilon) < 1e-6 * abs(ledger.output)


def test_a_layers_relevance_is_that_of_the_network_above_it() -> None:
    net, x = (
        doubled(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))),
        inputs(3, 4),
    )
    same(RAP(net, layer="1").attribute(x, 2), RAP(net[2:]).attribute(net[:2](x).detach(), 2))


def test_half_precision_agrees() -> None:
    net, x = doubled(VGGLike()), inputs(2, 3, 16, 16).clamp(-2, 2)
    expected = RAP(net).attribute(x, 1)
    maps = RAP(net.to(torch.bfloat16)).attribute(x.to(torch.bfloat16), 1)
    assert maps.dtype == torch.bfloat16
    assert F.cosine_similarity(maps.double().flatten(), expected.flatten(), 0) > 0.98


def test_the_model_is_untouched() -> None:
    net, x = _residual().train(), inputs(2, 3, 8, 8)
    with untouched(net, x):
        RAP(net).attribute(x, 1)
        RAP(net).ledger(x, 1)
