from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pnpxai.errors import InputError
from pnpxai.samples import Samples

INPUTS, LABELS = torch.arange(12.0).reshape(6, 2), torch.arange(6)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(zip(INPUTS, LABELS, strict=True))


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(INPUTS, LABELS),
        list(zip(INPUTS, LABELS, strict=True)),
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=4, shuffle=True),
        DataLoader(Stream(), batch_size=4),
    ],
    ids=["dataset", "list", "shuffling loader", "iterable"],
)
def test_same_samples_by_id_whatever_holds_them(data: object) -> None:
    samples = Samples(data)
    assert len(samples) == 6
    inputs, labels = samples.batch([4, 1])
    assert torch.equal(inputs, INPUTS[[4, 1]])
    assert torch.equal(labels, LABELS[[4, 1]])
    assert torch.equal(samples.batch()[0], INPUTS)
    assert torch.equal(samples.batch(2)[0], INPUTS[[2]])
    assert torch.equal(samples.batch(range(3))[0], INPUTS[:3])


def test_tensor_is_inputs_alone() -> None:
    assert torch.equal(Samples(INPUTS).batch([5]), INPUTS[[5]])


def test_loaders_own_collate_is_used() -> None:
    loader = DataLoader(TensorDataset(INPUTS, LABELS), collate_fn=lambda rows: {"n": len(rows)})
    assert Samples(loader).batch([0, 3, 5]) == {"n": 3}


@pytest.mark.parametrize(("data", "words"), [([], "no data"), (3, "int"), (iter([1]), "Collect")])
def test_what_is_no_data(data: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Samples(data).batch()


@pytest.mark.parametrize("ids", [6, -1, [0, 9]])
def test_ids_that_are_not_there(ids: object) -> None:
    with pytest.raises(InputError, match="0 to 5"):
        Samples(INPUTS).batch(ids)
