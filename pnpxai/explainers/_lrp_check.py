"""Finds what relevance rules on modules do not treat in one forward pass of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pnpxai.errors import UnsupportedOperationError
from pnpxai.explainers._gradients import differentiable
from pnpxai.forward import Request
from pnpxai.watch import Operation, Watch

WEIGHTED: Mapping[type[nn.Module], frozenset[str]] = {
    nn.Linear: frozenset({"linear"}),
    nn.Conv1d: frozenset({"conv1d", "pad"}),
    nn.Conv2d: frozenset({"conv2d", "pad"}),
    nn.Conv3d: frozenset({"conv3d", "pad"}),
}
"""Modules with a rule for their weights, and the functions their forward is made of."""

AVERAGING: Mapping[type[nn.Module], frozenset[str]] = {
    nn.AvgPool1d: frozenset({"avg_pool1d"}),
    nn.AvgPool2d: frozenset({"avg_pool2d"}),
    nn.AvgPool3d: frozenset({"avg_pool3d"}),
    nn.AdaptiveAvgPool1d: frozenset({"adaptive_avg_pool1d"}),
    nn.AdaptiveAvgPool2d: frozenset({"adaptive_avg_pool2d"}),
    nn.AdaptiveAvgPool3d: frozenset({"adaptive_avg_pool3d"}),
}
"""Modules whose relevance goes to their inputs in proportion to these."""

PASSED: Mapping[type[nn.Module], frozenset[str]] = {
    nn.ReLU: frozenset({"relu"}),
    nn.ReLU6: frozenset({"relu6", "hardtanh"}),
    nn.LeakyReLU: frozenset({"leaky_relu"}),
    nn.PReLU: frozenset({"prelu"}),
    nn.RReLU: frozenset({"rrelu"}),
    nn.ELU: frozenset({"elu"}),
    nn.SELU: frozenset({"selu"}),
    nn.CELU: frozenset({"celu"}),
    nn.Tanh: frozenset({"tanh"}),
    nn.Softsign: frozenset({"softsign"}),
}
"""Activations that grow with their input and keep its sign: relevance passes through them unchanged."""

EXACT_BY_GRADIENT = frozenset(
    {"relu", "max", "amax", "maximum"}
    | {f"{kind}max_pool{d}d{end}" for kind in ("", "adaptive_") for d in (1, 2, 3) for end in ("", "_with_indices")}
    | {
        "view",
        "view_as",
        "reshape",
        "reshape_as",
        "flatten",
        "unflatten",
        "ravel",
        "squeeze",
        "unsqueeze",
        "atleast_2d",
    }
    | {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "flip", "roll", "rot90"}
    | {"__getitem__", "__get__", "select", "narrow", "index_select", "take_along_dim", "gather", "chunk", "split"}
    | {"split_with_sizes", "tensor_split", "unbind", "cat", "concat", "concatenate", "stack", "hstack", "vstack"}
    | {"expand", "expand_as", "repeat", "tile", "repeat_interleave", "contiguous", "clone", "to", "type", "type_as"}
    | {"float", "double", "half", "bfloat16", "cpu", "cuda", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
    | {"pad"}
)
"""Functions through which torch's gradient carries relevance as it should go.

