"""The models of the zoo: small, of every kind of data, trained where that takes seconds, and some that are awkward."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks import architectures, zoo_awkward, zoo_data
from pnpxai.callables import Model
from pnpxai.photographs import efficientnet_lite0

SIDE = 32
"""Pixels of a picture."""
N_CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """One model of the zoo.

    Attributes:
        name: what the table calls it.
        family: where it is from.
        make: builds it.
        inputs: what it is explained on: a few for the dry run; another real one, alone; noise.
        targets: as of `recommend`.
        extractors: arguments of explainers that say what is explained.
        modality: as of `recommend`.
    """

    name: str
    family: str
    make: Callable[[], Model]
    inputs: Callable[[], Sequence[Any]]
    targets: Callable[[Tensor], Tensor] | None = None
    extractors: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    modality: str | None = None

    def built(self) -> Model:
        """The model, whose random weights are the same each time."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.make()


def noise(*shape: int) -> Tensor:
    """Random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def pictures(side: int = SIDE) -> list[Tensor]:
    """Two photographs and noise."""
    return [*zoo_data.photos(side), noise(1, 3, side, side)]


def untrained(make: Callable[[], nn.Module], *seen: Tensor) -> nn.Module:
    """A model with random weights and biases, and batch-norm statistics of what it has seen, or random ones.

    With random statistics deep networks go dead, or blow up.
    """
    model = architectures.enlivened(make().eval())
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if seen and norms:
        for each in norms:
            each.momentum = 0.5
            each.train()
        with torch.no_grad():
            for _ in range(8):
                model(torch.cat(seen))
    return model.eval()


def of_pictures(make: Callable[[], nn.Module], side: int = SIDE) -> nn.Module:
    """`untrained`, having seen photographs and noise."""
    return untrained(make, *pictures(side))


# torchvision


def torchvision_nets() -> dict[str, tuple[int, Callable[[], nn.Module]]]:
    """Small networks of torchvision's, or small ones of its classes, each with the pixels it is explained on."""
    models = torchvision.models
    named = "mobilenet_v3_small squeezenet1_1 shufflenet_v2_x0_5 regnet_y_400mf"
    blocks = [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)]
    made = {
        "VisionTransformer": partial(models.VisionTransformer, SIDE, 8, 3, 3, 48, 96, num_classes=N_CLASSES),
        "SwinTransformer": partial(
            models.SwinTransformer, [4, 4], 24, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=N_CLASSES
        ),
        "ConvNeXt": partial(models.ConvNeXt, blocks, num_classes=N_CLASSES),
        "DenseNet": partial(models.DenseNet, 12, (2, 2, 2), 16, num_classes=N_CLASSES),
        "MaxVit": partial(models.MaxVit, (SIDE, SIDE), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=N_CLASSES),
        **{name: partial(models.get_model, name, num_classes=N_CLASSES) for name in named.split()},
        "googlenet": googlenet,
    }
    resnet = partial(models.resnet18, num_classes=N_CLASSES)
    return {"resnet18": (48, resnet), **{name: (SIDE, make) for name, make in made.items()}}


def googlenet() -> nn.Module:
    """GoogLeNet, which returns a named tuple in training."""
    net = torchvision.models.googlenet(weights=None, num_classes=N_CLASSES, init_weights=False, aux_logits=False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


def segmentation() -> nn.Module:
    """A network of torchvision's that returns a dictionary of maps of classes."""
    return torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


def mean_of_second(outputs: Tensor) -> Tensor:
    """The second class, over all pixels."""
    return outputs[:, 1].mean((1, 2))


def of_torchvision() -> Iterator[Subject]:
    """`torchvision_nets`, and a segmentation network."""
    for name, (side, make) in torchvision_nets().items():
        yield Subject(name, "torchvision", partial(of_pictures, make, side), partial(pictures, side))
    yield Subject("LR-ASPP (dict)", "torchvision", partial(of_pictures, segmentation), pictures, mean_of_second)


# timm

SMALL_VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL_VIT,
    "deit_tiny_distilled_patch16_224": SMALL_VIT,
    "eva02_tiny_patch14_224": {"img_size": 56, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "cait_xxs24_224": {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4},
    "MlpMixer": {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "num_blocks": 2},
    "convnextv2_atto": {},
    "pvt_v2_b0": {},
    "mobilevit_xxs": {},
    "ghostnet_100": {},
    "repvgg_a0": {},
}
"""Name to arguments that make it small."""


def timm_net(name: str, **config: Any) -> nn.Module:
    """A network of timm's."""
    import timm

    if name == "MlpMixer":
        return timm.models.mlp_mixer.MlpMixer(num_classes=N_CLASSES, **config)
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=N_CLASSES, **config)
    return net


