"""Adversarial training and evaluation of normalization layers, branch by branch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustnorm.models.conversion import convert
    from robustnorm.models.folding import fold
    from robustnorm.models.resnet import preact_resnet18, resnet18
    from robustnorm.norms.routing import RoutingError, bind, route
    from robustnorm.work.evaluate_network import evaluate

__all__ = [
    "RoutingError",
    "bind",
    "convert",
    "evaluate",
    "fold",
    "preact_resnet18",
    "resnet18",
    "route",
]

_MODULES = {
    "resnet18": "models.resnet",
    "preact_resnet18": "models.resnet",
    "route": "norms.routing",
    "bind": "norms.routing",
    "RoutingError": "norms.routing",
    "convert": "models.conversion",
    "fold": "models.folding",
    "evaluate": "work.evaluate_network",
}


# Imported on first use: the command line checks settings before loading torch, which takes seconds.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
