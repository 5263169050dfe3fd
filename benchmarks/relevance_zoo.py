"""Layer-wise relevance on a hundred architectures: ``python -m benchmarks.relevance_zoo [names…]``."""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import math
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures import MOST_PARAMETERS, Specimen, neutralised, zoo
from benchmarks.written import circumstances, table, write
from pnpxai.errors import RelevanceWarning, UnsupportedModelError, UnsupportedOperationError
from pnpxai.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.explainers.lrp import LRPBase
from pnpxai.outputs import output_tensor
from pnpxai.tuning._problem import versions

COMPOSITES: dict[str, type[LRPBase]] = {
    "ε": LRPUniformEpsilon,
    "ε, z⁺": LRPEpsilonPlus,
    "ε, α2β1": LRPEpsilonAlpha2Beta1,
    "ε, γ, zB": LRPEpsilonGammaBox,
}
PARTS = ("time", "ledger", "conservation")
TINY = {"epsilon": 1e-9, "stabilizer": 1e-9, "relative_epsilon": True}
"""Of the measurements in float64; time is taken with the defaults."""
FEWEST, REPETITIONS = 3, 7
SECONDS = 3.0
"""No further repetition begins after this time, once there are the fewest."""
CONSERVED, CLOSED, ADDED_TIME = 1e-3, 1e-6, 3.0
"""Largest |1 - ΣR/f|, largest gap of the ledger and largest median time that are aimed at."""
LOG = Path(tempfile.gettempdir()) / "relevance_zoo.jsonl"


def explainer_of(composite: str, model: nn.Module, specimen: Specimen, **changes: Any) -> LRPBase:
    """An explainer of the specimen's inputs, given as one tuple."""
    n = specimen.explained
    return COMPOSITES[composite](
        model,
        forward_arg_extractor=lambda inputs: inputs[:n],
        additional_forward_arg_extractor=lambda inputs: inputs[n:],
        layer=specimen.layer,
        **changes,
    )


def scores(outputs: Tensor) -> Tensor:
    """Outputs ``(n, k)``: of a token or pixel classifier the mean over places, of a language head the last token's."""
    if outputs.ndim == 3:
        return outputs[:, -1]
    return outputs.flatten(2).mean(2) if outputs.ndim > 2 else outputs


def target_of(outputs: Tensor) -> Callable[[Tensor], Tensor]:
    """The score of each sample that is largest in absolute value, so that it is far from zero."""
    classes = scores(outputs).abs().argmax(1, keepdim=True)
    return lambda found: scores(found).gather(1, classes)[:, 0]


