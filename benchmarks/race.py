"""The race against following every candidate to the end: ``python -m benchmarks.race [cnn vit lite0]``.

Both have the same seed, samples, explainers and number of trials, and measure nothing beside AbPC (``aims=()``), so
that the forwards are the search's own. Lite0 takes hours; a run that was stopped goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.race_subjects import N_HOLDOUT, N_TUNING, SUBJECTS, Subject, subject
from benchmarks.written import circumstances, table, write
from pnpxai.tuning import TuneResult, tune
from pnpxai.tuning._problem import versions

WAYS: dict[str, Literal["wilcoxon"] | None] = {"exhaustive": None, "race": "wilcoxon"}
N_TRIALS = 50
N_SEEDS = {"cnn": 5, "vit": 5, "lite0": 1}
NEAR, SAVED = 0.005, 0.25
"""Largest loss of hold-out AbPC, and largest share of the forwards, that are aimed at."""
LOG = Path(tempfile.gettempdir()) / "race.jsonl"


def run(key: str, subject: Subject, seed: int, way: str, n_trials: int, n_holdout: int) -> dict[str, Any]:
    """One study as a record."""
    result = tune(
        subject.model,
        subject.inputs,
        explainers=subject.explainers,
        n_trials=n_trials,
        seed=seed,
        holdout=n_holdout,
        pruner=WAYS[way],
        aims=(),
        progress=False,
    )
    return {
        **settings(key, subject, seed, way, n_trials, n_holdout),
        "search_forwards": result.search_forwards,
        "n_forwards": result.n_forwards,
        "seconds": result.seconds,
        **recommended(result),
    }


def settings(key: str, subject: Subject, seed: int, way: str, n_trials: int, n_holdout: int) -> dict[str, Any]:
    """What makes a record that of the same study."""
    return {
        "subject": key,
        "title": subject.name,
        "seed": seed,
        "way": way,
        "n_trials": n_trials,
        "n_tuning": len(subject.inputs) - n_holdout,
        "n_holdout": n_holdout,
        "n_explainers": len(subject.explainers),
        "budgets": subject.spent,
    }


def recommended(result: TuneResult) -> dict[str, Any]:
    """What a study ends with: the recommendation, and the best single configuration whether confirmed or not."""
    chosen, best = result.recommended, result.entries[0]
    return {
        "name": result.winner.name,
        "params": dict(chosen.params),
        "holdout": statistics.fmean(chosen.holdout_scores),
        "best": best.name,
        "best_params": dict(best.tuned.params),
        "best_holdout": statistics.fmean(best.tuned.holdout_scores),
        "n_complete": sum(each.complete for each in result.trials),
        "failed": dict(result.failed),
    }


def pairs(records: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The exhaustive and the raced study of each subject, seed and size that has both."""
    by_way = {way: {_about(each): each for each in records if each["way"] == way} for way in WAYS}
    return [(each, by_way["race"][key]) for key, each in by_way["exhaustive"].items() if key in by_way["race"]]


def _about(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("subject", "seed", "n_trials", "n_tuning", "n_holdout", "budgets"))


def share(both: tuple[dict[str, Any], dict[str, Any]]) -> float:
    """The race's part of the exhaustive search's forwards."""
    return float(both[1]["search_forwards"] / both[0]["search_forwards"])


def loss(both: tuple[dict[str, Any], dict[str, Any]], key: str = "holdout") -> float:
    """How much hold-out AbPC the race gives away; negative where it ends better."""
    return float(both[0][key] - both[1][key])


def line(both: tuple[dict[str, Any], dict[str, Any]]) -> str:
    """One comparison, for the terminal."""
    whole, raced = both
    return (
        f"{whole['subject']} seed {whole['seed']}: {share(both):.1%} of {whole['search_forwards']} forwards, "
        f"hold-out AbPC {raced['holdout']:.4f} ({raced['name']}) against {whole['holdout']:.4f} ({whole['name']})"
    )


