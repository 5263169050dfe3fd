from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnpxai.explainers._following import Following
from pnpxai.explainers._places import Layout, Places

H, W = 4, 6


class Applies(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def followed(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Places | None]:
    net = Applies(function)
    with Following(net).following(x) as seen:
        result = net(x)
    return result, seen.places(result)


def centres(axis: int) -> Tensor:
    """An image ``(1, 2, h, w)`` whose values are the places of its elements along an axis."""
    ys, xs = (torch.arange(size) / size + 0.5 / size for size in (H, W))
    return (ys[:, None] if axis == 0 else xs[None]).expand(1, 2, H, W).clone()


def _windows(x: Tensor) -> Tensor:
    x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
    return x.view(1, 2, 2, 3, 2, 2).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, 2)


def _windows_and_back(x: Tensor) -> Tensor:
    x = _windows(x).view(1, 2, 3, 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(1, H, W, 2)
    return torch.roll(x, (1, 1), (1, 2))


def _merged(x: Tensor) -> Tensor:
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, W % 2, 0, H % 2))
    return torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)


def _averaged(x: Tensor, n: int) -> Tensor:
    return F.linear(x, torch.full((3, n), 1 / n))


def _attended(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return torch.eye(H * W) @ tokens


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "channels last": lambda x: x.movedim(1, -1),
    "windows": _windows,
    "windows and back": _windows_and_back,
    "every other": lambda x: x[:, :, ::2, 1::2],
    "flipped": lambda x: x.flip(3),
    "patches merged": _merged,
    "patches unfolded": lambda x: F.unfold(x, 2, stride=2),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "stacked": lambda x: torch.stack([x, x], 1),
    "rows taken": lambda x: x.index_select(2, torch.tensor([2, 0])),
    "transposed": lambda x: x[0, 0].T,
    "in place": lambda x: x.clone().unsqueeze_(0),
    "mirrored": lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"),
    "kept": lambda x: x.clone().contiguous().to(torch.float32),
    "averaged": lambda x: _averaged(x.permute(0, 2, 3, 1), 2),
    "patches averaged": lambda x: _averaged(_merged(x), 8),
    "a product with a matrix": lambda x: x.movedim(1, -1) @ torch.full((2, 5), 0.5),
    "mean over columns": lambda x: x.mean(3),
    "largest of two": lambda x: torch.stack([x, x], 1).amax(1),
    "largest of two, as a tuple": lambda x: torch.stack([x, x], 1).max(dim=1, keepdim=True)[0],
    "one position at a time": lambda x: F.conv1d(_windows(x).transpose(1, 2), torch.full((3, 2, 1), 0.5)),
    "a sum that brings them back": lambda x: x + (x - x).sort(2).values,
}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", MOVES)
def test_places_go_where_values_go(name: str, axis: int) -> None:
    values, places = followed(MOVES[name], centres(axis))
    assert places is not None
    torch.testing.assert_close(places.axes[axis], values)


def test_what_is_padded_has_no_place() -> None:
    _, places = followed(lambda x: F.pad(x.movedim(1, -1), (0, 0, 1, 0)), centres(0))
    assert places is not None
    assert places.axes[0][:, :, 0].isnan().all()
    assert torch.equal(places.axes[0][:, :, 1:], centres(0).movedim(1, -1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sort(3).values,
        lambda x: x + x.flip(3),
        lambda x: torch.einsum("nkhw->nkwh", x),
        lambda x: x.cumsum(2),
        lambda x: F.conv2d(x.transpose(1, 2), torch.ones(1, H, 1, 3)),
        lambda x: F.conv2d(x.sort(3).values, torch.ones(1, 2, 3, 3)),
        lambda x: F.max_pool2d(x.transpose(2, 3), 2),
    ],
)
def test_places_are_lost_where_they_cannot_be_known(function: Callable[[Tensor], Tensor]) -> None:
    assert followed(function, centres(0))[1] is None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv2d(x, torch.ones(3, 2, 3, 3)),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.conv2d(F.pixel_unshuffle(x, 2), torch.ones(3, 8, 1, 1)),
        lambda x: F.conv2d(_merged(x).permute(0, 3, 1, 2), torch.ones(3, 8, 1, 1)),
        lambda x: torch.cat([F.avg_pool2d(x, 2), F.conv2d(x, torch.ones(3, 2, 2, 2), stride=2)], 1).relu(),
    ],
)
def test_new_grids_are_even(function: Callable[[Tensor], Tensor]) -> None:
    result, places = followed(function, centres(0))
    assert places is not None
    layout = Layout.of(places)
    assert layout is not None
    assert layout.grid == result.shape[2:]
    assert torch.equal(layout.read(result), result)


def test_attention_belongs_where_its_query_does() -> None:
    def attended(x: Tensor) -> Tensor:
        query = x.flatten(2).transpose(1, 2)[:, ::2]
        key = x.flatten(2).transpose(1, 2)
        return (query @ key.transpose(1, 2)).softmax(-1) @ key

    for axis in (0, 1):
        _, places = followed(attended, centres(axis))
        assert places is not None
        torch.testing.assert_close(places.axes[axis], centres(axis).flatten(2).transpose(1, 2)[:, ::2])


def test_a_layout_reads_the_image_back() -> None:
    numbers = torch.arange(2.0 * 2 * H * W).reshape(2, 2, H, W)
    for name in ("tokens", "channels last", "windows", "windows and back", "flipped", "halves"):
        _, places = followed(MOVES[name], centres(0))
        assert places is not None
        layout = Layout.of(places)
        if name == "windows":  # of several samples they are mixed with the batch
            assert layout is None
            continue
        assert layout is not None
        assert layout.grid == (H, W)
        moved = torch.cat([MOVES[name](each[None]) for each in numbers])
        assert layout.fits(moved, 2)
        expected = numbers.flip(1) if name == "halves" else numbers
        assert torch.equal(layout.read(moved), expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: torch.cat([x, x], 3),
        lambda x: x.flatten(2)[:, :, :-1],
        _merged,
        lambda x: x.flatten(),
    ],
)
def test_what_is_no_whole_grid_is_not_read(function: Callable[[Tensor], Tensor]) -> None:
    _, places = followed(function, centres(0))
    assert places is not None
    assert Layout.of(places) is None
