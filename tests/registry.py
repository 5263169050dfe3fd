"""For explainers and metrics that tests define at module level."""

from __future__ import annotations

from pnpxai.explainers import EXPLAINERS
from pnpxai.metrics import METRICS


def unregistered(cls: type) -> type:
    """Take a class out of the registries again, so that no other test meets it."""
    for registry in (EXPLAINERS, METRICS):
        if registry.get(cls.__name__) is cls:
            del registry[cls.__name__]
    return cls