Rearranging, joining, selecting and padding move it along with the values (what reaches a constant border ends there);
a maximum gives it to the winner; a ReLU would stop it only where its output is zero, and no relevance arrives there.
"""

_AS_MODULE = ("linear", "conv", "avg_pool", "mean", "leaky_relu", "elu", "tanh", "prelu", "relu6", "hardtanh")
_OTHERWISE = "Use a method without rules, such as IntegratedGradients, GradCam or RISE."


class GraphWatch(Watch):
    """Records, besides the functions a model calls, which of them made each node of the autograd graph.

    Attributes:
        made_by: node to the place in ``operations`` of the call that made it.
        mixed: places of calls that mix what has a gradient with what was cut off from the inputs it came from.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.made_by: dict[Any, int] = {}
        self.mixed: set[int] = set()
        self._cut: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; record it and the nodes it makes."""
        given = list(_tensors((args, kwargs)))
        known = {each.grad_fn for each in given if each.grad_fn is not None}
        cut = [each for each in given if each in self._cut and each.grad_fn is None]
        result = super().__torch_function__(func, types, args, kwargs)
        place, name = len(self.operations) - 1, self.operations[-1].name
        for each in _tensors(result):
            if each.grad_fn is not None:
                self._assign(each.grad_fn, known, place)
                if any(other.is_floating_point() for other in cut):
                    self.mixed.add(place)
            elif (known or cut) and not name.startswith("new_") and not name.endswith("_like"):
                self._cut[each] = True
        return result

    def _assign(self, last: Any, known: set[Any], place: int) -> None:
        stack = [last]
        while stack:
            node = stack.pop()
            if node not in known and node not in self.made_by:
                self.made_by[node] = place
                stack += [each for each, _ in node.next_functions if each is not None]


def check_rules(request: Request) -> GraphWatch:
    """Run the model on its first input and refuse it unless every step from input to output has a correct rule.

    The model's parameters stop requiring gradients, so that the graph holds only what depends on the input: call it
    inside `pnpxai.guard.guard`.

    Returns:
        What was watched.

    Raises:
        UnsupportedOperationError: names the operation, the module it was called from, and what to do.
    """
    request.model.requires_grad_(False)
    start = request.input[:1].detach().requires_grad_().clone()
    watched = GraphWatch(request.model)
    with torch.enable_grad(), watched.running():
        outputs = request.call((start,), torch.zeros(1, dtype=torch.long, device=start.device))
    nodes = list(_nodes(differentiable(outputs, request).grad_fn, start.grad_fn))
    used = sorted({watched.made_by[node] for node in nodes if node in watched.made_by})
    for place in used:
        operation = watched.operations[place]
        if place in watched.mixed:
            _refuse(f"{operation.name} with a tensor that has no gradient", _place(operation), _OTHERWISE)
        if not _has_rule(operation):
            _refuse(operation.name, _place(operation), _advice(operation))
    for node in nodes:
        if node not in watched.made_by:
            _refuse(node.name(), f"the forward pass of {type(request.model).__name__}", _OTHERWISE)
    calls = Counter(watched.entered)
    for name, module in request.model.named_modules():
        if calls[name] > 1 and (_functions(module, WEIGHTED) or _functions(module, AVERAGING)):
            _refuse(
                f"{calls[name]} calls of one module",
                f"{name} ({type(module).__name__})",
                f"Give each call a module of its own (weights may be shared). {_OTHERWISE}",
            )
    return watched


def first_weighted(model: nn.Module, watched: Watch) -> str | None:
    """The name of the layer with weights that was called first."""
    modules = dict(model.named_modules())
    return next((name for name in watched.entered if _functions(modules[name], WEIGHTED)), None)


def _has_rule(operation: Operation) -> bool:
    if operation.name in EXACT_BY_GRADIENT:
        return True
    module = operation.module
    tables = (WEIGHTED, AVERAGING, PASSED)
    if any(operation.name in _functions(module, table) for table in tables):
        return True
    if operation.name == "hardtanh" and type(module) is nn.Hardtanh:
        return bool(module.min_val <= 0 <= module.max_val)
    if operation.name == "batch_norm" and isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _shifts_nothing(module)
    return operation.name == "sum" and f"{type(module).__module__}.{type(module).__name__}" == "zennit.layer.Sum"


def _functions(module: nn.Module, table: Mapping[type[nn.Module], frozenset[str]]) -> frozenset[str]:
    """The functions of a module in a table, if it runs exactly as the class listed there."""
    for listed, functions in table.items():
        if isinstance(module, listed) and type(module).forward is listed.forward and "forward" not in vars(module):
            own = {name for name, _ in module.named_parameters(recurse=False)}
            weighted = own <= {"weight", "bias"} and "weight" in own
            same = getattr(type(module), "_conv_forward", None) is getattr(listed, "_conv_forward", None)
            return functions if table is not WEIGHTED or (weighted and same) else frozenset()
    return frozenset()


def _shifts_nothing(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether a batch norm only scales, as it does once it is merged; relevance passes through a scaling unchanged."""
    if norm.running_mean is None or norm.running_var is None or norm.training:
        return False
    return not norm.running_mean.any() and (norm.bias is None or not norm.bias.any())


def _advice(operation: Operation) -> str:
    if operation.name == "batch_norm":
        return (
            "Merge it into the layer before with zennit_canonizers=[zennit.canonizers.SequentialMergeBatchNorm()], "
            f"which is done on a copy of the model. {_OTHERWISE}"
        )
    called_bare = not any(_functions(operation.module, table) for table in (WEIGHTED, AVERAGING, PASSED))
    if called_bare and any(word in operation.name for word in _AS_MODULE):
        return f"Rules are attached to modules: use the module of torch.nn that does the same. {_OTHERWISE}"
    return _OTHERWISE


def _place(operation: Operation) -> str:
    return f"{operation.path or 'the model itself'} ({type(operation.module).__name__})"


def _refuse(what: str, where: str, advice: str) -> NoReturn:
    raise UnsupportedOperationError(
        "only operations with a correct relevance rule (linear and convolution layers called once, ReLU and its kin, "
        "pools, rearranging)",
        f"{what} in {where}",
        advice,
    )


def _nodes(last: Any, first: Any) -> Iterator[Any]:
    """All nodes of the graph from ``last`` back to, and without, ``first``."""
    seen, stack = {first}, [last]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack += [each for each, _ in node.next_functions if each is not None]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
