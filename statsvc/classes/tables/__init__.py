"""Tables of published datasets: raw ids with their names, colors and training ids.

Each table is a CSV file in this folder. Its first line cites the source.
"""

from __future__ import annotations

import functools
from pathlib import Path

from msgspec import Struct

_FOLDER = Path(__file__).parent

NAMES = tuple(sorted(file.stem for file in _FOLDER.glob("*.csv")))
"""Names of the tables."""


class ClassTable(Struct, frozen=True):
    """The classes of one published dataset.

    names    raw id → name, in the order of the source
    colors   raw id → RGB, each 0 … 255; empty if the source defines no colors
    targets  raw id → training id; 255 means ignored
    classes  names of the training ids 0 … n−1
    source   publication or software that the table is copied from
    """

    names: dict[int, str]
    colors: dict[int, tuple[int, int, int]]
    targets: dict[int, int]
    classes: tuple[str, ...]
    source: str


@functools.cache
def load(name: str) -> ClassTable:
    """Return the table with this name. Raises `KeyError` if there is none."""
    import csv

    if name not in NAMES:
        raise KeyError(name)
    first, *lines = (_FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    names: dict[int, str] = {}
    colors: dict[int, tuple[int, int, int]] = {}
    targets: dict[int, int] = {}
    classes: dict[int, str] = {}
    for row in csv.DictReader(lines):
        raw, target = int(row["id"]), int(row["train_id"])
        names[raw], targets[raw] = row["name"], target
        if row["r"]:
            colors[raw] = (int(row["r"]), int(row["g"]), int(row["b"]))
        if row["train_name"]:
            classes[target] = row["train_name"]
    class_names = tuple(classes[k] for k in range(len(classes)))
    return ClassTable(names, colors, targets, class_names, first.removeprefix("# "))
