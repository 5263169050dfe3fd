"""What every named target is: a score of the outputs that knows which of its arguments belong to which sample."""

from __future__ import annotations

import functools
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor

from pnpxai.errors import TargetError
from pnpxai.outputs import TargetFunction
from pnpxai.tunable import Tunable, to_json

T = TypeVar("T", bound="Target")
Named: TypeAlias = Callable[[int], str]
"""From the number of an output to what it is called."""

TARGETS: dict[str, type[Target]] = {}
"""Every class of targets, by name."""


class Target(Tunable, ABC):
    """One score a sample, read off the model's outputs: what explainers and metrics take as ``targets``.

    A function of the outputs does as well, where nothing in it belongs to one sample. A target of one's own implements
    `read`, lists in ``PER_SAMPLE`` what does, and overrides `fixed` where a part of it is read off the outputs of the
    unchanged inputs.

    Attributes:
        PER_SAMPLE: arguments that may be tensors with one row a sample, or with one row, ``(1, …)``, for all of them.
            Rows follow their samples through batches, chunks and perturbations.
    """

    PER_SAMPLE: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        TARGETS[cls.__name__] = cls

    def __call__(self, outputs: Tensor) -> Tensor:
        """The scores ``(m,)`` of outputs ``(m, …)``, whose rows belong to the samples of this target, in order."""
        return self.read(outputs)

    @abstractmethod
    def read(self, outputs: Tensor) -> Tensor:
        """The target itself: ``(m, …)`` to ``(m,)``."""

    @abstractmethod
    def words(self, named: Named) -> str:
        """What is scored, in a few words.

        Args:
            named: gives an output its name.
        """

    @property
    def is_open(self) -> bool:
        """Whether a part of it is still to be read off the outputs of the unchanged inputs; see `fixed`."""
        return False

    def fixed(self: T, outputs: Tensor) -> T:
        """The same with nothing open, from the outputs ``(n, …)`` of the unchanged inputs."""
        return self

    def for_batch(self: T, n: int, device: torch.device) -> T:
        """The same for a batch of ``n`` samples: one row each, on ``device``.

        Raises:
            TargetError: another number of rows than one a sample, or one for all.
        """
        changes = {}
        for name, rows in self._rows().items():
            if rows.ndim == 0 or len(rows) not in (1, n):
                raise TargetError(
                    f"{name} of {type(self).__name__} with one row for each of {n} inputs, or one for all, (1, …)",
                    f"shape {tuple(rows.shape)}",
                    f"Pass shape ({n}, …).",
                )
            changes[name] = rows.detach().expand(n, *rows.shape[1:]).to(device)
        return self.set_kwargs(**changes) if changes else self

    def for_samples(self: T, index: Tensor | Sequence[int]) -> T:
        """The same for some samples of its batch ``(m,)``, with repetitions; one row is that of all of them."""
        picked = torch.as_tensor(index, dtype=torch.long)
        changes = {}
        for name, rows in self._rows().items():
            own = picked if len(rows) > 1 else torch.zeros_like(picked)
            changes[name] = rows[own.to(rows.device)]
        return self.set_kwargs(**changes) if changes else self

    def marks(self, n: int) -> Tensor:
        """A whole number for each of ``n`` samples, ``(n,)``, by which its target is told from others."""
        rows = self._rows()
        shared = {name: value for name, value in self.get_params().items() if name not in rows}
        start = zlib.crc32(json.dumps([type(self).__name__, to_json(shared)], sort_keys=True).encode())
        bits = [each.detach().cpu().expand(n, *each.shape[1:]).contiguous() for _, each in sorted(rows.items())]
        flat = [each.reshape(n, -1).view(torch.uint8).numpy() for each in bits]
        return torch.tensor(
            [functools.reduce(lambda mark, own: zlib.crc32(own[i], mark), flat, start) for i in range(n)]
        )

    def cpu(self: T) -> T:
        """The same with its tensors on the CPU."""
        changes = {name: rows.cpu() for name, rows in self._rows().items()}
        return self.set_kwargs(**changes) if changes else self

    def _rows(self) -> dict[str, Tensor]:
        own = {name: getattr(self, name) for name in type(self).PER_SAMPLE}
        return {name: each for name, each in own.items() if isinstance(each, Tensor)}


def take_targets(targets: Tensor | TargetFunction, index: Tensor | Sequence[int]) -> Tensor | TargetFunction:
    """The targets of some samples ``(m,)``, with repetitions; a plain function is the same for all.

    Example:
        >>> take_targets(torch.tensor([7, 8, 9]), [2, 0]).tolist()
        [9, 7]
    """
    if isinstance(targets, Tensor):
        return targets[torch.as_tensor(index, dtype=torch.long, device=targets.device)]
    return targets.for_samples(index) if isinstance(targets, Target) else targets


def is_open(targets: object) -> bool:
    """Whether the outputs of the unchanged inputs are needed to know what is scored: predicted classes, and such."""
    return targets is None or (isinstance(targets, Target) and targets.is_open)


def columns(outputs: Tensor, chosen: int | Tensor, what: str) -> Tensor:
    """One column a sample of ``(m, k, …)``: ``(m, …)``.

    Args:
        outputs: of the model.
        chosen: the number of the column, or one a sample ``(m,)``.
        what: is chosen, for errors.

    Raises:
        TargetError: no such column, or a number that is not whole.
    """
    numbers = whole_numbers(chosen, what)
    if outputs.ndim < 2:
        raise TargetError(
            f"outputs (n, k, …), to take a {what} of", f"outputs of shape {tuple(outputs.shape)}", "Use OutputScore()."
        )
    k, lowest, highest = outputs.shape[1], int(numbers.min()), int(numbers.max())
    if lowest < 0 or highest >= k:
        raise TargetError(
            f"a {what} from 0 to {k - 1}", f"{lowest if lowest < 0 else highest}", f"The model has {k} outputs."
        )
    if numbers.ndim == 0:
        return outputs[:, int(numbers)]
    if len(numbers) != len(outputs):
        raise TargetError(f"one {what} for each of {len(outputs)} samples", f"{len(numbers)}", "Pass shape (n,).")
    return outputs[torch.arange(len(outputs), device=outputs.device), numbers.to(outputs.device)]


def whole_numbers(chosen: int | Tensor, what: str) -> Tensor:
    """A whole number, or one a sample, as a tensor without dimensions or ``(m,)``.

    Raises:
        TargetError: neither.
    """
    numbers = chosen if isinstance(chosen, Tensor) else None
    if isinstance(chosen, Integral) and not isinstance(chosen, bool):
        numbers = torch.tensor(int(chosen))
    if numbers is None or numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.ndim > 1:
        received = f"{numbers.dtype} of shape {tuple(numbers.shape)}" if numbers is not None else f"{chosen!r}"
        raise TargetError(f"a {what} as a whole number, or a tensor (n,) of them", received, "Count from 0.")
    return numbers.long()


def naming(chosen: int | Tensor | None, named: Named) -> str:
    """The name of what is chosen, of a single sample."""
    if isinstance(chosen, Tensor):
        numbers = set(chosen.flatten().tolist())
        return named(int(numbers.pop())) if len(numbers) == 1 else "the class of each sample"
    return "the predicted class" if chosen is None else named(chosen)
