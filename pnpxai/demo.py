"""The demo: which explanation of a pretrained ImageNet network to trust on real photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.photographs import cropped, efficientnet_lite0, imagenet_names, photographs, standardized
from pnpxai.recommender import ExplainerLike, Recommendation, explainers_for, recommend
from pnpxai.report import write_report
from pnpxai.tuning import TuneResult, tune
from pnpxai.tuning._claims import n_finished

OUTPUTS_ONLY = "outputs only"
"""The name among budgets for any budget of an explainer that asks for outputs alone: it costs a third of a gradient."""
BUDGETS: Mapping[str, int] = {OUTPUTS_ONLY: 120, "max_iter": 25, "n_samples": 8, "n_steps": 12}
"""What the demo spends at most where an explainer buys accuracy with time."""
AFFORDABLE = 240
"""Forwards that a map may take in the few minutes of the demo, or three times as many as gradients."""
NOT_OF_CLASSES = "the demo asks about classes, and it explains the outputs as a whole."
AIMS = ("complexity",)
"""What else the demo measures of each trial: stability would mean to explain most of its few samples again."""
MODEL_NAME = "EfficientNet-Lite0"


def run_demo(
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    explainers: Sequence[ExplainerLike] | None = None,
    budgets: Mapping[str, int] = BUDGETS,
    n_trials: int = 24,
    timeout: float | None = 240.0,
    holdout: float | int = 6,
    seed: int = 0,
    progress: bool = True,
) -> TuneResult:
    """Detect, recommend, tune within a budget, and write ``report.html`` and ``leaderboard.csv``.

    Args:
        out: the folder to write to.
        names: of the photographs; None for all.
        explainers: to choose from; None for all that explain a class.
        budgets: tunable in ``BUDGET``, of any explainer or of one as ``Lime.n_samples``, to the most that is spent;
            `OUTPUTS_ONLY` for those that ask for no gradients.
        n_trials: finished trials of the study.
        timeout: seconds after which no trial is begun.
        holdout: photographs that judge, as a share or a number.
        seed: of the tuning.
        progress: print what is going on.

    Raises:
        PnPXAIError: the packages of the extra ``demo`` are not installed.
    """
    chosen = photographs(names)
    model = efficientnet_lite0()
    pictures = [cropped(each.open()) for each in chosen]
    _say(f"{MODEL_NAME} on {len(chosen)} photographs\n", progress)
    result = search(
        model,
        standardized(pictures),
        explainers=explainers,
        budgets=budgets,
        n_trials=n_trials,
        timeout=timeout,
        holdout=holdout,
        seed=seed,
        progress=progress,
    )
    out = Path(out)
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


def search(
    model: nn.Module,
    inputs: Tensor,
    *,
    explainers: Sequence[ExplainerLike] | None = None,
    budgets: Mapping[str, int] = BUDGETS,
    n_trials: int = 24,
    timeout: float | None = None,
    holdout: float | int = 6,
    seed: int = 0,
    progress: bool = True,
) -> TuneResult:
    """Recommend and tune explainers of the predicted classes within ``budgets``; arguments as for `run_demo`."""
    tried = [name for name, each in EXPLAINERS.items() if each.OF_TARGETS] if explainers is None else explainers
    affordable = [within(each, budgets) for each in explainers_for(model, tried)]
    recommendation = recommend(model, inputs, explainers=affordable)
    if explainers is None:
        recommendation = _in_time(recommendation)
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
        aims=AIMS,
    )
    study = result.study
    done = n_trials if study is None or study.user_attrs.get("exhausted") else n_finished(study)
    caveats = (*result.caveats, *_budget_caveats(recommendation.explainers, done, n_trials))
    return replace(result, recommendation=recommendation, caveats=caveats)


def _in_time(recommendation: Recommendation) -> Recommendation:
    """Without what the demo has no time for, and with what it has no use for among the rejected."""
    rejected = {name: NOT_OF_CLASSES for name, each in EXPLAINERS.items() if not each.OF_TARGETS}
    kept = []
    for each in recommendation.explainers:
        name, most = type(each).__name__, AFFORDABLE if each.OUTPUTS_ONLY else AFFORDABLE // 3
        forwards = recommendation.dry_runs[name].full_forwards
        if forwards > most:
            kind = "forwards" if each.OUTPUTS_ONLY else "gradients"
            rejected[name] = f"its map takes {forwards:.0f} {kind}, which the demo's few minutes do not have."
        else:
            kept.append(each)
    return replace(recommendation, explainers=tuple(kept), rejected={**recommendation.rejected, **rejected})


def within(explainer: Explainer, budgets: Mapping[str, int]) -> Explainer:
    """The explainer with each of its budgets lowered to what may be spent."""
    lowered = {}
    for name in type(explainer).BUDGET:
        usual = budgets.get(OUTPUTS_ONLY, budgets.get(name)) if explainer.OUTPUTS_ONLY else budgets.get(name)
        most = budgets.get(f"{type(explainer).__name__}.{name}", usual)
        if most is not None:
            lowered[name] = min(getattr(explainer, name), most)
    return explainer.set_kwargs(**lowered)


def _budget_caveats(explainers: Sequence[Explainer], done: int, n_trials: int) -> list[str]:
    told = []
    spent = [f"{type(each).__name__} {name} {getattr(each, name)}" for each in explainers for name in type(each).BUDGET]
    if spent:
        told.append(
            "To end within minutes the demo gives explainers less than their usual budget, which makes their maps "
            f"noisier: {', '.join(spent)}."
        )
    if done < n_trials:
        told.append(
            f"The time limit ended the search after {done} of {n_trials} trials; with more time it may end elsewhere."
        )
    return told


def _say(text: str, aloud: bool) -> None:
    if aloud:
        print(text, flush=True)
