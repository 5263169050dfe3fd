"""From a study that has ended to its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import optuna
from optuna.trial import TrialState

from pnpxai.batches import Targets
from pnpxai.errors import PnPXAIError, StudyError
from pnpxai.forward import count_forwards
from pnpxai.tuning._caveats import caveats
from pnpxai.tuning._controls import control_scores
from pnpxai.tuning._ensemble import together
from pnpxai.tuning._judge import gain_of, judge
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._opinion import Opinion, other_metric
from pnpxai.tuning._pareto import Choice
from pnpxai.tuning._problem import Problem, versions
from pnpxai.tuning._result import Entry, TuneResult
from pnpxai.tuning._scores import ScoreBook
from pnpxai.tuning._seeds import steadied
from pnpxai.tuning._standings import standings


def conclude(problem: Problem, study: optuna.Study, targets: Targets, seed: int, progress: bool = False) -> TuneResult:
    """Judge what the search found; forwards and seconds in all are the caller's to add.

    Raises:
        StudyError: no trial succeeded.
    """
    objective, holdout_index = problem.objective, problem.holdout_index
    objective.learn(study)
    search_forwards = spent(study)
    found, failed, untried = standings(study, objective)
    with count_forwards() as counter:
        found = steadied(found, objective, search_forwards)
        single = not isinstance(problem.explained, tuple)  # an ensemble explains one input
        combined = together(found, objective, unraced(study, objective.race.n)) if single else None
    search_forwards += counter.n_samples
    entries, failed_unseen = judge(found, objective, holdout_index, seed, progress)
    failed |= failed_unseen
    if not entries:
        reasons = "; ".join(f"{name}: {why.rstrip('.')}" for name, why in failed.items()) or "no trial was finished"
        raise StudyError("at least one explainer that can be scored", reasons, "See `recommend` for what fits.")
    controls = control_scores(
        objective.metric, objective.book, holdout_index or problem.tuning_index, problem.explained, seed
    )
    runner_up = gain_of(entries[0].tuned, entries[1].tuned, objective, seed) if len(entries) > 1 else None
    opinion = None if holdout_index else second_opinion(entries, objective, problem)
    result = TuneResult(
        entries=tuple(entries),
        failed=failed,
        untried=tuple(untried),
        metric=objective.metric,
        modality=problem.modality,
        recommendation=problem.recommendation,
        controls=controls,
        inputs=objective.cache.samples.inputs,
        targets=objective.cache.samples.targets,
        tuning_index=problem.tuning_index,
        holdout_index=holdout_index,
        n_forwards=0,
        seconds=0.0,
        seed=seed,
        versions=versions(),
        search_forwards=search_forwards,
        runner_up=runner_up,
        ensemble=combined.judged(entries[0].tuned, holdout_index, seed) if combined else None,
        opinion=opinion,
        trials=tuple(choices(study, objective)),
        study=study,
    )
    return replace(result, caveats=caveats(result, targets, bool(study.user_attrs.get("exhausted"))))


def spent(study: optuna.Study) -> int:
    """Samples through the model in all trials of a study, by whichever worker."""
    return sum(each.user_attrs.get("n_forwards", 0) for each in study.get_trials(deepcopy=False))


def unraced(study: optuna.Study, n: int) -> float:
    """At least how many it would have taken to follow each trial over all ``n`` samples, with nothing kept before."""
    noted = [each.user_attrs for each in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return float(sum(n * max(each["forwards_per_sample"], each["n_forwards"] / len(each["scores"])) for each in noted))


def choices(study: optuna.Study, objective: Objective) -> list[Choice]:
    """Every scored trial with all that was measured of it."""
    names = [each.name for each in objective.aims]
    made = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        explainer, postprocessor = objective.built(trial)
        noted = trial.user_attrs
        values = {"score": objective.race.value(noted["scores"], noted.get("to_come", 0.0))}
        values |= {name: noted[name] for name in names if name in noted}
        values |= {"forwards": noted["forwards_per_sample"], "runtime": noted["seconds_per_sample"]}
        complete = len(noted["scores"]) >= objective.race.n
        made.append(Choice(trial.number, trial.params["explainer"], explainer, postprocessor, values, complete))
    return made


def second_opinion(entries: Sequence[Entry], objective: Objective, problem: Problem) -> Opinion | None:
    """Another metric's word on the winner, on the samples that were tuned on; None where its default won anyway."""
    entry = entries[0]
    if entry.tuned is entry.default or not entry.default.tuning_scores:
        return None
    explainer = entry.tuned.explainer
    metric = other_metric(
        objective.metric, problem.modality, explainer.forward_arg_extractor, explainer.additional_forward_arg_extractor
    )
    book, index = ScoreBook(metric, objective.cache.samples), problem.tuning_index
    try:
        judged = [
            (each.explainer, each.postprocessor, each.postprocessor(objective.cache.maps(each.explainer, index)))
            for each in (entry.tuned, entry.default)
        ]
        tuned, default = book.scores(judged, index)
    except PnPXAIError:
        return None
    return Opinion(metric, tuple(tuned), tuple(default))