def plain(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """The model's outputs."""
    with torch.no_grad():
        return output_tensor(model(*inputs))


def converted(inputs: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Floating-point inputs in a dtype."""
    return tuple(each.to(dtype) if each.is_floating_point() else each for each in inputs)


def hooks(model: nn.Module) -> list[int]:
    """How many hooks each module has."""
    return [
        sum(len(each) for name, each in vars(module).items() if name.endswith("_hooks") and isinstance(each, dict))
        for module in model.modules()
    ]


class Recorded:
    """The outputs of every call of a model inside the block."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.outputs: list[Tensor] = []

    def __enter__(self) -> Recorded:
        self.handle = self.model.register_forward_hook(self._record)
        return self

    def _record(self, _module: nn.Module, _inputs: object, outputs: object) -> None:
        self.outputs.append(output_tensor(outputs))

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    @property
    def last(self) -> Tensor:
        """Of the last call."""
        return self.outputs[-1].detach()


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or why it was refused or how it crashed; warnings about relevance are noted."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = run()
        warned = any(issubclass(each.category, RelevanceWarning) for each in caught)
        return {**found, **({"warned": True} if warned else {})}
    except (UnsupportedOperationError, UnsupportedModelError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    except Exception as error:
        traceback.print_exc()
        return {"crashed": f"{type(error).__name__}: {error}"}


def conserved(composite: str, model: nn.Module, specimen: Specimen, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """ΣR/f of the sample where it is furthest from 1, and whether the outputs are those without rules."""
    outputs = plain(model, inputs)
    target = target_of(outputs)
    explainer = explainer_of(composite, model, specimen, **TINY)
    with Recorded(model) as recorded:
        maps = explainer.attribute(tuple(inputs), target)
    ratios = sum(each.flatten(1).sum(1) for each in (maps if isinstance(maps, tuple) else (maps,))) / target(outputs)
    return {
        "ratio": max(ratios.tolist(), key=lambda each: abs(1 - each)),
        "output": float(target(outputs).abs().min()),
        "forward": float((recorded.last - outputs).abs().max() / outputs.abs().max()),
    }


def closed(composite: str, model: nn.Module, specimen: Specimen, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """The largest gap of the ledger, and what all of it leaves unexplained."""
    ledger = explainer_of(composite, model, specimen, **TINY).ledger(tuple(inputs), target_of(plain(model, inputs)))
    worst = max(ledger.entries, key=lambda each: each.gap)
    return {
        "gap": ledger.largest_gap,
        "at": f"{worst.operation} {worst.place}",
        "unexplained": ledger.unexplained / abs(ledger.output),
        "n_operations": len(ledger.entries),
    }


def gradient(
    model: nn.Module, specimen: Specimen, inputs: Sequence[Tensor], target: Callable[[Tensor], Tensor]
) -> None:
    """A forward pass, and a backward pass to the inputs or the layer."""
    if specimen.layer is None:
        leaves = [each.clone().requires_grad_() for each in inputs[: specimen.explained]]
        outputs = output_tensor(model(*leaves, *inputs[specimen.explained :]))
        torch.autograd.grad(target(outputs).sum(), leaves)
        return
    kept = []
    handle = model.get_submodule(specimen.layer).register_forward_hook(
        lambda _module, _inputs, output: kept.append(output.requires_grad_())
    )
    try:
        torch.autograd.grad(target(output_tensor(model(*inputs))).sum(), kept)
    finally:
        handle.remove()


def timed(model: nn.Module, specimen: Specimen) -> dict[str, dict[str, Any]]:
    """Seconds of forward and backward and of each composite, or why it did not run.

    Medians of interleaved repetitions, the first of which warms up.
    """
    model.requires_grad_(False)
    inputs = (specimen.timed or specimen.inputs)()
    target = target_of(plain(model, inputs))
    found: dict[str, dict[str, Any]] = {each: {} for each in COMPOSITES}
    seconds: dict[str, list[float]] = {each: [] for each in ("gradient", *COMPOSITES)}

    def explain(composite: str) -> dict[str, Any]:
        explainer_of(composite, model, specimen).attribute(tuple(inputs), target)
        return {}

    start = time.perf_counter()
    while len(seconds["gradient"]) < FEWEST or (
        len(seconds["gradient"]) < REPETITIONS and time.perf_counter() - start < SECONDS
    ):
        began = time.perf_counter()
        gradient(model, specimen, inputs, target)
        seconds["gradient"].append(time.perf_counter() - began)
        for each in COMPOSITES:
            if not found[each].keys() & {"refused", "crashed"}:
                began = time.perf_counter()
                found[each] |= attempt(partial(explain, each))
                seconds[each].append(time.perf_counter() - began)
    base = statistics.median(seconds["gradient"])
    for each, result in found.items():
        if not result.keys() & {"refused", "crashed"}:
            result |= {"seconds": statistics.median(seconds[each]), "gradient": base}
    return found


def measured(part: str, model: nn.Module, specimen: Specimen) -> dict[str, dict[str, Any]]:
    """One part of the measurements, for each composite; `examined` hands them a model in the right state."""
    if part == "time":
        return timed(model, specimen)
    inputs = converted(specimen.inputs(), torch.float64)
    measure = closed if part == "ledger" else conserved
    return {each: attempt(partial(measure, each, model, specimen, inputs)) for each in COMPOSITES}


def examined(specimen: Specimen, parts: Sequence[str]) -> dict[str, Any]:
    """Everything that is measured on one model."""
    start = time.perf_counter()
    model = specimen.built()
    found: dict[str, dict[str, Any]] = {each: {} for each in COMPOSITES}
    same = True
    for part in (each for each in PARTS if each in parts):
        model = model if part == "time" else model.double()
        model = neutralised(model) if part == "conservation" else model
        before = {key: each.clone() for key, each in model.state_dict().items()}, hooks(model)
        for name, result in measured(part, model, specimen).items():
            found[name] |= result
        same = same and unchanged(model, *before)
        del before
    return {
        "name": specimen.name,
        "family": specimen.family,
        "parameters": sum(each.numel() for each in model.parameters()),
        "unchanged": same,
        "took": time.perf_counter() - start,
        "composites": found,
    }


def unchanged(model: nn.Module, values: dict[str, Tensor], n_hooks: list[int]) -> bool:
    """Whether weights, buffers and hooks are as before, and the model is still in evaluation mode."""
    state = model.state_dict()
    same = state.keys() == values.keys() and all(torch.equal(each, values[key]) for key, each in state.items())
    return same and hooks(model) == n_hooks and not any(module.training for module in model.modules())


def line(record: dict[str, Any]) -> str:
    """One model, for the terminal."""
    if "crashed" in record:
        return f"{record['name']}: {record['crashed']}"
    parts = []
    for each, result in record["composites"].items():
        why = result.get("refused") or result.get("crashed")
        shown = [why.splitlines()[0][:160]] if why else []
        shown += [f"ΣR/f {result['ratio']:.6g}"] if "ratio" in result else []
        shown += [f"gap {result['gap']:.1e} ({result['at']})"] if "gap" in result else []
        shown += [f"{result['seconds'] / result['gradient']:.2f}x"] if "seconds" in result else []
        shown += ["warned"] if result.get("warned") else []
        shown += ["FORWARD DIFFERS"] if result.get("forward", 0) > 1e-9 else []
        parts.append(f"{each}: {' '.join(shown)}")
    state = "" if record["unchanged"] else " CHANGED"
    return f"{record['name']} [{record['took']:.0f} s]{state} " + "; ".join(parts)


# The page.


def values(records: Sequence[dict[str, Any]], key: str, composite: str | None = None) -> list[float]:
    """A measurement of all models, of one composite or all."""
    return [
        result[key]
        for record in records
        for name, result in record.get("composites", {}).items()
        if key in result and composite in (None, name)
    ]


def slowness(records: Sequence[dict[str, Any]], composite: str | None = None) -> list[float]:
    """Time over that of forward and backward."""
    return [
        result["seconds"] / result["gradient"]
        for record in records
        for name, result in record.get("composites", {}).items()
        if "seconds" in result and composite in (None, name)
    ]


def reasons(records: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Refusals and crashes, and where they occurred."""
    found: dict[str, list[str]] = {}
    for record in records:
        if "crashed" in record:
            found.setdefault(f"crashed: {record['crashed']}", []).append(record["name"])
        own: dict[str, list[str]] = {}
        for name, result in record.get("composites", {}).items():
            for way in result.keys() & {"refused", "crashed"}:
                own.setdefault(f"{way}: {result[way]}", []).append(name)
        for why, names in own.items():
            which = "" if len(names) == len(COMPOSITES) else f" ({'; '.join(names)})"
            found.setdefault(why, []).append(record["name"] + which)
    return found


def statistic(found: Sequence[float], reduce: Callable[[Sequence[float]], float], form: str) -> str:
    """A number for the table."""
    return format(reduce(found), form) if found else "–"


def summary(records: Sequence[dict[str, Any]]) -> list[str]:
    """Counts, medians and the worst, by composite."""
    rows = []
    for name, kind in COMPOSITES.items():
        results = [each["composites"][name] for each in records if "composites" in each]
        counts = [sum(way in each for each in results) for way in ("refused", "crashed")]
        ratios = [abs(1 - each) for each in values(records, "ratio", name)]
        rows.append(
            [
                f"{name} ({kind.__name__})",
                f"{len(results) - sum(counts)} / {counts[0]} / {counts[1]}",
                f"{sum(each < CONSERVED for each in ratios)} of {len(ratios)}",
                statistic(ratios, statistics.median, ".1e"),
                statistic(ratios, max, ".1e"),
                statistic(values(records, "gap", name), max, ".1e"),
                statistic(slowness(records, name), statistics.median, ".2f"),
                statistic(slowness(records, name), max, ".2f"),
            ]
        )
    columns = ["rules", "ran / refused / crashed", f"abs(1 − ΣR/f) < {CONSERVED:g}", "its median", "its largest"]
    columns += ["ledger, largest gap", "time, median", "time, largest"]
    ratios = [abs(1 - each) for each in values(records, "ratio", "ε")]
    kept = sum(each < CONSERVED for each in ratios)
    share = kept / max(len(records), 1)
    gaps, times = values(records, "gap"), slowness(records)
    lost = [abs(each) for each in values(records, "unexplained")]
    crashes = sum("crashed" in each for each in records) + sum(
        "crashed" in result for each in records for result in each.get("composites", {}).values()
    )
    forwards = values(records, "forward")
    warned = sum(any(result.get("warned") for result in each.get("composites", {}).values()) for each in records)
    return [
        *table(columns, rows),
        "",
        f"- {len(records)} models; {crashes} crashes. All unchanged afterwards: "
        f"{'yes' if all(each.get('unchanged') for each in records) else 'NO'}. The outputs under the rules differ from "
        f"the plain ones by at most {statistic(forwards, max, '.0e')} of the largest.",
        f"- Models with a RelevanceWarning, in float32 with the defaults or in float64: {warned}.",
        f"- ε-rule: abs(1 − ΣR/f) < {CONSERVED:g} on {kept} of {len(ratios)} models it runs on ({share:.1%} of all; "
        "aim: 98 %).",
        f"- Ledger: the largest gap of any operation is {statistic(gaps, max, '.1e')} of its Σ abs(R) "
        f"(aim: {CLOSED:g}); {sum(each > CLOSED for each in gaps)} of {len(gaps)} above. Over the whole model at most "
        f"{statistic(lost, max, '.1e')} of f is unexplained.",
        f"- Time: {statistic(times, statistics.median, '.2f')} × forward and backward in the median over all models "
        f"and rules (aim: {ADDED_TIME:g}).",
    ]


def row(record: dict[str, Any]) -> list[str]:
    """One model in the table."""
    if "crashed" in record:
        return [record["name"], record["family"], "", "crashed", "", "", "", ""]
    results = record["composites"].values()

    def each(key: str, form: Callable[[dict[str, Any]], str]) -> str:
        shown = [form(result) if key in result else "refused" if "refused" in result else "–" for result in results]
        return " · ".join(shown) if any(key in result for result in results) else shown[0]

    base = next((result["gradient"] for result in results if "gradient" in result), math.nan)
    return [
        record["name"],
        record["family"],
        f"{record['parameters'] / 1e6:.3g}",
        f"{abs(1 - record['composites']['ε']['ratio']):.0e}" if "ratio" in record["composites"]["ε"] else "–",
        each("ratio", lambda result: f"{result['ratio']:.3g}"),
        each("gap", lambda result: f"{result['gap']:.0e}"),
        "–" if math.isnan(base) else f"{1000 * base:.3g}",
        each("seconds", lambda result: f"{result['seconds'] / result['gradient']:.1f}"),
    ]


def page(records: Sequence[dict[str, Any]], seconds: float) -> None:
    """Write the page."""
    found = {name: each for name, each in versions().items() if name in ("pnpxai", "python", "torch", "zennit")}
    found |= {name: importlib.metadata.version(name) for name in ("torchvision", "timm", "transformers")}
    columns = ["model", "from", "million parameters", "ε: abs(1 − ΣR/f)", "ΣR/f", "ledger's gap"]
    columns += ["forward + backward, ms", "times that"]
    refusals = [f"- {why.replace(chr(10), ' ')} — {', '.join(where)}" for why, where in reasons(records).items()]
    write(
        "relevance_zoo",
        [
            "# Layer-wise relevance on a range of architectures",
            "",
            f"Every classification model of torchvision below {MOST_PARAMETERS / 1e6:g} million parameters (and one "
            "VGG), models of timm, Hugging Face and torch's own layers. Random weights, biases, position embeddings "
            "and batch-norm statistics unless real ones are named; random inputs of 64 to 256 pixels, or sequences. "
            "f is the output that is largest in absolute value.",
            "",
            "ΣR/f, which ought to be 1 for the ε-rule: float64, ε a billionth of the activations' scale, everything "
            "that absorbs relevance (biases, running means, position embeddings, class tokens) at zero; of a batch, "
            "the sample furthest from 1. The other rules need not conserve: z⁺ loses relevance where nothing is "
            "positive, αβ doubles it where nothing is negative. The ledger's gap: with biases, the largest share of an "
            "operation's Σ abs(R) that is neither handed down nor absorbed. Time: float32, 224 pixels (128 for most "
            "models above 40 million parameters), batch of 1 (2 for sequences), the explainers' defaults, over a "
            "forward and a backward pass to the inputs with frozen weights; medians of interleaved repetitions. Four "
            "numbers in a column are the four rules.",
            "",
            *summary(records),
            "",
            *(["## Refused, with reason", "", *refusals, ""] if refusals else []),
            "## Model by model",
            "",
            *table(columns, [row(each) for each in records]),
            "",
            f"`make zoo`: {circumstances(seconds, found)}, {torch.get_num_threads()} thread(s)",
        ],
    )


def retimed(records: Sequence[dict[str, Any]], log: Path) -> list[dict[str, Any]]:
    """The records with the times of another run, where that has them."""
    lines = [json.loads(each) for each in log.read_text(encoding="utf-8").splitlines()]
    times = {(each["name"], each["family"]): each.get("composites", {}) for each in lines}
    for record in records:
        for name, result in record.get("composites", {}).items():
            found = times.get((record["name"], record["family"]), {}).get(name, {})
            result.update({each: found[each] for each in ("seconds", "gradient") if each in found and each in result})
    return list(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of models' names; all models if there are none")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log", type=Path, default=LOG, help="JSON lines, one a model, as soon as it is measured")
    parser.add_argument("--resume", action="store_true", help="keep what the log holds, and go on from there")
    parser.add_argument("--times", type=Path, help="a log of --only time, whose times are shown instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = arguments.only.split(",") if arguments.only else PARTS
    complete = not arguments.names and set(parts) == set(PARTS)
    records: list[dict[str, Any]] = []
    if arguments.resume and arguments.log.is_file():
        records = [json.loads(each) for each in arguments.log.read_text(encoding="utf-8").splitlines()]
    elif complete:
        arguments.log.unlink(missing_ok=True)
    known = {(each["name"], each["family"]) for each in records}
    began = time.perf_counter()
    for specimen in zoo():
        wanted = not arguments.names or any(each in specimen.name for each in arguments.names)
        if (specimen.name, specimen.family) in known or not wanted:
            continue
        try:
            record = examined(specimen, parts)
        except Exception as error:
            traceback.print_exc()
            record = {"name": specimen.name, "family": specimen.family, "crashed": f"{type(error).__name__}: {error}"}
        gc.collect()
        records.append(record)
        print(line(record), flush=True)
        with arguments.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    if arguments.times is not None:
        records = retimed(records, arguments.times)
    if complete:
        page(records, sum(each.get("took", 0.0) for each in records) or time.perf_counter() - began)
    else:
        print("\n".join(summary(records)))


if __name__ == "__main__":
    main()
