"""Judging what a search found, on samples that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor
from tqdm.auto import tqdm

from pnpxai.errors import ParameterError, PnPXAIError
from pnpxai.forward import Targets, take_samples
from pnpxai.metrics import Metric
from pnpxai.outputs import TargetFunction
from pnpxai.tuning._controls import CONTROLS
from pnpxai.tuning._maps import take_targets
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._result import Configuration, Entry
from pnpxai.tuning._statistics import FEWEST_TO_CONFIRM, paired_gain


def judge(
    study: optuna.Study, objective: Objective, holdout_index: Sequence[int], seed: int, progress: bool = False
) -> tuple[list[Entry], dict[str, str]]:
    """Each explainer's tuned and default configuration on the hold-out, best tuning score first; and who failed."""
    sign = 1 if type(objective.metric).HIGHER_IS_BETTER else -1
    entries: list[Entry] = []
    failed: dict[str, str] = {}
    trials = study.get_trials(deepcopy=False)
    for name in tqdm(objective.explainers, desc="judging", unit="explainer", disable=not progress):
        own = [each for each in trials if each.params.get("explainer") == name]
        failures = tuple(dict.fromkeys(each.user_attrs["failure"] for each in own if "failure" in each.user_attrs))
        complete = [
            each
            for each in own
            if each.state == TrialState.COMPLETE and len(each.user_attrs["scores"]) == len(objective.index)
        ]
        if not complete:
            failed[name] = "; ".join(failures) or "no trial of it was run; allow more trials or time."
            continue
        best = max(complete, key=lambda each: sign * float(np.mean(each.user_attrs["scores"])))
        first = next((each for each in complete if each.user_attrs.get("default")), None)
        if first is not None and first.value == best.value:
            best = first
        try:
            default = _configuration(objective, first, holdout_index) if first else _failed_default(objective, name)
            tuned = default if best is first else _configuration(objective, best, holdout_index)
        except PnPXAIError as error:
            failed[name] = f"on the hold-out: {error}"
            continue
        gain = None
        if holdout_index and first is not None:
            gain = paired_gain(
                tuned.holdout_scores,
                default.holdout_scores,
                higher_is_better=type(objective.metric).HIGHER_IS_BETTER,
                seed=seed,
            )
        n_trials = sum(each.state.is_finished() for each in own)
        entries.append(Entry(name, default, tuned, gain, n_trials, failures))
    entries.sort(key=lambda each: -sign * float(np.mean(each.tuned.tuning_scores)))
    return entries, failed


def control_scores(
    objective: Objective, index: Sequence[int], explained: Tensor, seed: int
) -> dict[str, tuple[float, ...]]:
    """Scores of random, edge and centre maps; none for a metric that has to explain again."""
    inputs, targets = take_samples(objective.cache.inputs, index), take_targets(objective.cache.targets, index)
    rows = explained[list(index)]
    scores: dict[str, tuple[float, ...]] = {}
    for name, control in CONTROLS.items():
        maps = control(rows, objective.metric.channel_dim, seed)
        try:
            scores[name] = tuple(float(each) for each in objective.metric.evaluate(inputs, targets, maps))
        except ParameterError:
            return {}
    return scores


def split(n: int, holdout: float | int, targets: Tensor | TargetFunction, seed: int) -> tuple[list[int], list[int]]:
    """Disjoint tuning and hold-out samples, spread over the classes; a single sample has no hold-out.

    Raises:
        ParameterError: a hold-out that leaves nothing to tune on.
    """
    share = isinstance(holdout, float) and 0 <= holdout < 1
    size = int(n * holdout) if share else holdout
    if isinstance(holdout, bool) or not isinstance(size, int) or size < 0 or size >= n:
        raise ParameterError(
            f"holdout as a share from 0 to below 1, or a number of samples below the {n} there are",
            f"{holdout!r}",
            "Leave at least one sample to tune on.",
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(n)
    if isinstance(targets, Tensor):
        classes = targets.cpu().numpy()[order]
        order = order[np.argsort(classes, kind="stable")]
    picked = {int(each) for each in np.floor((np.arange(size) + generator.random()) * n / size)} if size else set()
    chosen = {int(order[each]) for each in picked}
    tuning = [int(each) for each in generator.permutation(n) if int(each) not in chosen]
    return tuning, sorted(chosen)


def _configuration(objective: Objective, trial: FrozenTrial, holdout_index: Sequence[int]) -> Configuration:
    explainer, postprocessor = objective.build(trial)
    configuration = Configuration(
        explainer,
        postprocessor,
        {name: value for name, value in trial.params.items() if name != "explainer"},
        tuple(trial.user_attrs["scores"]),
        n_forwards=trial.user_attrs["explain_forwards"],
        seconds=trial.user_attrs["explain_seconds"],
    )
    if not holdout_index:
        return configuration
    return replace(configuration, holdout_scores=tuple(objective.scores(explainer, postprocessor, holdout_index)))


def _failed_default(objective: Objective, name: str) -> Configuration:
    params = {key: value for key, value in objective.default_params(name).items() if key != "explainer"}
    return Configuration(objective.explainers[name], objective.postprocessor, params, ())


def caveats(
    entries: Sequence[Entry],
    tuning_index: Sequence[int],
    holdout_index: Sequence[int],
    controls: Mapping[str, Sequence[float]],
    targets: Targets,
    metric: Metric,
) -> list[str]:
    """What a reader has to know before trusting the outcome."""
    notes: list[str] = []
    if not holdout_index:
        notes.append("There was no hold-out: scores are those of the samples that were tuned on, which flatters them.")
    elif len(holdout_index) < FEWEST_TO_CONFIRM:
        few = len(holdout_index)
        notes.append(f"{few} hold-out samples cannot confirm a gain at 95 %; it takes at least {FEWEST_TO_CONFIRM}.")
    untried = sum(each.n_trials <= 1 for each in entries)
    if untried:
        notes.append(
            f"{untried} of {len(entries)} explainers were tried with their default settings only; raise n_trials."
        )
    if len(tuning_index) < 16:
        notes.append(f"The search saw {len(tuning_index)} samples; more would make the choice of explainer steadier.")
    if targets is None:
        notes.append("Targets are the predicted classes: this says nothing about whether the predictions are right.")
    if entries and controls:
        winner = entries[0].tuned
        judged = winner.holdout_scores or winner.tuning_scores
        sign = 1 if type(metric).HIGHER_IS_BETTER else -1
        better = [name for name, scores in controls.items() if sign * (np.mean(scores) - np.mean(judged)) >= 0]
        if better:
            notes.append(f"A map that knows nothing of the model does as well by this metric: {', '.join(better)}.")
    return notes
