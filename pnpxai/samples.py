"""A data set by sample id, whatever holds it: a loader, a dataset, a list or a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from pnpxai.batches import n_samples, take_samples
from pnpxai.errors import InputError

Ids: TypeAlias = int | Iterable[int] | None


class Samples:
    """Samples by id, in the data set's own order, also where a loader shuffles.

    Args:
        data: a DataLoader, a Dataset, a list of samples, a tensor ``(n, …)`` of inputs, or a mapping of tensors or
            lists of numbers, one row a sample, as a tokenizer returns it. Samples may be mappings, too.

    Example:
        >>> Samples([(0.5, 1), (0.25, 0)]).batch([1])
        [tensor([0.2500], dtype=torch.float64), tensor([0])]
        >>> Samples([{"input_ids": [3, 4]}, {"input_ids": [5, 6]}]).batch()
        {'input_ids': tensor([[3, 4],
                [5, 6]])}
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    @cached_property
    def dataset(self) -> Any:
        """What the samples are taken from."""
        dataset: Any = self.data.dataset if isinstance(self.data, DataLoader) else self.data
        if isinstance(dataset, IterableDataset):
            dataset = list(dataset)
        if isinstance(dataset, Mapping):
            dataset = {name: _tensor(name, each) for name, each in dataset.items()}
        try:
            n = _length(dataset)
        except TypeError as error:
            raise InputError(
                "data as a DataLoader, a Dataset, a list, a tensor or a mapping of tensors",
                type(dataset).__name__,
                "Collect it in a list.",
            ) from error
        if n == 0:
            raise InputError("at least one sample", "no data", "Pass n ≥ 1 samples.")
        return dataset

    def __len__(self) -> int:
        return _length(self.dataset)

    def ids(self, data_ids: Ids = None) -> list[int]:
        """Sample ids as a list; all for None.

        Raises:
            InputError: an id that the data do not have.
        """
        n = len(self)
        ids = list(range(n)) if data_ids is None else [data_ids] if isinstance(data_ids, int) else list(data_ids)
        for each in ids:
            if not 0 <= each < n:
                raise InputError(f"data ids from 0 to {n - 1}", f"{each}", "Choose among the samples there are.")
        return ids

    def batch(self, data_ids: Ids = None) -> Any:
        """Some samples, collated as the data's own loader does it.

        Raises:
            InputError: an id that the data do not have.
        """
        ids = self.ids(data_ids)
        if isinstance(self.data, Tensor):
            return self.data[ids]
        if isinstance(self.dataset, Mapping):
            return take_samples(self.dataset, ids)
        collate = self.data.collate_fn if isinstance(self.data, DataLoader) else collated
        return collate([self.dataset[i] for i in ids])


def collated(samples: Sequence[Any]) -> Any:
    """Samples as a batch, as ``default_collate`` has it, but lists of numbers in a mapping are the rows of a tensor.

    Raises:
        InputError: rows of several lengths.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        return {name: _rows(name, [each[name] for each in samples]) for name in first}
    if isinstance(first, tuple) and any(isinstance(each, Mapping) for each in first):
        return [collated(each) for each in zip(*samples, strict=True)]
    return default_collate(list(samples))


def _rows(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping | str | bytes) or values[0] is None:
        return list(values)
    tensors = [_tensor(name, each) for each in values]
    if not all(isinstance(each, Tensor) for each in tensors):
        return default_collate(list(values))
    lengths = sorted({tuple(each.shape) for each in tensors})
    if len(lengths) > 1:
        raise InputError(
            f"samples whose {name!r} are of one shape",
            f"shapes {', '.join(map(str, lengths))}",
            "Pad them, or pass a DataLoader whose collate_fn pads.",
        )
    return torch.stack(tensors)


def _tensor(name: str, value: Any) -> Any:
    """Numbers as a tensor; anything else as it is."""
    if isinstance(value, Tensor | str) or not _numbers(value):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name!r} as rows of one length", f"{error}", "Pad them in the tokenizer.") from error


def _numbers(value: Any) -> bool:
    inner = value
    while isinstance(inner, list | tuple) and inner:
        inner = inner[0]
    return isinstance(inner, bool | int | float) or hasattr(inner, "__array__")


def _length(dataset: Any) -> int:
    return n_samples(dataset) if isinstance(dataset, Mapping) else len(dataset)
