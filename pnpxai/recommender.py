"""What fits a model: declarations compared, then each explainer tried once on one input."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor, Targets, n_samples, take_samples
from pnpxai.callables import Model, check_model, same_model
from pnpxai.errors import ExplanationError, ParameterError, PnPXAIError, unknown_name
from pnpxai.explainers import EXPLAINERS, Explainer
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request, count_forwards
from pnpxai.guard import guard
from pnpxai.map_checks import check_maps, misread, tells_features_apart
from pnpxai.modality import Modality, modality_for
from pnpxai.modules import Architecture, detect_model_architecture
from pnpxai.targets import take_targets

if TYPE_CHECKING:
    import pandas as pd

ExplainerLike: TypeAlias = str | type[Explainer] | Explainer
FIRST_CALL = 3.0
"""Seconds below which a first call is measured again: it may have gone to imports and to trials of chunk sizes."""
MOST_TRIED = 4
"""Inputs whose maps are looked at before an explainer is rejected because they are the same everywhere."""
CERTAIN = "Where a model is so sure that its probability does not change, score='logit' may say something."
"""What to do where a map of probabilities says nothing."""
DATA = {2: "features (n, d)", 3: "series (n, c, t)", 4: "images (n, c, h, w)", 5: "volumes (n, c, d, h, w)"}
"""What inputs of so many dimensions are."""


@dataclass(frozen=True)
class DryRun:
    """What one explanation of one input cost, with every budget at its least, and what the full budget would.

    Attributes:
        seconds: measured.
        n_forwards: samples through the model, counted.
        full_seconds: extrapolated to the explainer's own budget.
        full_forwards: likewise.
    """

    seconds: float
    n_forwards: int
    full_seconds: float
    full_forwards: float


@dataclass(frozen=True, repr=False)
class Recommendation:
    """Explainers that fit a model, and why the others do not.

    Attributes:
        explainers: ready to use, on the user's own model, fewest forwards first.
        rejected: name to reason.
        detected_architectures: the kinds of modules in the model, with evidence.
        modality: the kind of data.
        dry_runs: name to cost; empty without a dry run.
    """

    explainers: tuple[Explainer, ...]
    rejected: Mapping[str, str]
    detected_architectures: Architecture
    modality: Modality
    dry_runs: Mapping[str, DryRun] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row an explainer: ``explainer, verdict, forwards, seconds`` (a sample, full budget), ``reason``."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for explainer in self.explainers:
            name = type(explainer).__name__
            run = self.dry_runs.get(name)
            cost = {"forwards": run.full_forwards, "seconds": run.full_seconds} if run else {}
            rows.append({"explainer": name, "verdict": "recommended", **cost, "reason": ""})
        rows += [{"explainer": name, "verdict": "rejected", "reason": why} for name, why in self.rejected.items()]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        found = ", ".join(
            f"{kind.__name__} ({len(places)})" for kind, places in self.detected_architectures.evidence.items()
        )
        head = f"{type(self.modality).__name__} model with {found or 'no known kind of module'}"
        fits = [each for each in self.table().itertuples() if each.verdict == "recommended"]
        lines = [head, "", f"{'recommended':<24} {'forwards':>9} {'seconds':>9}   (a sample)"]
        for each in fits:
            cost = f"{each.forwards:>9.0f} {each.seconds:>9.2f}" if self.dry_runs else ""
            lines.append(f"{each.explainer:<24} {cost}")
        if self.rejected:
            lines += ["", "rejected"] + [f"{name:<24} {reason}" for name, reason in self.rejected.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        html: str = self.table().to_html(index=False, na_rep="", float_format=lambda x: f"{x:.3g}", escape=True)
        return html


def recommend(
    model: Model,
    inputs: Any = None,
    targets: Targets = None,
    *,
    modality: str | Modality | None = None,
    dry_run: bool = True,
    explainers: Sequence[ExplainerLike] | None = None,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
) -> Recommendation:
    """Find the explainers that fit a model.

    Args:
        model: a module or a function from a batch to outputs; never changed.
        inputs: a batch; without it only declarations are compared and nothing is run.
        targets: as for `Explainer.attribute`.
        modality: a name or object; None guesses from the inputs.
        dry_run: explain the first input with each explainer that fits, every budget at its least.
        explainers: names, classes or instances to choose from; None for all that are registered.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.

    Raises:
        PnPXAIError: a model or inputs that nothing can explain.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> "GradCam" in recommend(net, torch.rand(1, 4)).rejected
        True
    """
    check_model(model)
    several: tuple[Tensor, ...] = ()
    explained, tokens, word_ids = None, False, False
    if inputs is not None:
        with guard(model), torch.inference_mode(False):
            request = Request.build(model, inputs, targets, forward_arg_extractor, additional_forward_arg_extractor)
            several, explained = request.inputs, request.inputs[0]
            tokens, word_ids = request.tokens, request.word_ids
            _, targets = request.outputs, request.targets
    kind = modality_for(
        "image" if modality is None and explained is None else modality, explained, tokens, word_ids, len(several) > 1
    )
    architecture = detect_model_architecture(
        model,
        inputs,
        forward_arg_extractor=forward_arg_extractor,
        additional_forward_arg_extractor=additional_forward_arg_extractor,
    )
    fitting: list[Explainer] = []
    rejected: dict[str, str] = {}
    runs: dict[str, DryRun] = {}
    for each in explainers_for(model, explainers, forward_arg_extractor, additional_forward_arg_extractor, kind):
        name = type(each).__name__
        reason = unread(each) or unmet(type(each), architecture, several)
        if reason is None and inputs is not None and dry_run:
            outcome = try_once(each, inputs, targets, lambda maps: misread(maps, explained, kind.channel_dim))
            if isinstance(outcome, DryRun):
                runs[name] = outcome
            else:
                reason = outcome
        if reason is None:
            fitting.append(each)
        else:
            rejected[name] = reason
    fitting.sort(key=lambda each: runs[type(each).__name__].full_forwards if runs else 0.0)
    return Recommendation(tuple(fitting), rejected, architecture, kind, runs)


def explainers_for(
    model: Model,
    explainers: Iterable[ExplainerLike] | None,
    forward_arg_extractor: Extractor | None = None,
    additional_forward_arg_extractor: Extractor | None = None,
    modality: Modality | None = None,
) -> list[Explainer]:
    """Explainers on ``model`` from names, classes or instances; all that are registered for None.

    Names and classes are set up as the modality settles it; instances stay as they are.

    Raises:
        UnknownNameError: a name that is no explainer.
        ParameterError: an instance on another model.
    """
    made: list[Explainer] = []
    if isinstance(explainers, str | type | Explainer):
        raise ParameterError("a list of explainers", f"{explainers!r}", "Put it in a list, [explainer].")
    for each in EXPLAINERS.values() if explainers is None else explainers:
        if isinstance(each, str):
            if each not in EXPLAINERS:
                raise unknown_name("explainer", each, EXPLAINERS)
            each = EXPLAINERS[each]
        if isinstance(each, type) and issubclass(each, Explainer):
            each = each(model, forward_arg_extractor, additional_forward_arg_extractor)
            each = each if modality is None else modality.settled(each)
        if not isinstance(each, Explainer):
            raise unknown_name("explainer", each, EXPLAINERS)
        if not same_model(each.model, model):
            raise ParameterError(
                "an explainer on the model that is given",
                f"{type(each).__name__} on another model",
                "Build it with this model, or pass its class.",
            )
        made.append(each)
    return made


def unread(explainer: Explainer) -> str | None:
    """Why an explainer cannot explain a function, in a sentence; None if it can, or the model is a module."""
    if explainer.OUTPUTS_ONLY or isinstance(explainer.model, nn.Module):
        return None
    return "it needs gradients or the modules inside, and a function that is no torch.nn.Module has neither."


def unmet(explainer: type[Explainer], architecture: Architecture, inputs: Sequence[Tensor]) -> str | None:
    """Why an explainer's declarations do not fit, in a sentence; None if they do."""
    excluded = [kind for kind in explainer.EXCLUDED_MODULES if kind in architecture]
    if excluded:
        kind = excluded[0]
        place = architecture.evidence[kind][0]
        return f"it has no correct treatment of {kind.__name__}, which the model has at {place!r}."
    asks = not set(explainer.SUPPORTED_MODULES) >= set(ANY_MODULE)
    if asks and not any(kind in architecture for kind in explainer.SUPPORTED_MODULES):
        needed = " or ".join(kind.__name__ for kind in explainer.SUPPORTED_MODULES)
        return f"it works on {needed} layers, and none is seen in this model."
    strange = [each.ndim for each in inputs if explainer.INPUT_NDIMS and each.ndim not in explainer.INPUT_NDIMS]
    if strange:
        allowed = " or ".join(DATA.get(ndim, f"inputs with {ndim} dimensions") for ndim in explainer.INPUT_NDIMS)
        which = "these inputs have" if len(inputs) == 1 else "one of these inputs has"
        return f"it explains {allowed}, and {which} {strange[0]} dimensions, batch included."
    return None


