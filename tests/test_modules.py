from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from pnpxai import modules
from pnpxai.errors import ModelError
from pnpxai.modules import MODULE_KINDS, detect_model_architecture, kinds_of
from tests.harm import untouched
from tests.nets import LSTMClassifier, RaisesAt, TinyTransformer, VGGLike, batch, seeded

Functional = Callable[[Tensor, nn.Parameter], Any]


class Written(nn.Module):
    """One function applied to a ``(n, 8, 4)`` input and a 4 × 4 parameter."""

    def __init__(self, function: Functional) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4) * 0.5)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out = self.function(x, self.weight)
        return out[0] if isinstance(out, tuple) else out


def _mha(x: Tensor, w: Tensor) -> Any:
    x = x.transpose(0, 1)
    thrice = torch.cat([w, w, w])
    zeros = torch.zeros(12)
    return F.multi_head_attention_forward(
        x, x, x, 4, 2, thrice, zeros, None, None, False, 0.0, w, zeros[:4], training=False, need_weights=False
    )[0].transpose(0, 1)


def _gates(w: Tensor, gates: int) -> tuple[Tensor, Tensor]:
    return (torch.cat([w] * gates),) * 2


FUNCTIONAL: list[tuple[str, Functional, set[str]]] = [
    ("conv1d", lambda x, w: F.conv1d(x.transpose(1, 2), w[:, :, None]), {"Convolution"}),
    ("conv2d", lambda x, w: F.conv2d(x[:, None], w[None, None]), {"Convolution"}),
    ("conv_transpose1d", lambda x, w: F.conv_transpose1d(x.transpose(1, 2), w[:, :, None]), {"Convolution"}),
    ("convolution", lambda x, w: torch.convolution(x.transpose(1, 2), w[:, :, None], None, [1], [0], [1], False, [0], 1), {"Convolution"}),  # noqa: E501
    ("linear", lambda x, w: F.linear(x, w), {"Linear"}),
    ("matmul with a parameter", lambda x, w: x @ w, {"Linear"}),
    ("addmm", lambda x, w: torch.addmm(torch.zeros(4), x[:, 0], w), {"Linear"}),
    ("a product without parameters", lambda x, w: x @ x.transpose(1, 2) * w.sum(), set()),
    ("relu", lambda x, w: F.relu(x * w.sum()), {"Activation"}),
    ("relu_", lambda x, w: (x * w.sum()).relu_(), {"Activation"}),
    ("gelu", lambda x, w: F.gelu(x * w.sum()), {"Activation"}),
    ("torch.sigmoid", lambda x, w: torch.sigmoid(x * w.sum()), {"Activation"}),
    ("tanh method", lambda x, w: (x * w.sum()).tanh(), {"Activation"}),
    ("max_pool1d", lambda x, w: F.max_pool1d(x * w.sum(), 2), {"Pool"}),
    ("max_pool2d", lambda x, w: F.max_pool2d(x * w.sum(), 2), {"Pool"}),
    ("max_pool2d with indices", lambda x, w: F.max_pool2d(x * w.sum(), 2, return_indices=True), {"Pool"}),
    ("adaptive_avg_pool2d", lambda x, w: F.adaptive_avg_pool2d(x * w.sum(), 1), {"Pool"}),
    ("adaptive_max_pool1d", lambda x, w: F.adaptive_max_pool1d(x * w.sum(), 1), {"Pool"}),
    ("avg_pool1d", lambda x, w: F.avg_pool1d(x * w.sum(), 2), {"Pool"}),
    ("lp_pool1d", lambda x, w: F.lp_pool1d(x.abs() * w.sum(), 2, 2), {"Pool"}),
    ("layer_norm", lambda x, w: F.layer_norm(x, (4,), w[0]), {"Norm"}),
    ("batch_norm", lambda x, w: F.batch_norm(x, None, None, None, None, training=True) * w.sum(), {"Norm"}),
    ("group_norm", lambda x, w: F.group_norm(x * w.sum(), 2), {"Norm"}),
    ("sdpa", lambda x, w: F.scaled_dot_product_attention(x * w.sum(), x, x), {"Attention"}),
    ("multi_head_attention_forward", _mha, {"Attention"}),
    ("matmul softmax matmul", lambda x, w: ((x * w.sum()) @ x.transpose(1, 2)).softmax(-1) @ x, {"Attention"}),
    ("lstm_cell", lambda x, w: torch.lstm_cell(x[:, 0], (x[:, 1], x[:, 2]), *_gates(w, 4)), {"LSTM"}),
    ("gru_cell", lambda x, w: torch.gru_cell(x[:, 0], x[:, 1], *_gates(w, 3)), {"GRU"}),
    ("rnn_tanh_cell", lambda x, w: torch.rnn_tanh_cell(x[:, 0], x[:, 1], w, w), {"RNN"}),
    ("embedding", lambda x, w: F.embedding(x[:, :, 0].abs().long().clamp(max=3), w), {"Embedding"}),
    ("control flow", lambda x, w: F.linear(x, w) if x.sum() > 1e9 else F.relu(x * w.sum()), {"Activation"}),
]  # fmt: skip


