from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ModelError, ParameterError, TargetError, UnknownNameError
from pnpxai.explainers import RELAX, RelaxExplanation
from pnpxai.explainers.relax import filter_uncertain
from pnpxai.forward import count_forwards
from pnpxai.targets.similarity import cosine
from tests.explainers.masks import draw_masks
from tests.nets import MLP, TimeCNN, VGGLike, Wrapped, as_tuple, batch, seeded

KINDS = {
    "image": (lambda: VGGLike(), (3, 16, 16), (4, 4)),
    "series": (lambda: TimeCNN(), (2, 24), (5,)),
    "features": (lambda: MLP(), (6,), None),
}


def closeness(representations: Tensor, references: Tensor) -> Tensor:
    """A similarity of one's own."""
    return 1 / (1 + (representations - references).abs().sum(1))


def slow_cosine(a: Tensor, b: Tensor) -> float:
    return (sum(a * b) / sum(a * a) ** 0.5 / sum(b * b) ** 0.5).item()


def slow_closeness(a: Tensor, b: Tensor) -> float:
    return 1 / (1 + sum(abs(p - q) for p, q in zip(a.tolist(), b.tolist(), strict=True)))


def slow_maps(model: nn.Module, x: Tensor, masks: Tensor, similarity: object) -> tuple[Tensor, Tensor, Tensor]:
    """The three formulas in two passes over the masks."""
    h = model(x[None])[0].flatten()
    s = [similarity(model((x * (m if x.ndim == 1 else m[None]))[None])[0].flatten(), h) for m in masks]
    weight = sum(masks)
    importance = sum(each * m for each, m in zip(s, masks, strict=True)) / weight
    uncertainty = sum((each - importance) ** 2 * m for each, m in zip(s, masks, strict=True)) / weight
    middle = uncertainty.flatten().quantile(0.5)
    return importance, uncertainty, importance * (uncertainty <= middle)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("similarity", ["cosine", closeness])
