"""One race against tuning each explainer on its own: ``python -m benchmarks.race_against_separate [cnn vit]``.

The other procedure is that of PnPXAI 0.1 as its documentation states it: for each explainer a study of its own (TPE, 50
trials) over its parameters, the pooling and the normalisation; each trial explains all samples anew and is worth its
mean score; the explainer with the best of these is taken. The samples, the explainers with their spaces and budgets (of
which neither procedure searches more than it is given), the metric and the counting are the same for both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import torch

from benchmarks.race import recommended
from benchmarks.race_subjects import FOLDER, N_HOLDOUT, N_TUNING, SUBJECTS, Subject, subject
from benchmarks.written import circumstances, table, write
from pnpxai.batches import take_samples
from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards
from pnpxai.metrics import AbPC
from pnpxai.modality import modality_for
from pnpxai.postprocess import PostProcessor
from pnpxai.tunable import suggest
from pnpxai.tuning import tune
from pnpxai.tuning._problem import versions
from pnpxai.tuning._study import quiet_optuna

N_TRIALS = 50
TENTH = 0.1
N_SEEDS = 5


@dataclass(frozen=True)
class Separate:
    """What separate studies end with.

    Attributes:
        explainer: of the best trial of all.
        postprocessor: likewise.
        tuning_score: its mean.
        search_forwards: samples through the model.
        n_failed: trials that gave no map.
    """

    explainer: Explainer
    postprocessor: PostProcessor
    tuning_score: float
    search_forwards: int
    n_failed: int


def separate(tuned: Subject, index: Sequence[int], targets: torch.Tensor, seed: int, n_trials: int) -> Separate:
    """Tune each explainer on the samples ``index`` by a study of its own, and take the best."""
    kind = modality_for(None, tuned.inputs)
    inputs, classes = take_samples(tuned.inputs, index), targets[list(index)]
    metric = AbPC(tuned.model, channel_dim=kind.channel_dim)
    found: list[tuple[float, Explainer, PostProcessor]] = []
    n_failed = 0

    def configuration(trial: optuna.trial.BaseTrial, explainer: Explainer) -> tuple[Explainer, PostProcessor]:
        chosen = suggest(trial, explainer, kind.candidates, prefix="explainer.")
        return chosen, suggest(trial, kind.postprocessor, kind.candidates, prefix="postprocessor.")

    with quiet_optuna(), count_forwards() as counter:
        for each in tuned.explainers:

            def worth(trial: optuna.Trial, explainer: Explainer = each) -> float:
                chosen, postprocessor = configuration(trial, explainer)
                maps = postprocessor(chosen.attribute(inputs, classes))
                return float(metric.evaluate(inputs, classes, maps).double().mean())

            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="maximize")
            study.optimize(worth, n_trials=n_trials, catch=(Exception,))
            done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
            n_failed += n_trials - len(done)
            if done:
                found.append((study.best_value, *configuration(study.best_trial, each)))
    score, explainer, postprocessor = max(found, key=lambda each: each[0])
    return Separate(explainer, postprocessor, score, counter.n_samples, n_failed)


def compared(key: str, tuned: Subject, seed: int, n_trials: int, n_holdout: int) -> dict[str, Any]:
    """One race and the separate studies on the same samples, judged on the same others."""
    result = tune(
        tuned.model,
        tuned.inputs,
        explainers=tuned.explainers,
        n_trials=n_trials,
        seed=seed,
        holdout=n_holdout,
        aims=(),
        progress=False,
    )
    start = time.perf_counter()
    other = separate(tuned, result.tuning_index, result.targets, seed, n_trials)
    seconds = time.perf_counter() - start
    unseen = take_samples(tuned.inputs, result.holdout_index)
    classes = result.targets[list(result.holdout_index)]
    maps = other.postprocessor(other.explainer.attribute(unseen, classes))
    return {
        "subject": key,
        "seed": seed,
        "ours": {
            **recommended(result),
            "search_forwards": result.search_forwards,
            "n_forwards": result.n_forwards,
            "seconds": result.seconds,
        },
        "separate": {
            "name": type(other.explainer).__name__,
            "holdout": float(result.metric.evaluate(unseen, classes, maps).double().mean()),
            "search_forwards": other.search_forwards,
            "n_failed": other.n_failed,
            "seconds": seconds,
        },
    }


def estimated(tuned: Subject, n_tuning: int, n_trials: int) -> int:
    """Forwards of the separate studies, from those of explaining one sample by each explainer and scoring its map."""
    kind = modality_for(None, tuned.inputs)
    metric = AbPC(tuned.model, channel_dim=kind.channel_dim)
    one = tuned.inputs[:1]
    with torch.no_grad():
        target = tuned.model(one).argmax(1)
    with count_forwards() as counter:
        for each in tuned.explainers:
            metric.evaluate(one, target, kind.postprocessor(each.attribute(one, target)))
    return counter.n_samples * n_tuning * n_trials


def share(record: dict[str, Any]) -> float:
    """Ours, judging included, over the search of the other."""
    return float(record["ours"]["n_forwards"] / record["separate"]["search_forwards"])


def gain(record: dict[str, Any]) -> float:
    """How much better our recommendation is on the hold-out."""
    return float(record["ours"]["holdout"] - record["separate"]["holdout"])


def line(record: dict[str, Any]) -> str:
    """One comparison, for the terminal."""
    ours, other = record["ours"], record["separate"]
    return (
        f"{record['subject']} seed {record['seed']}: {ours['n_forwards']} of {other['search_forwards']} forwards "
        f"({share(record):.1%}), hold-out AbPC {ours['holdout']:.4f} ({ours['name']}) against {other['holdout']:.4f} "
        f"({other['name']})"
    )


def page(records: Sequence[dict[str, Any]], subjects: dict[str, Subject], n_trials: int, seconds: float) -> list[str]:
    """The measured tables as lines of Markdown."""
    rows = [
        [
            subjects[each["subject"]].name,
            str(each["seed"]),
            f"{each['separate']['search_forwards']:,}",
            f"{each['ours']['search_forwards']:,}",
            f"{each['ours']['n_forwards']:,}",
            f"{share(each):.1%}",
            f"{each['separate']['name']} {each['separate']['holdout']:.4f}",
            f"{each['ours']['name']} {each['ours']['holdout']:.4f}",
            f"{gain(each):+.4f}",
            f"{each['separate']['seconds']:.0f}, {each['ours']['seconds']:.0f}",
        ]
        for each in records
    ]
    columns = ["model", "seed", "forwards, separate", "our search", "ours in all", "share"]
    columns += ["hold-out AbPC, separate", "ours", "gain", "seconds, separate and ours"]
    verdicts = []
    for key, tuned in subjects.items():
        own = [each for each in records if each["subject"] == key]
        if own:
            shares, gains = [share(each) for each in own], [gain(each) for each in own]
            verdicts.append(
                f"- {tuned.name}: {statistics.fmean(shares):.1%} of the forwards on average, at most "
                f"{max(shares):.1%} (aim: {TENTH:.0%}); hold-out AbPC {statistics.fmean(gains):+.4f} on average, at "
                f"worst {min(gains):+.4f} (aim: equal or better). {len(tuned.explainers)} explainers with at most "
                f"{tuned.spent}."
            )
        else:
            verdicts.append(
                f"- {tuned.name}: separate studies would take {estimated(tuned, N_TUNING, n_trials):,} forwards "
                f"(counted on one sample); not run. {len(tuned.explainers)} explainers with at most {tuned.spent}."
            )
    return [
        "# One race against separate studies",
        "",
        f"Separate: each explainer tuned on its own by TPE with {n_trials} trials over its parameters, pooling and "
        "normalisation, nothing kept between trials, the best of all taken: the procedure of PnPXAI 0.1, re-made "
        f"on this package's explainers, spaces and metric. Ours: one `tune` with {n_trials} trials and `aims=()`. "
        f"AbPC of the predicted classes, {N_TUNING} tuning and {N_HOLDOUT} hold-out samples. Forwards are samples "
        "through the model; ours in all include judging every explainer that ran the whole race on the hold-out, those "
        "of the separate studies end with the search.",
        "",
        *verdicts,
        "",
        *table(columns, rows),
        "",
        "`python -m benchmarks.race_against_separate`: " + circumstances(seconds, versions()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=["cnn", "vit"], help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    parser.add_argument("--photographs", help=f"a folder, to count what lite0 would take (or {FOLDER})")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    start = time.perf_counter()
    subjects = {key: subject(key, N_TUNING + N_HOLDOUT) for key in arguments.subjects}
    records = []
    for key, tuned in subjects.items():
        for seed in range(arguments.seeds):
            records.append(compared(key, tuned, seed, arguments.trials, N_HOLDOUT))
            print(line(records[-1]), flush=True)
    if arguments.photographs:
        subjects["lite0"] = subject("lite0", 1, folder=arguments.photographs)
    lines = page(records, subjects, arguments.trials, time.perf_counter() - start)
    print("\n".join(lines))
    if not arguments.dry:
        write("race_against_separate", lines)


if __name__ == "__main__":
    main()
