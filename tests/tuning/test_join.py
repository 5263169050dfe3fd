from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

import pnpxai
from pnpxai import cli
from pnpxai.errors import ParameterError, StudyError
from pnpxai.tuning import join
from pnpxai.tuning._study import storage_for
from tests.tuning.explainers import Fixed
from tests.tuning.processes import begun, close, run_study, stored, wait_until
from tests.tuning.studies import assert_each_once, complete, problem, slow_problem

PROBLEM = """
from tests.tuning.studies import slow_problem

def described():
    return slow_problem()
"""


def run_worker(storage: str, file: str) -> None:
    arguments = ["worker", "--study", "study", "--storage", storage, "--problem", f"{file}:described", "--quiet"]
    cli.app(arguments, standalone_mode=False)


@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_workers_join_a_study_that_goes_on(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    storage = str(tmp_path / "study.journal") if kind == "journal" else request.getfixturevalue("postgresql")
    file = tmp_path / "a_problem.py"
    file.write_text(PROBLEM, encoding="utf-8")

    def is_begun() -> bool:
        with contextlib.suppress(KeyError), stored(storage) as study:
            return bool(complete(study))
        return False

    opened = storage_for(storage)
    assert opened is not None
    close(opened)
    with begun(run_study, storage, 40, 1) as first:
        wait_until(is_begun)
        with begun(run_worker, storage, str(file)) as second, begun(run_worker, storage, str(file)) as third:
            for each in (first, second, third):
                each.join(120)
                assert each.exitcode == 0
    with stored(storage) as study:
        assert_each_once(study, 40)
        workers = {each.user_attrs["worker"] for each in complete(study)}
        assert len(workers) == 3


def test_a_worker_finishes_what_was_begun(tmp_path: Path) -> None:
    call = {**problem(), "sampler": "random"}
    place = {"storage": str(tmp_path / "study.journal"), "study_name": "study"}
    study = pnpxai.tune(**call, **place, n_trials=3, progress=False).study
    study.set_user_attr("n_trials", 9)
    assert join({**call, "n_trials": 5}, **place, progress=False) == (9, 9)
    assert_each_once(study, 9)
    before = study.get_trials()
    assert join(call, **place, progress=False) == (9, 9)
    assert study.get_trials() == before


def test_what_a_worker_cannot_join(tmp_path: Path) -> None:
    call, path = problem(), str(tmp_path / "study.journal")
    with pytest.raises(StudyError, match="'study' that tune.. has begun in '.*study.journal'; received none"):
        join(call, storage=path, study_name="study", progress=False)
    pnpxai.tune(**call, n_trials=2, storage=path, study_name="study", progress=False)
    with pytest.raises(StudyError, match="the inputs, .* that the study 'study' was begun with"):
        join({**call, "inputs": call["inputs"] + 1}, storage=path, study_name="study", progress=False)
    with pytest.raises(StudyError, match="the explainers that"):
        join({**call, "explainers": [Fixed]}, storage=path, study_name="study", progress=False)
    for wrong in ({**call, "modle": 1}, {"model": call["model"]}):
        with pytest.raises(ParameterError, match="arguments of tune"):
            join(wrong, storage=path, study_name="study", progress=False)
    with pytest.raises(ParameterError, match="seed"):
        join({**call, "seed": -1}, storage=path, study_name="study", progress=False)
    with pytest.raises(ParameterError, match="storage of a study"):
        join(call, storage=None, study_name="study", progress=False)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StudyError) as raised:
        join(slow_problem(), storage="postgresql://anna:secret@127.0.0.1:1/none", study_name="study")
    assert "secret" not in str(raised.value)
    assert "anna:***@127.0.0.1" in str(raised.value)


def test_the_command_tells_what_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file, path = tmp_path / "another_problem.py", str(tmp_path / "study.journal")
    file.write_text(PROBLEM + "\nnothing = 3\ndef wrong():\n    return [1]\n", encoding="utf-8")
    study = pnpxai.tune(**slow_problem(), n_trials=2, storage=path, study_name="study", progress=False).study
    study.set_user_attr("n_trials", 4)

    def run(problem: str) -> None:
        cli.app(["worker", "--study", "study", "--storage", path, "--problem", problem], standalone_mode=False)

    run(f"{file}:described")
    shown = capsys.readouterr()
    assert shown.out == "The study 'study' has 4 of 4 trials.\n"
    assert "tuning" in shown.err
    assert_each_once(study, 4)
    for name, words in (("nothing", "a function 'nothing'"), ("none", "a function 'none'"), ("wrong", "received list")):
        with pytest.raises(ParameterError, match=words):
            run(f"{file}:{name}")
    for described in (str(file), f"{tmp_path}/none.py:described", "described"):
        with pytest.raises(ParameterError, match="FILE.py:FUNCTION"):
            run(described)
