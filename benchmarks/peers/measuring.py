"""One pair's measurements, in a process of their own: ``python -m benchmarks.peers.measuring TASK SETTINGS FILE``."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.pairs import PAIRS, SMALLEST, Pair, Size
from benchmarks.resident import forget_peak, resident_peak
from pnpxai.allocator import keep_freed_memory
from pnpxai.metrics import Deletion, Insertion, evaluate_together
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized

SIDES = ("ours", "theirs")


@dataclass
class Passes:
    """Samples that went through a model.

    Attributes:
        forward: there.
        backward: and back.
    """

    forward: int = 0
    backward: int = 0


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count what goes through the model inside the block, whoever calls it."""
    passes = Passes()

    def ahead(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        passes.forward += len(inputs[0])

    def back(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def after(_module: nn.Module, _inputs: tuple[Any, ...], outputs: Tensor) -> None:
        if outputs.requires_grad:
            outputs.register_hook(back)

    handles = [model.register_forward_pre_hook(ahead), model.register_forward_hook(after)]
    try:
        yield passes
    finally:
        for each in handles:
            each.remove()


def state(model: nn.Module) -> dict[str, Any]:
    """What a method may leave behind: on the model, and in the global random states."""
    modules, parameters = list(model.modules()), list(model.parameters())
    return {
        "weights or buffers": [each.detach().clone() for each in model.state_dict().values()],
        "gradients on the parameters": [each.grad is not None for each in parameters],
        "`requires_grad`": [each.requires_grad for each in parameters],
        "training flags": [each.training for each in modules],
        "hooks": [len(each._forward_hooks) + len(each._forward_pre_hooks) + hooks_back(each) for each in modules],
        "attributes": [sorted(vars(each)) for each in modules],
        "torch's random state": [torch.get_rng_state()],
        "NumPy's random state": [str(np.random.get_state(legacy=False))],  # noqa: NPY002  # read
        "Python's random state": [random.getstate()],
    }


def hooks_back(module: nn.Module) -> int:
    """Hooks of backward passes."""
    return len(module._backward_hooks) + len(module._backward_pre_hooks)


def left_behind(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two states."""

    def same(one: Any, other: Any) -> bool:
        return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)

    return [
        name
        for name, values in before.items()
        if len(values) != len(after[name]) or not all(map(same, values, after[name]))
    ]


def photographed(n: int) -> Tensor:
    """The first ``n`` photographs, ``(n, 3, 224, 224)``."""
    return standardized([cropped(each.open()) for each in photographs()[:n]])


def classes(model: nn.Module, x: Tensor) -> Tensor:
    """The predicted ones."""
    with torch.no_grad():
        return model(x).argmax(1)


def timed(pair: Pair, model: nn.Module, x: Tensor, size: Size, n_runs: int) -> dict[str, Any]:
    """Both in turn, each on a copy of the model, after a first call of each that is not timed."""
    targets = classes(model, x)
    models = {side: copy.deepcopy(model) for side in SIDES}
    runs = {"ours": pair.ours, "theirs": pair.theirs}
    found: dict[str, Any] = {"seconds": {side: [] for side in SIDES}, "first": {}, "passes": {}, "left": {}}
    for side in SIDES:
        runs[side](copy.deepcopy(model), x, targets, SMALLEST)  # what importing leaves behind does not count
        before = state(models[side])
        with counted(models[side]) as passes:
            runs[side](models[side], x, targets, size)
        found["first"][side] = asdict(passes)
        found["left"][side] = left_behind(before, state(models[side]))
    for _ in range(n_runs):
        for side in SIDES:
            gc.collect()
            with counted(models[side]) as passes:
                start = time.perf_counter()
                runs[side](models[side], x, targets, size)
                found["seconds"][side].append(time.perf_counter() - start)
            found["passes"][side] = asdict(passes)
    return found


def judged(pair: Pair, model: nn.Module, every: Tensor, size: Size) -> dict[str, Any]:
    """The maps of both, image by image: scores by this package's metrics and their correlation; NaN where not finite.

    Of a pair that scores a map: the scores themselves.
    """
    metrics = [
        Insertion(model, baseline_fn="blur"),
        Deletion(model, baseline_fn="blur"),
        Deletion(model, baseline_fn="zeros"),
    ]
    found: dict[str, Any] = {side: [] for side in SIDES} | {"correlation": []}
    models = {side: copy.deepcopy(model) for side in SIDES}
    for x in every.split(1):
        targets = classes(model, x)
        maps = {
            "ours": pair.ours(models["ours"], x, targets, size),
            "theirs": pair.theirs(models["theirs"], x, targets, size),
        }
        if pair.scores:
            for side in SIDES:
                found[side].append([float(maps[side])])
            continue
        for side in SIDES:
            if not maps[side].isfinite().all():
                found[side].append([math.nan] * 3)
                continue
            insertion, deletion, zeros = (
                float(each) for each in evaluate_together(metrics, x, targets, maps[side].float())
            )
            found[side].append([insertion - deletion, deletion, zeros])
        found["correlation"].append(correlation(maps["ours"], maps["theirs"]))
    return found


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two maps of one image over its pixels, channels summed; NaN where one is constant or not finite."""
    flat = torch.stack([each.detach().double().sum(1).flatten() for each in (one, other)])
    flat = flat - flat.mean(1, keepdim=True)
    return float((flat[0] * flat[1]).sum() / (flat[0].norm() * flat[1].norm()))


def risen(pair: Pair, side: str, model: nn.Module, x: Tensor, size: Size) -> float:
    """Megabytes that one side holds at its peak above the peak of a bare pass of the images."""
    run, targets = (pair.ours if side == "ours" else pair.theirs), classes(model, x)
    run(model, x, targets, SMALLEST)
    model.zero_grad()
    forget_peak()
    bare_pass(model, x, pair.goes_back)
    bare = resident_peak()
    forget_peak()
    run(model, x, targets, size)
    return resident_peak() - bare


def bare_pass(model: nn.Module, x: Tensor, goes_back: bool) -> None:
    """The images once through the model, and back to them."""
    if goes_back:
        given = x.clone().requires_grad_()
        torch.autograd.grad(model(given).sum(), given)
    else:
        with torch.inference_mode():
            model(x)


def main(task: str, settings: Mapping[str, Any], file: Path) -> None:
    """Do one task and write what was found."""
    torch.set_num_threads(1)
    pair, size, model = PAIRS[settings["pair"]], Size(**settings["size"]), efficientnet_lite0()
    found: Any
    if task in ("timed", "as it comes"):
        if task == "timed":
            keep_freed_memory()
        found = timed(pair, model, photographed(settings["images"]), size, settings["runs"])
        found["version"] = version(pair.package)
    elif task == "judged":
        found = judged(pair, model, photographed(settings["scored"]), size)
    else:
        found = risen(pair, task, model, photographed(settings["images"]), size)
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