def of_timm() -> Iterator[Subject]:
    """EfficientNet-Lite0 with its real weights, and `TIMM`."""
    yield Subject("EfficientNet-Lite0 (pretrained)", "pretrained", efficientnet_lite0, partial(pictures, 64))
    for name, config in TIMM.items():
        title = name.removesuffix("_224")
        side = config.get("img_size", SIDE)
        make = partial(of_pictures, partial(timm_net, name, **config), side)
        yield Subject(title, "timm", make, partial(pictures, side))


# Hugging Face

WORDS = 30522
BERT = {
    "vocab_size": WORDS,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 3,
    "pad_token_id": 0,
}
VISION = {name: each for name, each in BERT.items() if name not in ("vocab_size", "pad_token_id")} | {
    "image_size": SIDE,
    "patch_size": 8,
}
HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", BERT),
    "ALBERT": ("AlbertForSequenceClassification", {**BERT, "embedding_size": 24}),
    "DistilBERT": (
        "DistilBertForSequenceClassification",
        {"vocab_size": WORDS, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "num_labels": 3},
    ),
    "DeBERTa-v2": (
        "DebertaV2ForSequenceClassification",
        {**BERT, "attention": "eager", "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "GPT-2": (
        "GPT2ForSequenceClassification",
        {"vocab_size": WORDS, "n_embd": 48, "n_layer": 2, "n_head": 4, "num_labels": 3, "pad_token_id": 0},
    ),
    "LLaMA": ("LlamaForSequenceClassification", {**BERT, "num_key_value_heads": 2}),
}
HUGGING_FACE_VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTForImageClassification", VISION),
    "SegFormer": (
        "SegformerForImageClassification",
        {
            "attention": "eager",
            "hidden_sizes": [16, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
            "depths": [1, 1, 1, 1],
            "num_labels": 3,
        },
    ),
}


