"""Tables of small label maps, and the doctor's report on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.splits import detect
from statsvc.dataset.table import Block, Table
from statsvc.doctor.facts import FileFacts
from statsvc.doctor.report import examine
from support.small_tables import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.memory_table import MemoryTable

    Labels = np.ndarray[Any, Any]


def streets(images: int = 40, seed: int = 0, classes: int = 5) -> dict[str, Labels]:
    """Return correct label maps, a quarter of them in val/: every class in each, and the first row 255."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1) ** 1.5
    maps = {}
    for number in range(images):
        labels = rng.choice(classes, (24, 32), p=share / share.sum()).astype(np.int64)
        labels[0] = 255
        maps[f"{'val' if number % 4 == 3 else 'train'}/{number:03}.png"] = labels
    return maps


class InBlocks(Table):
    """A table that yields its rows seven at a time."""

    def __init__(self, table: MemoryTable) -> None:
        self.dataset, self.version = table.dataset, table.version
        self.configuration, self.whole = table.configuration, table

    def totals(self) -> Histogram:
        return self.whole.totals()

    def failed(self) -> int:
        return self.whole.failed()

    def blocks(self) -> Iterator[Block]:
        rows = self.whole.rows
        for start in range(0, len(rows.path), 7):
            part = slice(start, start + 7)
            yield Block(rows.path[part], rows.status[part], rows.error[part], rows.counts[part])


def table_with_files(
    maps: Mapping[str, Labels],
    failed: Mapping[str, str] | None = None,
    modes: Mapping[str, int] | None = None,
    **configuration: Any,
) -> tuple[MemoryTable, FileFacts]:
    """Return the table of label maps, and the per-sample arrays that a version stores."""
    paths = sorted(maps)
    rows = []
    for path in paths:
        ids, counts = np.unique(maps[path], return_counts=True)
        rows.append(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    configuration = {"splits": detect(paths)} | configuration
    table = table_of(rows, paths, failed, **configuration)
    bad = len(failed or {})
    content = [hash((maps[path].shape, maps[path].tobytes())) & (2**64 - 1) for path in paths]
    files = FileFacts(
        np.array([*paths, *(failed or {})], np.dtypes.StringDType()),
        table.rows.status,
        np.array([maps[path].shape[0] for path in paths] + [0] * bad, np.int64),
        np.array([maps[path].shape[1] for path in paths] + [0] * bad, np.int64),
        np.array([(modes or {}).get(path, 1) for path in paths] + [0] * bad, np.uint8),
        np.array(content + [0] * bad, np.uint64),
    )
    return table, files


def report(maps: Mapping[str, Labels], *, read: bool = False, **more: Any) -> dict[str, dict[str, Any]]:
    """Return the findings by code, after checks of the report. With `read`, pixels can be read again."""
    table, files = table_with_files(maps, **more)
    read_pixels = (lambda path: [maps[path]]) if read else None
    body = examine(table, files.__getattribute__, read_pixels)
    json.dumps(body, allow_nan=False)
    # The report does not depend on how the rows are divided into blocks.
    assert examine(InBlocks(table), files.__getattribute__, read_pixels) == body
    findings = {finding["code"]: finding for finding in body["findings"]}
    assert len(findings) == len(body["findings"])
    return findings
