"""Expected counts: published ones, and those that Pillow and NumPy give for files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TESTS = Path(__file__).parents[1]

CAMVID = TESTS.parents[1] / "shared" / "data" / "camvid"
"""The CamVid label maps next to the project, if they are available."""

PUBLISHED: dict[str, Any] = json.loads((TESTS / "data" / "published.json").read_text())
"""Counts and weights from publications."""


def counted_by_pillow(folder: Path) -> dict[int, int]:
    """Return the pixels of each raw id in the PNGs of a folder."""
    total = np.zeros(256, np.int64)
    for file in folder.rglob("*.png"):
        total += np.bincount(np.asarray(Image.open(file)).ravel(), minlength=256)
    return {int(raw_id): int(total[raw_id]) for raw_id in np.flatnonzero(total)}


def pixels_of(answer: dict[str, Any]) -> dict[int, int]:
    """Return the pixels of each class that occurs, from an answer with weights."""
    return {row["id"]: row["pixels"] for row in answer["classes"] if row["pixels"]}


def checkpoints(home: Path) -> list[Path]:
    """Return the checkpoints of unfinished jobs."""
    return list(home.glob("versions/*/parts/*/*.part"))
