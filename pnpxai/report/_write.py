"""Puts what was gathered into the page."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pnpxai.batches import n_samples as count_samples
from pnpxai.callables import model_name
from pnpxai.errors import ParameterError
from pnpxai.report import _board, _contents
from pnpxai.report._answers import ClassNames
from pnpxai.report._colour import DIVERGING, PERCENTILE, SEQUENTIAL
from pnpxai.report._curves import curve_metric
from pnpxai.report._front import front
from pnpxai.report._page import check_page, environment, write
from pnpxai.report._reasons import reasons
from pnpxai.report._samples import samples
from pnpxai.tuning import TuneResult


def write_report(
    result: TuneResult,
    path: str | Path,
    *,
    images: Any = None,
    names: Sequence[str] | None = None,
    class_names: ClassNames = None,
    n_explainers: int = 4,
    n_samples: int = 12,
    title: str | None = None,
) -> Path:
    """Write a result as one HTML file that needs nothing else: no network, no script, pictures inside.

    Maps and curves of the samples shown are computed again.

    Args:
        result: what `pnpxai.tune` returned.
        path: of the file; folders on the way are made.
        images: for each sample the picture its maps are laid over, of the size the model sees: ``(h, w)``,
            ``(h, w, 3)`` or ``(3, h, w)``, whole numbers to 255 or reals to 1. None stretches the inputs themselves.
        names: of the samples.
        class_names: by class index.
        n_explainers: how many of the best are shown on each sample.
        n_samples: how many samples are shown, those of the hold-out first.
        title: of the model; None for its class, or the function's name.

    Returns:
        The path.

    Raises:
        ParameterError: numbers of pictures or names that differ from the number of samples, or a folder as path.
    """
    path = Path(path)
    n = count_samples(result.inputs)
    for what, given in (("images", images), ("names", names)):
        if given is not None and len(given) != n:
            raise ParameterError(f"one of {what} for each of {n} samples", f"{len(given)}", "Pass as many as inputs.")
    check_page(path, n_explainers=n_explainers, n_samples=n_samples)
    shown = sorted((*result.holdout_index, *result.tuning_index)[:n_samples])
    named = list(names) if names is not None else [f"Sample {i}" for i in range(n)]
    parts = samples(result, shown, images, named, class_names, n_explainers)
    model = result.explainer.model
    page = (
        environment()
        .get_template("template.html.jinja")
        .render(
            result=result,
            title=title or model_name(model),
            model_name=model_name(model),
            kind_of_data=_contents.kind_of_data(result),
            n_parameters=sum(each.numel() for each in model.parameters()) if isinstance(model, nn.Module) else None,
            n_samples=n,
            names=named,
            architecture=_contents.architecture(result),
            recommended=_contents.recommended(result),
            rejected=_contents.rejected(result),
            reasons=reasons(result),
            board=_board.board(result),
            front=front(result),
            entries=[(each, _contents.parameters(each)) for each in _board.lines(result)],
            metric=_contents.metric_parameters(result),
            metric_name=type(result.metric).__name__,
            curve_name=type(curve_metric(result)).__name__,
            samples=parts,
            percentile=PERCENTILE,
            diverging=", ".join(DIVERGING),
            sequential=", ".join(SEQUENTIAL),
            date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        )
    )
    return write(page, path)
