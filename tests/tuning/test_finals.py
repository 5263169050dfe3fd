from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.distributions import FloatDistribution
from scipy import stats
from torch import Tensor

import pnpxai
from pnpxai.errors import InputError, ParameterError
from pnpxai.explainers import EXPLAINERS, Explainer, Gradient, GradientXInput, RankEnsemble, SmoothGrad
from pnpxai.explainers._base import ANY_MODULE
from pnpxai.forward import Request
from pnpxai.metrics import AbPC, Complexity, MuFidelity, RelevanceMass, Sensitivity
from pnpxai.postprocess import PostProcessor
from pnpxai.tuning._caveats import caveats
from pnpxai.tuning._ensemble import ENSEMBLE_SHARE, Ensemble
from pnpxai.tuning._maps import MapCache, Samples
from pnpxai.tuning._race import Race
from pnpxai.tuning._run import Arm, Run
from pnpxai.tuning._scores import ScoreBook
from pnpxai.tuning._statistics import Gain
from tests.nets import TinyTransformer, VGGLike, batch, seeded
from tests.registry import unregistered


def tuned(model, inputs: Tensor, **options):
    return pnpxai.tune(model, inputs, progress=False, **options)


@unregistered
class Lucky(Explainer):
    """The exact attribution of a linear model under noise, of which seed 0 has none."""

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"level": FloatDistribution(0.0, 1.0)}

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, level=0.5, seed=0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.level = level
        self.seed = seed

    def explain_request(self, request: Request) -> Tensor:
        exact = request.input * self.model.weight[request.targets]
        if self.seed == 0:
            return exact
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(exact.shape[1:], generator=generator).expand_as(exact)


@unregistered
class Honest(Explainer):
    """The exact attribution with a third of its features at zero: worse than a lucky seed, better than noise."""

    SUPPORTED_MODULES = ANY_MODULE

    def explain_request(self, request: Request) -> Tensor:
        exact = request.input * self.model.weight[request.targets]
        return torch.cat([exact[:, :6], torch.zeros_like(exact[:, 6:])], 1)


def linear() -> torch.nn.Module:
    return seeded(torch.nn.Linear(9, 3))


def test_a_lucky_seed_does_not_win() -> None:
    result = tuned(linear(), batch(48, 9), explainers=[Lucky, Honest], n_trials=3, pruner=None)
    lucky = next(each for each in result.entries if each.name == "Lucky")
    assert np.mean(lucky.tuned.tuning_scores) > np.mean(result.entries[0].tuned.tuning_scores)
    assert result.entries[0].name == "Honest"
    assert lucky.tuned.seed_luck > 0
    assert any("luck" in each for each in result.caveats)


def test_luck_is_the_lead_over_the_mean_of_the_seeds() -> None:
    model, inputs = linear(), batch(24, 9)
    result = tuned(model, inputs, explainers=[Lucky], n_trials=1, pruner=None, holdout=12)
    entry = result.winner
    metric, rows = AbPC(model, channel_dim=None), list(result.tuning_index)
    targets = result.targets
    means = []
    for seed in (0, 1, 2):
        maps = Lucky(model, seed=seed).attribute(inputs[rows], targets[rows])
        means.append(metric.evaluate(inputs[rows], targets[rows], maps))
    # the further seeds are tried on the first samples of the race only: at least six, at most all twelve
    luck = {m: means[0][:m].mean() - torch.stack(means)[:, :m].mean() for m in range(6, 13)}
    assert any(entry.tuned.seed_luck == pytest.approx(float(each), abs=1e-6) for each in luck.values())
    assert entry.tuned.estimate == pytest.approx(float(means[0].mean()) - entry.tuned.seed_luck, abs=1e-6)


def test_an_ensemble_that_is_no_better_is_none() -> None:
    result = tuned(linear(), batch(24, 9), explainers=[GradientXInput, Honest], n_trials=2, pruner=None, holdout=12)
    assert result.entries[0].name == "GradientXInput"  # exact: nothing can be added to it
    assert result.ensemble is None
    assert "RankEnsemble" not in set(result.leaderboard["explainer"])


@unregistered
class Half(Explainer):
    """The exact attribution of a linear model in one half of its features, nothing in the other."""

    SUPPORTED_MODULES = ANY_MODULE

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, first=True):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.first = first

    def explain_request(self, request: Request) -> Tensor:
        exact = request.input * self.model.weight[request.targets]
        kept = torch.arange(exact.shape[1]) < exact.shape[1] // 2
        return torch.where(kept == self.first, exact, 0.0)


