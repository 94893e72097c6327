"""Exact class statistics of segmentation label maps, and the class weights that follow from them.

In a trainer::

    import statsvc

    weights = statsvc.class_weights("http://127.0.0.1:8000", dataset="camvid")
    criterion = torch.nn.CrossEntropyLoss(weight=weights, ignore_index=255)

Importing this package is cheap: each public name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from statsvc._version import __version__
from statsvc.errors import (
    Conflict,
    DamagedVersion,
    InvalidParameter,
    NotFound,
    ServerError,
    SourceError,
    StatsvcError,
    Unanswerable,
)

if TYPE_CHECKING:
    from statsvc import losses as losses
    from statsvc.client.client import Client as Client
    from statsvc.client.client import class_weights as class_weights
    from statsvc.local.calculate import calculate_class_weights as calculate_class_weights
    from statsvc.local.scan import LocalTable as LocalTable
    from statsvc.local.scan import scan as scan
    from statsvc.weighting.class_weights import ClassWeights as ClassWeights
    from statsvc.weighting.parameters import WeightSpec as WeightSpec

_MODULE_OF_NAME = {
    "ClassWeights": "weighting.class_weights",
    "Client": "client.client",
    "LocalTable": "local.scan",
    "WeightSpec": "weighting.parameters",
    "calculate_class_weights": "local.calculate",
    "class_weights": "client.client",
    "scan": "local.scan",
}

_LAZY_MODULES = ("losses",)  # not in __all__, because `from statsvc import *` must work without Torch

__all__ = [
    "ClassWeights",
    "Client",
    "Conflict",
    "DamagedVersion",
    "InvalidParameter",
    "LocalTable",
    "NotFound",
    "ServerError",
    "SourceError",
    "StatsvcError",
    "Unanswerable",
    "WeightSpec",
    "__version__",
    "calculate_class_weights",
    "class_weights",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
