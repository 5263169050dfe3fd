"""What a model is made of: kinds of modules, and a detector that reads the modules or watches one forward pass."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from pnpxai.batches import Extractor
from pnpxai.callables import Model, check_model
from pnpxai.watch import MATMULS, Operation, watch


class ModuleKind(ABC):  # noqa: B024  # abstract: classes are registered, never derived
    """A kind of module; ``Kind.register(cls)`` adds a class of your own to it.

    Attributes:
        CLASS_NAMES: ends of qualified class names of packages that are matched without importing them.
        FUNCTIONS: names of torch functions that do the same without a module.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ()
    FUNCTIONS: ClassVar[frozenset[str]] = frozenset()


class Linear(ModuleKind):
    """Fully connected layers."""

    CLASS_NAMES = ("transformers.pytorch_utils.Conv1D",)
    FUNCTIONS = frozenset({"linear", "bilinear", "addmm"})


class Convolution(ModuleKind):
    """Convolutions of any dimension, transposed ones too."""

    FUNCTIONS = frozenset({f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)} | {"convolution"})


class Pool(ModuleKind):
    """Pooling over positions."""

    FUNCTIONS = frozenset(
        {f"{a}{k}_pool{d}d" for a in ("", "adaptive_") for k in ("max", "avg") for d in (1, 2, 3)}
        | {f"{a}max_pool{d}d_with_indices" for a in ("", "adaptive_") for d in (1, 2, 3)}
        | {f"{k}_pool{d}d" for k in ("lp", "fractional_max") for d in (1, 2, 3)}
    )


class Norm(ModuleKind):
    """Normalisation layers."""

    FUNCTIONS = frozenset(
        {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"}
    )


class Activation(ModuleKind):
    """Elementwise nonlinearities."""

    FUNCTIONS = frozenset(
        {
            "relu",
            "relu_",
            "relu6",
            "leaky_relu",
            "prelu",
            "rrelu",
            "elu",
            "selu",
            "celu",
            "gelu",
            "silu",
            "mish",
            "tanh",
        }
        | {"sigmoid", "hardswish", "hardsigmoid", "hardtanh", "softplus", "softsign", "logsigmoid", "threshold", "glu"}
    )


class RNN(ModuleKind):
    """Plain recurrent layers and cells."""

    FUNCTIONS = frozenset({"rnn_tanh", "rnn_relu", "rnn_tanh_cell", "rnn_relu_cell"})


class LSTM(ModuleKind):
    """Long short-term memory layers and cells."""

    FUNCTIONS = frozenset({"lstm", "lstm_cell"})


class GRU(ModuleKind):
    """Gated recurrent layers and cells."""

    FUNCTIONS = frozenset({"gru", "gru_cell"})


class Attention(ModuleKind):
    """Self- and cross-attention."""

    CLASS_NAMES = ("Attention", "AttentionBlock", "WindowAttentionV2")
    FUNCTIONS = frozenset(
        {"scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention"}
        | {"_transformer_encoder_layer_fwd"}
    )


class Embedding(ModuleKind):
    """Embeddings of token ids."""

    FUNCTIONS = frozenset({"embedding", "embedding_bag"})


MODULE_KINDS: tuple[type[ModuleKind], ...] = (
    Linear,
    Convolution,
    Pool,
    Norm,
    Activation,
    RNN,
    LSTM,
    GRU,
    Attention,
    Embedding,
)

_TORCH_CLASSES: Mapping[type[ModuleKind], tuple[type, ...]] = {
    Linear: (nn.Linear, nn.Bilinear),
    Convolution: (nn.modules.conv._ConvNd,),
    Pool: (
        nn.modules.pooling._MaxPoolNd,
        nn.modules.pooling._AvgPoolNd,
        nn.modules.pooling._LPPoolNd,
        nn.modules.pooling._AdaptiveAvgPoolNd,
        nn.modules.pooling._AdaptiveMaxPoolNd,
    ),
    Norm: (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm),
    Activation: (
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LogSigmoid),
        *(nn.Threshold, nn.GLU),
    ),
    RNN: (nn.RNN, nn.RNNCell),
    LSTM: (nn.LSTM, nn.LSTMCell),
    GRU: (nn.GRU, nn.GRUCell),
    Attention: (nn.MultiheadAttention,),
    Embedding: (nn.Embedding, nn.EmbeddingBag),
}
for _kind, _classes in _TORCH_CLASSES.items():
    for _class in _classes:
        _kind.register(_class)

