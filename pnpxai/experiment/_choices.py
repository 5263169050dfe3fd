"""Explainers, post-processors and metrics by id, name, class or instance, and what tables call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from pnpxai.errors import ParameterError, unknown_name
from pnpxai.postprocess import PostProcessor

T = TypeVar("T")
Choice: TypeAlias = Any


def pick(kind: str, choice: Choice, listed: Sequence[T]) -> T:
    """One of the listed by id, name, class or instance.

    Raises:
        ParameterError: an id there is not.
        UnknownNameError: a name, class or object that is not among them.
    """
    if isinstance(choice, int) and not isinstance(choice, bool):
        if -len(listed) <= choice < len(listed):
            return listed[choice]
        raise ParameterError(
            f"the id of a {kind} from 0 to {len(listed) - 1}", f"{choice}", "Choose among those there are."
        )
    named = names(listed)
    for name, each in zip(named, listed, strict=True):
        if each is choice or each == choice or type(each) is choice:
            return each
        if isinstance(choice, str) and name.lower() == choice.lower():
            return each
    raise unknown_name(kind, choice, named)


def names(listed: Sequence[object]) -> list[str]:
    """What tables call them: their classes, or pooling and normalisation; the second of a name is its ``#2``.

    Example:
        >>> names([PostProcessor(), PostProcessor("l2"), PostProcessor("l2", channel_dim=2)])
        ['sum+identity', 'l2+identity', 'l2+identity#2']
    """
    bare = [_name(each) for each in listed]
    before = [bare[:i].count(name) for i, name in enumerate(bare)]
    return [f"{name}#{n + 1}" if n else name for name, n in zip(bare, before, strict=True)]


def _name(part: object) -> str:
    if not isinstance(part, PostProcessor):
        return type(part).__name__
    functions = (part.pooling_fn, part.normalization_fn)
    return "+".join(each if isinstance(each, str) else each.NAME for each in functions)
