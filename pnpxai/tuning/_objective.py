"""From an Optuna trial to a score: build the explainer, let it run the race, and note what was found."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from pnpxai.explainers import Explainer
from pnpxai.forward import count_forwards
from pnpxai.metrics import Metric
from pnpxai.postprocess import NormalizationFunction, PostProcessor
from pnpxai.tunable import Candidates, Role, presets, suggest, trial_params
from pnpxai.tuning._aims import Aim, measured
from pnpxai.tuning._claims import claim, interrupt
from pnpxai.tuning._maps import MapCache
from pnpxai.tuning._race import Race
from pnpxai.tuning._run import Arm, Run
from pnpxai.tuning._scores import ScoreBook

PREFIX = "postprocessor."


@dataclass
class Objective:
    """What a study optimises: the metric's mean over the tuning samples, by the best post-processing of the maps.

    A trial chooses an explainer and its parameters. Its maps are explained once; every post-processing that makes
    another order of them is scored, the samples in growing stretches, and stopped when it has lost (`Race`).

    Attributes:
        explainers: name in the study to explainer, with the arguments that are not tuned.
        postprocessor: likewise.
        candidates: role to the objects that may fill it.
        metric: scores maps.
        cache: explains, and holds all samples.
        index: the tuning samples, in the order in which they are scored.
        n_trials: finished trials the study ends with.
        race: the best so far.
        aims: what else is measured of each trial.
        book: keeps scores.
    """

    explainers: Mapping[str, Explainer]
    postprocessor: PostProcessor
    candidates: Candidates
    metric: Metric
    cache: MapCache
    index: Sequence[int]
    n_trials: int
    race: Race
    aims: Sequence[Aim] = ()
    book: ScoreBook = field(init=False)
    _entered: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.book = ScoreBook(self.metric, self.cache.samples)

    def build(self, trial: BaseTrial) -> Explainer:
        """The explainer a trial chooses (running) or chose (finished)."""
        name = trial.suggest_categorical("explainer", list(self.explainers))
        return suggest(trial, self.explainers[name], self.candidates, prefix=f"{name}.")

    def built(self, trial: FrozenTrial) -> tuple[Explainer, PostProcessor]:
        """The configuration of a finished trial."""
        return self.build(trial), suggest(trial, self.postprocessor, self.orders, prefix=PREFIX)

    @property
    def orders(self) -> Candidates:
        """The candidates for post-processing that can differ: none that keep the order where only that counts."""
        if not type(self.metric).ORDER_ONLY:
            return self.candidates
        return {role: each for role, each in self.candidates.items() if role is not NormalizationFunction}

    @property
    def postprocessors(self) -> list[PostProcessor]:
        """Every post-processing that is tried on a map, the usual one first."""
        names = list(type(self.postprocessor).TUNABLES)
        options = [list(_options(self.postprocessor, name, self.orders)) for name in names]
        return [
            self.postprocessor.set_kwargs(**dict(zip(names, each, strict=True))) for each in itertools.product(*options)
        ]

    def params(self, name: str, explainer: Explainer, postprocessor: PostProcessor | None = None) -> dict[str, Any]:
        """What a trial chooses to be ``explainer``, and what is noted of a post-processing."""
        chosen = {"explainer": name, **trial_params(explainer, self.candidates, prefix=f"{name}.")}
        return chosen | (trial_params(postprocessor, self.orders, prefix=PREFIX) if postprocessor else {})

    def defaults(self) -> list[dict[str, Any]]:
        """What a trial chooses to be each explainer as it came."""
        return [self.params(name, each) for name, each in self.explainers.items()]

    def presets(self) -> list[dict[str, Any]]:
        """Likewise the further settings that the explainers' classes name, the explainers in turns."""
        named = [
            [self.params(name, preset) for preset in presets(each, self.candidates)]
            for name, each in self.explainers.items()
        ]
        return [each for turn in itertools.zip_longest(*named) for each in turn if each is not None]

    def __call__(self, trial: Trial) -> float:
        """Score a trial; each sample's score is kept with it as ``scores``, the reason of a failure as ``failure``.

        Returns:
            The mean score of its best post-processing; if the race stopped it, the incumbent's mean plus the mean
            paired difference on the samples both have seen, and what the rest of its budget would probably add.

        Raises:
            TrialPruned: it repeats a trial, or the study has as many as asked for.
        """
        try:
            explainer = self.build(trial)
            claim(trial, self.n_trials)
            self.learn(trial.study)
            with self._counted(trial):
                return self._run(trial, explainer)
        except KeyboardInterrupt:
            interrupt(trial)
            raise
        except optuna.TrialPruned as skipped:
            trial.set_user_attr("skipped", str(skipped))
            raise
        except Exception as error:
            trial.set_user_attr("failure", str(error) or type(error).__name__)
            raise

    def learn(self, study: optuna.Study) -> None:
        """Let the race know what complete trials of a study have scored, those of other workers included."""
        for each in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if each.number not in self._entered:
                self._entered.add(each.number)
                self.race.enter(each.user_attrs["scores"])

    def scores(self, explainer: Explainer, postprocessor: PostProcessor, index: Sequence[int]) -> list[float]:
        """One score for each sample of ``index``.

        Raises:
            ExplanationError: a score is not finite.
        """
        maps = postprocessor(self.cache.maps(explainer, index))
        return self.book.scores([(explainer, postprocessor, maps)], index)[0]

    def _run(self, trial: Trial, explainer: Explainer) -> float:
        arms = [Arm(each) for each in self.postprocessors]
        run = Run(explainer, arms, self.race, self.cache, self.book, self.index)
        best = run.follow()
        assert run.seen is not None
        aims = measured(self.aims, self.cache.samples, self.index, run.seen, best.postprocessor)
        value = self.race.value(best.scores, best.to_come)
        self.race.enter(best.scores)
        self._entered.add(trial.number)
        self._note(trial, best.postprocessor)
        cost = self.cache.cost(explainer)
        noted = {
            "samples": f"{len(best.scores)} of {self.race.n}",
            "forwards_per_sample": cost.forwards,
            "seconds_per_sample": cost.seconds,
            **aims,
            "scores": best.scores,
            "usual_scores": arms[0].scores,
        }
        if best.to_come or arms[0].to_come:
            noted |= {"to_come": best.to_come, "usual_to_come": arms[0].to_come}
        for name, each in noted.items():
            trial.set_user_attr(name, each)
        return value

    @contextlib.contextmanager
    def _counted(self, trial: Trial) -> Iterator[None]:
        """Note the samples that went through the model inside, also where that ends in an error."""
        with count_forwards() as counter:
            try:
                yield
            finally:
                trial.set_user_attr("n_forwards", counter.n_samples)

    def _note(self, trial: Trial, postprocessor: PostProcessor) -> None:
        """Write the post-processing that was found best beside what the trial chose."""
        tried = [trial_params(each, self.orders, prefix=PREFIX) for each in self.postprocessors]
        for name, value in trial_params(postprocessor, self.orders, prefix=PREFIX).items():
            space = CategoricalDistribution(list(dict.fromkeys(each[name] for each in tried)))
            trial.study._storage.set_trial_param(trial._trial_id, name, space.to_internal_repr(value), space)


def _options(postprocessor: PostProcessor, name: str, candidates: Candidates) -> Iterator[Any]:
    role, value = type(postprocessor).TUNABLES[name], getattr(postprocessor, name)
    if not (isinstance(role, type) and issubclass(role, Role) and role in candidates):
        yield value
        return
    own = role.resolve(value)
    yield own
    yield from (each for each in candidates[role] if type(each) is not type(own))
