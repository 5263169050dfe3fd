"""Layers of a model, by name or by module, and what comes out of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from pnpxai.errors import ParameterError, UnsupportedModelError, unknown_name


def layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """The name in ``model.named_modules()`` of a layer given by name or as the module itself.

    Raises:
        UnknownNameError: a name the model does not have.
        ParameterError: a module that is no part of the model.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> layer_name(network, network[1])
        '1'
    """
    names: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, str):
        if layer in names:
            return layer
        raise unknown_name("layer", layer, names)
    for name, module in names.items():
        if module is layer:
            return name
    raise ParameterError(
        f"a layer of {type(model).__name__}, by name or as the module itself",
        f"a {type(layer).__name__} that is no part of it",
        "Pass a name from model.named_modules(), e.g. layer='features.28'.",
    )


class LayerOutput:
    """What a layer returned the last time it was called; of a tuple, as attention and recurrent layers give, the first.

    The model goes on with a copy, so that nothing it does in place changes what is kept here.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._kept: object = None

    @contextlib.contextmanager
    def recorded(self, model: nn.Module) -> Iterator[LayerOutput]:
        """Record the output of the layer while the block runs."""

        def keep(_module: nn.Module, _inputs: object, output: object) -> object:
            if type(output) is tuple and output and isinstance(output[0], Tensor):
                self._kept = output[0]
                return output[0].clone(), *output[1:]
            self._kept = output
            return output.clone() if isinstance(output, Tensor) else None

        handle = model.get_submodule(self.name).register_forward_hook(keep)
        try:
            yield self
        finally:
            handle.remove()
            self._kept = None

    @property
    def tensor(self) -> Tensor:
        """The layer's output.

        Raises:
            UnsupportedModelError: it was not called, returned no tensor, or no gradient passes through it.
        """
        if isinstance(self._kept, Tensor) and self._kept.requires_grad:
            return self._kept
        received = "that it was not called" if self._kept is None else f"a {type(self._kept).__name__}"
        if isinstance(self._kept, Tensor):
            received = "a tensor without a gradient"
        raise UnsupportedModelError(
            f"one tensor with a gradient from layer {self.name!r}",
            received,
            "Choose another layer, one between the inputs and the outputs.",
        )
