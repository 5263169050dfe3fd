"""A data set by sample id, whatever holds it: a loader, a dataset, a list or a tensor."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from pnpxai.errors import InputError

Ids: TypeAlias = int | Iterable[int] | None


class Samples:
    """Samples by id, in the data set's own order, also where a loader shuffles.

    Args:
        data: a DataLoader, a Dataset, a list of samples, or a tensor ``(n, …)`` of inputs.

    Example:
        >>> Samples([(0.5, 1), (0.25, 0)]).batch([1])
        [tensor([0.2500], dtype=torch.float64), tensor([0])]
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    @cached_property
    def dataset(self) -> Any:
        """What the samples are taken from."""
        dataset: Any = self.data.dataset if isinstance(self.data, DataLoader) else self.data
        if isinstance(dataset, IterableDataset):
            dataset = list(dataset)
        try:
            n = len(dataset)
        except TypeError as error:
            raise InputError(
                "data as a DataLoader, a Dataset, a list or a tensor", type(dataset).__name__, "Collect it in a list."
            ) from error
        if n == 0:
            raise InputError("at least one sample", "no data", "Pass n ≥ 1 samples.")
        return dataset

    def __len__(self) -> int:
        return len(self.dataset)

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
        collate = self.data.collate_fn if isinstance(self.data, DataLoader) else default_collate
        return collate([self.dataset[i] for i in ids])