def test_it_is_the_formulas(kind: str, n: int, similarity: object) -> None:
    make, shape, grid = KINDS[kind]
    model, inputs = seeded(make()).double().requires_grad_(False), batch(n, *shape, dtype=torch.float64)
    explainer = RELAX(model, n_masks=60, grid_size=grid or 7, seed=3, similarity=similarity, batch_size=7)
    found = explainer.explain(inputs)
    size = shape if grid is None else shape[1:]
    masks = draw_masks(0, 60, size, grid, 0.5, seed=3).double()
    slow = slow_cosine if similarity == "cosine" else slow_closeness
    for sample in range(n):
        expected = slow_maps(model, inputs[sample], masks, slow)
        for each, value in zip((found.importance, found.uncertainty, found.filtered), expected, strict=True):
            assert each.shape == (n, *(() if grid is None else (1,)), *size)
            torch.testing.assert_close(each[sample].reshape(size), value, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(explainer.attribute(inputs), found.importance, rtol=0, atol=0)


class NearlyConstant(nn.Module):
    """Representations that hardly move: cosines of 1 - 1e-6."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], 1000.0), (x * self.weight).sum(1)], 1)


def test_a_tiny_uncertainty_survives_the_subtraction() -> None:
    model, inputs = NearlyConstant().double().requires_grad_(False), batch(1, 6, dtype=torch.float64)
    found = RELAX(model, n_masks=80).explain(inputs)
    masks = draw_masks(0, 80, (6,), None, 0.5, seed=0).double()
    expected = slow_maps(model, inputs[0], masks, slow_cosine)
    assert expected[1].max() < 1e-12
    torch.testing.assert_close(found.uncertainty[0], expected[1], rtol=1e-5, atol=0)


def test_single_precision_agrees_with_double() -> None:
    inputs = batch(2, 3, 16, 16)
    single = RELAX(seeded(VGGLike()), n_masks=100).explain(inputs)
    double = RELAX(seeded(VGGLike()).double(), n_masks=100).explain(inputs.double())
    torch.testing.assert_close(single.importance.double(), double.importance, rtol=1e-5, atol=0)
    torch.testing.assert_close(single.uncertainty.double(), double.uncertainty, rtol=1e-4, atol=0)


def test_half_the_positions_pass_the_filter() -> None:
    uncertainty = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 4.0, 0.0, 4.0]])
    found = filter_uncertain(torch.tensor([[5.0, 6.0, 7.0, 8.0]]).expand(2, 4), uncertainty)
    assert found.tolist() == [[5.0, 6.0, 0.0, 0.0], [5.0, 6.0, 7.0, 8.0]]
    odd = filter_uncertain(torch.ones(1, 3), torch.tensor([[3.0, 1.0, 2.0]]))
    assert odd.tolist() == [[0.0, 1.0, 1.0]]


def test_chunks_and_neighbours_do_not_matter() -> None:
    model, inputs = seeded(VGGLike()).double(), batch(3, 3, 16, 16, dtype=torch.float64)
    explainer = RELAX(model, n_masks=40, grid_size=3)
    whole = explainer.explain(inputs)
    for size in (1, 8, 1000):
        again = explainer.set_kwargs(batch_size=size).explain(inputs)
        torch.testing.assert_close(again.importance, whole.importance, rtol=1e-10, atol=0)
        torch.testing.assert_close(again.uncertainty, whole.uncertainty, rtol=1e-8, atol=0)
    alone = explainer.explain(inputs[1:2])
    torch.testing.assert_close(alone.importance, whole.importance[1:2], rtol=1e-10, atol=0)
    torch.testing.assert_close(alone.uncertainty, whole.uncertainty[1:2], rtol=1e-8, atol=0)


class Spatial(nn.Module):
    """A representation with positions of its own, ``(n, 4, 6, 6)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


def test_outputs_with_positions_are_flattened() -> None:
    inputs = batch(2, 3, 8, 8, dtype=torch.float64)
    model = seeded(Spatial()).double()
    found = RELAX(model, n_masks=40, grid_size=2).attribute(inputs)
    flat = RELAX(nn.Sequential(model, nn.Flatten()), n_masks=40, grid_size=2).attribute(inputs)
    torch.testing.assert_close(found, flat)
    assert found.std() > 1e-4


def test_other_outputs_than_tensors_are_understood() -> None:
    inputs, net = batch(2, 6), seeded(MLP())
    torch.testing.assert_close(
        RELAX(Wrapped(net, as_tuple), n_masks=30).attribute(inputs), RELAX(net, n_masks=30).attribute(inputs)
    )


def test_targets_are_checked_and_play_no_part() -> None:
    model, inputs = seeded(MLP()), batch(2, 6)
    explainer = RELAX(model, n_masks=30)
    assert torch.equal(explainer.attribute(inputs), explainer.attribute(inputs, [2, 0]))
    with pytest.raises(TargetError, match="one target for each of 2 inputs"):
        explainer.attribute(inputs, torch.tensor([1, 2, 0]))


def test_one_pass_gives_all_three() -> None:
    with count_forwards() as counter:
        explanation = RELAX(seeded(MLP()), n_masks=50).explain(batch(3, 6))
    assert counter.n_samples == 51 * 3
    assert isinstance(explanation, RelaxExplanation)
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.importance = torch.zeros(1)


def test_cosine_of_known_angles() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-4.0, 0.0]])
    expected = torch.tensor([1.0, 0.0, 0.5**0.5, -1.0])
    torch.testing.assert_close(cosine(rows, torch.tensor([5.0, 0.0])), expected)
    torch.testing.assert_close(cosine(rows, torch.tensor([[5.0, 0.0]]).expand(4, 2)), expected)


def test_a_model_in_training_comes_back_in_training() -> None:
    model = seeded(VGGLike()).train()
    inputs = batch(1, 3, 16, 16)
    first, second = (RELAX(model, n_masks=20).explain(inputs).importance for _ in range(2))
    assert torch.equal(first, second)  # dropout was off
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("similarity", "error", "match"),
    [
        ("cosin", UnknownNameError, "Did you mean 'cosine'"),
        (lambda h, reference: (h - reference).abs(), ParameterError, r"shape \(.*, 3\)"),
        (lambda h, reference: 1.0, ParameterError, "float"),
    ],
)
def test_bad_similarities_say_so(similarity: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RELAX(seeded(MLP()), n_masks=5, similarity=similarity).explain(batch(1, 6))


@pytest.mark.parametrize("model", [nn.Linear(6, 1), nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))])
def test_a_single_number_has_no_angle(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="at least 2 numbers a sample"):
        RELAX(model, n_masks=5).explain(batch(1, 6))


def test_a_half_precision_model_is_compared_in_single_precision() -> None:
    """Of outputs that bfloat16 holds exactly, the cosines 1/√2 and 1, which it does not hold."""
    model = nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    model.weight.data.copy_(torch.eye(2))
    x, masks = torch.ones(1, 2), draw_masks(0, 64, (2,), None, 0.5, 0)
    cosines = torch.tensor([0.0, 0.5**0.5, 1.0])[masks.sum(1).long()]
    expected = (cosines @ masks) / masks.sum(0)
    found = RELAX(model, n_masks=64).attribute(x)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=0)
