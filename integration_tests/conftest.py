"""Tests with packages that are too large for `make test` or require a separate environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the package `support`


def _import_torchvision() -> None:
    """Import torchvision, without its compiled operators if they do not load.

    The build of torchvision in the package index does not load next to PyTorch's CPU build. Segmentation does
    not use its operators, so it suffices to declare the two that torchvision registers when it is imported.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision  # noqa: F401


_declared: list[Any] = []
"""Keeps the declarations alive."""

_import_torchvision()
