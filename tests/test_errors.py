from __future__ import annotations

import inspect
import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnpxai import errors
from pnpxai.errors import PnPXAIError, unknown_name

ALL = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, PnPXAIError)]


def test_there_are_several() -> None:
    assert len(ALL) >= 10


@pytest.mark.parametrize("cls", ALL, ids=lambda each: each.__name__)
def test_each_says_all_three_and_survives_pickling(cls: type[PnPXAIError]) -> None:
    error = cls("a tensor", "a list", "Convert it.")
    assert str(error) == "expected a tensor; received a list. Convert it."
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (again.expected, again.received, again.advice) == ("a tensor", "a list", "Convert it.")
    assert inspect.getdoc(cls)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.DeclarationError, TypeError),
        (errors.ParameterError, ValueError),
        (errors.UnknownNameError, LookupError),
        (errors.InputError, ValueError),
        (errors.TargetError, ValueError),
        (errors.ModelError, RuntimeError),
        (errors.UnsupportedOperationError, errors.UnsupportedModelError),
        (errors.StudyError, RuntimeError),
    ],
)
def test_each_is_caught_as_its_builtin(cls: type[PnPXAIError], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)


def test_an_unknown_name_lists_the_valid_ones_in_order_and_the_nearest() -> None:
    error = unknown_name("baseline", "Zreos", ["zeros", "mean", "blur"])
    assert (
        str(error)
        == "expected the name of a baseline, one of: blur, mean, zeros; received 'Zreos'. Did you mean 'zeros'?"
    )


def test_an_unknown_name_near_to_none_gets_no_suggestion() -> None:
    assert "Did you mean" not in str(unknown_name("baseline", 17, ["zeros", "mean"]))


NAMES = st.lists(st.text(string.ascii_letters, min_size=1, max_size=12), min_size=1, max_size=6, unique_by=str.lower)


@given(NAMES, st.data())
def test_a_name_in_other_capitals_is_suggested(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert unknown_name("thing", name.swapcase(), names).advice == f"Did you mean {name!r}?"
