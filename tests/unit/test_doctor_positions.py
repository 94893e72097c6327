"""Findings that need counts on a grid: classes along the edges of the images, and constant edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import statsvc
from statsvc.doctor.report import examine

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEIGHT, WIDTH = 64, 96


def street(seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[30 + seed % 5 :] = 1
    top, left = random.integers(0, HEIGHT - 12), random.integers(0, WIDTH - 20)
    labels[top : top + 12, left : left + 20] = 2
    return labels


def findings(folder: Path, grid: str | None, change: Any = None) -> dict[str, dict[str, Any]]:
    """Return code → finding of 24 streets, each changed in place."""
    folder.mkdir()
    for number in range(24):
        labels = street(number)
        if change is not None:
            change(labels)
        Image.fromarray(labels).save(folder / f"{number:02}.png")
    table = statsvc.scan(folder, grid=grid)
    rows = table.rows
    n = len(rows.path)
    arrays: dict[str, Any] = {
        "path": np.array(rows.path, object),
        "status": rows.status,
        "height": np.full(n, HEIGHT),
        "width": np.full(n, WIDTH),
        "mode": np.ones(n, np.uint8),
        "content": np.arange(1, n + 1, dtype=np.uint64),
    }
    report = examine(table, arrays.__getitem__)
    return {finding["code"]: finding for finding in report["findings"]}


def letterbox(labels: NDArray[np.uint8]) -> None:
    labels[:6] = labels[-6:] = 3


def vehicle(labels: NDArray[np.uint8]) -> None:
    labels[-10:] = 4


def test_a_letterbox_and_a_vehicle_are_found_and_streets_are_not(tmp_path: Path) -> None:
    codes = {"only_along_edges", "constant_edges"}
    assert not codes & set(findings(tmp_path / "sound", "8x8"))
    boxed = findings(tmp_path / "boxed", "8x8", letterbox)
    assert boxed["only_along_edges"]["ids"] == [3]
    assert boxed["only_along_edges"]["level"] == "notice"
    driven = findings(tmp_path / "driven", "8x8", vehicle)
    assert driven["constant_edges"]["ids"] == [4]
    assert "bottom: id 4, 100.0%" in driven["constant_edges"]["saw"]
    assert not codes & set(findings(tmp_path / "without", None, letterbox))