def summary(records: Sequence[dict[str, Any]]) -> list[str]:
    """Mean and worst of each subject."""
    rows = []
    for key in SUBJECTS:
        own = [each for each in pairs(records) if each[0]["subject"] == key]
        if not own:
            continue
        shares, losses = [share(each) for each in own], [loss(each) for each in own]
        singles = [loss(each, "best_holdout") for each in own]
        totals = [each[1]["n_forwards"] / each[0]["n_forwards"] for each in own]
        met = max(shares) <= SAVED and max(losses) <= NEAR
        rows.append(
            [
                own[0][0]["title"],
                str(len(own)),
                *(f"{reduce(shares):.1%}" for reduce in (statistics.fmean, max)),
                *(f"{reduce(losses):+.4f}" for reduce in (statistics.fmean, max)),
                *(f"{reduce(singles):+.4f}" for reduce in (statistics.fmean, max)),
                f"{statistics.fmean(totals):.1%}",
                "reached" if met else "missed",
            ]
        )
    columns = ["model", "seeds", "forwards, mean", "worst", "AbPC lost, mean", "worst"]
    columns += ["of the best single, mean", "worst", "forwards with judging", "aim"]
    return table(columns, rows)


def page(records: Sequence[dict[str, Any]]) -> list[str]:
    """The measured tables as lines of Markdown."""
    found = pairs(records)
    rows = [
        [
            whole["title"],
            str(whole["seed"]),
            f"{whole['search_forwards']:,} → {raced['search_forwards']:,}",
            f"{share((whole, raced)):.1%}",
            f"{whole['n_forwards']:,} → {raced['n_forwards']:,}",
            f"{whole['holdout']:.4f} → {raced['holdout']:.4f}",
            f"{loss((whole, raced)):+.4f}",
            f"{whole['name']} → {raced['name']}",
            f"{whole['seconds']:.0f} → {raced['seconds']:.0f}",
        ]
        for whole, raced in found
    ]
    columns = ["model", "seed", "forwards of the search", "share", "forwards in all", "hold-out AbPC", "lost"]
    columns += ["ends with", "seconds"]
    used = {each["title"]: each for pair in found for each in pair}
    return [
        "# The race",
        "",
        'The same study twice, every candidate followed to the end (`pruner=None`) and raced (`pruner="wilcoxon"`). '
        f"Aims: at most {SAVED:.0%} of the forwards, and the recommendation at most {NEAR:g} AbPC worse on the "
        "hold-out. Forwards are samples through the model. All recommended explainers, no aim beside AbPC "
        "(`aims=()`) in both. Predicted classes. The recommendation may be a default or the ensemble; the best "
        "single is the configuration with the best tuning score.",
        "",
        *summary(records),
        "",
        "## Study by study",
        "",
        "Exhaustive → raced.",
        "",
        *table(columns, rows),
        "",
        *(
            f"- {title}: {each['n_explainers']} explainers with at most {each['budgets']}; {each['n_trials']} trials, "
            f"{each['n_tuning']} tuning and {each['n_holdout']} hold-out samples."
            for title, each in used.items()
        ),
        "",
        "`python -m benchmarks.race`: "
        + circumstances(sum(each["seconds"] for pair in found for each in pair), versions()),
    ]


def kept(path: Path) -> list[dict[str, Any]]:
    """The records of a log."""
    return [json.loads(each) for each in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs for lite0")
    parser.add_argument("--seeds", type=int, help="how many; by default five for the digits and one for lite0")
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    parser.add_argument("--tuning", type=int, default=N_TUNING)
    parser.add_argument("--holdout", type=int, default=N_HOLDOUT)
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, one a study, as soon as it ends")
    parser.add_argument("--resume", action="store_true", help="keep what the log holds, and go on from there")
    parser.add_argument("--dry", action="store_true", help="print the page instead of keeping it")
    arguments = parser.parse_args()
    if not arguments.resume:
        arguments.log.unlink(missing_ok=True)
    records = kept(arguments.log)
    for key in arguments.subjects:
        start = time.perf_counter()
        tuned = subject(key, arguments.tuning + arguments.holdout, folder=arguments.photographs)
        print(f"{tuned.name}, {len(tuned.explainers)} explainers [{time.perf_counter() - start:.0f} s]", flush=True)
        for seed in range(arguments.seeds or N_SEEDS[key]):
            for way in WAYS:
                about = settings(key, tuned, seed, way, arguments.trials, arguments.holdout)
                if any(about.items() <= each.items() for each in records):
                    continue
                records.append(run(key, tuned, seed, way, arguments.trials, arguments.holdout))
                with arguments.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
            done = [each for each in pairs(records) if (each[0]["subject"], each[0]["seed"]) == (key, seed)]
            print("\n".join(map(line, done)), flush=True)
    lines = page(records)
    print("\n".join(lines))
    if not arguments.dry:
        write("race", lines)


if __name__ == "__main__":
    main()