def try_once(
    explainer: Explainer, inputs: Any, targets: Targets = None, judge: Callable[[Any], str | None] | None = None
) -> DryRun | str:
    """Explain one input at the least budget; the cost, or in a sentence why the map is no good.

    Args:
        explainer: which.
        inputs: of which the first is explained, or where its map is the same everywhere one of the next, up to
            `MOST_TRIED`.
        targets: as for `Explainer.attribute`.
        judge: says why a map is no good, None where it is.
    """
    cheap, share = least_budget(explainer)
    try:
        with count_forwards() as counter:
            maps, seconds = _timed(cheap, inputs, targets)
        if not tells_features_apart(maps):
            for sample in range(1, min(n_samples(inputs), MOST_TRIED)):
                maps, _ = _timed(cheap, inputs, targets, sample)
                if tells_features_apart(maps):
                    break
        check_maps(maps)
        if judge is not None and (reason := judge(maps)) is not None:
            return reason
        if seconds < FIRST_CALL:
            with count_forwards() as counter:  # without what a trial of chunk sizes took
                _, seconds = _timed(cheap, inputs, targets)
    except ExplanationError as error:
        advice = CERTAIN if getattr(explainer, "score", None) == "probability" else error.advice
        return f"it has to give {error.expected}, and gave {error.received}. {advice}"
    except PnPXAIError as error:
        return f"it needs {error.expected}, and found {error.received}. {error.advice}"
    except Exception as error:
        return f"on one of the inputs it failed with {type(error).__name__}: {str(error).rstrip('.')}."
    return DryRun(seconds, counter.n_samples, seconds * share, counter.n_samples * share)


def _timed(explainer: Explainer, inputs: Any, targets: Targets, sample: int = 0) -> tuple[Any, float]:
    start = time.perf_counter()
    maps = explainer.attribute(take_samples(inputs, [sample]), _of_sample(targets, sample))
    return maps, time.perf_counter() - start


def least_budget(explainer: Explainer) -> tuple[Explainer, float]:
    """The explainer with every budget at the low end of its range, and how many times that its own budget is."""
    changes: dict[str, Any] = {}
    share = 1.0
    for name in type(explainer).BUDGET:
        space = type(explainer).TUNABLES[name]
        own = getattr(explainer, name)
        if isinstance(space, IntDistribution | FloatDistribution) and own > space.low:
            changes[name] = space.low
            share *= own / space.low
    return explainer.set_kwargs(**changes), share


def _of_sample(targets: Targets, sample: int) -> Targets:
    if isinstance(targets, Sequence) and not isinstance(targets, str):
        return targets[sample : sample + 1]
    return take_targets(targets, [sample]) if isinstance(targets, Tensor) or callable(targets) else targets
