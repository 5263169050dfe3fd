"""Each rule for operations without weights, against its formula element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.errors import UnsupportedOperationError
from tests.nets import batch
from tests.relevance.explicit import Function, by_contribution, by_rules, close, gaps, stabilized

D = torch.float64


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return batch(*shape, seed=seed, dtype=D)


MASK = numbers(2, 3, 4, seed=5) > 0
CONSTANT = numbers(2, 3, 4, seed=6)
ROW = numbers(4, seed=7)
INDEX = torch.tensor([2, 0, 0])


def changed(x: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    """A copy after a change in place."""
    y = x.clone()
    change(y)
    return y


def iadd(x: Tensor) -> Tensor:
    y = x.clone()
    y += CONSTANT
    return y


def into_zeros(x: Tensor) -> Tensor:
    y = torch.zeros(2, 5, 4, dtype=D)
    y = y + 1
    y[:, 1:4] = x
    return y


def token(x: Tensor) -> Tensor:
    return torch.cat([ROW.expand(2, 1, 4), x], 1)


AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    # sums
    "mean": lambda x: x.mean(1),
    "mean of all": lambda x: x.mean().reshape(1),
    "mean of two dims": lambda x: torch.mean(x, (0, 2), keepdim=True),
    "sum": lambda x: x.sum(-1),
    "nansum": lambda x: x.nansum(1),
    "cumsum": lambda x: x.cumsum(1),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 3, 1, 1),
    "avg_pool2d": lambda x: F.avg_pool2d(x[None], 2, 1, padding=1, count_include_pad=False),
    "avg_pool3d": lambda x: nn.AvgPool3d(2)(x[None, None]),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x, 3),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0),
    "interpolate bilinear": lambda x: F.interpolate(x[None], (5, 7), mode="bilinear"),
    "interpolate bicubic": lambda x: F.interpolate(x[None], (5, 7), mode="bicubic", align_corners=True),
    "upsample": lambda x: nn.Upsample(scale_factor=3, mode="linear")(x),
    "fold": lambda x: F.fold(x.reshape(1, 4, 6), (3, 4), 2),
    "diff": lambda x: x.diff(dim=2),
    "trace": lambda x: x[0].trace().reshape(1),
    "grid sample": lambda x: F.grid_sample(x[None], CONSTANT.tanh()[None, :, :, :2], align_corners=False),
    # sums with constants and with each other
    "add a number": lambda x: x + 1.5,
    "add to a number": lambda x: 1.5 + x,
    "add a tensor": lambda x: x + CONSTANT,
    "add a row": lambda x: ROW + x,
    "add, broadcast up": lambda x: x[:, :1] + CONSTANT,
    "add with alpha": lambda x: torch.add(x, CONSTANT, alpha=2),
    "add by keyword": lambda x: torch.add(input=x, other=CONSTANT),
    "add_": lambda x: changed(x, lambda y: y.add_(CONSTANT, alpha=0.5)),
    "+=": iadd,
    "add_ on a view": lambda x: changed(x, lambda y: y[:, 0].add_(ROW)),
    "add_ on a transposed view": lambda x: changed(x, lambda y: y.transpose(1, 2).add_(1.0)),
    "sub": lambda x: x - CONSTANT,
    "from a number": lambda x: 2.0 - x,
    "from a tensor": lambda x: CONSTANT - x,
    "rsub": lambda x: torch.rsub(x, 3.0, alpha=2),
    "sub_": lambda x: changed(x, lambda y: y.sub_(CONSTANT)),
    "two terms": lambda x: x + x.flip(-1),
    "two terms, alpha": lambda x: torch.add(x, x.flip(1), alpha=-0.5),
    "difference": lambda x: torch.sub(x, x.flip(0), alpha=2),
    "difference of broadcast": lambda x: x[:, 1:] - x[:, :1],
    "same twice": lambda x: x + x,
    "+= of two": lambda x: changed(x, lambda y: y.add_(x.flip(1))),
    # scalings by constants
    "times a number": lambda x: 3 * x,
    "times a tensor": lambda x: x * CONSTANT,
    "times a row in place": lambda x: changed(x, lambda y: y.mul_(ROW)),
    "over a number": lambda x: x / 4,
    "over a tensor in place": lambda x: changed(x, lambda y: y.div_(CONSTANT)),
    "negative": lambda x: -x,
    "broadcast by a product": lambda x: x[:, :1] * CONSTANT,
    "dropout": lambda x: F.dropout(x, 0.5, False),
    # moves
    "view": lambda x: x.view(2, 12),
    "reshape and permute": lambda x: x.permute(2, 0, 1).reshape(4, 6),
    "mT": lambda x: x.mT,
    "flip and roll": lambda x: torch.roll(x.flip(1), 1, 2),
    "index": lambda x: x[:, [2, 0, 0], 1:],
    "index by ellipsis": lambda x: x[..., None, -1],
    "index by mask": lambda x: x[MASK],
    "index_select": lambda x: x.index_select(1, INDEX),
    "gather": lambda x: x.gather(1, torch.tensor([[[0, 1, 2, 0]], [[1, 1, 0, 2]]])),
    "split and stack": lambda x: torch.stack([x.chunk(2, 2)[1], x.split([2, 2], 2)[0]]),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "expand": lambda x: x[:, :1].expand(2, 5, 4),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "cat": lambda x: torch.cat([x, x.flip(1)], 1),
    "cat with a constant token": token,
    "cat a token by keyword": lambda x: torch.cat(tensors=[ROW.expand(2, 1, 4), x], dim=1),
    "stack with a constant": lambda x: torch.stack([x, CONSTANT]),
    "pad": lambda x: F.pad(x, (1, 2)),
    "pad with a value": lambda x: F.pad(x, (1, 0, 0, 1), value=2.0),
    "reflected": lambda x: F.pad(x, (1, 1), mode="reflect"),
    "where": lambda x: torch.where(MASK, x, CONSTANT),
    "where, a number": lambda x: torch.where(MASK, 0.5, x),
    "where of two": lambda x: torch.where(MASK, x, x.flip(-1)),
    "masked_fill": lambda x: x.masked_fill(MASK, 2.0),
    "masked_fill_": lambda x: changed(x, lambda y: y.masked_fill_(MASK, -1.0)),
    "tril": lambda x: x.tril(),
    "set a number": lambda x: changed(x, lambda y: y.__setitem__((slice(None), 0), 2.0)),
    "set a tensor": lambda x: changed(x, lambda y: y.__setitem__((slice(None), 0), ROW)),
    "set of itself": lambda x: changed(x, lambda y: y.__setitem__((slice(None), 0), x[:, 1])),
    "set into a constant": into_zeros,
    "copy_": lambda x: changed(x, lambda y: y[:, 0].copy_(x[:, 2])),
    "fill_ a part": lambda x: changed(x, lambda y: y[:, 0].fill_(3.0)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.reshape(1, 4, 2, 3), 2),
    "unfold": lambda x: F.unfold(x.reshape(1, 2, 3, 4), 2),
    "unfold method": lambda x: x.unfold(2, 2, 1),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data.flip(1),
    "detached part": lambda x: x + x.flip(1).detach(),
    "to and back": lambda x: x.to(torch.float64).contiguous().clone().type_as(CONSTANT),
    "einops by hand": lambda x: x.reshape(2, 3, 2, 2).transpose(1, 2).flatten(2),
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_operations_contribution_by_contribution(name: str) -> None:
    function, x = AFFINE[name], numbers(2, 3, 4)
    output = function(x.clone())
    upper = numbers(*output.shape, seed=3)
    found = by_rules(function, x, upper=upper)
    assert torch.equal(found.output, output)
    (expected,), constants = by_contribution(function, [x], upper)
    close(found.relevance[0], expected)
    assert found.absorbed("constants") == pytest.approx(constants, abs=1e-9 * float(upper.abs().sum()))
    assert found.total() == pytest.approx(float(upper.sum()), abs=1e-9 * float(upper.abs().sum()))
    assert gaps(found.accounts) < 1e-9


@pytest.mark.parametrize("name", ["mean", "avg_pool1d", "add a row", "two terms", "difference", "cumsum"])
def test_a_large_epsilon_absorbs_what_the_formula_says(name: str) -> None:
    function, x, epsilon = AFFINE[name], numbers(2, 3, 4), 0.7
    output = function(x.clone())
    upper = numbers(*output.shape, seed=3)
    found = by_rules(function, x, upper=upper, epsilon=epsilon)
    close(found.relevance[0], by_contribution(function, [x], upper, epsilon)[0][0])
    absorbed = float((upper * (1 - output / stabilized(output, epsilon))).sum())
    assert found.absorbed("epsilon") == pytest.approx(absorbed, abs=1e-9)


def test_a_relative_epsilon_scales_with_the_contributions() -> None:
    x, upper, epsilon = numbers(2, 3, 4), numbers(2, 4, seed=3), 0.3
    z, scale = x.sum(1), x.abs().sum(1)
    share = upper / (z + epsilon * scale * z.sign())
    found = by_rules(lambda x: x.sum(1), x, upper=upper, epsilon=epsilon, relative=True)
    close(found.relevance[0], x * share[:, None])
    found = by_rules(lambda x: x - CONSTANT, x, upper=CONSTANT, epsilon=epsilon, relative=True)
    scale, z = x.abs() + CONSTANT.abs(), x - CONSTANT
    close(found.relevance[0], x * CONSTANT / (z + epsilon * scale * z.sign()))
    thousandfold = by_rules(lambda x: (1000 * x).sum(1), x, upper=upper, epsilon=epsilon, relative=True)
    close(thousandfold.relevance[0], x * share[:, None])


def test_where_a_sum_is_zero_nothing_comes_out() -> None:
    x = torch.tensor([[1.0, -1.0, 0.0]], dtype=D)
    found = by_rules(lambda x: x[:, :1] + x[:, 1:2], x, upper=torch.ones(1, 1, dtype=D), relative=True)
    close(found.relevance[0][:, :2].sum(1), torch.zeros(1, dtype=D))
    assert found.total() == pytest.approx(1.0)
    found = by_rules(
        lambda x: x.relu() + 0.0, torch.zeros(1, 3, dtype=D), upper=torch.ones(1, 3, dtype=D), relative=True
    )
    assert torch.equal(found.relevance[0], torch.zeros(1, 3, dtype=D))
    assert found.absorbed("epsilon") == pytest.approx(3.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(F, name) for name in ("relu", "gelu", "silu", "mish", "elu", "selu", "celu", "hardswish")},
    **{name: getattr(F, name) for name in ("softplus", "softsign", "leaky_relu", "relu6", "hardtanh", "logsigmoid")},
    **{name: getattr(torch, name) for name in ("tanh", "sigmoid", "erf", "abs", "square", "log1p", "expm1", "sqrt")},
    "relu method": lambda x: x.relu(),
    "module": nn.GELU(approximate="tanh"),
    "relu_": lambda x: changed(x, lambda y: y.relu_()),
    "relu in place": lambda x: changed(x, lambda y: F.relu(y, inplace=True)),
    "module in place": lambda x: nn.SiLU(inplace=True)(x.clone()),
    "in place on a view": lambda x: changed(x, lambda y: y[:, 1].tanh_()),
    "torch.relu_": lambda x: torch.relu_(x.clone()),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3], dtype=D)),
    "pow": lambda x: x**2,
    "float_power": lambda x: x.float_power(3.0),
    "hardsigmoid": F.hardsigmoid,
    "local response norm": lambda x: F.local_response_norm(x, 2),
    "rms norm": lambda x: F.rms_norm(x, (4,), ROW),
    "unit vectors": lambda x: F.normalize(x, dim=-1),
    "rms norm by hand": lambda x: ROW * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "divided by its norm": lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "over its deviation": lambda x: x / (x.var(1, keepdim=True) + 1e-5).sqrt(),
    "sign": lambda x: x * x.sign(),
    "swish by hand": lambda x: x * torch.sigmoid(1.7 * x),
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "exact gelu by hand": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "times a detached norm": lambda x: x * x.mean().detach().reciprocal(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_pass_relevance_on(name: str) -> None:
    x = numbers(2, 3, 4)
    upper = numbers(2, 3, 4, seed=3)
    x = x.abs() if name in ("sqrt", "log1p") else x
    found = by_rules(ACTIVATIONS[name], x, upper=upper)
    close(found.relevance[0], upper, 1e-14)
    close(found.output, ACTIVATIONS[name](x), 1e-15)


X, Y = numbers(2, 3, 4), numbers(2, 3, 4, seed=2)
UP = numbers(2, 3, 4, seed=3)
NONE = torch.zeros_like(X)

PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = {
    "equal halves": (lambda x, y: x * y, UP / 2, UP / 2),
    "of activations": (lambda x, y: x.relu() * F.gelu(y), UP / 2, UP / 2),
    "in place": (lambda x, y: x.clone().mul_(y), UP / 2, UP / 2),
    "x times x": (lambda x, y: x * x, UP, NONE),
    "gate by sigmoid": (lambda x, y: x * y.sigmoid(), UP, NONE),
    "gate first": (lambda x, y: torch.sigmoid(x) * y, NONE, UP),
    "gate by hardsigmoid": (lambda x, y: F.hardsigmoid(x).mul(y), NONE, UP),
    "gate scaled": (lambda x, y: x * (2 * (1 - y.sigmoid())), UP, NONE),
    "gate moved": (lambda x, y: x * y.sigmoid().flip(-1).flip(-1), UP, NONE),
    "gate cloned": (lambda x, y: x * y.sigmoid().clone().contiguous(), UP, NONE),
    "gate viewed as the other": (lambda x, y: x * y.sigmoid().view_as(x), UP, NONE),
    "gate expanded as the other": (lambda x, y: x * y[:, :, 0].sigmoid()[..., None].expand_as(x), UP, NONE),
    "gate of the other's type": (lambda x, y: x * y.sigmoid().type_as(x), UP, NONE),
    "gate by tanh of a bounded": (lambda x, y: x.tanh() * y.sigmoid(), UP, NONE),
    "tanh only": (lambda x, y: x * y.tanh(), UP, NONE),
    "softmax gate": (lambda x, y: x * y.softmax(-1), UP, NONE),
    "broadcast gate": (lambda x, y: x * y[:, :, :1], UP, NONE),
    "squeeze and excite": (lambda x, y: x * F.relu(y.mean(2, keepdim=True)).sigmoid(), UP, NONE),
    "glu": (lambda x, y: F.glu(torch.cat([x, y], -1), -1), UP, NONE),
    "addcmul": (lambda x, y: torch.addcmul(torch.zeros_like(x), x, y.sigmoid(), value=3.0), UP, NONE),
    "quotient": (lambda x, y: x / y, UP, NONE),
    "quotient in place": (lambda x, y: x.clone().div_(y), UP, NONE),
    "over a sum": (lambda x, y: x / (1 + y.exp()), UP, NONE),
    "constant over": (lambda x, y: x * (3.0 / y), UP, NONE),
    "reciprocal": (lambda x, y: x * y.reciprocal(), UP, NONE),
    "negative power": (lambda x, y: x * y.abs() ** -0.5, UP, NONE),
    "a number to the power": (lambda x, y: x * 2**y, UP, NONE),
    "the larger": (torch.maximum, torch.where(X > Y, UP, 0.0), torch.where(X > Y, 0.0, UP)),
    "the larger, by max": (torch.max, torch.where(X > Y, UP, 0.0), torch.where(X > Y, 0.0, UP)),
    "the smaller": (torch.fmin, torch.where(X < Y, UP, 0.0), torch.where(X < Y, 0.0, UP)),
    "lerp": (
        lambda x, y: torch.lerp(x, y, 0.25),
        UP * 0.75 * X / (0.75 * X + 0.25 * Y),
        UP * 0.25 * Y / (0.75 * X + 0.25 * Y),
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_quotients_of_two(name: str) -> None:
    function, *expected = PRODUCTS[name]
    found = by_rules(function, X, Y, upper=UP)
    close(found.output, function(X, Y), 1e-15)
    for each, right in zip(found.relevance, expected, strict=True):
        close(each, right, 1e-9) if right.any() else close(each, right)
    assert gaps(found.accounts) < 1e-12


def test_the_larger_of_a_tensor_and_a_constant() -> None:
    found = by_rules(lambda x: torch.maximum(x, CONSTANT), X, upper=UP)
    close(found.relevance[0], torch.where(X > CONSTANT, UP, 0.0))
    assert found.absorbed("constants") == pytest.approx(float(UP[X < CONSTANT].sum()))


def test_broadcast_products_are_summed_to_the_shape_of_each() -> None:
    x, y = numbers(2, 3, 1), numbers(1, 3, 1, seed=2)
    upper = numbers(2, 3, 1, seed=3)
    found = by_rules(lambda x, y: x * y.expand(2, 3, 1), x, y, upper=upper)
    close(found.relevance[0], upper / 2)
    close(found.relevance[1], upper.sum(0, keepdim=True) / 2)


MAXIMA: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "amax": (lambda x: x.amax(-1), lambda x: (x == x.amax(-1, keepdim=True)).double()),
    "max with indices": (lambda x: x.max(-1)[0], lambda x: (x == x.amax(-1, keepdim=True)).double()),
    "min": (lambda x: x.min(dim=-1).values, lambda x: (x == x.amin(-1, keepdim=True)).double()),
    "max_pool1d": (lambda x: F.max_pool1d(x, 4)[..., 0], lambda x: (x == x.amax(-1, keepdim=True)).double()),
    "adaptive": (lambda x: F.adaptive_max_pool1d(x, 1)[..., 0], lambda x: (x == x.amax(-1, keepdim=True)).double()),
    "topk": (lambda x: x.topk(1).values[..., 0], lambda x: (x == x.amax(-1, keepdim=True)).double()),
    "sort": (lambda x: x.sort(descending=True).values[..., 0], lambda x: (x == x.amax(-1, keepdim=True)).double()),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_what_was_selected_gets_all(name: str) -> None:
    function, chosen = MAXIMA[name]
    upper = numbers(2, 3, seed=3)
    found = by_rules(function, X, upper=upper)
    close(found.relevance[0], chosen(X) * upper[..., None])


def softmax_by_hand(x: Tensor, relevance: Tensor) -> Tensor:
    """R_i = x_i (R_i - s_i Σ_j R_j) along the last dimension, row by row."""
    found = torch.zeros_like(x)
    for place in [(i, j) for i in range(x.shape[0]) for j in range(x.shape[1])]:
        powers = [math.exp(each) for each in x[place].tolist()]
        total = sum(relevance[place].tolist())
        for i, power in enumerate(powers):
            found[place][i] = x[place][i] * (relevance[place][i] - power / sum(powers) * total)
    return found


@pytest.mark.parametrize("function", [lambda x: x.softmax(-1), lambda x: F.softmax(input=x, dim=-1), nn.Softmax(-1)])
@pytest.mark.parametrize("attention", ["constant", "attnlrp"])
def test_softmax_to_first_order(function: Callable[[Tensor], Tensor], attention: Any) -> None:
    found = by_rules(function, X, upper=UP, attention=attention)
    close(found.relevance[0], softmax_by_hand(X, UP))
    assert found.absorbed("bias") == pytest.approx(float((UP - softmax_by_hand(X, UP)).sum()))


def test_softmax_with_masked_scores() -> None:
    def function(x: Tensor) -> Tensor:
        return x.masked_fill(MASK, -math.inf).softmax(-1)

    keep = ~MASK
    keep[:, :, 0] = True
    x, mask = X, ~keep
    found = by_rules(lambda x: x.masked_fill(mask, -math.inf).softmax(-1), x, upper=UP, attention="attnlrp")
    expected = torch.zeros_like(x)
    for i in range(2):
        for j in range(3):
            open_ = keep[i, j]
            row, relevance = x[i, j][open_], UP[i, j][open_]
            share = torch.tensor([math.exp(each) for each in row.tolist()], dtype=D)
            expected[i, j][open_] = row * (relevance - share / share.sum() * relevance.sum())
    close(found.relevance[0], expected)


@pytest.mark.parametrize(
    ("function", "slopes"),
    [
        (
            lambda x: x.log_softmax(-1),
            lambda x: torch.eye(4, dtype=D) - x.exp()[..., None, :] / x.exp().sum(-1)[..., None, None],
        ),
        (lambda x: x.logsumexp(-1, keepdim=True), lambda x: x.exp()[..., None, :] / x.exp().sum(-1)[..., None, None]),
    ],
)
def test_other_functions_to_first_order(function: Any, slopes: Any) -> None:
    output = function(X)
    upper = UP[..., : output.shape[-1]]
    found = by_rules(function, X, upper=upper)
    expected = (X[..., None, :] * slopes(X) * (upper / output)[..., None]).sum(-2)
    close(found.relevance[0], expected)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "reciprocal": lambda x: x.reciprocal(),
    "rsqrt": lambda x: x.abs().rsqrt(),
    "norm": lambda x: x.norm(dim=-1),
    "std": lambda x: x.std(-1),
    "var": lambda x: x.var(-1),
    "__rdiv__": lambda x: 1 / x,
    "pow": lambda x: x**-2,
    "prod": lambda x: x.prod(-1),
    "cos": torch.cos,
    "cdist": lambda x: torch.cdist(x, x),
    "logcumsumexp": lambda x: x.logcumsumexp(-1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_only_if_relevance_reaches_it(name: str) -> None:
    function = REFUSED[name]

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    def unreached(x: Tensor) -> Tensor:
        function(x)
        return x.relu()

    inner = Inner()
    model = Function(lambda x: inner(x), inner=inner)
    with pytest.raises(UnsupportedOperationError, match=rf"{name} in inner \(Inner\).*register_rule\('{name}'"):
        by_rules(model, X)
    close(by_rules(unreached, X, upper=UP).relevance[0], UP)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.clone().exp_(), lambda x: x.clone().cos_(), lambda x: torch.ones_like(x).copy_(x).log_()],
)
def test_an_operation_in_place_without_a_rule_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOperationError, match="in the model itself"):
        by_rules(function, X)


def test_shapes_of_tensors_made_like_others_carry_nothing() -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.ones_like(x) + x.new_full(x.shape, 0.5) + torch.zeros_like(x)

    found = by_rules(function, X, upper=UP)
    close(found.relevance[0], UP * X / (X + 1.5))
    assert found.absorbed("constants") == pytest.approx(float((UP * 1.5 / (X + 1.5)).sum()))


BILINEAR: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "matmul": (lambda x, y: x @ y.transpose(1, 2), "nid,njd->nij"),
    "bmm": (lambda x, y: torch.bmm(x, y.mT), "nid,njd->nij"),
    "einsum": (lambda x, y: torch.einsum("nid,njd->nij", x, y), "nid,njd->nij"),
    "einsum over the batch": (lambda x, y: torch.einsum("nid,nje->ijde", x, y), "nid,nje->ijde"),
    "baddbmm": (lambda x, y: torch.baddbmm(torch.empty(2, 3, 3, dtype=D), x, y.mT, beta=0), "nid,njd->nij"),
    "linear": (lambda x, y: torch.stack([F.linear(a, b) for a, b in zip(x, y, strict=True)]), "nid,njd->nij"),
    "by keywords": (lambda x, y: torch.matmul(input=x, other=y.mT), "nid,njd->nij"),
}


@pytest.mark.parametrize("name", BILINEAR)
def test_products_of_two_matrices_share_equally(name: str) -> None:
    function, terms = BILINEAR[name]
    inputs, output = terms.split("->")
    first, second = inputs.split(",")
    every = "".join(sorted(set(first + second)))
    products = torch.einsum(f"{inputs}->{every}", X, Y)
    z = torch.einsum(f"{every}->{output}", products)
    upper = numbers(*z.shape, seed=3)
    parts = products * torch.einsum(f"{output},{every}->{every}", upper / stabilized(z), torch.ones_like(products)) / 2
    found = by_rules(function, X, Y, upper=upper)
    close(found.relevance[0], torch.einsum(f"{every}->{first}", parts))
    close(found.relevance[1], torch.einsum(f"{every}->{second}", parts))
    assert gaps(found.accounts) < 1e-9


def test_the_weights_of_an_attention_are_a_gate_in_a_product() -> None:
    def function(scores: Tensor, values: Tensor) -> Tensor:
        return scores.softmax(-1) @ values

    scores, values = numbers(2, 3, 3), Y
    weights = torch.stack([torch.stack([row.exp() / row.exp().sum() for row in each]) for each in scores])
    z = (weights[..., None] * values[:, None]).sum(2)
    parts = weights[..., None] * values[:, None] * (UP / stabilized(z))[:, :, None]
    found = by_rules(function, scores, values, upper=UP)
    close(found.relevance[1], parts.sum(1))
    assert not found.relevance[0].any()
    found = by_rules(function, scores, values, upper=UP, attention="attnlrp")
    close(found.relevance[1], parts.sum(1) / 2)
    close(found.relevance[0], softmax_by_hand(scores, parts.sum(-1) / 2))


@pytest.mark.parametrize("onto", ["constant", "dependent"])
def test_what_is_scattered_is_shared_by_contribution(onto: str) -> None:
    index = torch.tensor([[0, 1, 1], [2, 0, 0]])
    given, upper = numbers(2, 3, seed=4), numbers(2, 4, seed=5)
    base = numbers(2, 4, seed=6)
    if onto == "constant":
        expected, constants = by_contribution(lambda x: base.scatter_add(1, index, x), [given], upper)
        found = by_rules(lambda x: base.scatter_add(1, index, x), given, upper=upper)
        assert found.absorbed("constants") == pytest.approx(constants)
    else:
        expected, _ = by_contribution(lambda x, y: y.scatter_add(1, index, x), [given, base], upper)
        found = by_rules(lambda x, y: y.scatter_add(1, index, x), given, base, upper=upper)
    for mine, right in zip(found.relevance, expected, strict=True):
        close(mine, right)
    assert gaps(found.accounts) < 1e-12


def test_a_linear_map_with_weights_that_depend_on_the_inputs() -> None:
    """Half to each operand of the product, and to the bias what it adds."""
    x, weight, bias, upper = numbers(2, 3), numbers(4, 3, seed=4), numbers(4, seed=5), numbers(2, 4, seed=6)
    found = by_rules(lambda x, weight: F.linear(x, weight, bias), x, weight, upper=upper)
    z = x @ weight.T
    share = (z / stabilized(z + bias) * upper) / stabilized(z)
    parts = x[:, None] * weight * share[..., None]
    close(found.relevance[0], parts.sum(1) / 2)
    close(found.relevance[1], parts.sum(0) / 2)
