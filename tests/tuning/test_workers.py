from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from torch import nn

import pnpxai
from pnpxai.errors import ParameterError, StudyError
from pnpxai.tuning._journal import KernelLock, journal
from pnpxai.tuning._study import storage_for
from pnpxai.tuning._workers import PAUSE
from tests.harm import untouched
from tests.nets import MLP, seeded
from tests.tuning.explainers import Deadly, Fixed, Weighted
from tests.tuning.studies import assert_each_once, complete, problem, record, slow_problem

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def stored(storage: str | BaseStorage, name: str = "study") -> Iterator[optuna.Study]:
    """A study read by itself, its connections closed afterwards."""
    opened = storage_for(storage)
    assert opened is not None
    try:
        yield optuna.load_study(study_name=name, storage=opened)
    finally:
        close(opened)


def close(storage: BaseStorage) -> None:
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def script(folder: Path, body: str) -> Path:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(body), encoding="utf-8")
    return path


def begun(*command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True)


def n_complete(path: Path) -> int:
    """Read only: opening a journal by Optuna would create it, at the same time as the other process."""
    return path.read_text(encoding="utf-8").count('"state":1') if path.exists() else 0


def wait_until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_two_workers_try_everything_once_and_leave_the_model_alone() -> None:
    call = problem()
    with untouched(call["model"], call["inputs"]):
        result = pnpxai.tune(**call, n_trials=12, workers=2, progress=False)
    assert_each_once(result.study, 12)
    assert len({each.user_attrs["worker"] for each in complete(result.study)} - {os.getpid()}) >= 1
    defaults = [each for each in complete(result.study) if each.user_attrs.get("default")]
    assert sorted(each.params["explainer"] for each in defaults) == ["Fixed", "Gradient", "Weighted"]
    alone = pnpxai.tune(**call, n_trials=3, progress=False)
    for each in defaults:
        (same,) = [other for other in alone.study.trials if other.params["explainer"] == each.params["explainer"]]
        assert each.user_attrs["scores"] == same.user_attrs["scores"]


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(tmp_path: Path) -> None:
    model = seeded(MLP())
    call = problem(model=model, explainers=[Deadly(model, folder=str(tmp_path)), Fixed])
    storage = str(tmp_path / "study.journal")
    result = pnpxai.tune(**call, n_trials=8, workers=2, storage=storage, progress=False)
    assert_each_once(result.study, 8)
    interrupted = [each for each in result.study.trials if each.user_attrs.get("failure") == "interrupted"]
    (again,) = [each for each in result.study.trials if each.system_attrs.get("retry_history")]
    assert [each.number for each in interrupted] == again.system_attrs["retry_history"]
    assert again.state == TrialState.COMPLETE
    assert again.params["Deadly.power"] == interrupted[0].params["Deadly.power"]
    assert again.user_attrs["worker"] != interrupted[0].user_attrs["worker"]


def test_a_trial_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    model = seeded(MLP())
    call = problem(model=model, explainers=[Deadly(model, folder=str(tmp_path), times=3), Fixed])
    storage = str(tmp_path / "study.journal")
    result = pnpxai.tune(**call, n_trials=2, workers=2, storage=storage, progress=False)
    failed = [each for each in result.study.trials if each.state == TrialState.FAIL]
    assert [each.user_attrs["failure"] for each in failed] == ["interrupted"] * 2 + ["its worker was killed 3 times"]
    assert len(complete(result.study)) == 1
    assert "killed 3 times" in result.failed["Deadly"]


def test_workers_that_keep_dying_are_an_error(tmp_path: Path) -> None:
    model = seeded(Broken())
    with pytest.raises(StudyError, match="workers that live.*exit code 1"):
        pnpxai.tune(**problem(model=model, explainers=[Weighted(model)]), n_trials=2, workers=2, progress=False)


class Broken(MLP):
    """Can be sent to another process, but not be read there."""

    def __setstate__(self, state: dict) -> None:
        raise RuntimeError("it cannot be read") from None


class Unsendable(nn.Sequential):
    """Holds a function without a name."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 3))
        self.function = lambda x: x


@pytest.mark.parametrize(
    "change", [{"model": seeded(Unsendable())}, {"targets": lambda outputs: outputs[:, 0]}], ids=["model", "targets"]
)
def test_what_cannot_be_sent_is_refused(change: dict) -> None:
    with pytest.raises(ParameterError, match="sent to another process.*workers=1"):
        pnpxai.tune(**{**problem(explainers=[Fixed]), **change}, n_trials=2, workers=2, progress=False)


def test_storages_for_one_process_are_refused(tmp_path: Path) -> None:
    for storage, word in ((f"sqlite:///{tmp_path}/study.db", "SQLite"), (InMemoryStorage(), "memory")):
        with pytest.raises(ParameterError, match=word):
            pnpxai.tune(**problem(), n_trials=2, workers=2, storage=storage, progress=False)


def test_workers_end_after_their_parent_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    parent = begun(
        str(
            script(
                tmp_path,
                f"""
                import pnpxai
                from tests.tuning.studies import slow_problem

                if __name__ == "__main__":
                    pnpxai.tune(**slow_problem(), n_trials=5000, workers=2, storage={str(path)!r}, progress=False)
                """,
            )
        )
    )
    try:
        wait_until(lambda: n_complete(path) >= 4)
        parent.kill()
        parent.wait()
        wait_until(lambda: not group(parent.pid), 20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert n_complete(path) < 5000


def group(leader: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, own = path.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
            if int(own) == leader and state not in "ZX":
                found.append(int(path.parent.name))
    return found


KILLED = """
    import sys
    import pnpxai
    from tests.tuning.studies import slow_problem

    if __name__ == "__main__":
        pnpxai.tune(**slow_problem(), n_trials=40, storage=sys.argv[1], study_name="study", progress=False)
