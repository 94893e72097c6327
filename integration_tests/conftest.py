"""Tests beside packages that are too large for `make test`, or need an environment of their own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # small_segmentation, servers, publishing
