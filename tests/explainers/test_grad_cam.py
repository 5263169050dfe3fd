from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerGradCam
from torch import Tensor, nn

from pnpxai.errors import InputError, ParameterError, UnsupportedModelError
from pnpxai.explainers import GradCam
from pnpxai.explainers._layers import layer_name
from pnpxai.forward import count_forwards
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


def by_hand(maps: Tensor, slopes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Equations 1 and 2 on feature maps ``(n, k, …)``."""
    weights = slopes.flatten(2).mean(2)
    coarse = torch.stack([sum(a * m for a, m in zip(*each, strict=True)) for each in zip(weights, maps, strict=True)])
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(coarse.clamp(min=0)[:, None], size=size, mode=mode).detach()


def seen_by_hook(net: nn.Module, layer: str, x: Tensor, target: int, read: Callable[[Any], Tensor]) -> Tensor:
    """The map of a layer by a hook, its output read as ``(n, k, …)``."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    outputs = net(x)
    handle.remove()
    raw = kept[-1] if isinstance(kept[-1], Tensor) else kept[-1][0]
    (slopes,) = torch.autograd.grad(getattr(outputs, "logits", outputs)[:, target].sum(), raw)
    return by_hand(read(raw), read(slopes), tuple(x.shape[2:]))


def test_pooling_is_not_part_of_the_last_feature_maps() -> None:
    net, x = seeded(VGGLike()), batch(2, 3, 16, 16)
    assert torch.equal(GradCam(net).attribute(x, 1), GradCam(net, layer="features.4").attribute(x, 1))
    series = seeded(TimeCNN())
    found = GradCam(series).attribute(batch(2, 2, 24), 1)
    assert found.shape == (2, 1, 24)
    assert torch.equal(found, GradCam(series, layer="body.4").attribute(batch(2, 2, 24), 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer4"), ("squeezenet1_1", "classifier.2"), ("mobilenet_v3_small", "features")]
)
def test_the_layer_that_is_usually_named_is_found(name: str, layer: str) -> None:
    net, x = seeded(torchvision.models.get_model(name)), batch(1, 3, 64, 64)
    best = net(x).argmax(1)
    coarse = LayerGradCam(net, net.get_submodule(layer)).attribute(x, best, relu_attributions=True).detach()
    expected = F.interpolate(coarse, size=(64, 64), mode="bilinear")
    assert expected.any()
    torch.testing.assert_close(GradCam(net).attribute(x), expected)


class WithFunctions(nn.Module):
    """Convolutions without modules, changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(4, 3, 3, 3)), nn.Parameter(torch.zeros(6, 4, 3, 3))
        self.weight = nn.Parameter(torch.zeros(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(F.conv2d(x, self.first, padding=1)), 2)
        x = F.conv2d(x, self.second)
        x.relu_()
        return F.linear(F.adaptive_avg_pool2d(x.mul_(2), 1).flatten(1), self.weight)


def test_a_network_of_functions_has_the_map_of_its_modules() -> None:
    net, x = seeded(WithFunctions().double()), batch(2, 3, 12, 12, dtype=torch.float64)

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    first, second = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 6, 3, bias=False)
    head = nn.Linear(6, 5, bias=False)
    modules = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), Twice(), nn.AdaptiveAvgPool2d(1))
    whole = nn.Sequential(modules, nn.Flatten(), head).double()
    for layer, weight in zip((first, second, head), net.parameters(), strict=True):
        layer.weight.data.copy_(weight.data)
    found = GradCam(net).attribute(x, 2)
    torch.testing.assert_close(found, GradCam(whole, layer="0.5").attribute(x, 2))
    maps = modules[:6](x).detach().requires_grad_()
    head(maps.mean((2, 3)))[:, 2].sum().backward()
    torch.testing.assert_close(found, by_hand(maps, maps.grad, (12, 12)))


def test_volumes() -> None:
    net = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(24, 2))
    net, x = seeded(net), batch(2, 1, 6, 7, 6)
    coarse = LayerGradCam(net, net[1]).attribute(x, 1, relu_attributions=True).detach()
    expected = F.interpolate(coarse, size=(6, 7, 6), mode="trilinear")
    assert expected.any()
    torch.testing.assert_close(GradCam(net).attribute(x, 1), expected)


class Patches(nn.Module):
    """A transformer on 2 × 4 patches of 4 × 4, cut out without a convolution, its class token first or last."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.embed, self.qkv, self.read = nn.Linear(48, 6), nn.ModuleList(nn.Linear(6, 18) for _ in range(3)), read
        self.token, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

    def embedded(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (2, 4)).unflatten(4, (4, 4)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)
        token = self.token.expand(len(x), 1, 6)
        return torch.cat([token, self.embed(x)] if self.read == "first" else [self.embed(x), token], 1)

    def block(self, number: int, x: Tensor) -> Tensor:
        return x + F.scaled_dot_product_attention(*self.qkv[number](x).chunk(3, -1))

    def finished(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0] if self.read == "first" else x[:, -1] if self.read == "last" else x[:, :-1].mean(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedded(x)
        for number in range(3):
            x = self.block(number, x)
        return self.finished(x)


@pytest.mark.parametrize("read", ["first", "last", "mean"])
def test_the_tokens_of_patches_are_a_grid_without_the_class_token(read: str) -> None:
    net, x = seeded(Patches(read).double()), batch(2, 3, 8, 16, dtype=torch.float64)
    tokens = net.block(1, net.block(0, net.embedded(x)))
    if read == "mean":
        tokens = net.block(2, tokens)
    tokens = tokens.detach().requires_grad_()
    net.finished(tokens if read == "mean" else net.block(2, tokens))[:, 1].sum().backward()
    maps, slopes = (
        (each[:, 1:] if read == "first" else each[:, :-1]).unflatten(1, (2, 4)).permute(0, 3, 1, 2)
        for each in (tokens, tokens.grad)
    )
    expected = by_hand(maps, slopes, (8, 16))
    assert expected.any()
    torch.testing.assert_close(GradCam(net).attribute(x, 1), expected)


def test_a_sample_that_depends_on_nothing_does_not_choose_the_layer() -> None:
    class Switched(Patches):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (x[:, 0, 0, 0] > 0)[:, None]

    net, x = seeded(Switched("first"), 3), batch(3, 3, 8, 16)
    x[:, 0, 0, 0] = torch.tensor([-1.0, 1.0, -1.0])
    found = GradCam(net).attribute(x, 2)
    assert not found[[0, 2]].any()
    expected = GradCam(net).attribute(x[1:2], 2)
    assert expected.any()
    torch.testing.assert_close(found[1:2], expected)


@pytest.mark.parametrize("layer", [None, "0"])
def test_what_was_found_is_remembered_until_the_model_is_another(layer: str | None) -> None:
    net = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(4, 2)))
    x, other = batch(1, 3, 8, 8), 2 * batch(1, 3, 8, 8) - 1

    def passes(inputs: Tensor, target: Any = 1) -> int:
        with count_forwards() as counter:
            found = GradCam(net, layer=layer).attribute(inputs, target)
        fresh = copy.deepcopy(net)
        torch.testing.assert_close(found, GradCam(fresh, layer=layer).attribute(inputs, target))
        return counter.n_samples

    assert [passes(each) for each in (x, x, other)] == [2, 1, 1]
    assert passes(torch.cat([x, other])) == 2  # as many samples
    assert passes(x, lambda outputs: outputs[:, 1]) == 2  # a function may read others
    net[2] = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(6))
    assert passes(x) == (1 if layer else 3)  # the call that is not what it was, another search, and the maps
    assert passes(x) == 1


