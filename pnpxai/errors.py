"""Every error the package raises on purpose: what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PnPXAIError(Exception):
    """Base of all deliberate errors.

    Args:
        expected: what the call needed.
        received: what it got instead.
        advice: what the caller can do about it.
    """

    def __init__(self, expected: str, received: str, advice: str) -> None:
        super().__init__(expected, received, advice)
        self.expected, self.received, self.advice = expected, received, advice

    def __str__(self) -> str:
        return f"expected {self.expected}; received {self.received}. {self.advice}"


class DeclarationError(PnPXAIError, TypeError):
    """A class declares something that is not true of it (raised when the class is defined)."""


class ParameterError(PnPXAIError, ValueError):
    """An argument has an unknown name or a value it cannot take."""


class UnknownNameError(ParameterError, LookupError):
    """A name that stands for no explainer, metric, baseline, sampler and so on."""


class InputError(PnPXAIError, ValueError):
    """The inputs to be explained have the wrong type, shape or values."""


class TargetError(PnPXAIError, ValueError):
    """The targets do not fit the inputs or the model's outputs."""


class ModelError(PnPXAIError, RuntimeError):
    """The model failed, or returned something that cannot be explained."""


class UnsupportedModelError(PnPXAIError, RuntimeError):
    """The method has no correct treatment of something in this model."""


class UnsupportedOperationError(UnsupportedModelError):
    """The method has no correct rule for one operation of this model."""


class ExplanationError(PnPXAIError, RuntimeError):
    """An explainer returned something that is no explanation (wrong shape, not finite)."""


class StudyError(PnPXAIError, RuntimeError):
    """A tuning study cannot be started, continued or read."""


class RelevanceWarning(UserWarning):
    """Relevance is lost somewhere between a model's output and the map, which does not sum to what it should."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that stands for nothing, with the valid ones and the nearest.

    Example:
        >>> print(unknown_name("metric", "abcp", ["abpc", "morf"]))
        expected the name of a metric, one of: abpc, morf; received 'abcp'. Did you mean 'abpc'?
    """
    names = sorted(valid)
    lowered = {each.lower(): each for each in names}
    near = difflib.get_close_matches(str(name).lower(), list(lowered), n=1)
    advice = f"Did you mean {lowered[near[0]]!r}?" if near else "Choose one of those names."
    return UnknownNameError(
        f"the name of {'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}, one of: {', '.join(names)}",
        repr(name),
        advice,
    )
