"""Tests with packages that are too large for `make test` or require a separate environment."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the package `support`