def test_places_of_tokens_are_looked_for_again() -> None:
    net, x = seeded(Patches("first"), 3), batch(1, 3, 8, 16)
    assert GradCam(net).attribute(x, 1).any()
    with count_forwards() as counter:
        GradCam(net).attribute(x, 1)
    assert counter.n_samples == 2


def test_channels_last_windows_and_shifts() -> None:
    net = torchvision.models.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=3)
    net, x = seeded(net.double()), batch(2, 3, 12, 16, dtype=torch.float64)
    read = lambda output: output.permute(0, 3, 1, 2)  # noqa: E731
    for layer, name in ((None, "norm"), ("features.1", "features.1"), ("features.3.0", "features.3.0")):
        expected = seen_by_hook(net, name, x, 1, read)
        assert expected.any()
        torch.testing.assert_close(GradCam(net, layer=layer).attribute(x, 1), expected)


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}


def test_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=(8, 16), patch_size=4, **SMALL)
    vit, x = seeded(transformers.ViTForImageClassification(config).double()), batch(2, 3, 8, 16, dtype=torch.float64)
    outputs = vit(x, output_hidden_states=True)
    tokens = outputs.hidden_states[-2]
    (slopes,) = torch.autograd.grad(outputs.logits[:, 1].sum(), tokens)
    maps, slopes = (each[:, 1:].unflatten(1, (2, 4)).permute(0, 3, 1, 2) for each in (tokens, slopes))
    torch.testing.assert_close(GradCam(vit).attribute(x, 1), by_hand(maps, slopes, (8, 16)))

    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    net, x = seeded(transformers.ResNetForImageClassification(config)), batch(2, 3, 32, 48)
    expected = seen_by_hook(net, "resnet.encoder", x, 1, lambda output: output)
    assert expected.any()
    torch.testing.assert_close(GradCam(net).attribute(x, 1), expected)
    torch.testing.assert_close(GradCam(net, layer="resnet.encoder").attribute(x, 1), expected)


