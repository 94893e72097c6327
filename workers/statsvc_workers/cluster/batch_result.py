"""The rows that counting a batch of samples returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.dataset import objects as object_entries
from statsvc.dataset.grid import NO_PLACE
from statsvc.dataset.objects import Objects
from statsvc_workers.cluster.sample import NO_ENTRIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc_workers.cluster.sample import Sample

COUNTED, UNREADABLE = 0, 1

_NO_OBJECTS = Objects(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
"""The objects of an unreadable sample."""


class BatchResult(Struct):
    """The rows of one batch: n samples in the requested order.

    path                      n relative paths
    size, mtime_ns, ctime_ns  int64 [n], fingerprint by `fstat` of the file that was counted; zeros where it
                              could not be opened. `ctime_ns` is −1 where the file had changed less than 2 s
                              before, so that the row is never reused and the file is counted again
    etag                      n strings, ETags of the objects that were counted; "" for a file, and where
                              `ctime_ns` is −1
    content                   uint64 [n], xxh3 of the bytes; 0 for an unreadable sample
    height, width, pixels     int64 [n], pixels = height · width = sum of the counts; 0 for an unreadable
                              sample
    mode                      uint8 [n], `statsvc_workers.formats.Mode`
    place                     int64 [n, 9], where each sample is in its array, as `Place`; zeros if unknown
    status                    uint8 [n], 0 counted, 1 unreadable
    error                     n strings: what happened and what to do next; "" for a counted sample
    offsets                   int64 [n + 1], sample i has the ids `ids[offsets[i]:offsets[i + 1]]`
    ids, tile, counts         int64 [nnz], raw id, tile of the grid and pixels of each entry, ascending by id
                              and tile within each sample; tile −1 is the whole of a label map without a grid
    objects                   objects of the samples
    seconds, bytes_read       duration of the batch, and bytes read
    """

    path: list[str]
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    ctime_ns: NDArray[np.int64]
    etag: list[str]
    content: NDArray[np.uint64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    pixels: NDArray[np.int64]
    mode: NDArray[np.uint8]
    place: NDArray[np.int64]
    status: NDArray[np.uint8]
    error: list[str]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    tile: NDArray[np.int64]
    counts: NDArray[np.int64]
    objects: Objects
    seconds: float
    bytes_read: int


def batch_result(samples: list[Sample], seconds: float) -> BatchResult:
    """Return the rows of samples that were counted or have an error; `seconds` is how long that took."""
    counted = [not sample.error for sample in samples]
    entries = [NO_ENTRIES if sample.error else sample.entries for sample in samples]
    objects = [_NO_OBJECTS if sample.error else sample.objects for sample in samples]
    lengths = [len(counts) for _, _, counts in entries]
    # np.concatenate needs at least one array.
    tile, ids, counts = (np.concatenate(values) for values in zip(NO_ENTRIES, *entries, strict=True))

    def column(values: list[int], dtype: type[np.generic] = np.int64) -> NDArray[np.int64]:
        return np.array(values, dtype)

    return BatchResult(
        path=[sample.path for sample in samples],
        size=column([sample.fingerprint[0] for sample in samples]),
        mtime_ns=column([sample.fingerprint[1] for sample in samples]),
        ctime_ns=column([sample.fingerprint[2] for sample in samples]),
        etag=[sample.etag for sample in samples],
        content=np.array([s.content * ok for s, ok in zip(samples, counted, strict=True)], np.uint64),
        height=column([s.height * ok for s, ok in zip(samples, counted, strict=True)]),
        width=column([s.width * ok for s, ok in zip(samples, counted, strict=True)]),
        pixels=column([s.height * s.width * ok for s, ok in zip(samples, counted, strict=True)]),
        mode=np.array([s.mode * ok for s, ok in zip(samples, counted, strict=True)], np.uint8),
        place=np.array(
            [s.place if ok else NO_PLACE for s, ok in zip(samples, counted, strict=True)], np.int64
        ).reshape(-1, 9),
        status=np.array([COUNTED if ok else UNREADABLE for ok in counted], np.uint8),
        error=[sample.error for sample in samples],
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        ids=ids,
        tile=tile,
        counts=counts,
        objects=object_entries.concatenate(objects),
        seconds=seconds,
        bytes_read=sum(sample.bytes_read for sample in samples),
    )