def hugging_face(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """A model from a small configuration."""
    return untrained(partial(architectures.hugging_face, kind, **config))


class Friendly(nn.Module):
    """MiniLM, its states averaged over a sentence's words, and a trained linear head: unfriendly or friendly."""

    def __init__(self) -> None:
        super().__init__()
        self.body = architectures.minilm().inner
        self.head = nn.Linear(384, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(n, 2)``."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(states.dtype)
        return self.head((states * kept).sum(1) / kept.sum(1))

    @classmethod
    def trained(cls) -> nn.Module:
        """With its head trained on a few sentences."""
        model = cls().eval()
        batch = zoo_data.tokenized([each for each, _ in zoo_data.SENTENCES])
        head, model.head = model.head, nn.Identity()
        with torch.no_grad():
            means = model(batch["input_ids"], batch["attention_mask"])
        model.head = zoo_data.fitted(head, means, torch.tensor([each for _, each in zoo_data.SENTENCES]), 60, 0.02)
        return model


def of_hugging_face() -> Iterator[Subject]:
    """Models of token ids, of pictures and of sound from configurations, and MiniLM with its real weights."""
    for name, (kind, config) in HUGGING_FACE.items():
        yield Subject(f"{name} (ids)", "Hugging Face", partial(hugging_face, kind, config), zoo_data.texts)
    yield Subject("MiniLM with a head (ids)", "trained", Friendly.trained, zoo_data.texts)
    for name, (kind, config) in HUGGING_FACE_VISION.items():
        yield Subject(f"{name} (HF)", "Hugging Face", partial(hugging_face, kind, config), pictures)


# Text


class TextCNN(nn.Module):
    """Convolutions over embedded words (Kim, 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24)
        self.convolutions = nn.ModuleList(nn.Conv1d(24, 16, size, padding=1) for size in (2, 3))
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``(n, 3)``."""
        x = self.embedding(ids).transpose(1, 2)
        return self.head(torch.cat([each(x).relu().amax(2) for each in self.convolutions], 1))


class TextLSTM(nn.Module):
    """An LSTM over embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24)
        self.recurrent = nn.LSTM(24, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``(n, 3)``."""
        return self.head(self.recurrent(self.embedding(ids))[0].mean(1))


class TextTransformer(nn.Module):
    """`torch.nn.TransformerEncoder` over embedded words and places."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24)
        self.places = nn.Embedding(64, 24)
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``(n, 3)``."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.encoder(self.embedding(ids) + self.places(places)).mean(1))


def of_text() -> Iterator[Subject]:
    """Text models of torch's own layers."""
    for name, make in {"text CNN": TextCNN, "text LSTM": TextLSTM, "nn.TransformerEncoder": TextTransformer}.items():
        yield Subject(f"{name} (ids)", "text", partial(untrained, make), zoo_data.ids)


# Series


class FCN(nn.Sequential):
    """A fully convolutional network (Wang et al., 2017)."""

    def __init__(self, n_channels: int, n_classes: int, width: int = 32) -> None:
        blocks: list[nn.Module] = []
        for channels, size in ((n_channels, 7), (width, 5), (width, 3)):
            convolution = nn.Conv1d(channels, width, size, padding=size // 2)
            blocks += [convolution, nn.BatchNorm1d(width), nn.ReLU()]
        super().__init__(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, n_classes))


class Recurrent(nn.Module):
    """A recurrent layer over series ``(n, c, t)``, its states' maxima over time, and a head."""

    def __init__(self, kind: type[nn.Module], n_channels: int, n_classes: int, both: bool) -> None:
        super().__init__()
        self.recurrent = kind(n_channels, 24, batch_first=True, bidirectional=both)
        self.head = nn.Linear(48 if both else 24, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, k)``."""
        return self.head(self.recurrent(x.transpose(1, 2))[0].amax(1))


SERIES: dict[str, Callable[[int, int], nn.Module]] = {
    "FCN": FCN,
    "BiLSTM": lambda c, k: Recurrent(nn.LSTM, c, k, True),
    "GRU": lambda c, k: Recurrent(nn.GRU, c, k, False),
}
TRAINED = {
    "GunPoint": (("FCN", 30), ("BiLSTM", 40)),
    "ArrowHead": (("FCN", 40),),
    "ItalyPowerDemand": (("FCN", 30), ("GRU", 40)),
    "BasicMotions": (("FCN", 20), ("BiLSTM", 20)),
    "JapaneseVowels_eq": (("FCN", 10), ("BiLSTM", 5), ("GRU", 5)),
}
"""Which network learns which series, for how many epochs."""


def series_net(data: str, kind: str, n_epochs: int) -> nn.Module:
    """A network trained on series."""
    x, y, *_ = zoo_data.series(data)
    return zoo_data.fitted(SERIES[kind](x.shape[1], int(y.max()) + 1), x, y, n_epochs)


def series(data: str) -> list[Tensor]:
    """Two series of the test and noise."""
    x = zoo_data.series(data)[2]
    return [x[:4], x[-1:], noise(*x[:1].shape)]


def of_series() -> Iterator[Subject]:
    """Networks trained on series."""
    for data, nets in TRAINED.items():
        for kind, n_epochs in nets:
            name = f"{kind}, {data.removesuffix('_eq')}"
            yield Subject(name, "series, trained", partial(series_net, data, kind, n_epochs), partial(series, data))


# Features


def features_net(data: str, square: bool = False) -> nn.Module:
    """A perceptron trained on a table, or a convolutional network on its rows as square pictures."""
    x, y, _ = zoo_data.split(*zoo_data.features(data))
    k = int(y.max()) + 1
    if not square:
        return zoo_data.fitted(nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, k)), x, y, 20)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, k)),
    )
    return zoo_data.fitted(net, x.reshape(-1, 1, 8, 8), y, 6)


def features(data: str, square: bool = False) -> list[Tensor]:
    """Two rows of a table that no model was trained on, and noise."""
    x = zoo_data.split(*zoo_data.features(data))[2]
    rows = [x[:4], x[7:8], noise(*x[:1].shape)]
    return [each.reshape(-1, 1, 8, 8) for each in rows] if square else rows


def ensemble(kind: str, data: str) -> Model:
    """The probabilities of scikit-learn's classifier, as a function."""
    from sklearn import ensemble as of_scikit_learn

    x, y, _ = zoo_data.split(*zoo_data.features(data))
    size = {"n_estimators": 20} if kind == "RandomForestClassifier" else {"max_iter": 20}
    fitted = getattr(of_scikit_learn, kind)(random_state=0, **size).fit(x.numpy(), y.numpy())
    return lambda batch: fitted.predict_proba(batch.numpy())


def of_features() -> Iterator[Subject]:
    """Models trained on tables, and on digits as pictures."""
    for data in ("breast_cancer", "wine", "digits"):
        inputs = partial(features, data)
        yield Subject(f"MLP, {data.replace('_', ' ')}", "features, trained", partial(features_net, data), inputs)
    for name, kind in {"forest": "RandomForestClassifier", "boosting": "HistGradientBoostingClassifier"}.items():
        inputs = partial(features, "breast_cancer")
        make = partial(ensemble, kind, "breast_cancer")
        yield Subject(f"{name}, breast cancer (function)", "scikit-learn", make, inputs)
    yield Subject(
        "CNN, digits of 8 × 8", "trained", partial(features_net, "digits", True), partial(features, "digits", True)
    )


# Several inputs, volumes


class PictureAndText(nn.Module):
    """A picture and a question's token ids, multiplied: both are explained."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            architectures.double_convolution(3, 16), nn.MaxPool2d(4), architectures.double_convolution(16, 16)
        )
        self.words = nn.Embedding(WORDS, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        kept = attention_mask[..., None].to(pixel_values.dtype)
        words = (self.words(input_ids) * kept).sum(1) / kept.sum(1)
        return self.head(self.picture(pixel_values).mean((2, 3)) * words.tanh())


def pictures_and_texts() -> list[dict[str, Tensor]]:
    """Two photographs and noise, each with text."""
    return [{"pixel_values": picture, **text} for picture, text in zip(pictures(), zoo_data.texts(), strict=True)]


def pictures_and_tables() -> list[tuple[Tensor, Tensor]]:
    """Two photographs and noise, each with eight features."""
    tables = noise(3, 8).split(1)
    return list(zip(pictures(), tables, strict=True))


class VolumeNet(nn.Sequential):
    """Convolutions over volumes."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(inplace=True), nn.MaxPool3d((1, 2, 2))),
            *(nn.Conv3d(8, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(inplace=True)),
            *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 5)),
        )


