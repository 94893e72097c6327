"""The rows of a version in a form that tests compare."""

from __future__ import annotations

from typing import Any


def rows_of(table: Any) -> dict[str, dict[int, int]]:
    """Return path → {raw id: pixels} of all samples of a `Table`."""
    totals = table.totals()
    rows = {}
    for block in table.blocks():
        for path, row in zip(block.path, block.counts, strict=True):
            rows[path] = {i: n for i, n in zip(totals.class_id.tolist(), row.tolist(), strict=True) if n}
    return rows