def _names(model: nn.Module, inputs: Any = None, **kwargs: Any) -> set[str]:
    return {kind.__name__ for kind in detect_model_architecture(model, inputs, **kwargs)}


@pytest.mark.parametrize(
    ("function", "expected"), [each[1:] for each in FUNCTIONAL], ids=[each[0] for each in FUNCTIONAL]
)
def test_functional_calls_are_seen_with_inputs_only(function: Functional, expected: set[str]) -> None:
    model, inputs = Written(function), batch(3, 8, 4)
    assert _names(model) == set()
    with untouched(model, inputs):
        assert _names(model, inputs) == expected


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Linear(2, 2), modules.Linear),
        (nn.Conv1d(2, 2, 1), modules.Convolution),
        (nn.ConvTranspose3d(2, 2, 1), modules.Convolution),
        (nn.AdaptiveAvgPool2d(1), modules.Pool),
        (nn.MaxPool1d(2), modules.Pool),
        (nn.BatchNorm2d(2), modules.Norm),
        (nn.SyncBatchNorm(2), modules.Norm),
        (nn.InstanceNorm1d(2), modules.Norm),
        (nn.LayerNorm(2), modules.Norm),
        (nn.SiLU(), modules.Activation),
        (nn.Tanh(), modules.Activation),
        (nn.RNN(2, 2), modules.RNN),
        (nn.LSTM(2, 2), modules.LSTM),
        (nn.GRUCell(2, 2), modules.GRU),
        (nn.MultiheadAttention(2, 1), modules.Attention),
        (nn.Embedding(2, 2), modules.Embedding),
        (nn.EmbeddingBag(2, 2), modules.Embedding),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else each.__name__,
)
def test_modules_are_of_exactly_one_kind(module: nn.Module, kind: type) -> None:
    assert kinds_of(module) == (kind,)


@pytest.mark.parametrize("module", [nn.Identity(), nn.Flatten(), nn.Dropout(), nn.Sequential(), nn.Softmax(1)])
def test_modules_of_no_kind(module: nn.Module) -> None:
    assert kinds_of(module) == ()


def test_a_module_and_its_own_call_are_one_piece_of_evidence() -> None:
    architecture = detect_model_architecture(seeded(VGGLike()), batch(1, 3, 16, 16))
    assert architecture.evidence == {
        modules.Linear: ("classifier.1", "classifier.4"),
        modules.Convolution: ("features.0", "features.3"),
        modules.Pool: ("features.2", "features.5"),
        modules.Activation: ("features.1", "features.4", "classifier.2"),
    }
    assert architecture.kinds == set(architecture.evidence)
    assert len(architecture) == 4
    assert modules.Pool in architecture
    assert modules.LSTM not in architecture
    assert str(architecture).splitlines()[1] == "Convolution     2 × (first: features.0)"


def test_a_call_is_shown_with_its_place() -> None:
    architecture = detect_model_architecture(nn.Sequential(Written(lambda x, w: F.linear(x, w))), batch(1, 8, 4))
    assert architecture.evidence == {modules.Linear: ("forward of 0: linear",)}