def volumes() -> list[Tensor]:
    """Two moving photographs and noise."""
    return [*zoo_data.videos(16, 4), noise(1, 3, 4, 16, 16)]


def of_several() -> Iterator[Subject]:
    """Two inputs, both explained or one of them; volumes."""
    first = {"forward_arg_extractor": lambda both: both[0], "additional_forward_arg_extractor": lambda both: both[1]}
    make = partial(untrained, architectures.TwoInputs)
    yield Subject("picture and table", "two inputs", make, pictures_and_tables)
    yield Subject("picture, table passed on", "two inputs", make, pictures_and_tables, None, first)
    yield Subject("picture and text", "two inputs", partial(untrained, PictureAndText), pictures_and_texts)
    yield Subject("3-D CNN", "volume", lambda: untrained(VolumeNet, *volumes()), volumes)


# Awkward


def mean_of_first(outputs: Tensor) -> Tensor:
    """The first class, over all pixels."""
    return outputs[:, 0].mean((1, 2))


def of_awkward() -> Iterator[Subject]:
    """`zoo_awkward.MODELS` and others that are not plain."""
    for name, make in zoo_awkward.MODELS.items():
        make_seeing = untrained if name in zoo_awkward.ONE_SAMPLE else of_pictures
        yield Subject(name, "awkward", partial(make_seeing, make), pictures)
    yield Subject("left in training mode", "awkward", lambda: zoo_awkward.Dropping().train(), pictures)
    yield Subject("U-Net", "awkward", partial(of_pictures, architectures.UNet), pictures, mean_of_first)
    make = partial(untrained, architectures.Fourier)
    yield Subject("Fourier mixing, embeddings (n, t, d)", "awkward", make, states, modality="text")
    yield Subject("dilated CNN, weight norm", "awkward", partial(untrained, architectures.Temporal), motions)


def states() -> list[Tensor]:
    """Random states of tokens, ``(1, t, 32)``."""
    return list(noise(3, 12, 32).split(1))


def motions() -> list[Tensor]:
    """Series of six channels."""
    return series("BasicMotions")


def zoo() -> Iterator[Subject]:
    """All of them, the quick ones first."""
    families = of_features, of_series, of_text, of_hugging_face, of_several, of_awkward, of_torchvision, of_timm
    for family in families:
        yield from family()