@unregistered
class Some(Explainer):
    """The exact attribution of a linear model in some of its features, nothing in the others."""

    SUPPORTED_MODULES = ANY_MODULE

    def __init__(self, model, start=0, stop=12, forward_arg_extractor=None, additional_forward_arg_extractor=None):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.start = start
        self.stop = stop

    def explain_request(self, request: Request) -> Tensor:
        exact = request.input * self.model.weight[request.targets]
        place = torch.arange(exact.shape[1])
        return torch.where((place >= self.start) & (place < self.stop), exact, 0.0)


def test_an_ensemble_wins_if_the_holdout_confirms_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(torch.nn.Linear(12, 3))
    result = tuned(
        model, batch(80, 12), explainers=[Half(model), Half(model, first=False)], n_trials=2, pruner=None, holdout=40
    )
    members = [each.tuned for each in result.entries]
    rows = list(result.tuning_index)
    inputs, targets = batch(80, 12)[rows], result.targets[rows]
    maps = [each.maps(inputs, targets).double().numpy() for each in members]
    ranks = torch.from_numpy(np.mean([stats.rankdata(each, axis=1) for each in maps], axis=0))
    scores = AbPC(model, channel_dim=None).evaluate(inputs, targets, ranks)
    assert result.ensemble.tuned.tuning_scores == pytest.approx(scores.tolist(), abs=1e-6)
    gain = result.ensemble.gain
    expected = np.subtract(result.ensemble.tuned.holdout_scores, result.entries[0].tuned.holdout_scores)
    assert gain.mean == pytest.approx(expected.mean())
    assert gain.confirmed
    assert result.winner is result.ensemble
    assert isinstance(result.explainer, RankEnsemble)
    monkeypatch.setitem(EXPLAINERS, "Half", Half)
    loaded = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), model)
    assert str(loaded) == str(result)
    assert loaded.explainer == result.explainer
    rows = list(result.holdout_index)
    maps = result.explainer.attribute(batch(80, 12)[rows], result.targets[rows])
    scores = AbPC(model, channel_dim=None).evaluate(batch(80, 12)[rows], result.targets[rows], maps)
    assert result.ensemble.tuned.holdout_scores == pytest.approx(scores.tolist(), abs=1e-6)
    assert "average of Half, Half" in result.verdict
    maps = result.explain(batch(3, 12))
    assert maps.shape == (3, 12)


def test_without_holdout_another_metric_judges() -> None:
    model, inputs = seeded(VGGLike()), batch(1, 3, 16, 16)
    result = tuned(model, inputs, explainers=["SmoothGrad"], n_trials=12, seed=1)
    opinion = result.opinion
    assert result.holdout is None
    if result.winner.tuned is result.winner.default:
        pytest.fail("the search found nothing to judge")
    assert isinstance(opinion.metric, MuFidelity)
    assert opinion.metric.baseline_fn.NAME == "blur"
    for configuration, scores in ((result.winner.tuned, opinion.tuned), (result.winner.default, opinion.default)):
        expected = opinion.metric.evaluate(inputs, result.targets, configuration.maps(inputs, result.targets))
        assert scores == pytest.approx(expected.tolist(), abs=1e-6)
    chosen = result.winner.tuned if opinion.gain > 0 else result.winner.default
    assert result.recommended is chosen
    assert "MuFidelity" in result.verdict
    assert any("MuFidelity" in each for each in result.caveats)


def test_others_with_better_defaults_are_named_where_the_default_is_recommended() -> None:
    result = tuned(linear(), batch(24, 9), explainers=[Honest, "Gradient", "GradientXInput"], n_trials=3, pruner=None)
    scores = {"Honest": 0.1, "Gradient": 0.2, "GradientXInput": 0.3}
    unsure, sure = Gain(0.01, -0.02, 0.04, 0.5, 24), Gain(0.05, 0.01, 0.09, 0.75, 24)
    n, entries = len(result.tuning_index), []
    for name, score in scores.items():
        entry = next(each for each in result.entries if each.name == name)
        default = replace(entry.default, tuning_scores=(score,) * n)
        entries.append(
            replace(entry, default=default, tuned=replace(default, tuning_scores=(1 - score,) * n), gain=unsure)
        )
    told = caveats(replace(result, entries=tuple(entries), ensemble=None), None, False)
    assert any(
        "others have a better AbPC" in each and "GradientXInput 0.300, Gradient 0.200, against 0.100" in each
        for each in told
    )
    confirmed = (replace(entries[0], gain=sure), *entries[1:])
    told = caveats(replace(result, entries=confirmed, ensemble=None), None, False)
    assert not any("others have a better" in each for each in told)


