"""Tables in memory: from rows, from totals, and from the published statistics of CamVid and Cityscapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.configuration import Configuration
from statsvc.dataset.histogram import Histogram
from statsvc.dataset.memory_table import MemoryTable
from statsvc.dataset.table import Block, Table
from support.expected import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CAMVID_NAMES = (
    "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()  # noqa: SIM905
)


def table_of(
    rows: Sequence[Mapping[int, int]],
    paths: Sequence[str] | None = None,
    failed: Mapping[str, str] | None = None,
    sampled_from: int | None = None,
    **configuration: Any,
) -> MemoryTable:
    """Return a table with one sample for each {raw id: pixels} and one for each failed {path: error}."""
    raw_ids = sorted({raw for row in rows for raw in row})
    names = list(paths or [f"{k:04}.png" for k in range(len(rows))])
    counts = [[row.get(raw, 0) for raw in raw_ids] for row in rows]
    status, error = [0] * len(rows), [""] * len(rows)
    for path, reason in (failed or {}).items():
        names.append(path)
        counts.append([0] * len(raw_ids))
        status.append(1)
        error.append(reason)
    block = Block(
        names, np.array(status, np.uint8), error, np.array(counts, np.int64).reshape(len(names), len(raw_ids))
    )
    return MemoryTable(
        "demo", Configuration(**configuration), np.array(raw_ids, np.int64), block, sampled_from
    )


class TotalsTable(Table):
    """A table without rows, as imported from totals {raw id: pixels}."""

    has_rows = False

    def __init__(self, counts: Mapping[int, int], **configuration: Any) -> None:
        self.dataset, self.version = "totals", 1
        self.configuration = Configuration(**configuration)
        ids = np.array(sorted(counts), np.int64)
        pixels = np.array([counts[int(raw)] for raw in ids], np.int64)
        self._totals = Histogram(ids, np.ones(len(ids), bool), pixels, None, None, None)

    def totals(self) -> Histogram:
        return self._totals

    def blocks(self) -> Iterator[Block]:
        yield from ()

    def failed(self) -> int:
        return 0


def cityscapes(**configuration: Any) -> TotalsTable:
    """Return the published pixel counts of the training set of Cityscapes (fine annotations)."""
    counts = PUBLISHED["cityscapes_fine_train"]["counts_by_labelId"]
    return TotalsTable({int(raw): pixels for raw, pixels in counts.items()}, **configuration)


def camvid(**configuration: Any) -> MemoryTable:
    """Return 367 images of 480x360 with the published pixels and images of each class of CamVid."""
    pixels = PUBLISHED["camvid_train"]["counts"]
    images = PUBLISHED["camvid_train"]["images_with_class"]
    samples, image_size, filler = 367, 480 * 360, 3  # class 3 fills the remaining pixels of every image
    counts = np.zeros((samples, 12), np.int64)
    for c, image_count in enumerate(images):
        counts[:image_count, c] = 1
    for c in sorted((c for c in range(12) if c != filler), key=lambda c: images[c]):
        remaining = pixels[c] - images[c]
        while remaining:
            free = image_size - counts[: images[c]].sum(axis=1)
            not_full = np.flatnonzero(free)
            share = max(remaining // len(not_full), 1)
            for k in not_full:
                added = min(share, int(free[k]), remaining)
                counts[k, c] += added
                remaining -= added
    counts[:, filler] += image_size - counts.sum(axis=1)
    assert counts.sum(axis=0).tolist() == pixels
    assert (counts > 0).sum(axis=0).tolist() == images
    rows = Block([f"{k:04}.png" for k in range(samples)], np.zeros(samples, np.uint8), [""] * samples, counts)
    return MemoryTable("camvid", Configuration(**configuration), np.arange(12), rows)
