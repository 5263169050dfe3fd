"""An experiment: a model and a data set, explained, scored and tuned by ids, names, classes or instances."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from tqdm.auto import tqdm

from pnpxai.errors import ParameterError
from pnpxai.experiment._choices import Choice, names, pick
from pnpxai.experiment._costs import Costs, Step
from pnpxai.experiment._disk import Disk
from pnpxai.experiment._maps import Maps
from pnpxai.experiment._run import Combination, Run, Score, postprocessed
from pnpxai.experiment._setup import Setup
from pnpxai.experiment._tables import leaderboard, results, summary
from pnpxai.experiment._trial import Trial
from pnpxai.explainers import Explainer
from pnpxai.kept import KeptMaps
from pnpxai.metrics import Metric
from pnpxai.postprocess import PostProcessor
from pnpxai.samples import Ids
from pnpxai.tuning import TuneResult, tune

if TYPE_CHECKING:
    import pandas as pd


class Experiment(Setup):
    """Explainers × post-processors × metrics over a data set, each map and score computed once.

    Args:
        model: a module or a function from a batch to outputs; never changed.
        data: a DataLoader, a Dataset, a list of samples, a tensor ``(n, …)`` of inputs, or a mapping of tensors as a
            tokenizer returns it; samples may be mappings, too. Ids count samples in the data set's own order, also
            where a loader shuffles.
        modality: a name, class or object of `pnpxai.modality`; None guesses from the inputs.
        explainers: names, classes or instances; None for those that `recommend` proves to fit.
        postprocessors: objects; None for the modality's usual one.
        metrics: names, classes or instances; None for `AbPC`.
        input_extractor: from a batch to the model's inputs. Default: the first element of a tuple or list; of a
            mapping all but the labels.
        label_extractor: from a batch to the labels. Default: the last element of a tuple or list; in a mapping
            ``"labels"`` or ``"label"``.
        target_extractor: from the model's outputs (from the labels, if ``target_labels``) to class indices ``(n,)`` or
            one of `pnpxai.targets`. Default: the highest output, or the labels themselves.
        target_labels: explain the labels, not the predictions.
        forward_arg_extractor: as for explainers. Of several inputs it chooses the one that is explained and judged;
            without it all are, and their maps judged together, their features in one order.
        additional_forward_arg_extractor: as for explainers; the inputs that are passed on.
        batch_size: samples in hand at once.
        cache_dir: a folder where maps and scores are kept, so that a run that was killed goes on, and a later one
            starts, from what is there. They are found by the model's modules and weights (a function's answers to the
            first samples), the content of the sample, its target, and all parameters; not by the code of a model's
            forward or of explainers of your own. Failures are tried again. None keeps maps and scores in memory;
            where targets are a function they are kept there alone.
        targets: in place of ``target_extractor`` and ``target_labels``, what explainers take as targets: one of
            `pnpxai.targets`, class indices, or a function; what belongs to one sample has a row for each of the data.
    """

    tuned: TuneResult | None = None
    _kept: Maps | None = None

    @cached_property
    def _scores(self) -> dict[Combination, dict[int, Score]]:
        return {}

    @cached_property
    def _costs(self) -> Costs:
        return Costs()

    def explain(self, explainer: Choice, data_ids: Ids = None) -> Tensor | tuple[Tensor, ...]:
        """Raw maps of some samples by one explainer; kept, so that each is made once.

        With them come the maps of explainers that cost nothing beside it (see `attribute_together`).

        Returns:
            ``(n, …)``, or a tuple of such where several inputs are explained.
        """
        chosen = pick("explainer", explainer, self.explainers)
        several = self._maps().of_samples(chosen, self.samples.ids(data_ids), self.batch_size)
        return several if len(several) > 1 else several[0]

    def run_batch(
        self, explainer_id: Choice = 0, postprocessor_id: Choice = 0, metric_id: Choice = 0, data_ids: Ids = None
    ) -> dict[str, Any]:
        """One explainer, one post-processor and one metric on some samples.

        Returns:
            ``inputs, labels, targets, explanation`` (raw), ``postprocessed`` (of several inputs ``(n, f)``, all their
            features side by side) and ``evaluation`` ``(n,)``.
        """
        explainer = pick("explainer", explainer_id, self.explainers)
        postprocessor = pick("post-processor", postprocessor_id, self.postprocessors)
        ids = self.samples.ids(data_ids)
        metric = pick("metric", metric_id, self.metrics).for_samples(ids).judging(explainer, postprocessor)
        part, raw = self.part(ids), self.explain(explainer, ids)
        maps = postprocessed(postprocessor, raw if isinstance(raw, tuple) else (raw,))
        return {
            "inputs": part.inputs,
            "labels": self.labels(ids),
            "targets": part.targets,
            "explanation": raw,
            "postprocessed": maps,
            "evaluation": metric.evaluate(part.inputs, part.targets, maps),
        }

    def __repr__(self) -> str:
        parts: dict[str, Sequence[Explainer | PostProcessor | Metric]]
        parts = {"explainers": self.explainers, "postprocessors": self.postprocessors, "metrics": self.metrics}
        listed = (
            f"{part}: " + ", ".join(f"{i} {e}" for i, e in enumerate(names(each))) for part, each in parts.items()
        )
        return "\n".join([f"{type(self).__name__} of {len(self.samples)} samples", *listed])

    def run(
        self, data_ids: Ids = None, postprocessor_ids: Sequence[Choice] | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """Every explainer with every post-processor (or those chosen) by every metric on every sample.

        A combination that fails is a row with its reason, and the run goes on.

        Args:
            data_ids: samples; None for all.
            postprocessor_ids: ids, names or instances; None for all.
            progress: show a bar with what is left, in forwards and seconds. If the samples do not fit in one batch,
                this is found out before the first by trying one (see `estimate`).

        Returns:
            One row a score: ``data_id, explainer, postprocessor, metric, score, failure``.
        """
        ids, run = self.samples.ids(data_ids), self._run(postprocessor_ids)
        run.recall(ids)
        missing = run.missing(ids)
        if progress and len(missing) > self.batch_size:
            self._try(run, missing)
        left = run.left(missing)
        total = len(run.combinations) * len(missing)
        with tqdm(total=total, desc="running", unit="score", disable=not progress) as bar:

            def done(steps: Counter[Step], n_scores: int) -> None:
                left.subtract(steps)
                bar.set_postfix_str(self._costs.in_words(left), refresh=not n_scores)
                bar.update(n_scores)

            done(Counter(), 0)
            run.score(missing, done)
        return self.results

    def estimate(self, data_ids: Ids = None, postprocessor_ids: Sequence[Choice] | None = None) -> pd.DataFrame:
        """What `run` with these arguments still has to do, and what that costs.

        Costs are those measured so far, or come from explaining and judging one sample with every budget at its least,
        extrapolated to the explainers' own. Seconds are then those of single samples; batches are faster.

        Returns:
            One row a step, ``step, explainer, n, forwards, seconds, failure``: ``"answers"`` is what is asked whatever
            the map, of ``n`` samples; ``"maps"`` explains ``n`` samples; ``"scores"`` judges ``n`` maps by all metrics.
            Columns sum to what is left in all.
        """
        ids, run = self.samples.ids(data_ids), self._run(postprocessor_ids)
        run.recall(ids)
        self._try(run, run.missing(ids))
        return self._costs.table(run.left(ids), self.explainers)

    @property
    def results(self) -> pd.DataFrame:
        """All scores so far, as `run` returns them."""
        return results(self._scores, self.explainers, self.postprocessors, self.metrics)

    @property
    def summary(self) -> pd.DataFrame:
        """All scores so far, one row an explainer, post-processor and metric.

        ``mean`` and its ``standard_error``; ``low`` and ``high``, a 95 % interval for the mean (Student's, or the one
        corrected for skewness where that is wider; NaN below two samples); ``n_samples`` it rests on; ``n_failed``
        samples without a score, with the reasons in ``failure``.
        """
        return summary(self.results)

    @property
    def leaderboard(self) -> pd.DataFrame:
        """Mean scores, one row an explainer and post-processor, one column a metric, best by the first metric first.

        Where nothing was run before, every explainer is scored with the first post-processor. `summary` says how sure
        the means are.
        """
        if not any(self._scores.values()):
            self.run(postprocessor_ids=[0])
        return leaderboard(self.results, self.metrics)

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
        options.setdefault("cache_dir", self.cache_dir)
        metric = pick("metric", metric_id, self.metrics)
        natural = "maximize" if type(metric).HIGHER_IS_BETTER else "minimize"
        if direction not in (None, natural):
            raise ParameterError(
                f"direction {natural!r} for {type(metric).__name__}",
                f"{direction!r}",
                f"A {'higher' if natural == 'maximize' else 'lower'} score is better here; leave direction out.",
            )
        chosen = self.explainers if explainer_id is None else [pick("explainer", explainer_id, self.explainers)]
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
        """Write a self-contained HTML report: of the last `optimize`, or if there was none of what was run.

        Nothing is tuned for a report. Where nothing was run either, every explainer is scored with the first
        post-processor, as for `leaderboard`.

        Args:
            path: of the file.
            **options: as for `pnpxai.report.write_report`, or `pnpxai.report.write_run_report`.
        """
        if self.tuned is not None:
            return self.tuned.report(path, **options)
        room_above = importlib.import_module("pnpxai.report")
        written: Path = room_above.write_run_report(self, path, **options)
        return written

    def _maps(self) -> Maps:
        """The maps that are kept; with a ``cache_dir`` those of the model's weights as they are now."""
        weights = None if self.cache_dir is None else self.identity()
        if self._kept is None or (self._kept.disk and self._kept.disk.weights != weights):
            self._scores.clear()
            disk = None if self.cache_dir is None or weights is None else Disk(self.cache_dir, weights)
            memory = KeptMaps() if disk else KeptMaps(max_bytes=None)
            self._kept = Maps(self.explainers, self.part, memory, disk, self._costs)
        return self._kept

    def _run(self, postprocessor_ids: Sequence[Choice] | None) -> Run:
        listed = self.postprocessors
        chosen = listed if postprocessor_ids is None else [pick("post-processor", p, listed) for p in postprocessor_ids]
        pairs, maps = [(each, chosen) for each in self.explainers], self._maps()
        return Run(self.part, maps, self._scores, maps.disk, self._costs, pairs, self.metrics, self.batch_size)

    def _try(self, run: Run, missing: Sequence[int]) -> None:
        """Find out what the steps of a run cost, on the first sample that it misses."""
        if missing:
            dry_runs = {} if self.chosen_explainers is not None else self.recommendation.dry_runs
            first = self.postprocessors[0]
            Trial(lambda: self.part(missing[:1]), self.explainers, first, self.metrics, dry_runs).note(self._costs)
