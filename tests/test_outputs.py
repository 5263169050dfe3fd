from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pnpxai.errors import ModelError, TargetError
from pnpxai.outputs import output_tensor, predicted, probabilities, select
from tests.nets import batch

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])


class ModelOutput(OrderedDict):
    """A mapping with attributes and slices, as transformers returns it."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


@pytest.mark.parametrize(
    "returned",
    [
        LOGITS,
        (LOGITS, torch.zeros(2)),
        [None, LOGITS],
        (torch.tensor(0.5), LOGITS),
        (torch.tensor([1, 2]), LOGITS),
        {"loss": torch.tensor(0.5), "out": LOGITS, "aux": torch.zeros(2, 3)},
        {"hidden": torch.zeros(2, 7), "logits": LOGITS},
        ModelOutput(loss=torch.zeros(2), logits=LOGITS),
        ModelOutput(logits=None, last_hidden_state=LOGITS),
    ],
    ids=["tensor", "tuple", "list", "loss_first", "ids_first", "dict", "dict_logits", "ModelOutput", "no_logits"],
)
def test_the_tensor_in_what_a_model_returned(returned: Any) -> None:
    assert output_tensor(returned) is LOGITS


@pytest.mark.parametrize(
    "returned", [None, "text", (), {}, torch.tensor([1, 2]), torch.tensor(0.5), ({"a": LOGITS},), 3]
)
def test_no_tensor(returned: Any) -> None:
    with pytest.raises(ModelError, match=type(returned).__name__):
        output_tensor(returned)


def test_probabilities_are_the_softmax() -> None:
    e = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]], dtype=torch.float64).exp()
    assert torch.allclose(probabilities(LOGITS).double(), e / e.sum(1, keepdim=True), atol=1e-7)


def test_rows_that_are_probabilities_stay_and_the_others_do_not_notice() -> None:
    rows = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.6], [1.0, 0.0, 0.0], [1.5, -0.5, 0.0]])
    made = probabilities(rows)
    assert torch.equal(made[[0, 2]], rows[[0, 2]])
    assert torch.equal(made[[1, 3]], rows[[1, 3]].softmax(1))
    for i in range(4):
        assert torch.equal(probabilities(rows[i : i + 1]), made[i : i + 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_softmax_of_any_precision_is_recognised(dtype: torch.dtype) -> None:
    rows = (3 * batch(64, 1000, dtype=dtype)).softmax(1)
    assert torch.equal(probabilities(rows), rows.to(torch.promote_types(dtype, torch.float32)))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 3, 4)])
def test_outputs_that_are_no_classes_stay(shape: tuple[int, ...]) -> None:
    outputs = batch(*shape)
    assert probabilities(outputs) is outputs


@given(st.integers(1, 5), st.integers(2, 6), st.floats(-50, 50))
def test_probabilities_do_not_depend_on_a_shift(n: int, k: int, shift: float) -> None:
    logits = batch(n, k, dtype=torch.float64) - 5
    assert torch.allclose(probabilities(logits + shift - 60), probabilities(logits), atol=1e-12)


def test_select_takes_each_rows_own_target() -> None:
    assert select(LOGITS, torch.tensor([2, 0])).tolist() == [4.0, 0.0]
    third = 1 / (1 + torch.tensor([-3.0, -2.0], dtype=torch.float64).exp().sum())
    assert select(LOGITS.double(), torch.tensor([2, 0]), "probability")[0].item() == pytest.approx(
        third.item(), abs=1e-12
    )


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_select_of_a_single_output(score: Any) -> None:
    values = torch.tensor([0.3, -2.0])
    assert select(values, torch.zeros(2, dtype=torch.long), score).tolist() == values.tolist()
    assert select(values[:, None], torch.zeros(2, dtype=torch.long), score).tolist() == values.tolist()


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_a_function_sees_the_outputs_themselves(score: Any) -> None:
    dense = batch(2, 3, 4, 4)
    chosen = select(dense, lambda outputs: outputs[:, 1].mean((1, 2)), score)
    assert torch.equal(chosen, dense[:, 1].mean((1, 2)))


def test_select_keeps_the_gradient() -> None:
    outputs = LOGITS.clone().requires_grad_()
    select(outputs, torch.tensor([2, 0])).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def _out_of_range(outputs: Tensor) -> Tensor:
    return outputs[:, 7]


@pytest.mark.parametrize(
    ("outputs", "targets", "words"),
    [
        (LOGITS, torch.tensor([0, 3]), ("from 0 to 2", "3")),
        (LOGITS[:, 0], torch.tensor([0, 1]), ("from 0 to 0", "1")),
        (LOGITS, lambda outputs: outputs, ("(2,)", "(2, 3)")),
        (LOGITS, lambda outputs: outputs.sum(), ("(2,)", "()")),
        (LOGITS, lambda outputs: 3, ("(2,)", "int")),
        (LOGITS, lambda outputs: outputs.argmax(1), ("floating-point", "torch.int64")),
        (LOGITS, _out_of_range, ("(2, 3)", "IndexError", "index 7")),
        (batch(2, 3, 4, 4), torch.tensor([0, 1]), ("function", "(2, 3, 4, 4)")),
    ],
)
def test_targets_that_do_not_fit(
    outputs: Tensor, targets: Tensor | Callable[[Tensor], Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(TargetError) as caught:
        select(outputs, targets)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_predicted() -> None:
    assert predicted(LOGITS).tolist() == [2, 2]
    assert predicted(LOGITS[:, 0]).tolist() == [0, 0]
    assert predicted(torch.zeros(2, 3, 4, 4)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_coarse_logits_are_not_coarse(dtype: torch.dtype) -> None:
    rows = (3 * batch(8, 10)).to(dtype)
    exact = rows.double().exp() / rows.double().exp().sum(1, keepdim=True)
    found = probabilities(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    assert select(rows, torch.zeros(8, dtype=torch.long)).dtype == dtype


def test_a_tensor_that_is_no_batch_of_outputs_is_described() -> None:
    with pytest.raises(ModelError, match=r"received a Tensor of shape \(\) and torch.float32"):
        output_tensor(torch.tensor(1.0))
