"""Imports of frameworks that take seconds: by the tests that need them, not by each process that collects."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def heavy_import(name: str) -> Any:
    """Import a module, and ignore the warnings that its own imports raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