def test_runner_up_is_compared_on_the_holdout() -> None:
    result = tuned(linear(), batch(60, 9), explainers=[Honest, "Gradient"], n_trials=2, pruner=None)
    first, second = (each.tuned.holdout_scores for each in result.entries)
    assert result.runner_up.mean == pytest.approx(np.mean(np.subtract(first, second)))


@pytest.mark.parametrize("pruner", [None, "wilcoxon"])
def test_aims_are_the_metrics_own_on_the_first_samples(pruner: str | None) -> None:
    model, inputs = seeded(VGGLike()), batch(24, 3, 16, 16)
    regions = torch.zeros(24, 16, 16, dtype=torch.bool)
    regions[:, 4:9, 4:12] = True
    options = {"explainers": [Gradient, "GradCam"], "n_trials": 2, "holdout": 4, "regions": regions}
    result = tuned(model, inputs, pruner=pruner, **options)
    rows = list(result.tuning_index)[: 6 if pruner else None]  # what the first look shows
    targets = result.targets
    for trial in result.trials:
        maps = trial.postprocessor(trial.explainer.attribute(inputs[rows], targets[rows]))
        complexity = Complexity(model).evaluate(inputs[rows], targets[rows], maps).mean()
        mass = RelevanceMass(model, regions=regions[rows]).evaluate(inputs[rows], targets[rows], maps).mean()
        steady = Sensitivity(model, trial.explainer, n_perturbations=1, postprocessor=trial.postprocessor)
        stability = steady.evaluate(inputs[rows[:2]], targets[rows[:2]], maps[:2]).mean()
        assert trial.values["complexity"] == pytest.approx(complexity.item(), rel=1e-5)
        assert trial.values["localisation"] == pytest.approx(mass.item(), rel=1e-5)
        assert trial.values["stability"] == pytest.approx(stability.item(), rel=1e-4)
        assert trial.values["runtime"] > 0
    front = result.pareto("score", "forwards")
    assert front.front[0].values["score"] == max(each.values["score"] for each in result.trials)


def test_aims_by_name_and_unknown_ones() -> None:
    model, inputs = linear(), batch(8, 9)
    result = tuned(model, inputs, explainers=[Gradient], n_trials=1, aims=["Sparseness"])
    assert set(result.trials[0].values) == {"score", "Sparseness", "forwards", "runtime"}
    inside = torch.ones(8, 9, dtype=torch.bool)
    for wrong in (torch.rand(8, 4), inside[:3], inside.float(), ~inside):  # boxes, for example
        with pytest.raises(InputError, match="regions"):
            tuned(model, inputs, explainers=[Gradient], n_trials=1, regions=wrong)
    with pytest.raises(ParameterError, match="regions"):
        tuned(model, inputs, explainers=[Gradient], n_trials=1, aims=["localisation"])


@unregistered
class Slow(SmoothGrad):
    """Noise, however large the budget."""

    SUPPORTED_MODULES = ANY_MODULE

    def explain_further(self, request: Request, budget: int, state: Any) -> tuple[Any, Any]:
        maps, state = super().explain_further(request, budget, state)
        generator = torch.Generator().manual_seed(self.seed)
        return tuple(torch.randn(each.shape[1:], generator=generator).expand_as(each) for each in maps), state


def test_a_losing_budget_is_left_at_a_quarter() -> None:
    """Of six images: 200 of 800 samples, and 2 · 8 points of the curves once, for both looks see the same order."""
    model, inputs = linear(), batch(32, 9)
    explainers = [GradientXInput(model), Slow(model, n_samples=800)]
    result = tuned(model, inputs, explainers=explainers, n_trials=2, holdout=0, aims=())
    trial = next(each for each in result.trials if each.name == "Slow")
    forwards = {each.params["explainer"]: each.user_attrs["n_forwards"] for each in result.study.trials if each.values}
    assert forwards["GradientXInput"] == 32 * (1 + 2 + 2 * 8)
    assert forwards["Slow"] == 6 * (200 + 2 * 8)  # the order of the noise is the same at both looks
    assert not trial.complete
    assert trial.values["forwards"] == 800  # what one explanation with all of the budget costs


def test_maps_that_are_there_already_do_not_end_a_run_early() -> None:
    model, inputs = linear(), batch(32, 9)
    dear = SmoothGrad(model, n_samples=800)
    cache = MapCache(Samples(inputs, torch.zeros(32, dtype=torch.long)))
    cache.maps(dear, range(32))
    book = ScoreBook(AbPC(model, channel_dim=None), cache.samples)
    race = Race(32, incumbent=[-9.0] * 32)
    best = Run(dear, [Arm(PostProcessor(channel_dim=None))], race, cache, book, range(32)).follow()
    assert len(best.scores) == 32