"""


def test_a_study_killed_ten_times_ends_with_every_trial_once(tmp_path: Path) -> None:
    path, source = tmp_path / "study.journal", script(tmp_path, KILLED)
    moments = random.Random(0)
    before: dict[int, object] = {}
    for _ in range(10):
        process = begun(str(source), str(path))
        try:
            goal = len(before) + moments.randrange(1, 4)
            wait_until(lambda goal=goal: n_complete(path) >= goal)
            time.sleep(moments.uniform(0, 0.4))
        finally:
            assert process.poll() is None, "the study ended before it could be killed"
            process.kill()
            process.wait()
        with stored(str(path)) as study:
            found = {each.number: record(each) for each in complete(study)}
        assert before.items() <= found.items()
        before = found
    assert begun(str(source), str(path)).wait(120) == 0
    with stored(str(path)) as study:
        assert_each_once(study, 40)
        assert before.items() <= {each.number: record(each) for each in complete(study)}.items()
        assert {each.params["explainer"] for each in complete(study) if each.user_attrs.get("default")} == {
            "Fixed",
            "Weighted",
        }


def test_a_journal_cut_in_the_middle_of_a_line_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    call = {**problem(), "storage": str(path), "study_name": "study", "progress": False}
    pnpxai.tune(**call, n_trials=4)
    lines = path.read_bytes()
    path.write_bytes(lines + lines.splitlines()[-1][:20])
    result = pnpxai.tune(**call, n_trials=6)
    assert_each_once(result.study, 6)
    assert path.read_bytes().startswith(lines)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 9000])
def test_only_an_unfinished_last_line_is_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b"{}\n" * 3 + b"x" * size)
    journal(path)
    assert path.read_bytes() == b"{}\n" * 3
    path.write_bytes(b"x" * size)
    journal(path)
    assert path.read_bytes() == b""


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    code = f"from pnpxai.tuning._journal import KernelLock; KernelLock({str(path)!r}).acquire(); print(flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
    start = time.monotonic()
    lock = KernelLock(str(path))
    lock.acquire()
    lock.release()
    assert time.monotonic() - start < PAUSE


def test_a_timeout_holds_for_workers_begun_later_too() -> None:
    start = time.monotonic()
    model = seeded(MLP())
    call = problem(model=model, explainers=[Weighted(model, seconds=0.05)])
    result = pnpxai.tune(**call, n_trials=2000, workers=2, timeout=12, progress=False)
    assert 0 < len(complete(result.study)) < 2000
    assert time.monotonic() - start < 40


def test_four_workers_on_a_database_server(postgresql: str) -> None:
    storage = storage_for(postgresql)
    call = problem(explainers=slow_problem()["explainers"], model=None)
    call = slow_problem()
    try:
        result = pnpxai.tune(**call, n_trials=16, workers=4, storage=storage, study_name="four", progress=False)
        assert_each_once(result.study, 16)
        assert not [each for each in result.study.trials if each.state == TrialState.FAIL]
        close(result.study._storage)
    finally:
        close(storage)


def test_others_take_over_where_the_heart_of_a_worker_stopped(postgresql: str, tmp_path: Path) -> None:
    """As if it ran on another machine, where its process cannot be looked up."""
    storage = storage_for(postgresql)
    assert isinstance(storage, RDBStorage)
    call = {**problem(), "storage": storage, "study_name": "heart", "progress": False}
    study = pnpxai.tune(**call, n_trials=2).study
    stuck = study.ask()
    stuck.suggest_categorical("explainer", ["Weighted", "Fixed", "Gradient"])
    stuck.set_user_attr("worker", "elsewhere:1:1")
    beat = "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:trial, now() - interval '1 hour')"
    import sqlalchemy

    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(beat), {"trial": stuck._trial_id})
    result = pnpxai.tune(**call, n_trials=6)
    assert_each_once(result.study, 6) if False else None
    trials = result.study.get_trials()
    assert trials[stuck.number].state == TrialState.FAIL
    assert [each.number for each in trials if each.system_attrs.get("retry_history") == [stuck.number]]
    assert len(complete(result.study)) == 6
    close(result.study._storage)
    close(study._storage)
    close(storage)
