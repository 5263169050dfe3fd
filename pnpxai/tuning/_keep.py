"""Keeping a result: JSON for what was found, safetensors for the tensors; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pnpxai.callables import Model
from pnpxai.errors import StudyError
from pnpxai.explainers import EXPLAINERS, RankEnsemble
from pnpxai.forward import TokenIds
from pnpxai.kept import digest
from pnpxai.metrics import METRICS
from pnpxai.modality import MODALITIES, Several
from pnpxai.postprocess import PostProcessor
from pnpxai.targets import TARGETS
from pnpxai.tokenizers import vocabulary_of
from pnpxai.tunable import Role, Tunable
from pnpxai.tuning._identity import model_digest
from pnpxai.tuning._opinion import Opinion
from pnpxai.tuning._pareto import Choice
from pnpxai.tuning._result import Configuration, Entry, TuneResult
from pnpxai.tuning._statistics import Gain

FORMAT = 2
AS_IT_IS = ("tuning_index", "holdout_index", "n_forwards", "search_forwards", "seconds", "seed", "caveats", "untried")
NUMBERS = ("estimate", "forwards_per_sample", "seconds_per_sample", "seed_luck")
_MODEL = {"model": "the user's"}


def save(result: TuneResult, folder: Path) -> Path:
    """Write ``result.json`` and ``tensors.safetensors`` into ``folder``.

    Raises:
        StudyError: a parameter that JSON cannot hold, such as a function.
    """
    tensors: dict[str, Tensor] = {}
    explainer = result.explainer
    extractors = explainer.forward_arg_extractor, explainer.additional_forward_arg_extractor
    kept = {
        "format": FORMAT,
        "model": model_digest(explainer.model, result.inputs, *extractors),
        "entries": [_entry(each, tensors) for each in result.entries],
        "ensemble": _entry(result.ensemble, tensors) if result.ensemble else None,
        "runner_up": asdict(result.runner_up) if result.runner_up else None,
        "opinion": _opinion(result.opinion, tensors) if result.opinion else None,
        "trials": [_choice(each, tensors) for each in result.trials],
        "failed": dict(result.failed),
        "metric": _plain(result.metric.set_kwargs(explainer=None), tensors),
        "modality": _plain(result.modality, tensors),
        "controls": {name: list(scores) for name, scores in result.controls.items()},
        "inputs": _plain(result.inputs, tensors),
        "targets": _plain(result.targets, tensors),
        **{name: _plain(getattr(result, name), {}) for name in AS_IT_IS},
        "versions": dict(result.versions),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / "tensors.safetensors")
    return folder


def load(folder: Path, model: Model) -> TuneResult:
    """The result kept by `save`, its explainers and metric on ``model``.

    Raises:
        StudyError: there is none, or it was written by another version of the format.
    """
    try:
        kept = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "tensors.safetensors")
    except (OSError, ValueError) as error:
        raise StudyError(
            f"a folder written by TuneResult.save at {folder.name!r}", f"{error}", "Save first."
        ) from error
    if kept.get("format") != FORMAT:
        raise StudyError(f"format {FORMAT} of a saved result", f"{kept.get('format')}", "Tune again and save.")

    def rebuilt(value: Any) -> Any:
        return _rebuilt(value, tensors, model)

    if kept["model"] != model_digest(model, rebuilt(kept["inputs"])):
        raise StudyError(
            "the model that was tuned",
            "another class or other weights" if isinstance(model, nn.Module) else "a function with other answers",
            "Load the weights it was tuned with.",
        )

    def configuration(value: Mapping[str, Any]) -> Configuration:
        parts = {"explainer": rebuilt(value["explainer"]), "postprocessor": rebuilt(value["postprocessor"])}
        scores = {name: tuple(value[name]) for name in ("tuning_scores", "holdout_scores")}
        return Configuration(**{**value, **parts, **scores})

    def entry(value: Mapping[str, Any]) -> Entry:
        default = configuration(value["default"])
        tuned = configuration(value["tuned"]) if value["tuned"] else default
        gain = Gain(**value["gain"]) if value["gain"] else None
        return Entry(value["name"], default, tuned, gain, value["n_trials"], tuple(value["failures"]))

    opinion = kept["opinion"]
    return TuneResult(
        entries=tuple(map(entry, kept["entries"])),
        ensemble=entry(kept["ensemble"]) if kept["ensemble"] else None,
        runner_up=Gain(**kept["runner_up"]) if kept["runner_up"] else None,
        opinion=Opinion(rebuilt(opinion["metric"]), tuple(opinion["tuned"]), tuple(opinion["default"]))
        if opinion
        else None,
        trials=tuple(
            Choice(**{**each, "explainer": rebuilt(each["explainer"]), "postprocessor": rebuilt(each["postprocessor"])})
            for each in kept["trials"]
        ),
        failed=kept["failed"],
        metric=rebuilt(kept["metric"]),
        modality=rebuilt(kept["modality"]),
        recommendation=None,
        controls={name: tuple(scores) for name, scores in kept["controls"].items()},
        inputs=rebuilt(kept["inputs"]),
        targets=rebuilt(kept["targets"]),
        **{name: rebuilt(kept[name]) for name in AS_IT_IS},
        versions=kept["versions"],
    )


def _entry(entry: Entry, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "default": _configuration(entry.default, tensors),
        "tuned": None if entry.tuned is entry.default else _configuration(entry.tuned, tensors),
        "gain": asdict(entry.gain) if entry.gain else None,
        "n_trials": entry.n_trials,
        "failures": list(entry.failures),
    }


def _opinion(opinion: Opinion, tensors: dict[str, Tensor]) -> dict[str, Any]:
    metric = _plain(opinion.metric.set_kwargs(explainer=None), tensors)
    return {"metric": metric, "tuned": list(opinion.tuned), "default": list(opinion.default)}


def _choice(choice: Choice, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "number": choice.number,
        "name": choice.name,
        "explainer": _plain(choice.explainer, tensors),
        "postprocessor": _plain(choice.postprocessor, tensors),
        "values": dict(choice.values),
        "complete": choice.complete,
    }


def _configuration(configuration: Configuration, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "explainer": _plain(configuration.explainer, tensors),
        "postprocessor": _plain(configuration.postprocessor, tensors),
        "params": dict(configuration.params),
        "tuning_scores": list(configuration.tuning_scores),
        "holdout_scores": list(configuration.holdout_scores),
        **{name: getattr(configuration, name) for name in NUMBERS},
    }


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"tensor{len(tensors)}"
        tensors[name] = value.detach().cpu().clone()
        return {"tensor": name}
    if isinstance(value, Tunable):
        own = value.get_params()
        params = {name: _argument(name, each, tensors) for name, each in own.items()}
        return {"class": _name(value), "params": {"mapping": params}}
    if isinstance(value, TokenIds):
        return {"special_ids": list(value.special_ids)}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, tensors) for each in value]}
    if isinstance(value, list):
        return [_plain(each, tensors) for each in value]
    if isinstance(value, Mapping):
        return {"mapping": {str(name): _plain(each, tensors) for name, each in value.items()}}
    raise StudyError(
        "parameters that JSON can hold, to save a result",
        f"{type(value).__name__}: {value!r}",
        "Name the function's class, or keep the study's storage instead.",
    )


def _argument(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """An argument of an object; of a tokenizer its pieces, which are kept once."""
    if name == "model":
        return _MODEL
    pieces = vocabulary_of(value) if name == "tokenizer" else None
    if pieces is None:
        return _plain(value, tensors)
    text = json.dumps(list(pieces.items())).encode()
    kept = f"pieces {digest(list(pieces.items()))}"
    tensors[kept] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return {"pieces": kept}


def _rebuilt(value: Any, tensors: Mapping[str, Tensor], model: Model) -> Any:
    if isinstance(value, list):
        return [_rebuilt(each, tensors, model) for each in value]
    if not isinstance(value, dict):
        return value
    if value == _MODEL:
        return model
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "pieces" in value:
        return dict(json.loads(bytes(tensors[value["pieces"]].tolist())))
    if "special_ids" in value:
        return TokenIds(tuple(value["special_ids"]))
    if "tuple" in value:
        return tuple(_rebuilt(each, tensors, model) for each in value["tuple"])
    if "mapping" in value:
        return {name: _rebuilt(each, tensors, model) for name, each in value["mapping"].items()}
    return _class(value["class"])(**_rebuilt(value["params"], tensors, model))


def _name(value: Tunable) -> str:
    kinds = [type(value).__name__]
    for role in type(value).__mro__:
        if Role in role.__bases__:
            kinds.insert(0, role.__name__)
    return ".".join(kinds)


def _class(name: str) -> type[Tunable]:
    role, _, own = name.rpartition(".")
    if role:
        listed = next(each for each in Role.__subclasses__() if each.__name__ == role).REGISTRY.values()
        return next(each for each in listed if each.__name__ == own)
    known: dict[str, type[Tunable]] = {**EXPLAINERS, **METRICS, "PostProcessor": PostProcessor}
    known |= {"RankEnsemble": RankEnsemble, "Several": Several}
    known |= {**TARGETS, **{each.__name__: each for each in MODALITIES.values()}}
    if name not in known:
        raise StudyError("a class that is registered", name, "Import the module that defines it before loading.")
    return known[name]
