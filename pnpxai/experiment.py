"""An experiment: a model and a data set, explained, scored and tuned by ids, names, classes or instances."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import InputError, ParameterError, TargetError, unknown_name
from pnpxai.explainers import Explainer, attribute_together, shares_work
from pnpxai.forward import Request, model_reference
from pnpxai.guard import guard
from pnpxai.metrics import (
    AbPC,
    Answers,
    Complexity,
    Metric,
    MuFidelity,
    Sensitivity,
    answers_together,
    evaluate_together,
    metric_for,
)
from pnpxai.modality import Image, Modality, Tabular, TimeSeries, modality_for
from pnpxai.postprocess import PostProcessor
from pnpxai.recommender import ExplainerLike, Recommendation, explainers_for, recommend
from pnpxai.samples import Ids, Samples
from pnpxai.tuning import TuneResult, tune

Choice: TypeAlias = Any
T = TypeVar("T")


class Experiment:
    """Explainers × post-processors × metrics over a data set, each map and score computed once.

    Args:
        model: a module or a function from a batch to outputs; never changed.
        data: a DataLoader, a Dataset, a list of samples, or a tensor ``(n, …)`` of inputs. Ids count samples in the
            data set's own order, also where a loader shuffles.
        modality: a name, class or object of `pnpxai.modality`; None guesses from the inputs.
        explainers: names, classes or instances; None for those that `recommend` proves to fit.
        postprocessors: objects; None for the modality's usual one.
        metrics: names, classes or instances; None for `AbPC`.
        input_extractor: from a batch to the model's inputs. Default: the first element of a tuple or list.
        label_extractor: from a batch to the labels. Default: the last element of a tuple or list.
        target_extractor: from the model's outputs (from the labels, if ``target_labels``) to class indices ``(n,)``.
            Default: the highest output, or the labels themselves.
        target_labels: explain the labels, not the predictions.
        forward_arg_extractor: as for explainers.
        additional_forward_arg_extractor: as for explainers.
        batch_size: samples in hand at once, where the data have no batch size of their own.
    """

    DEFAULT_METRICS: ClassVar[tuple[type[Metric], ...]] = (AbPC,)

    def __init__(
        self,
        model: Model,
        data: Any,
        modality: str | type[Modality] | Modality | None = None,
        explainers: Sequence[ExplainerLike] | None = None,
        postprocessors: Sequence[PostProcessor] | None = None,
        metrics: Sequence[str | type[Metric] | Metric] | None = None,
        input_extractor: Extractor | None = None,
        label_extractor: Extractor | None = None,
        target_extractor: Callable[[Tensor], Tensor] | None = None,
        target_labels: bool = False,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        batch_size: int = 16,
    ) -> None:
        self.model = model
        self.data = data
        self.chosen_modality = modality
        self.chosen_explainers = explainers
        self.chosen_postprocessors = postprocessors
        self.chosen_metrics = metrics
        self.input_extractor = input_extractor or _first
        self.label_extractor = label_extractor or _last
        self.target_extractor = target_extractor
        self.target_labels = target_labels
        self.forward_arg_extractor = forward_arg_extractor
        self.additional_forward_arg_extractor = additional_forward_arg_extractor
        self.batch_size = batch_size
        self.tuned: TuneResult | None = None
        self._maps: dict[tuple[Explainer, int], Tensor] = {}
        self._scores: dict[tuple[Explainer, PostProcessor, Metric, int], float | str] = {}

    @cached_property
    def samples(self) -> Samples:
        """The data by id."""
        return Samples(self.data)

    def inputs(self, data_ids: Ids = None) -> Any:
        """The model's inputs of some samples."""
        return self.input_extractor(self.samples.batch(data_ids))

    def labels(self, data_ids: Ids = None) -> Any:
        """The labels of some samples."""
        return self.label_extractor(self.samples.batch(data_ids))

    def targets(self, data_ids: Ids = None) -> Tensor:
        """What is explained: class indices ``(n,)`` on the CPU."""
        batch = self.samples.batch(data_ids)
        if self.target_labels:
            chosen = self.label_extractor(batch)
            chosen = self.target_extractor(chosen) if self.target_extractor else chosen
            return torch.as_tensor(chosen).cpu()
        model_reference(self.model)
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model,
                self.input_extractor(batch),
                None,
                self.forward_arg_extractor,
                self.additional_forward_arg_extractor,
            )
            found = self.target_extractor(request.outputs) if self.target_extractor else request.targets
        if not isinstance(found, Tensor) or found.shape != (len(request),):
            received = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(
                f"target_extractor to return class indices ({len(request)},)", f"{received}", "Use outputs.argmax(-1)."
            )
        return found.cpu()

    @cached_property
    def recommendation(self) -> Recommendation:
        """What fits the model, tried on the first sample."""
        return recommend(
            self.model,
            self.inputs([0]),
            self.targets([0]),
            modality=self.modality,
            forward_arg_extractor=self.forward_arg_extractor,
            additional_forward_arg_extractor=self.additional_forward_arg_extractor,
        )

    @cached_property
    def modality(self) -> Modality:
        """The kind of data."""
        with guard(self.model), torch.inference_mode(False):
            request = Request.build(
                self.model,
                self.inputs([0]),
                None,
                self.forward_arg_extractor,
                self.additional_forward_arg_extractor,
            )
            return modality_for(self.chosen_modality, request.inputs[0], request.tokens)

    @cached_property
    def explainers(self) -> list[Explainer]:
        """The explainers, by id."""
        if self.chosen_explainers is None:
            return list(self.recommendation.explainers)
        return explainers_for(
            self.model, self.chosen_explainers, self.forward_arg_extractor, self.additional_forward_arg_extractor
        )

    @cached_property
    def postprocessors(self) -> list[PostProcessor]:
        """The post-processors, by id."""
        if self.chosen_postprocessors is None:
            return [self.modality.postprocessor]
        return list(self.chosen_postprocessors)

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics, by id."""
        made = []
        for each in self.DEFAULT_METRICS if self.chosen_metrics is None else self.chosen_metrics:
            metric = metric_for(each, self.model, self.forward_arg_extractor, self.additional_forward_arg_extractor)
            given = isinstance(each, Metric)
            made.append(metric if given else metric.set_kwargs(channel_dim=self.modality.channel_dim))
        return made

    def explain(self, explainer: Choice, data_ids: Ids = None) -> Tensor:
        """Raw maps of some samples by one explainer; kept, so that each is made once.

        With them come the maps of explainers that cost nothing beside it (see `attribute_together`).
        """
        chosen = _pick("explainer", explainer, self.explainers)
        ids = self.samples.ids(data_ids)
        missing = [i for i in ids if (chosen, i) not in self._maps]
        for part in _parts(missing, self.batch_size):
            sharing = [chosen, *self._sharing(chosen)]
            maps, *others = attribute_together(sharing, self.inputs(part), self.targets(part))
            if not isinstance(maps, Tensor):
                raise InputError(
                    "one tensor to be explained",
                    f"{len(maps)} maps from {type(chosen).__name__}",
                    "Choose one with forward_arg_extractor and pass the others by additional_forward_arg_extractor.",
                )
            for explainer, found in zip(sharing, (maps, *others), strict=True):
                for i, each in zip(part, found, strict=True):
                    self._maps[explainer, i] = each.detach().cpu()
        return torch.stack([self._maps[chosen, i] for i in ids])

    def _sharing(self, chosen: Explainer) -> list[Explainer]:
        """The other explainers whose maps take nothing that ``chosen`` does not ask of the model."""
        return [
            each
            for each in self.explainers
            if each != chosen and shares_work(each, chosen) and each.budget <= chosen.budget
        ]

    def run_batch(
        self, explainer_id: Choice = 0, postprocessor_id: Choice = 0, metric_id: Choice = 0, data_ids: Ids = None
    ) -> dict[str, Any]:
        """One explainer, one post-processor and one metric on some samples.

        Returns:
            ``inputs, labels, targets, explanation`` (raw), ``postprocessed`` and ``evaluation`` ``(n,)``.
        """
        explainer = _pick("explainer", explainer_id, self.explainers)
        postprocessor = _pick("post-processor", postprocessor_id, self.postprocessors)
        ids = self.samples.ids(data_ids)
        metric = _pick("metric", metric_id, self.metrics).for_samples(ids).judging(explainer, postprocessor)
        inputs, targets = self.inputs(ids), self.targets(ids)
        raw = self.explain(explainer, ids)
        maps = postprocessor(raw)
        return {
            "inputs": inputs,
            "labels": self.labels(ids),
            "targets": targets,
            "explanation": raw,
            "postprocessed": maps,
            "evaluation": metric.evaluate(inputs, targets, maps),
        }

    def __repr__(self) -> str:
        parts: dict[str, Sequence[Explainer | PostProcessor | Metric]]
        parts = {"explainers": self.explainers, "postprocessors": self.postprocessors, "metrics": self.metrics}
        listed = (
            f"{name}: " + ", ".join(f"{i} {_name(e)}" for i, e in enumerate(each)) for name, each in parts.items()
        )
        return "\n".join([f"{type(self).__name__} of {len(self.samples)} samples", *listed])

    def run(
        self, data_ids: Ids = None, postprocessor_ids: Sequence[Choice] | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """Every explainer with every post-processor (or those chosen) by every metric on every sample.

        A combination that fails is a row with its reason, and the run goes on.

        Returns:
            One row a score: ``data_id, explainer, postprocessor, metric, score, failure``.
        """
        ids = self.samples.ids(data_ids)
        chosen = self.postprocessors
        if postprocessor_ids is not None:
            chosen = [_pick("post-processor", each, self.postprocessors) for each in postprocessor_ids]
        pairs = [(e, p) for e in self.explainers for p in chosen]
        keys = [(e, p, m) for e, p in pairs for m in self.metrics]
        missing = [i for i in ids if any((*key, i) not in self._scores for key in keys)]
        with tqdm(total=len(keys) * len(missing), desc="running", unit="score", disable=not progress) as bar:
            for part in _parts(missing, self.batch_size):
                asked = self._ask(part)
                for explainer, postprocessor in pairs:
                    for metric, scores in self._judge(explainer, postprocessor, part, asked).items():
                        for i, score in zip(part, scores, strict=True):
                            self._scores.setdefault((explainer, postprocessor, metric, i), score)
                    bar.update(len(self.metrics) * len(part))
        return self.results

    def _ask(self, ids: Sequence[int]) -> tuple[Any, Tensor, Answers] | None:
        """Inputs, targets and the answers of the model that no map changes; None where one of them fails."""
        try:
            inputs, targets = self.inputs(ids), self.targets(ids)
            return inputs, targets, answers_together([each.for_samples(ids) for each in self.metrics], inputs, targets)
        except Exception:
            return None

    def _judge(
        self,
        explainer: Explainer,
        postprocessor: PostProcessor,
        ids: Sequence[int],
        asked: tuple[Any, Tensor, Answers] | None,
    ) -> dict[Metric, list[float | str]]:
        """The scores by metrics that miss any: together, or where that fails each alone, or its reason."""
        todo = [m for m in self.metrics if any((explainer, postprocessor, m, i) not in self._scores for i in ids)]
        if asked and todo:
            inputs, targets, answers = asked
            with contextlib.suppress(Exception):  # then each metric says for itself what is wrong
                judges = [each.for_samples(ids).judging(explainer, postprocessor) for each in todo]
                maps = postprocessor(self.explain(explainer, ids))
                found = evaluate_together(judges, inputs, targets, maps, answers)
                return {metric: scores.tolist() for metric, scores in zip(todo, found, strict=True)}
        return {each: self._judge_alone(explainer, postprocessor, each, ids) for each in todo}

    def _judge_alone(
        self, explainer: Explainer, postprocessor: PostProcessor, metric: Metric, ids: Sequence[int]
    ) -> list[float | str]:
        try:
            found: list[float | str] = self.run_batch(explainer, postprocessor, metric, ids)["evaluation"].tolist()
            return found
        except Exception as error:
            return [str(error) or type(error).__name__] * len(ids)

    @property
    def results(self) -> pd.DataFrame:
        """All scores so far, as `run` returns them."""
        return pd.DataFrame(
            [
                {
                    "data_id": i,
                    "explainer": type(explainer).__name__,
                    "postprocessor": _shown(postprocessor),
                    "metric": type(metric).__name__,
                    "score": math.nan if isinstance(score, str) else score,
                    "failure": score if isinstance(score, str) else "",
                }
                for (explainer, postprocessor, metric, i), score in self._scores.items()
            ],
            columns=["data_id", "explainer", "postprocessor", "metric", "score", "failure"],
        )

    @property
    def leaderboard(self) -> pd.DataFrame:
        """Mean scores, one row an explainer and post-processor, one column a metric, best by the first metric first.

        Where nothing was run before, every explainer is scored with the first post-processor.
        """
        if not self._scores:
            self.run(postprocessor_ids=[0])
        first = self.metrics[0]
        table = self.results.pivot_table(
            index=["explainer", "postprocessor"], columns="metric", values="score", aggfunc="mean", dropna=True
        )
        name = type(first).__name__
        columns = [name, *(each for each in table.columns if each != name)] if name in table else list(table.columns)
        ascending = not type(first).HIGHER_IS_BETTER
        return table[columns].sort_values(columns[0], ascending=ascending).reset_index().rename_axis(columns=None)

    def optimize(
        self,
        data_ids: Ids = None,
        explainer_id: Choice | None = None,
        metric_id: Choice = 0,
        direction: Literal["maximize", "minimize"] | None = None,
        sampler: Any = "tpe",
        n_trials: int = 50,
        timeout: float | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> TuneResult:
        """Tune one explainer, or all of them in one study; see `pnpxai.tune`, which takes the ``options``.

        Args:
            data_ids: samples to tune and judge on; None for all.
            explainer_id: an id, name, class or instance; None for all explainers.
            metric_id: an id, name, class or instance.
            direction: checked against the metric's own; None takes that.
            sampler: as for `tune`.
            n_trials: as for `tune`.
            timeout: as for `tune`.
            seed: as for `tune`; None is 0.
            **options: as for `tune`.

        Raises:
            ParameterError: a direction that the metric does not have.
        """
        metric = _pick("metric", metric_id, self.metrics)
        natural = "maximize" if type(metric).HIGHER_IS_BETTER else "minimize"
        if direction not in (None, natural):
            raise ParameterError(
                f"direction {natural!r} for {type(metric).__name__}",
                f"{direction!r}",
                f"A {'higher' if natural == 'maximize' else 'lower'} score is better here; leave direction out.",
            )
        chosen = self.explainers if explainer_id is None else [_pick("explainer", explainer_id, self.explainers)]
        ids = self.samples.ids(data_ids)
        self.tuned = tune(
            self.model,
            self.inputs(ids),
            self.targets(ids),
            explainers=chosen,
            metric=metric,
            modality=self.modality,
            postprocessor=self.postprocessors[0],
            sampler=sampler,
            n_trials=n_trials,
            timeout=timeout,
            seed=0 if seed is None else seed,
            forward_arg_extractor=self.forward_arg_extractor,
            additional_forward_arg_extractor=self.additional_forward_arg_extractor,
            **options,
        )
        return self.tuned

    def report(self, path: str | Path, **options: Any) -> Path:
        """Write the report of the last `optimize` (run now over all explainers if there was none)."""
        return (self.tuned or self.optimize()).report(path, **options)


class AutoExplanation(Experiment):
    """An experiment with everything chosen: recommended explainers, all post-processors, the usual metrics."""

    DEFAULT_METRICS = (MuFidelity, AbPC, Sensitivity, Complexity)
    MODALITY: ClassVar[type[Modality] | None] = None

    def __init__(
        self,
        model: Model,
        data: Any,
        modality: str | type[Modality] | Modality | None = None,
        input_extractor: Extractor | None = None,
        label_extractor: Extractor | None = None,
        target_extractor: Callable[[Tensor], Tensor] | None = None,
        target_labels: bool = False,
        channel_dim: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            data,
            modality if modality is not None or self.MODALITY is None else self.MODALITY,
            input_extractor=input_extractor,
            label_extractor=label_extractor,
            target_extractor=target_extractor,
            target_labels=target_labels,
            **options,
        )
        self.channel_dim = channel_dim

    @cached_property
    def modality(self) -> Modality:
        """The kind of data, with the channel dimension if one was given."""
        found = super().modality
        return found if self.channel_dim is None else found.set_kwargs(channel_dim=self.channel_dim)

    @cached_property
    def postprocessors(self) -> list[PostProcessor]:
        """Every pooling with every normalisation, the usual one first."""
        return self.modality.postprocessors


class AutoExplanationForImageClassification(AutoExplanation):
    """`AutoExplanation` for images ``(n, c, h, w)``."""

    MODALITY = Image


class AutoExplanationForTSClassification(AutoExplanation):
    """`AutoExplanation` for series ``(n, c, t)``."""

    MODALITY = TimeSeries


class AutoExplanationForTabularClassification(AutoExplanation):
    """`AutoExplanation` for feature vectors ``(n, d)``."""

    MODALITY = Tabular


def _pick(kind: str, choice: Any, listed: Sequence[T]) -> T:
    """One of the listed by id, name, class or instance."""
    if isinstance(choice, int) and not isinstance(choice, bool):
        if -len(listed) <= choice < len(listed):
            return listed[choice]
        raise ParameterError(
            f"the id of a {kind} from 0 to {len(listed) - 1}", f"{choice}", "Choose among those there are."
        )
    for each in listed:
        if each is choice or each == choice or type(each) is choice:
            return each
        if isinstance(choice, str) and type(each).__name__.lower() == choice.lower():
            return each
    raise unknown_name(kind, choice, [type(each).__name__ for each in listed])


def _first(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _last(batch: Any) -> Any:
    return batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None


def _parts(ids: Sequence[int], size: int) -> list[list[int]]:
    return [list(ids[start : start + size]) for start in range(0, len(ids), size)]


def _name(part: Explainer | PostProcessor | Metric) -> str:
    return _shown(part) if isinstance(part, PostProcessor) else type(part).__name__


def _shown(postprocessor: PostProcessor) -> str:
    parts = (postprocessor.pooling_fn, postprocessor.normalization_fn)
    return "+".join(each if isinstance(each, str) else each.NAME for each in parts)
