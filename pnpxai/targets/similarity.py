"""Targets of encoders: how close a representation is to another, to a group's, or to what it was."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from pnpxai.errors import ModelError, ParameterError, TargetError, unknown_name
from pnpxai.targets._base import Named, Target

SimilarityFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cosine(representations: Tensor, references: Tensor) -> Tensor:
    """The cosine of the angle between rows: ``(m, e)`` and ``(m, e)`` or ``(e,)`` to ``(m,)``.

    Raises:
        ModelError: rows of a single number, whose cosine is its sign.
    """
    if representations.shape[1] < 2:
        raise ModelError(
            "a representation of at least 2 numbers a sample",
            f"{representations.shape[1]}",
            "Explain a model that returns an embedding, or pass another similarity.",
        )
    return F.cosine_similarity(representations, references, dim=-1)


SIMILARITIES: Mapping[str, SimilarityFunction] = {"cosine": cosine}
"""Similarities that have a name."""


class Similarity(Target):
    """How close a model's output is to a representation of reference: ``s(f(x), r)``.

    Outputs with more than two dimensions are flattened. As targets of `RELAX` it takes the place of the similarity to
    the unchanged input's own representation.
    """

    similarity: str | SimilarityFunction

    def read(self, outputs: Tensor) -> Tensor:
        """The similarity to the reference."""
        representations = rows_of(outputs)
        references = self.references(representations)
        if references.shape not in (representations.shape, (1, representations.shape[1])):
            raise TargetError(
                f"references {tuple(representations.shape)}, or (1, {representations.shape[1]}) for all",
                f"shape {tuple(references.shape)}",
                "Make them with the same model, flattened to one row each.",
            )
        references = references.to(representations).expand_as(representations)
        return compare(similarity_for(self.similarity), representations, references)

    @abstractmethod
    def references(self, representations: Tensor) -> Tensor:
        """What representations ``(m, e)`` are compared with, ``(m, e)`` or ``(1, e)``."""


class SimilarityToItself(Similarity):
    """Similarity to the representation of the unchanged input, as of `RELAX`.

    Its gradient at the input is zero, for nothing is more like it: for methods that change the input.

    Args:
        reference: ``(n, e)``; None for the model's outputs for the unchanged inputs.
        similarity: ``"cosine"``, or a function of two tensors ``(m, e)`` to ``(m,)``.

    Example:
        >>> SimilarityToItself(torch.tensor([[1.0, 0.0]]))(torch.tensor([[0.0, 3.0]])).tolist()
        [0.0]
    """

    PER_SAMPLE = ("reference",)

    def __init__(self, reference: Tensor | None = None, similarity: str | SimilarityFunction = "cosine") -> None:
        self.reference = reference
        self.similarity = similarity

    @property
    def is_open(self) -> bool:
        """Where the representation is still to be asked for."""
        return self.reference is None

    def fixed(self, outputs: Tensor) -> SimilarityToItself:
        """With the representations in place."""
        return self.set_kwargs(reference=rows_of(outputs).detach()) if self.reference is None else self

    def references(self, representations: Tensor) -> Tensor:
        """The representation of the unchanged input."""
        return representations.detach() if self.reference is None else self.reference

    def words(self, named: Named) -> str:
        """In words."""
        return "similarity to the representation of the whole input"


class SimilarityToItem(Similarity):
    """Similarity to the representation of another item, such as a query: why the two are found together.

    Args:
        reference: ``(n, e)``, one for each sample, or ``(1, e)`` for all.
        similarity: ``"cosine"``, or a function of two tensors ``(m, e)`` to ``(m,)``.

    Example:
        >>> round(SimilarityToItem(torch.tensor([[1.0, 0.0]]))(torch.tensor([[3.0, 4.0]])).item(), 3)
        0.6
    """

    PER_SAMPLE = ("reference",)

    def __init__(self, reference: Tensor, similarity: str | SimilarityFunction = "cosine") -> None:
        self.reference = reference
        self.similarity = similarity

    def references(self, representations: Tensor) -> Tensor:
        """The other item's."""
        return matrix(self.reference, "reference")

    def words(self, named: Named) -> str:
        """In words."""
        return "similarity to another item"


class SimilarityToCluster(Similarity):
    """Similarity to the mean of several representations: ``s(f(x), 1/m Σ r_i)``.

    Args:
        members: ``(m, e)``, representations of the cluster's members; or one row, its centre.
        similarity: ``"cosine"``, or a function of two tensors ``(m, e)`` to ``(m,)``.
        normalised: bring each member to length 1 first, so that long ones count no more than others.

    Example:
        >>> round(SimilarityToCluster(torch.tensor([[1.0, 0.0], [0.0, 9.0]]))(torch.tensor([[2.0, 2.0]])).item(), 3)
        1.0
    """

    def __init__(
        self, members: Tensor, similarity: str | SimilarityFunction = "cosine", normalised: bool = True
    ) -> None:
        self.members = members
        self.similarity = similarity
        self.normalised = normalised

    def references(self, representations: Tensor) -> Tensor:
        """The centre."""
        members = matrix(self.members, "members").to(representations)
        return (F.normalize(members, dim=1) if self.normalised else members).mean(0, keepdim=True)

    def words(self, named: Named) -> str:
        """In words, with the number of members."""
        return f"similarity to the mean of {len(self.members)} representations"


def similarity_for(similarity: str | SimilarityFunction) -> SimilarityFunction:
    """The similarity meant by a name, or the function itself.

    Raises:
        UnknownNameError: a name that is no similarity.
    """
    if callable(similarity):
        return similarity
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)
    return SIMILARITIES[similarity]


def rows_of(outputs: Tensor) -> Tensor:
    """One representation a row, ``(m, e)``, in single precision at least: similarities hardly differ."""
    return outputs.reshape(len(outputs), -1).to(torch.promote_types(outputs.dtype, torch.float32))


def compare(similarity: SimilarityFunction, representations: Tensor, references: Tensor) -> Tensor:
    """Similarities ``(m,)`` of rows.

    Raises:
        ParameterError: a similarity that returns something else.
    """
    compared = similarity(representations, references)
    if not isinstance(compared, Tensor) or compared.shape != representations.shape[:1]:
        raise ParameterError(
            f"a similarity that returns one number a row, shape ({len(representations)},)",
            f"shape {tuple(compared.shape)}" if isinstance(compared, Tensor) else type(compared).__name__,
            "Reduce over the last dimension of the two arguments.",
        )
    return compared


def matrix(rows: Tensor, name: str) -> Tensor:
    """Rows ``(m, e)`` as they are.

    Raises:
        TargetError: they are no rows, or not finite.
    """
    if isinstance(rows, Tensor) and rows.ndim == 2 and rows.is_floating_point() and bool(torch.isfinite(rows).all()):
        return rows
    received = f"{rows.dtype}, shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
    raise TargetError(f"{name} as finite representations, one a row (m, e)", received, "Pass model(items) of them.")
