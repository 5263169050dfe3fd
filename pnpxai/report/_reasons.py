"""Why the verdict is what it is, in sentences."""

from __future__ import annotations

from pnpxai.report._board import stopped, used
from pnpxai.report._judgement import judgement
from pnpxai.report._numbers import cost, listed, mean, number, share
from pnpxai.tuning import Entry, TuneResult
from pnpxai.tuning._result import judging_score


def reasons(result: TuneResult) -> list[str]:
    """What speaks for the recommended explanation, what against it, and its cost."""
    told = [
        _best_of(result),
        *judgement(result),
        _beaten_by(result),
        _ensemble(result),
        _beside_controls(result),
        _luck(result.winner),
        _race(result),
        _cost(result),
    ]
    return [each for each in told if each]


def members(entry: Entry) -> str:
    """The members of an ensemble."""
    return listed(str(entry.tuned.params["members"]).split(", "))


def _best_of(result: TuneResult) -> str:
    better = "higher" if type(result.metric).HIGHER_IS_BETTER else "lower"
    metric, n = type(result.metric).__name__, len(result.tuning_index)
    if result.winner is result.ensemble:
        return (
            f"The best explainers were averaged by the ranks of their maps: {members(result.winner)}. On the {n} "
            f"tuning samples they have {metric} {number(result.winner.tuned.estimate)} together ({better} is "
            f"better), and {result.entries[0].name} alone {number(result.entries[0].tuned.estimate)}."
        )
    scores = [f"{each.name} with {number(each.tuned.estimate)}" for each in result.entries[:2]]
    out = sum(stopped(result, each) for each in result.entries)
    lost = f" {out} of them lost on the way, and the race stopped them." if out else ""
    if len(result.entries) == 1:
        return f"It has {metric} {scores[0].rpartition(' ')[2]} ({better} is better) on the {n} tuning samples."
    return (
        f"It has the best {metric} ({better} is better) of {len(result.entries)} explainers on the {n} tuning samples: "
        f"{', before '.join(scores)}.{lost}"
    )


def _ensemble(result: TuneResult) -> str:
    entry = result.ensemble
    if entry is None or entry is result.winner:
        return ""
    head = f"The average of {members(entry)} by the ranks of their maps"
    alone = f"{result.entries[0].name} alone"
    if stopped(result, entry):
        return f"{head} was tried, too: it fell behind {alone} after {len(entry.tuned.tuning_scores)} samples."
    if entry.gain is None:
        scores = f"{number(entry.tuned.estimate)}, {alone} {number(entry.default.estimate)}"
        return f"{head} has {scores} on the tuning samples. It would take a hold-out to recommend it."
    return (
        f"{head} is not confirmed to be better than {alone}: {number(entry.gain.mean, '+')} on the hold-out, 95 % "
        f"interval {number(entry.gain.low, '+')} to {number(entry.gain.high, '+')}."
    )


def _beaten_by(result: TuneResult) -> str:
    if not result.holdout_index:
        return ""
    sign = 1 if type(result.metric).HIGHER_IS_BETTER else -1
    own = sign * mean(result.recommended.holdout_scores)
    others = {each.name: used(result, each).holdout_scores for each in result.entries if each is not result.winner}
    above = [f"{name} ({number(mean(each))})" for name, each in others.items() if each and sign * mean(each) > own]
    if not above:
        return ""
    return (
        f"On the hold-out it scores {number(sign * own)} as recommended, and others score better: {', '.join(above)}. "
        "The choice was made on the tuning samples, so that the hold-out stays a judge."
    )


def _beside_controls(result: TuneResult) -> str:
    if not result.controls:
        return ""
    scores = [f"{name} {number(mean(each))}" for name, each in result.controls.items()]
    return (
        f"Maps that know nothing of the model score {', '.join(scores)} on the same samples; the recommended "
        f"explanation scores {number(judging_score(result.recommended))}."
    )


def _luck(entry: Entry) -> str:
    luck = entry.tuned.seed_luck
    if not luck:
        return ""
    than = "better" if luck > 0 else "worse"
    return (
        f"Its maps depend on a random seed. With the one it was tuned with it scores {number(abs(luck))} {than} than "
        "with the average one; the tuning score is that of the average seed."
    )


def _race(result: TuneResult) -> str:
    if not result.trials or not result.search_forwards:
        return ""
    n, lost = len(result.tuning_index), sum(not each.complete for each in result.trials)
    head = f"The search made {len(result.trials)} trials with {cost(result.search_forwards)} samples through the model."
    if not lost:
        return head
    saved = ""
    if result.study is not None:
        lengths = [len(each.user_attrs["scores"]) for each in result.study.trials if "scores" in each.user_attrs]
        saved = f": together they saw {share(sum(lengths) / (n * len(lengths)))} of the samples"
    return f"{head} The race stopped {lost} of them before all {n} tuning samples were scored{saved}."


def _cost(result: TuneResult) -> str:
    configuration = result.recommended
    forwards, seconds = cost(configuration.forwards_per_sample), cost(configuration.seconds_per_sample, "s")
    plural = "" if configuration.forwards_per_sample == 1 else "s"
    return f"One explanation costs {forwards} sample{plural} through the model and {seconds} here."
