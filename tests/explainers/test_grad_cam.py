from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from pnpxai.errors import InputError, ParameterError, UnsupportedModelError
from pnpxai.explainers import GradCam
from pnpxai.explainers._layers import layer_name
from tests.harm import untouched
from tests.nets import MLP, RaisesAt, TimeCNN, VGGLike, batch, seeded


def bilinear(coarse: Tensor, height: int, width: int) -> Tensor:
    """Pixel by pixel, with pixel centres half a pixel in and borders repeated."""
    rows, columns = coarse.shape
    out = torch.zeros(height, width, dtype=coarse.dtype)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = min(int(y), rows - 2), min(int(x), columns - 2)
            v, u = y - top, x - left
            out[i, j] = (
                (1 - v) * (1 - u) * coarse[top, left]
                + (1 - v) * u * coarse[top, left + 1]
                + v * (1 - u) * coarse[top + 1, left]
                + v * u * coarse[top + 1, left + 1]
            )
    return out


def test_against_a_slow_derivation() -> None:
    net, x = seeded(VGGLike().double()), batch(2, 3, 16, 16, dtype=torch.float64)
    found = GradCam(net, layer="features.3").attribute(x, 2)
    assert found.shape == (2, 1, 16, 16)
    for image in range(2):
        activations = net.features[:4](x[image : image + 1]).detach().requires_grad_()
        net.classifier(net.features[4:](activations))[0, 2].backward()
        coarse = torch.zeros(8, 8, dtype=torch.float64)
        for channel in range(8):
            coarse += activations.grad[0, channel].mean() * activations[0, channel].detach()
        torch.testing.assert_close(found[image, 0], bilinear(coarse.clamp(min=0), 16, 16))


@pytest.mark.parametrize("layer", ["features.0", "features.3", "features.4", "features.5", "features"])
def test_against_captum(layer: str) -> None:
    net, x, targets = seeded(VGGLike()), batch(3, 3, 16, 16), torch.tensor([4, 0, 2])
    coarse = LayerGradCam(net, net.get_submodule(layer)).attribute(x, targets, relu_attributions=True).detach()
    expected = F.interpolate(coarse, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(GradCam(net, layer=layer).attribute(x, targets), expected)
    torch.testing.assert_close(GradCam(net, layer=net.get_submodule(layer)).attribute(x, targets), expected)


def test_the_last_spatial_layer_is_found() -> None:
    net, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    assert torch.equal(GradCam(net).attribute(x, 1), GradCam(net, layer="features.5").attribute(x, 1))
    series = seeded(TimeCNN())
    found = GradCam(series).attribute(batch(2, 2, 24), 1)
    assert found.shape == (2, 1, 24)
    assert torch.equal(found, GradCam(series, layer="body.4").attribute(batch(2, 2, 24), 1))


def test_a_pool_to_one_position_is_not_spatial_and_functions_are_seen_through() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(F.relu(self.conv(x), inplace=True)).flatten(1))

    net, x = seeded(Functional().double()), batch(2, 3, 9, 9, dtype=torch.float64)
    found = GradCam(net).attribute(x, 1)
    before = net.conv(x).detach().requires_grad_()
    net.head(before.relu().mean((2, 3)))[:, 1].sum().backward()
    coarse = (before.grad.mean((2, 3), keepdim=True) * before.detach()).sum(1, keepdim=True).clamp(min=0)
    torch.testing.assert_close(found, F.interpolate(coarse, size=(9, 9), mode="bilinear"))


def test_an_inplace_relu_after_the_layer_changes_nothing() -> None:
    plain, inplace = seeded(VGGLike()), seeded(VGGLike(inplace=True))
    x = batch(2, 3, 16, 16)
    expected = GradCam(plain, layer="features.3").attribute(x, 1)
    assert torch.equal(GradCam(inplace, layer="features.3").attribute(x, 1), expected)


def test_of_a_reused_layer_the_last_call_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu()).sum((2, 3))

    net, x = seeded(Twice().double()), batch(2, 3, 6, 6, dtype=torch.float64)
    expected = net.conv(net.conv(x).relu())[:, :1].clamp(min=0).detach()
    torch.testing.assert_close(GradCam(net).attribute(x, 0), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_harm_and_the_same_map_for_every_chunk_size(
    mode: Callable[[], torch.no_grad], set_chunk_size: Callable[[int], None]
) -> None:
    net, x = seeded(VGGLike(inplace=True)), batch(5, 3, 16, 16)
    whole = GradCam(net).attribute(x)
    set_chunk_size(2)
    with mode(), untouched(net, x):
        torch.testing.assert_close(GradCam(net).attribute(x), whole)
    broken = RaisesAt(net, 3).eval()
    with untouched(broken, x), pytest.raises(Exception, match="broke here"):
        GradCam(broken).attribute(x, 1)


def test_what_it_cannot_do_is_said() -> None:
    net, x = seeded(VGGLike()), batch(1, 3, 16, 16)
    with pytest.raises(ParameterError, match="features"):
        GradCam(net, layer="feature.3").attribute(x)
    with pytest.raises(ParameterError, match="no part of it"):
        GradCam(net, layer=nn.Conv2d(3, 3, 3)).attribute(x)
    with pytest.raises(UnsupportedModelError, match="keeps positions"):
        GradCam(net, layer="classifier.1").attribute(x)
    with pytest.raises(InputError):
        GradCam(seeded(MLP())).attribute(batch(1, 6))
    flat = seeded(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    with pytest.raises(UnsupportedModelError, match="more than one position"):
        GradCam(flat).attribute(x)


def test_a_layer_beside_the_way_to_the_score_is_refused() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside, self.never = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.main(x).mean((2, 3)), self.aside(x)

    net, x = seeded(Aside()), batch(1, 3, 8, 8)
    with pytest.raises(UnsupportedModelError, match="'aside'"):
        GradCam(net).attribute(x)
    with pytest.raises(UnsupportedModelError, match="not called"):
        GradCam(net, layer="never").attribute(x)
    assert layer_name(net, net.never) == "never"
