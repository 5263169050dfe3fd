"""The demo: which explanation of a pretrained ImageNet network to trust on real photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pnpxai._photographs import cropped, efficientnet_lite0, imagenet_names, photographs, standardized
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.recommender import ExplainerLike, explainers_for, recommend
from pnpxai.report import write_report
from pnpxai.tuning import TuneResult, tune

BUDGETS: Mapping[str, int] = {"n_masks": 120, "max_iter": 30, "n_samples": 8, "n_steps": 12}
"""What the demo spends at most where an explainer buys accuracy with time."""
LEFT_OUT: Mapping[str, str] = {"RELAX": "the demo asks about classes, and it explains the whole output."}
"""Explainers the demo does not try, with the reason."""
MODEL_NAME = "EfficientNet-Lite0"


def run_demo(
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    explainers: Sequence[ExplainerLike] | None = None,
    budgets: Mapping[str, int] = BUDGETS,
    n_trials: int = 28,
    timeout: float | None = 90.0,
    holdout: float | int = 6,
    seed: int = 0,
    progress: bool = True,
) -> TuneResult:
    """Detect, recommend, tune within a budget, and write ``report.html`` and ``leaderboard.csv``.

    Args:
        out: the folder to write to.
        names: of the photographs; None for all.
        explainers: to choose from; None for all that explain a class.
        budgets: tunable in ``BUDGET`` to its value here, for any explainer that has one larger.
        n_trials: finished trials of the study.
        timeout: seconds after which no trial is begun.
        holdout: photographs that judge, as a share or a number.
        seed: of the tuning.
        progress: print what is going on.

    Raises:
        PnPXAIError: the packages of the extra ``demo`` are not installed.
    """
    out = Path(out)
    chosen = photographs(names)
    model = efficientnet_lite0()
    pictures = [cropped(each.open()) for each in chosen]
    inputs = standardized(pictures)
    _say(f"{MODEL_NAME} on {len(chosen)} photographs\n", progress)
    tried = [each for each in EXPLAINERS if each not in LEFT_OUT] if explainers is None else explainers
    affordable = [within(each, budgets) for each in explainers_for(model, tried)]
    recommendation = recommend(model, inputs, explainers=affordable)
    if explainers is None:
        recommendation = replace(recommendation, rejected={**recommendation.rejected, **LEFT_OUT})
    _say(f"{recommendation}\n", progress)
    result = tune(
        model,
        inputs,
        explainers=recommendation.explainers,
        n_trials=n_trials,
        timeout=timeout,
        seed=seed,
        holdout=holdout,
        progress=progress,
    )
    result = replace(result, recommendation=recommendation, caveats=(*result.caveats, _budget_caveat(affordable)))
    out.mkdir(parents=True, exist_ok=True)
    result.leaderboard.to_csv(out / "leaderboard.csv", index=False)
    report = write_report(
        result,
        out / "report.html",
        images=pictures,
        names=[each.name for each in chosen],
        class_names=imagenet_names(),
        title=MODEL_NAME,
    )
    _say(f"\n{result}\n\n{report}\n{out / 'leaderboard.csv'}", progress)
    return result


def within(explainer: Explainer, budgets: Mapping[str, int]) -> Explainer:
    """The explainer with each of its budgets lowered to what may be spent."""
    lowered = {
        name: budgets[name]
        for name in type(explainer).BUDGET
        if name in budgets and getattr(explainer, name) > budgets[name]
    }
    return explainer.set_kwargs(**lowered)


def _budget_caveat(explainers: Sequence[Explainer]) -> str:
    spent = [f"{type(each).__name__} {name} {getattr(each, name)}" for each in explainers for name in type(each).BUDGET]
    return (
        "To end within minutes the demo gives explainers less than their usual budget, which makes their maps noisier: "
        f"{', '.join(spent)}."
        if spent
        else "No explainer here buys accuracy with time."
    )


def _say(text: str, aloud: bool) -> None:
    if aloud:
        print(text, flush=True)