@unregistered
class Growing(SmoothGrad):
    """The exact attribution in one feature for every hundred samples of the budget, nothing in the others."""

    SUPPORTED_MODULES = ANY_MODULE

    def explain_further(self, request: Request, budget: int, state: Any) -> tuple[Any, Any]:
        exact = request.input * self.model.weight[request.targets]
        return (exact * (torch.arange(9) < budget // 100),), state


def test_members_are_not_explained_beyond_the_purse() -> None:
    """A candidate that was left on a part of its budget has no maps yet: its price counts before it is looked at."""
    model, inputs = linear(), batch(32, 9)
    explainers = [GradientXInput(model), Slow(model, n_samples=8000)]
    result = tuned(model, inputs, explainers=explainers, n_trials=2, holdout=0, aims=())
    trials = {each.params["explainer"]: each.user_attrs for each in result.study.trials if each.values}
    assert trials["Slow"]["n_forwards"] < 6 * 8000
    searched = sum(each["n_forwards"] for each in trials.values())
    unraced = 32 * 8000 + trials["GradientXInput"]["n_forwards"]
    assert ENSEMBLE_SHARE * unraced < 6 * 8000  # not enough for a first look
    assert result.search_forwards - searched < 100


def test_what_is_left_early_is_estimated_as_if_its_gains_had_gone_on() -> None:
    model, inputs = linear(), batch(32, 9)
    targets = model(inputs).argmax(1)
    metric = AbPC(model, channel_dim=None)
    explainer = Growing(model, n_samples=900)
    exact = GradientXInput(model)
    result = tuned(model, inputs, explainers=[exact, explainer], n_trials=2, holdout=0, aims=())
    trial = next(each for each in result.study.trials if each.params.get("explainer") == "Growing")
    rows = list(result.tuning_index)[:6]
    known = (inputs * model.weight[targets]).detach()

    def scores(n: int) -> Tensor:
        return metric.evaluate(inputs[rows], targets[rows], (known * (torch.arange(9) < n))[rows])

    before, now = scores(1), scores(2)  # 112 and 225 samples
    lead = now.mean() - scores(9).mean()
    rise = (now - before).mean()
    whole = metric.evaluate(inputs, targets, known).mean()
    assert trial.user_attrs["samples"] == "6 of 32"
    assert trial.value == pytest.approx(float(whole + lead + rise * (2**-0.5 + 2**-1)), abs=1e-5)


def test_what_is_different_is_tried_first_as_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """The better of the two others sees what the best sees already; the worse one sees the rest."""
    model = seeded(torch.nn.Linear(12, 3))
    tried = []
    joined_by = Ensemble.joined_by
    monkeypatch.setattr(
        Ensemble, "joined_by", lambda own, other: (tried.append(other.explainer), joined_by(own, other))[1]
    )
    explainers = [Some(model, 0, 8), Some(model, 0, 7), Some(model, 8, 12)]
    result = tuned(model, batch(80, 12), explainers=explainers, n_trials=3, pruner=None, holdout=40)
    best, second, third = [each.tuned.explainer for each in result.entries]
    assert (best, second, third) == tuple(explainers)
    assert tried[0] == third


def test_saved_results_keep_what_is_new(tmp_path) -> None:
    model, inputs = seeded(VGGLike()), batch(16, 3, 16, 16)
    result = tuned(model, inputs, explainers=[Gradient, GradientXInput, "GradCam"], n_trials=4, holdout=8)
    loaded = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), model)
    assert loaded.leaderboard.equals(result.leaderboard)
    assert str(loaded) == str(result)
    assert repr(loaded.runner_up) == repr(result.runner_up)
    assert loaded.pareto("score", "forwards").table.equals(result.pareto("score", "forwards").table)
    assert loaded.search_forwards == result.search_forwards
    assert (loaded.ensemble is None) == (result.ensemble is None)


def test_where_no_baseline_is_left_the_other_metric_keeps_its_own() -> None:
    model, inputs = seeded(TinyTransformer()), batch(1, 8, 4)
    result = tuned(model, inputs, explainers=["SmoothGrad"], n_trials=12, modality="text")
    assert result.holdout is None
    assert result.winner.tuned is not result.winner.default
    assert result.opinion.metric == MuFidelity(model, channel_dim=2)
