"""Normalization layers and the names under which a network is built with them.

A factory in ``NORMS`` takes ``num_features`` and ``branches`` and returns one layer. A new norm
takes one file, one line here and one test.

Examples:
    >>> NORMS["auxbn"](64, branches=("clean", "adv")).weight.shape
    torch.Size([2, 64])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustnorm.system.registry import Registry

if TYPE_CHECKING:
    from robustnorm.norms.cells import CCBN, AuxBN, AuxStatBN, SaAuxBN, SaBN
    from robustnorm.norms.freezing import freeze
    from robustnorm.norms.ilm import ILM, ILMAdaIN
    from robustnorm.norms.instance import AdaIN, SaAdaIN
    from robustnorm.norms.mode import ModeNorm
    from robustnorm.norms.routed import RoutedBatchNorm1d, RoutedBatchNorm2d, RoutedBatchNorm3d

NORMS = Registry(
    "norm",
    {
        "bn": "robustnorm.norms.plain:bn",
        "modenorm": "robustnorm.norms.mode:modenorm",
        "auxbn": "robustnorm.norms.cells:AuxBN",
        "saauxbn": "robustnorm.norms.cells:SaAuxBN",
        "auxstatbn": "robustnorm.norms.cells:AuxStatBN",
        "ccbn": "robustnorm.norms.cells:ccbn",
        "sabn": "robustnorm.norms.cells:sabn",
    },
)

_CLASSES = {
    "AuxBN": "cells",
    "AuxStatBN": "cells",
    "CCBN": "cells",
    "RoutedBatchNorm1d": "routed",
    "RoutedBatchNorm2d": "routed",
    "RoutedBatchNorm3d": "routed",
    "SaAuxBN": "cells",
    "SaBN": "cells",
    "freeze": "freezing",
    "ModeNorm": "mode",
    "AdaIN": "instance",
    "ILM": "ilm",
    "ILMAdaIN": "ilm",
    "SaAdaIN": "instance",
}

__all__ = [
    "CCBN",
    "ILM",
    "NORMS",
    "AdaIN",
    "AuxBN",
    "AuxStatBN",
    "ILMAdaIN",
    "ModeNorm",
    "RoutedBatchNorm1d",
    "RoutedBatchNorm2d",
    "RoutedBatchNorm3d",
    "SaAdaIN",
    "SaAuxBN",
    "SaBN",
    "freeze",
]


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)
