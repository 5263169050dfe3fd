"""Masked inputs asked in bfloat16: by autocast, only those, and only where that keeps the order of the scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pnpxai.errors import ParameterError
from pnpxai.explainers import RELAX, RISE, _masked_scores
from pnpxai.explainers._base import Explainer
from pnpxai.explainers._masked_scores import PROBE
from pnpxai.forward import count_forwards
from tests.explainers.masks import draw_masks
from tests.explainers.test_rise import slow_map
from tests.nets import MLP, TinyTransformer, VGGLike, batch, seeded

N_MASKS = 64


class Watched(nn.Module):
    """Tells how many rows came, and whether in bfloat16."""

    def __init__(self, net: nn.Module, tell: Callable[[bool, int], object]) -> None:
        super().__init__()
        self.net, self.tell = net, tell

    def forward(self, x: Tensor) -> Tensor:
        self.tell(torch.is_autocast_enabled("cpu"), len(x))
        return self.net(x)


def watched(net: nn.Module) -> tuple[nn.Module, dict[bool, int]]:
    """A network, and how many rows it was asked in float32 (False) and in bfloat16 (True)."""
    rows = {True: 0, False: 0}

    def tell(lower: bool, n: int) -> None:
        rows[lower] += n

    return Watched(seeded(net), tell), rows


class Autocast(nn.Module):
    """Another way to the same precision."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x).float()


class Offset(nn.Module):
    """The sum of the features, plus ``x[0]`` that bfloat16 cannot hold beside it and that is taken off again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        offset = 1e4 * x[:, 5:6].round()
        kept = self.first(torch.cat([x[:, :5] + offset, x[:, 5:]], 1)).float()[:, :5] - offset
        return torch.cat([kept.sum(1, keepdim=True), -kept.sum(1, keepdim=True)], 1)


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_masked_scores, "fast_in_bfloat16", lambda device: True)


@pytest.mark.parametrize("cls", [RISE, RELAX])
@pytest.mark.parametrize("estimator", ["normalized", "ridge"])
def test_only_masked_inputs_are_lowered(cls: type[Explainer], estimator: str) -> None:
    (model, rows), inputs = watched(VGGLike()), batch(2, 3, 16, 16)
    cls(model, n_masks=N_MASKS, estimator=estimator, precision="bfloat16").attribute(inputs)
    assert rows == {True: 2 * N_MASKS, False: 2}


def test_the_map_is_that_of_the_slow_loop_under_autocast() -> None:
    model, inputs, target = seeded(VGGLike()), batch(1, 3, 16, 16), torch.tensor([2])
    ours = RISE(model, n_masks=N_MASKS, grid_size=4, precision="bfloat16", batch_size=1).attribute(inputs, target)
    exact = RISE(model, n_masks=N_MASKS, grid_size=4, batch_size=1).attribute(inputs, target)
    masks = draw_masks(0, N_MASKS, (16, 16), (4, 4), 0.5, 0)
    slow = slow_map(Autocast(model), inputs[0], 2, masks, 0.5, 0.0, "centered")
    assert torch.allclose(ours[0, 0], slow, atol=1e-6)
    assert not torch.allclose(exact[0, 0], slow, atol=1e-6)
    assert ours.dtype == torch.float32


def test_other_dtypes_stay_as_they_are() -> None:
    model, inputs = seeded(MLP()).double(), batch(2, 6, dtype=torch.float64)
    exact = RISE(model, n_masks=N_MASKS).attribute(inputs)
    for precision in ("bfloat16", "auto"):
        assert torch.equal(RISE(model, n_masks=N_MASKS, precision=precision).attribute(inputs), exact)


@pytest.mark.usefixtures("_fast")
def test_auto_lowers_where_the_order_stays() -> None:
    (model, rows), inputs = watched(TinyTransformer()), batch(2, 5, 4)
    auto = RISE(model, n_masks=N_MASKS, precision="auto").attribute(inputs)
    assert rows == {True: 2 * (PROBE + N_MASKS), False: 2 * (PROBE + 1)}
    assert torch.equal(auto, RISE(model, n_masks=N_MASKS, precision="bfloat16").attribute(inputs))


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("estimator", ["centered", "ridge"])
def test_auto_decides_for_each_sample(estimator: str) -> None:
    near, far = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)), torch.ones(1, 6)
    near[:, 5] = 0.0
    far[:, :5] = near[0, :5]
    model, inputs = Offset(), torch.cat([near[:1], far, near[1:]])
    every = {
        precision: RISE(model, n_masks=N_MASKS, estimator=estimator, precision=precision).attribute(inputs, 0)
        for precision in ("float32", "bfloat16", "auto")
    }
    assert torch.equal(every["auto"][1], every["float32"][1])
    assert not torch.equal(every["auto"][1], every["bfloat16"][1])
    assert torch.equal(every["auto"][[0, 2, 3]], every["bfloat16"][[0, 2, 3]])
    assert not torch.equal(every["auto"][0], every["float32"][0])
    for sample in range(4):
        alone = RISE(model, n_masks=N_MASKS, estimator=estimator, precision="auto").attribute(inputs[[sample]], 0)
        assert torch.allclose(alone[0], every["auto"][sample], atol=1e-6)


@pytest.mark.usefixtures("_fast")
def test_the_choice_is_made_once_for_growing_budgets() -> None:
    model, inputs = seeded(MLP()), batch(2, 6)
    explainer = RISE(model, n_masks=4 * N_MASKS, precision="auto")
    with count_forwards() as counter:
        *_, last = explainer.refine(inputs, budgets=(N_MASKS, 2 * N_MASKS, 4 * N_MASKS))
    assert counter.n_samples == 2 * (1 + 2 * PROBE + 4 * N_MASKS)
    assert torch.equal(last, explainer.attribute(inputs))


def test_auto_leaves_processors_without_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_masked_scores, "fast_in_bfloat16", lambda device: False)
    (model, rows), inputs = watched(MLP()), batch(2, 6)
    RISE(model, n_masks=N_MASKS, precision="auto").attribute(inputs)
    assert rows == {True: 0, False: 2 * (N_MASKS + 1)}


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ParameterError, match="bfloat16"):
        RISE(seeded(MLP()), precision="float8")
