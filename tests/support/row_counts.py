"""The counts of a table, read sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statsvc.dataset.table import Table


def rows_of(table: Table) -> dict[str, dict[int, int]]:
    """Return the pixels of each raw id in each sample, without zeros: {path: {raw id: pixels}}."""
    raw_ids = table.totals().class_id.tolist()
    return {
        path: {raw_id: pixels for raw_id, pixels in zip(raw_ids, row.tolist(), strict=True) if pixels}
        for block in table.blocks()
        for path, row in zip(block.path, block.counts, strict=True)
    }
