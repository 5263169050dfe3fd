"""Which positions of the input a model's tokens stand for, measured by changing the input, and back to a map."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pnpxai.errors import PnPXAIError
from pnpxai.explainers._attention import Attentions, by_sample, unsupported
from pnpxai.explainers._gradients import backward_errors, frozen
from pnpxai.forward import Request
from pnpxai.watch import Attending

ONE_STREAM = "self-attentions that all mix the same tokens, with nothing else between them that does"
POSITIONS = "tokens that stand for a grid of positions of the input, in their order"


@dataclass(frozen=True)
class MixedTokens:
    """The tokens that a model's attentions mix.

    Attributes:
        n_attentions: how many attentions run.
        n: tokens, ``t``.
        places: numbers of the tokens that come from the input, in the order of the cells they stand for.
        grid: cells along each dimension of a sample; 1 along dimensions that are shared by all tokens.
    """

    n_attentions: int
    n: int
    places: Tensor
    grid: tuple[int, ...]

    def maps(self, relevance: Tensor, shape: Sequence[int]) -> Tensor:
        """Spread relevance over the positions of the input, linearly between the cells' centres.

        Args:
            relevance: of the tokens, ``(n, t)``.
            shape: of one sample, ``(c, h, w)``, ``(c, t)``, ``(t, d)`` or ``(d,)``.

        Returns:
            ``(n, *shape)``, or with one channel where all channels share a token.

        Example:
            >>> tokens = MixedTokens(1, 3, torch.tensor([1, 2]), (1, 2))
            >>> tokens.maps(torch.tensor([[9.0, 0.0, 1.0]]), (3, 4)).tolist()
            [[[0.0, 0.25, 0.75, 1.0]]]
        """
        found = relevance[:, self.places.to(relevance.device)].reshape(-1, *self.grid)
        for dim, size in enumerate(shape, 1):
            if dim > 1 or self.grid[0] > 1 or len(shape) == 1:
                found = _spread(found, dim, size)
        return found


def _spread(values: Tensor, dim: int, size: int) -> Tensor:
    """Along one dimension: linear interpolation, copies of a single value."""
    moved = values.movedim(dim, -1)
    if moved.shape[-1] == 1:
        return moved.expand(*moved.shape[:-1], size).movedim(-1, dim)
    if moved.shape[-1] == size:
        return values
    flat = F.interpolate(moved.flatten(0, -2).unsqueeze(1), size=size, mode="linear", align_corners=False)
    return flat.reshape(*moved.shape[:-1], size).movedim(-1, dim)


def find_mixed_tokens(request: Request) -> MixedTokens:
    """Find out on the first sample what the attentions of a model mix.

    Every attention has to mix the same tokens, each of which goes its own way between two attentions; and the tokens
    that change with the input have to stand for a grid of its positions. Both are measured: by gradients, and by what
    becomes of the first attention's values when the first or last entries along a dimension of the input change.

    Raises:
        UnsupportedModelError: there is no attention, or one of these does not hold, as in windowed, hierarchical,
            channel and cross-attention.
        InputError: several inputs.
    """
    n_attentions, n = _stream(request)
    places, grid = _positions(request, n)
    return MixedTokens(n_attentions, n, places, grid)


def _stream(request: Request) -> tuple[int, int]:
    """How many attentions there are and of how many tokens; see `find_mixed_tokens`."""
    passed: list[Tensor] = []

    def visit(place: int, attention: Attending) -> Tensor:
        weights, output = attention.weights, attention.output
        t, s = weights.shape[-2:]
        if t != s or (passed and passed[-1].shape[-2] != t):
            before = "" if not passed else f" after one over {passed[-1].shape[-2]} tokens"
            raise unsupported(ONE_STREAM, f"an attention from {t} to {s} tokens{before}")
        total = weights.detach().sum(-1)
        if ((total - 1).abs() > 0.01).logical_and(total != 0).any():
            raise unsupported("attention weights that sum to 1 over the last dimension", "others")
        if place == 0:
            output = output.detach().requires_grad_()
        else:
            _check_path(request, passed[-1], attention)
        passed[:] = [output]
        return output

    with torch.enable_grad(), frozen(request.model), Attentions(visit) as attentions:
        request.call((request.input[:1],))
    if not passed:
        raise unsupported("a model with self-attention", f"{type(request.model).__name__}, in which none was seen")
    if attentions.n != attentions.n_softmaxes:
        raise unsupported(
            "attention weights that are multiplied with the values as they are",
            f"{attentions.n_softmaxes} softmaxes of products, of which {attentions.n} are",
        )
    return attentions.n, passed[0].shape[-2]


def _check_path(request: Request, before: Tensor, attention: Attending) -> None:
    """Refuse an attention whose queries, keys or values at a token come from others than the token itself."""
    n = before.shape[-2]
    query, key, value = 0, n - 1, n // 2
    values = attention.operands[1][..., value, :]
    probe = attention.scores[..., query, key].sum()
    probe = probe + (values * torch.linspace(1, 2, values.shape[-1], dtype=values.dtype, device=values.device)).sum()
    found: set[int] = set()
    if probe.requires_grad:
        with backward_errors(request):
            (slope,) = torch.autograd.grad(probe, (before,), retain_graph=True, allow_unused=True)
        if slope is not None:
            found = set(slope.reshape(-1, *slope.shape[-2:]).ne(0).any(-1).any(0).nonzero().flatten().tolist())
    if found != {query, key, value}:
        sources = ", ".join(map(str, sorted(found)[:6])) + (" …" if len(found) > 6 else "")
        raise unsupported(
            ONE_STREAM,
            f"an attention whose query, key and value at tokens {query}, {key} and {value} come from "
            f"{f'tokens {sources} of' if found else 'no token of'} the attention before, as through windows, "
            "convolutions or another stream",
        )


class _Seen(PnPXAIError):
    """Ends a forward pass that has shown what was wanted."""

    def __init__(self) -> None:
        super().__init__("nothing more", "the first attention", "")


def _positions(request: Request, n: int) -> tuple[Tensor, tuple[int, ...]]:
    """The tokens that come from the input, and the grid they stand for; see `find_mixed_tokens`."""
    sample = request.input[:1]
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise.to(sample.device, sample.dtype) * (sample.abs().amax() or 1)
    whole = _change(request, sample + noise)
    largest = whole.amax(1, keepdim=True)
    places = _above(whole, largest).nonzero().flatten()

    def touched(dim: int, entry: int) -> Tensor:
        changed = sample.clone()
        changed.select(dim, entry).add_(noise.select(dim, entry))
        return _above(_change(request, changed), largest)[places]

    first = [touched(dim, 0) for dim in range(1, sample.ndim)]
    grid = tuple(len(places) // max(int(each.sum()), 1) for each in first)
    if not len(places) or math.prod(grid) != len(places):
        raise unsupported(POSITIONS, f"{n} tokens, of which {len(places)} depend on the input, in cells {grid}")
    cells = torch.arange(len(places), device=places.device).reshape(grid)
    for dim, each in enumerate(first):
        last = touched(dim + 1, -1) if grid[dim] > 1 else each
        ends = [(0, each), (-1, last)] if last.any() else [(0, each)]  # what is left over at the end may have no token
        for entry, found in ends:
            expected = torch.zeros_like(found).index_fill_(0, cells.select(dim, entry).flatten(), True)
            if not torch.equal(found, expected):
                raise unsupported(POSITIONS, f"tokens in another order, or that overlap, along dimension {dim + 1}")
    return places, grid


def _change(request: Request, changed: Tensor) -> Tensor:
    """How much the values of the first attention change, ``(heads, t)``, if the first sample changes to another."""
    kept: list[Tensor] = []

    def visit(_place: int, attention: Attending) -> Tensor:
        kept.append(attention.operands[1])
        raise _Seen

    rows = torch.cat([request.input[:1], changed])
    index = torch.zeros(2, dtype=torch.long, device=rows.device)
    with torch.no_grad(), contextlib.suppress(_Seen), Attentions(visit):
        request.call((rows,), index)
    values = by_sample(kept[0], 2)
    return (values[1] - values[0]).abs().amax(-1)


def _above(change: Tensor, largest: Tensor) -> Tensor:
    """Which tokens change by more than rounding, ``(t,)``.

    Raises:
        UnsupportedModelError: not the same in each head, as where the heads are windows.
    """
    moved = change > largest * torch.finfo(change.dtype).eps ** 0.5
    alive = moved[(largest > 0).flatten()]
    found: Tensor = alive.any(0)
    if not torch.equal(found, alive.all(0)):
        raise unsupported("attention over all tokens of a sample", "attention within windows or groups of them")
    return found
