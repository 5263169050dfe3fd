"""The page about a run of an experiment: what was scored as it is, with nothing tuned."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnpxai.callables import model_name
from pnpxai.experiment import Experiment
from pnpxai.experiment._choices import names as called
from pnpxai.forward import Request
from pnpxai.guard import guard
from pnpxai.report._answers import ClassNames, answers, readings_of
from pnpxai.report._canvas import Canvas
from pnpxai.report._contents import arguments
from pnpxai.report._page import check_page, environment, write
from pnpxai.tuning._problem import versions

if TYPE_CHECKING:
    import pandas as pd


def write_run_report(
    experiment: Experiment,
    path: str | Path,
    *,
    images: Any = None,
    names: Sequence[str] | None = None,
    class_names: ClassNames = None,
    n_explainers: int = 4,
    n_samples: int = 12,
    title: str | None = None,
) -> Path:
    """Write what an experiment has scored as one HTML file that needs nothing else.

    Args:
        experiment: run before, or run now with the first post-processor.
        path: of the file; folders on the way are made.
        images: as for `write_report`, by sample id.
        names: of the samples, by id.
        class_names: by class index.
        n_explainers: how many of the best are shown on each sample.
        n_samples: how many samples are shown, the first.
        title: of the model; None for its class, or the function's name.

    Returns:
        The path.

    Raises:
        ParameterError: numbers of pictures that are no whole numbers from 1, or a folder as path.
    """
    path = Path(path)
    check_page(path, n_explainers=n_explainers, n_samples=n_samples)
    best = experiment.leaderboard
    found = experiment.results
    shown = sorted(set(found["data_id"]))[:n_samples]
    model = experiment.model
    page = (
        environment()
        .get_template("run.html.jinja")
        .render(
            model_name=title or model_name(model),
            n_samples=found["data_id"].nunique(),
            versions=versions(),
            date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            cells=_ordered(experiment.summary, best).to_dict("records"),
            explainers=[(name, arguments(each)) for name, each in _named(experiment.explainers)],
            metrics=[(name, type(each).HIGHER_IS_BETTER, arguments(each)) for name, each in _named(experiment.metrics)],
            metric_name=called(experiment.metrics)[0],
            samples=_samples(experiment, best[:n_explainers], found, shown, images, names, class_names),
        )
    )
    return write(page, path)


def _ordered(cells: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Combinations in the order of the leaderboard; those that have no score at all last."""
    rank = {(row.explainer, row.postprocessor): place for place, row in enumerate(best.itertuples())}
    places = [rank.get(each, len(rank)) for each in zip(cells["explainer"], cells["postprocessor"], strict=True)]
    return cells.assign(place=places).sort_values("place", kind="stable").drop(columns="place")


def _samples(
    experiment: Experiment,
    best: pd.DataFrame,
    found: pd.DataFrame,
    shown: Sequence[int],
    images: Any,
    names: Sequence[str] | None,
    class_names: ClassNames,
) -> list[dict[str, Any]]:
    """Name, answer and pictures of each sample; none where several inputs are explained or nothing has a score."""
    if best.empty:
        return []
    part, metric = experiment.part(shown), called(experiment.metrics)[0]
    extractors = experiment.forward_arg_extractor, experiment.additional_forward_arg_extractor
    with guard(experiment.model):
        request = Request.build(experiment.model, part.inputs, part.targets, *extractors)
        if len(request.inputs) > 1:
            return []
        explained, told = request.input.cpu(), answers(request, class_names)
        readings = readings_of(request, experiment.modality)
    postprocessors = dict(_named(experiment.postprocessors))
    rows = [(str(row.explainer), str(row.postprocessor)) for row in best.itertuples()]
    maps = {(name, after): postprocessors[after](experiment.explain(name, shown)) for name, after in rows}
    scores = found[found["metric"] == metric].set_index(["explainer", "postprocessor", "data_id"])["score"].to_dict()
    parts = []
    for row, i in enumerate(shown):
        picture = None if images is None else images[i]
        canvas = Canvas.build(explained[row], experiment.modality, picture, readings[row])
        tiles = [canvas.input()]
        tiles += [canvas.tile(*each, maps[each][row], scores.get((*each, i))) for each in rows]
        name = names[i] if names is not None else f"Sample {i}"
        parts.append({"name": name, "answer": told[row], "tiles": tiles, "coarse": canvas.coarse})
    return parts


def _named(listed: Sequence[Any]) -> list[tuple[str, Any]]:
    return list(zip(called(listed), listed, strict=True))