class Conv2dSame(nn.Conv2d):
    """A convolution with its own padding and a functional call, as in EfficientNet-Lite."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


def test_a_convolution_subclass_is_a_convolution() -> None:
    model = nn.Sequential(Conv2dSame(3, 2, 3))
    assert _names(model) == {"Convolution"}
    assert detect_model_architecture(model, batch(1, 3, 8, 8)).evidence == {modules.Convolution: ("0",)}


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("timm.layers.attention", "Attention", {"Attention"}),
        ("timm.models.vision_transformer", "Attention", {"Attention"}),
        ("transformers.models.bert.modeling_bert", "BertSelfAttention", {"Attention"}),
        ("transformers.pytorch_utils", "Conv1D", {"Linear"}),
        ("torchvision.models.swin_transformer", "ShiftedWindowAttentionV2", {"Attention"}),
        ("timm.layers.drop", "DropPath", set()),
        ("somewhere.layers", "Attention", set()),
    ],
)
def test_classes_of_other_packages_are_known_by_name(module: str, name: str, expected: set[str]) -> None:
    cls = type(name, (nn.Identity,), {"__module__": module})
    assert _names(nn.Sequential(cls())) == expected


def test_a_class_of_ones_own_may_be_registered() -> None:
    class Mine(nn.Module):
        pass

    assert kinds_of(Mine()) == ()
    modules.RNN.register(Mine)
    assert kinds_of(Mine()) == (modules.RNN,)


def test_swin_has_attention_with_and_without_inputs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=3).eval()
    assert modules.Attention in detect_model_architecture(model)
    found = detect_model_architecture(model, batch(1, 3, 16, 16))
    assert "features.1.0.attn" in found.evidence[modules.Attention]
    assert {kind.__name__ for kind in found} == {"Linear", "Convolution", "Pool", "Norm", "Activation", "Attention"}


def test_a_transformer_encoder_has_attention() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    with torch.no_grad():
        assert _names(layer.eval(), batch(2, 8, 4)) >= {"Attention", "Linear", "Norm"}
    assert _names(seeded(TinyTransformer()), batch(2, 8, 4)) == {"Attention", "Linear", "Norm"}


def test_a_recurrent_classifier() -> None:
    assert _names(seeded(LSTMClassifier()), batch(2, 8, 4)) == {"LSTM", "Linear"}


def test_embeddings_are_seen_without_inputs_and_with_token_ids() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 2))
    assert _names(model) == _names(model, torch.tensor([[1, 2]])) == {"Embedding", "Linear"}


def test_a_functional_embedding_is_seen() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(10, 4))

        def forward(self, ids: Tensor) -> Tensor:
            return F.embedding(ids, self.table).mean(1)

    assert _names(Functional()) == set()
    assert _names(Functional(), torch.tensor([[1, 2]])) == {"Embedding"}


def test_arguments_reach_the_model_by_extractors() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            return F.relu(x + self.table(ids))

    inputs = {"x": batch(2, 4), "ids": torch.tensor([0, 2])}
    found = _names(
        Scaled(),
        inputs,
        forward_arg_extractor=lambda each: each["x"],
        additional_forward_arg_extractor=lambda each: each["ids"],
    )
    assert found == {"Embedding", "Activation"}


@pytest.mark.parametrize("at", [1])
def test_a_model_that_raises_is_unchanged(at: int) -> None:
    model, inputs = RaisesAt(seeded(VGGLike()).train(), at), batch(1, 3, 16, 16)
    with untouched(model, inputs), pytest.raises(ModelError, match="the network broke here"):
        detect_model_architecture(model, inputs)


def test_without_inputs_the_model_is_not_run() -> None:
    model = RaisesAt(seeded(VGGLike()), 1)
    assert len(detect_model_architecture(model)) == 4


def test_kinds_are_abstract_names() -> None:
    assert [kind.__name__ for kind in MODULE_KINDS] == [
        *("Linear", "Convolution", "Pool", "Norm", "Activation", "RNN", "LSTM", "GRU", "Attention", "Embedding")
    ]
