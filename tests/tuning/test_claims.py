from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState

from pnpxai.tuning import _claims
from pnpxai.tuning._claims import alive, claim, counts, full, give_back, killed, n_finished, release, worker_name
from pnpxai.tuning._journal import journal
from pnpxai.tuning._search import Guided, search

ELSEWHERE = "another-machine:1:1"


def study_in(storage: Any) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name="study", load_if_exists=True, sampler=RandomSampler(seed=0))


def asked(study: optuna.Study, choice: int, worker: str | None = None) -> Trial:
    """A running trial that has made a choice, and perhaps was claimed."""
    study.enqueue_trial({"choice": choice})
    trial = study.ask()
    trial.suggest_int("choice", 0, 9)
    if worker:
        trial.set_user_attr("worker", worker)
    return trial


def dead_worker() -> str:
    """The name of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    name = f"{platform.node()}:{ended.pid}:{_claims._begun(ended.pid)}"
    ended.wait()
    return name


def test_who_is_alive() -> None:
    parent = os.getppid()
    assert alive(f"{platform.node()}:{parent}:{_claims._begun(parent)}")
    assert not alive(f"{platform.node()}:{parent}:another time, the number was used again")
    assert not alive(dead_worker())
    assert not alive(worker_name()), "what this process left running before is not being run"
    assert alive(ELSEWHERE)


def test_a_choice_is_tried_once_whatever_became_of_it() -> None:
    study = study_in(InMemoryStorage())
    study.tell(asked(study, 1), 0.5)
    failed = asked(study, 2)
    failed.set_user_attr("failure", "it cannot")
    study.tell(failed, state=TrialState.FAIL)
    asked(study, 3, ELSEWHERE)
    study.tell(asked(study, 4), state=TrialState.PRUNED)
    interrupted = asked(study, 5)
    interrupted.set_user_attr("failure", "interrupted")
    study.tell(interrupted, state=TrialState.FAIL)
    asked(study, 6, dead_worker())
    for choice in (1, 2, 3):
        with pytest.raises(optuna.TrialPruned, match=f"repeats trial {choice - 1}"):
            claim(asked(study, choice), 99)
    for choice in (4, 5, 6, 7):
        trial = asked(study, choice)
        claim(trial, 99)
        assert trial.user_attrs["worker"] == worker_name()


def test_of_two_without_a_name_the_later_leaves_and_the_first_waits_for_it() -> None:
    study = study_in(InMemoryStorage())
    first, later = asked(study, 1), asked(study, 1)
    waiting = threading.Thread(target=claim, args=(first, 99))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert "worker" not in study.get_trials()[0].user_attrs
    with pytest.raises(optuna.TrialPruned, match="repeats trial 0"):
        claim(later, 99)
    study.tell(later, state=TrialState.PRUNED)
    waiting.join(10)
    assert not waiting.is_alive()
    assert study.get_trials()[0].user_attrs["worker"] == worker_name()


def test_the_first_leaves_what_a_later_one_has_claimed() -> None:
    study = study_in(InMemoryStorage())
    first = asked(study, 1)
    asked(study, 1, ELSEWHERE)
    with pytest.raises(optuna.TrialPruned, match="repeats trial 1"):
        claim(first, 99)


@pytest.mark.parametrize("seed", range(5))
def test_many_at_once_claim_each_choice_exactly_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, n = InMemoryStorage(), 8
    study = study_in(storage)
    trials = [asked(study, (seed + i) % 3) for i in range(n)]
    monkeypatch.setattr(_claims, "worker_name", lambda: ELSEWHERE)
    start, outcome = threading.Barrier(n), {}

    def run(trial: Trial) -> None:
        start.wait()
        try:
            claim(trial, 99)
            outcome[trial.number] = True
        except optuna.TrialPruned:
            outcome[trial.number] = False
            study.tell(trial.number, state=TrialState.PRUNED)

    threads = [threading.Thread(target=run, args=(each,)) for each in trials]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(trials[i].params["choice"] for i, kept in outcome.items() if kept) == [0, 1, 2]


def test_no_more_than_asked_for_are_begun() -> None:
    study = study_in(InMemoryStorage())
    study.tell(asked(study, 0), 1.0)
    asked(study, 1, ELSEWHERE)
    with pytest.raises(optuna.TrialPruned, match="has its 2 trials"):
        claim(asked(study, 2), 2)
    claim(asked(study, 3), 4)
    assert n_finished(study) == 1


def test_only_for_workers_whose_death_would_be_noticed_is_it_worth_waiting() -> None:
    study, parent = study_in(InMemoryStorage()), f"{platform.node()}:{os.getppid()}:{_claims._begun(os.getppid())}"
    study.tell(asked(study, 0), 1.0)
    asked(study, 1, ELSEWHERE)
    assert not full(study, 2)
    asked(study, 2, dead_worker())
    assert not full(study, 2)
    asked(study, 3, parent)
    assert full(study, 2)
    assert not full(study, 3)
    assert not full(study, 1), "it has all its trials"


def test_a_trial_that_is_to_be_tried_again_keeps_its_place() -> None:
    study = study_in(InMemoryStorage())
    asked(study, 0, dead_worker())
    newcomer = asked(study, 1)
    release(study)
    with pytest.raises(optuna.TrialPruned, match="has its 1 trials"):
        claim(newcomer, 1)
    study.tell(newcomer, state=TrialState.PRUNED)
    again = study.ask()
    again.suggest_int("choice", 0, 9)
    claim(again, 1)
    assert again.params == {"choice": 0}


def test_a_dead_workers_trial_is_given_back_with_its_choice_twice_and_then_given_up() -> None:
    study = study_in(InMemoryStorage())
    study.enqueue_trial({"choice": 7}, user_attrs={"default": True})
    for _ in range(3):
        trial = study.ask()
        assert trial.suggest_int("choice", 0, 9) == 7
        assert trial.user_attrs == {"default": True}
        trial.set_user_attr("worker", dead_worker())
        release(study)
    trials = study.get_trials()
    assert [each.state for each in trials] == [TrialState.FAIL] * 3
    assert [each.user_attrs["failure"] for each in trials] == ["interrupted"] * 2 + ["its worker was killed 3 times"]
    assert [counts(each, killed(trials)) for each in trials] == [False, False, True]


def test_what_lives_or_may_live_is_not_given_back() -> None:
    study = study_in(InMemoryStorage())
    parent = os.getppid()
    asked(study, 1, ELSEWHERE)
    asked(study, 2, f"{platform.node()}:{parent}:{_claims._begun(parent)}")
    asked(study, 3)
    release(study)
    assert [each.state for each in study.get_trials()] == [TrialState.RUNNING] * 3


def test_one_without_a_name_is_given_back_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_in(InMemoryStorage())
    asked(study, 1)
    monkeypatch.setattr(_claims, "UNCLAIMED", 0 * _claims.UNCLAIMED)
    release(study)
    assert [each.state for each in study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_two_that_give_the_same_back_queue_a_choice_that_is_tried_once(tmp_path: Path) -> None:
    study = study_in(journal(tmp_path / "study.journal"))
    asked(study, 1, dead_worker())
    (left,) = study.get_trials()
    give_back(study, left)
    give_back(study_in(journal(tmp_path / "study.journal")), left)
    first = study.ask()
    first.suggest_int("choice", 0, 9)
    claim(first, 9)
    study.tell(first, 1.0)
    assert n_finished(study) == 1
    assert sum(each.state == TrialState.WAITING for each in study.get_trials()) == 0


def test_being_full_is_no_sign_of_exhaustion() -> None:
    study = study_in(InMemoryStorage())
    guided = Guided(study.sampler, RandomSampler(seed=0), None)
    for _ in range(30):
        trial = study.ask()
        trial.set_user_attr("skipped", "the study has its 5 trials")
        study.tell(trial, state=TrialState.PRUNED)
        guided(study, study.get_trials()[-1])
    assert guided.repeats == 0
    assert "exhausted" not in study.user_attrs


class Choosing:
    """Stands in for an objective: chooses among ten, and claims."""

    explainers = {"one": None}

    def __init__(self, n_trials: int, during: Callable[[], None] = lambda: None) -> None:
        self.n_trials = n_trials
        self.during = during

    def __call__(self, trial: Trial) -> float:
        trial.suggest_categorical("explainer", ["one"])
        choice = trial.suggest_int("choice", 0, 9)
        try:
            claim(trial, self.n_trials)
        except optuna.TrialPruned as skipped:
            trial.set_user_attr("skipped", str(skipped))
            raise
        self.during()
        return float(choice)

    def build(self, trial: Trial) -> None:
        """What `at_most` counts."""
        trial.suggest_int("choice", 0, 9)


def test_a_worker_waits_for_the_last_trials_of_others_and_goes_on_if_they_are_lost(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = study_in(journal(path))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        other = study.ask()
        other.suggest_categorical("explainer", ["one"])
        other.suggest_int("choice", 0, 9)
        other.set_user_attr("worker", f"{platform.node()}:{process.pid}:{_claims._begun(process.pid)}")
        assert full(study, 1)
        done = threading.Thread(
            target=search, args=(study_in(journal(path)), Choosing(1)), kwargs={"sampler": "random", "seed": 0}
        )
        done.start()
        done.join(0.5)
        assert done.is_alive()
        assert n_finished(study) == 0
    finally:
        process.communicate(b"\n")
    done.join(30)
    assert not done.is_alive()
    lost, again = study.get_trials()
    assert (lost.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == lost.params
    assert n_finished(study) == 1
