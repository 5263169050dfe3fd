from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from torch import nn

import pnpxai
from pnpxai.errors import ParameterError, StudyError
from pnpxai.tuning import _workers
from pnpxai.tuning._claims import worker_name
from pnpxai.tuning._journal import KernelLock, mend
from pnpxai.tuning._study import storage_for
from pnpxai.tuning._workers import Job, work
from tests.harm import untouched
from tests.nets import MLP, seeded
from tests.tuning.explainers import Deadly, Fixed, Weighted
from tests.tuning.processes import FORKED, begun, close, n_complete, run_study, stored, wait_until
from tests.tuning.studies import assert_each_once, complete, posed_problem, problem, record, slow_problem


def test_two_workers_try_everything_once_and_leave_the_model_alone() -> None:
    call = problem()
    with untouched(call["model"], call["inputs"]):
        result = pnpxai.tune(**call, n_trials=12, workers=2, progress=False)
    assert_each_once(result.study, 12)
    assert worker_name() not in {each.user_attrs["worker"] for each in complete(result.study)}
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
    retried = [each for each in result.study.trials if each.system_attrs.get("retry_history")]
    (again,) = [each for each in retried if each.state == TrialState.COMPLETE]
    assert [each.number for each in interrupted] == again.system_attrs["retry_history"]
    assert all(each.state == TrialState.PRUNED for each in retried if each is not again)  # found dead by both others
    assert again.params["Deadly.power"] == interrupted[0].params["Deadly.power"]
    assert again.user_attrs["worker"] != interrupted[0].user_attrs["worker"]


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
@pytest.mark.parametrize("lines", [b"", b"{}\n" * 3])
def test_only_an_unfinished_last_line_is_cut(tmp_path: Path, size: int, lines: bytes) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(lines + b"x" * size)
    mend(path)
    assert path.read_bytes() == lines


def hold(path: str, ready: Connection) -> None:
    KernelLock(path).acquire()
    ready.send(True)
    time.sleep(600)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "study.journal")
    here, there = FORKED.Pipe()
    with here, there, begun(hold, path, there) as process:
        assert here.recv()
        lock = KernelLock(path)
        taken = threading.Thread(target=lock.acquire)
        taken.start()
        taken.join(0.2)
        assert taken.is_alive()
        process.kill()
        taken.join(10)
        assert not taken.is_alive()
        lock.release()


class Broken(MLP):
    """Can be sent to another process, but not be read there."""

    def __setstate__(self, state: dict) -> None:
        raise RuntimeError("it cannot be read")


def test_workers_that_keep_dying_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "MOST_RESTARTS", 0)
    model = seeded(Broken())
    with pytest.raises(StudyError, match="workers that live.*exit code 1"):
        pnpxai.tune(**problem(model=model, explainers=[Weighted(model)]), n_trials=2, workers=2, progress=False)


def test_a_worker_out_of_time_begins_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = pnpxai.tune(**problem(), n_trials=2, storage=str(path), study_name="study", progress=False).study
    call = problem()
    objective = posed_problem(call, 9).objective
    job = tmp_path / "job"
    job.write_bytes(pickle.dumps(Job(objective, str(path), "study", "tpe", 0, 5.0, 2)))
    work(str(job), 1, 0.0)
    assert len(study.get_trials()) == 3  # the third is queued
    work(str(job), 1, 60.0)
    assert_each_once(study, 9)


def test_workers_end_after_their_parent_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    left: list[int] = []
    with begun(run_study, str(path), 5000, 2) as parent:
        assert parent.pid
        try:
            wait_until(lambda: n_complete(path) >= 4)
            left = children(parent.pid)
            assert len(left) >= 2
            parent.kill()
            parent.join()
            wait_until(lambda: not any(map(lives, left)), 30)
        finally:
            for each in filter(lives, left):
                os.kill(each, signal.SIGKILL)
    assert n_complete(path) < 5000


def described(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return ["X", "0"]


def lives(pid: int) -> bool:
    return described(pid)[0] not in "ZX"


def children(parent: int) -> list[int]:
    everyone = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
    return [each for each in everyone if described(each)[1] == str(parent)]


def test_a_study_killed_ten_times_ends_with_every_trial_once(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    moments = random.Random(0)
    before: dict[int, object] = {}
    for _ in range(10):
        with begun(run_study, str(path), 40, 1) as process:
            goal = len(before) + moments.randrange(1, 3)
            wait_until(lambda goal=goal: n_complete(path) >= goal)
            time.sleep(moments.uniform(0, 0.3))
            assert process.is_alive(), "the study ended before it could be killed"
            process.kill()
        with stored(str(path)) as study:
            found = {each.number: record(each) for each in complete(study)}
        assert before.items() <= found.items()
        before = found
    with begun(run_study, str(path), 40, 1) as process:
        process.join(120)
        assert process.exitcode == 0
    with stored(str(path)) as study:
        assert_each_once(study, 40)
        assert before.items() <= {each.number: record(each) for each in complete(study)}.items()
        defaults = [each.params["explainer"] for each in complete(study) if each.user_attrs.get("default")]
    assert sorted(defaults) == ["Fixed", "Weighted"]


def test_four_workers_on_a_database_server(postgresql: str) -> None:
    call = slow_problem()
    result = pnpxai.tune(**call, n_trials=16, workers=4, storage=postgresql, study_name="four", progress=False)
    try:
        assert_each_once(result.study, 16)
        assert not [each for each in result.study.trials if each.state == TrialState.FAIL]
    finally:
        close(result.study._storage)


def test_others_take_over_where_the_heart_of_a_worker_stopped(postgresql: str) -> None:
    """As if it ran on another machine, where its process cannot be looked up."""
    storage = storage_for(postgresql)
    assert isinstance(storage, RDBStorage)
    call = {**problem(), "storage": storage, "study_name": "heart", "progress": False}
    try:
        study = pnpxai.tune(**call, n_trials=2).study
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            stuck = study.ask()
        assert stuck.user_attrs["default"]
        stuck.set_user_attr("worker", "elsewhere:1:1")
        beat = "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:trial, now() - interval '1 hour')"
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.text(beat), {"trial": stuck._trial_id})
        trials = pnpxai.tune(**call, n_trials=6).study.get_trials()
        assert trials[stuck.number].state == TrialState.FAIL
        (again,) = [each for each in trials if each.system_attrs.get("retry_history") == [stuck.number]]
        assert again.state == TrialState.COMPLETE
        assert again.params["explainer"] == "Gradient"
        assert sum(each.state == TrialState.COMPLETE for each in trials) == 6
    finally:
        close(storage)
