"""Scores as tables: one row a score, one row a combination, or one row an explainer and post-processor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pnpxai.experiment._choices import names
from pnpxai.experiment._run import Combination, Score
from pnpxai.explainers import Explainer
from pnpxai.metrics import Metric
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._statistics import mean_interval

if TYPE_CHECKING:
    import pandas as pd

COMBINATION = ["explainer", "postprocessor", "metric"]


def results(
    scores: Mapping[Combination, Mapping[int, Score]],
    explainers: Sequence[Explainer],
    postprocessors: Sequence[PostProcessor],
    metrics: Sequence[Metric],
) -> pd.DataFrame:
    """The table behind `Experiment.results`."""
    import pandas as pd

    called = [dict(zip(each, names(each), strict=True)) for each in (explainers, postprocessors, metrics)]
    rows: list[dict[str, Any]] = []
    for combination, by_sample in scores.items():
        named = {role: of[part] for role, of, part in zip(COMBINATION, called, combination, strict=True)}
        for i, score in by_sample.items():
            failed = isinstance(score, str)
            rows.append(
                {"data_id": i, **named, "score": math.nan if failed else score, "failure": score if failed else ""}
            )
    return pd.DataFrame(rows, columns=["data_id", *COMBINATION, "score", "failure"])


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """The table behind `Experiment.summary`."""
    import pandas as pd

    rows = []
    for combination, group in found.groupby(COMBINATION, sort=False):
        scores = group["score"].dropna().to_numpy(dtype=float)
        n = len(scores)
        low, high = mean_interval(scores) if n > 1 and np.isfinite(scores).all() else (math.nan, math.nan)
        reasons = dict.fromkeys(group["failure"][group["failure"] != ""])
        rows.append(
            {
                **dict(zip(COMBINATION, combination, strict=True)),
                "mean": scores.mean() if n else math.nan,
                "standard_error": scores.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan,
                "low": low,
                "high": high,
                "n_samples": n,
                "n_failed": len(group) - n,
                "failure": "; ".join(reasons),
            }
        )
    columns = [*COMBINATION, "mean", "standard_error", "low", "high", "n_samples", "n_failed", "failure"]
    return pd.DataFrame(rows, columns=columns)


def leaderboard(found: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """The table behind `Experiment.leaderboard`."""
    table = found.pivot_table(index=COMBINATION[:2], columns="metric", values="score", aggfunc="mean", dropna=True)
    order = [each for each in names(metrics) if each in table]
    columns = [*order[:1], *sorted(order[1:])]
    if not columns:
        return table.reset_index().rename_axis(columns=None)
    ascending = not type(metrics[names(metrics).index(columns[0])]).HIGHER_IS_BETTER
    return table[columns].sort_values(columns[0], ascending=ascending).reset_index().rename_axis(columns=None)