_NAMED_PACKAGES = ("torchvision.", "timm.", "transformers.")


@dataclass(frozen=True)
class Architecture:
    """The kinds of modules in a model, each with the places where it was seen.

    Attributes:
        evidence: kind to module paths (``features.0``) or calls (``forward of layers.1: linear``).
    """

    evidence: Mapping[type[ModuleKind], tuple[str, ...]]

    @property
    def kinds(self) -> frozenset[type[ModuleKind]]:
        """The kinds that were seen."""
        return frozenset(self.evidence)

    def __contains__(self, kind: object) -> bool:
        return kind in self.evidence

    def __iter__(self) -> Iterator[type[ModuleKind]]:
        return iter(self.evidence)

    def __len__(self) -> int:
        return len(self.evidence)

    def __str__(self) -> str:
        return "\n".join(
            f"{kind.__name__:<12} {len(places):>4} × (first: {places[0]})" for kind, places in self.evidence.items()
        )


def kinds_of(module: nn.Module) -> tuple[type[ModuleKind], ...]:
    """The kinds one module belongs to by its class (a class of timm or transformers by its qualified name)."""
    found = [kind for kind in MODULE_KINDS if isinstance(module, kind)]
    qualified = f"{type(module).__module__}.{type(module).__qualname__}"
    if qualified.startswith(_NAMED_PACKAGES):
        found += [kind for kind in MODULE_KINDS if kind not in found and qualified.endswith(kind.CLASS_NAMES or "\0")]
    return tuple(found)


def detect_model_architecture(
    model: Model,
    inputs: Any = None,
    *,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> Architecture:
    """Find the kinds of modules in a model.

    Args:
        model: any module; it is run once if inputs are given, never traced or changed. A function has no kinds.
        inputs: a batch as the model takes it. With inputs, functional calls are seen too: ``F.conv2d``, attention by
            ``scaled_dot_product_attention`` or by matmul, softmax, matmul, recurrent cells.
        forward_arg_extractor: picks the model's inputs from ``inputs``.
        additional_forward_arg_extractor: picks further arguments of the model from ``inputs``.

    Example:
        >>> architecture = detect_model_architecture(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU()))
        >>> sorted(kind.__name__ for kind in architecture)
        ['Activation', 'Convolution']
    """
    check_model(model)
    if not isinstance(model, nn.Module):
        return Architecture({})
    evidence: dict[type[ModuleKind], list[str]] = {}
    for path, module in model.named_modules():
        for kind in kinds_of(module):
            evidence.setdefault(kind, []).append(path or type(module).__name__)
    if inputs is not None:
        for operation in watch(
            model,
            inputs,
            forward_arg_extractor=forward_arg_extractor,
            additional_forward_arg_extractor=additional_forward_arg_extractor,
        ).operations:
            seen = _kind_of_call(operation)
            if seen and seen not in kinds_of(operation.module):
                place = f"forward of {operation.path or type(model).__name__}: {operation.name}"
                evidence.setdefault(seen, []).append(place)
    return Architecture({kind: tuple(dict.fromkeys(evidence[kind])) for kind in MODULE_KINDS if kind in evidence})


def _kind_of_call(operation: Operation) -> type[ModuleKind] | None:
    if operation.attends:
        return Attention
    if operation.name in MATMULS and operation.has_parameter:
        return Linear
    return next((kind for kind in MODULE_KINDS if operation.name in kind.FUNCTIONS), None)