class Deciding(nn.Module):
    """Goes deeper where an image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean() > 0
        x = self.first(x).relu()
        x = self.second(x).relu() if bright else x
        return self.head(x.mean((2, 3)))


def test_a_model_that_decides_by_its_input_is_asked_again(set_chunk_size: Callable[[int], None]) -> None:
    net, x = seeded(Deciding()), batch(4, 3, 9, 9)
    x += torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None, None, None]
    set_chunk_size(1)
    found = GradCam(net).attribute(x, 1)
    for image in range(4):
        shallow = net.first(x[image : image + 1]).relu()
        maps = (net.second(shallow).relu() if image % 2 else shallow).detach().requires_grad_()
        net.head(maps.mean((2, 3)))[0, 1].backward()
        torch.testing.assert_close(found[image : image + 1], by_hand(maps, maps.grad, (9, 9)))
    set_chunk_size(2)
    net(x[:2]), net(x[2:])
    assert torch.isfinite(GradCam(net).attribute(x, 1)).all()


def test_what_cannot_be_followed_is_refused() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = VGGLike()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.permute(0, 3, 1, 2))

    class Rearranged(Patches):
        def embedded(self, x: Tensor) -> Tensor:
            return super().embedded(x).sort(1).values

    class Pruned(Patches):
        def block(self, number: int, x: Tensor) -> Tensor:
            return super().block(number, x[:, [0, 1, 2, 6]] if number == 1 else x)

    class TwoWays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 5), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.one(x).relu().mean((2, 3)), self.other(x).relu().mean((2, 3))], 1))

    with pytest.raises(UnsupportedModelError, match="channels, positions"):
        GradCam(seeded(ChannelsLast())).attribute(batch(1, 16, 16, 3))
    with pytest.raises(UnsupportedModelError, match="attention after positions"):
        GradCam(seeded(Rearranged("first"))).attribute(batch(1, 3, 8, 16))
    with pytest.raises(UnsupportedModelError, match="attention after positions"):
        GradCam(seeded(Pruned("first"))).attribute(batch(1, 3, 8, 16))
    two, x = seeded(TwoWays()), batch(1, 3, 9, 9)
    with pytest.raises(UnsupportedModelError, match="all of the score"):
        GradCam(two).attribute(x, 0)
    coarse = LayerGradCam(two, two.other).attribute(x, 0, relu_attributions=True).detach()
    expected = F.interpolate(coarse, size=(9, 9), mode="bilinear")
    torch.testing.assert_close(GradCam(two, layer="other").attribute(x, 0), expected)


class Shrinking(nn.Module):
    """A pyramid with attention over the single position that is left of 2 × 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(6, 6, 2)
        self.qkv = nn.ModuleList(nn.Linear(6, 18) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).flatten(2).transpose(1, 2)
        for each in self.qkv:
            x = x + F.scaled_dot_product_attention(*each(x).chunk(3, -1))
        return self.head(x.mean(1))


def test_attention_at_a_single_position_comes_after_the_last_feature_maps() -> None:
    net, x = seeded(Shrinking()), batch(1, 3, 8, 8)
    torch.testing.assert_close(GradCam(net).attribute(x, 1), rectified_maps(net, x, 1))


def rectified_maps(net: Shrinking, x: Tensor, target: int) -> Tensor:
    """Grad-CAM of the rectified output of the first convolution, by autograd alone."""
    activations = net.first(x).relu().detach().requires_grad_()
    tokens = net.second(activations).flatten(2).transpose(1, 2)
    for each in net.qkv:
        tokens = tokens + F.scaled_dot_product_attention(*each(tokens).chunk(3, -1))
    (slopes,) = torch.autograd.grad(net.head(tokens.mean(1))[:, target].sum(), activations)
    coarse = (slopes.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()
    assert coarse.any()
    return F.interpolate(coarse, size=x.shape[2:], mode="bilinear").detach()


def test_a_convolution_after_positions_were_lost_must_be_named() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x).relu().sort(1).values).relu().mean((2, 3)))

    net, x = seeded(Sorted()), batch(2, 3, 9, 9)
    with pytest.raises(UnsupportedModelError, match="a convolution after positions"):
        GradCam(net).attribute(x, 2)
    expected = seen_by_hook(net, "second", x, 2, lambda output: output)
    assert expected.any()
    torch.testing.assert_close(GradCam(net, layer="second").attribute(x, 2), expected)


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
    assert torch.equal(GradCam(net).attribute(x), GradCam(net, layer="main").attribute(x))
    with pytest.raises(UnsupportedModelError, match="'aside'"):
        GradCam(net, layer="aside").attribute(x)
    with pytest.raises(UnsupportedModelError, match="not called"):
        GradCam(net, layer="never").attribute(x)
    assert layer_name(net, net.never) == "never"
