"""Rows counted so far, kept in files, so that a job that dies loses a few seconds of work.

A part is the xxh3_128 digest of its payload followed by the payload, an npz of columns and a CSR
histogram. It is written to a temporary name and renamed; one that does not match its digest is
passed over, and its samples are counted again.
"""

from __future__ import annotations

import io
import logging
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from statsvc.store.versions.arrays import SAMPLE_ARRAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from statsvc.store.versions.location import Location

log = logging.getLogger(__name__)

COLUMNS = ("size", "mtime_ns", "ctime_ns", "content", "height", "width", "pixels", "mode", "status")
TEXTS = ("path", "etag", "error")


@dataclass(slots=True)
class CountedRows:
    """Counted samples with their histograms over raw ids as CSR.

    columns  the arrays of `COLUMNS` and `TEXTS`, each [n]
    offsets  int64 [n + 1]; row i has ids[offsets[i]:offsets[i + 1]] and as many counts
    ids, counts  int64 [nnz]
    """

    columns: dict[str, np.ndarray[Any, Any]]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> CountedRows:
        """Return some rows."""
        lengths = np.diff(self.offsets)[rows]
        at = self._entries(rows, lengths)
        return CountedRows(
            {name: values[rows] for name, values in self.columns.items()},
            np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            self.ids[at],
            self.counts[at],
        )

    def _entries(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the histograms of some rows, `lengths` long, lie in `ids` and `counts`."""
        before = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(rows) else lengths
        return np.repeat(self.offsets[rows] - before, lengths) + np.arange(lengths.sum())

    def dense(self, rows: NDArray[np.int64], class_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts of some rows over ascending `class_id`, int64 [len(rows), C]."""
        dense = np.zeros((len(rows), len(class_id)), np.int64)
        lengths = np.diff(self.offsets)[rows]
        at = self._entries(rows, lengths)
        dense[np.repeat(np.arange(len(rows)), lengths), np.searchsorted(class_id, self.ids[at])] = (
            self.counts[at]
        )
        return dense


def blank(n: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns of n rows, zeros and empty texts, each in the type it is stored as.

    A column of another integer type would not do: NumPy makes float64 of int64 beside uint64.
    """
    columns: dict[str, np.ndarray[Any, Any]] = {name: np.zeros(n, SAMPLE_ARRAYS[name][0]) for name in COLUMNS}
    return columns | {name: np.full(n, "", object) for name in TEXTS}


def concatenate(parts: list[CountedRows]) -> CountedRows:
    """Return the rows of several parts, one after the other."""
    if not parts:
        empty = np.zeros(0, np.int64)
        return CountedRows(blank(0), np.zeros(1, np.int64), empty, empty)
    lengths = [np.diff(part.offsets) for part in parts]
    return CountedRows(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in (*COLUMNS, *TEXTS)},
        np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def write_part(folder: Location, name: str, reader: str, rows: CountedRows) -> None:
    """Write one part file; `reader` is the digest of what counted the rows."""
    arrays: dict[str, np.ndarray[Any, Any]] = {name: rows.columns[name] for name in COLUMNS}
    for text in TEXTS:
        arrays[text] = np.frombuffer("\0".join(rows.columns[text].tolist()).encode(), np.uint8)
    payload = io.BytesIO()
    np.savez(
        payload,
        allow_pickle=False,
        reader=np.frombuffer(reader.encode(), np.uint8),
        offsets=rows.offsets,
        ids=rows.ids,
        counts=rows.counts,
        **arrays,
    )
    data = payload.getvalue()
    # Not flushed to the disk: a part lost in a power failure costs a recount, and its digest tells.
    (folder / f"{name}.part").write(xxhash.xxh3_128_digest(data) + data, lasting=False)


def read_parts(folder: Location, reader: str) -> CountedRows:
    """Return the rows of every sound part below a folder that the same reader wrote."""
    parts = []
    files = folder.files(".part")
    with ThreadPoolExecutor(8) as readers:
        contents = list(readers.map(lambda file: file.read(), files))
    for file, data in zip(files, contents, strict=True):
        if xxhash.xxh3_128_digest(data[16:]) != data[:16]:
            log.warning("the part %s is damaged; its samples are counted again", file.name)
            continue
        try:
            with np.load(io.BytesIO(data[16:]), allow_pickle=False) as stored:
                if stored["reader"].tobytes().decode() == reader:
                    parts.append(_rows(stored))
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("the part %s is not one (%s); its samples are counted again", file.name, error)
    return concatenate(parts)


def _rows(stored: Mapping[str, np.ndarray[Any, Any]]) -> CountedRows:
    columns = {name: stored[name] for name in COLUMNS}
    for text in TEXTS:
        if text == "etag" and text not in stored:  # a part from before objects were counted
            columns[text] = np.full(len(stored["offsets"]) - 1, "", object)
            continue
        values = stored[text].tobytes().decode().split("\0")
        columns[text] = np.array(values if len(stored["offsets"]) > 1 else [], object)
        if len(columns[text]) != len(stored["offsets"]) - 1:
            raise ValueError(f"{len(columns[text])} values of {text!r}")
    return CountedRows(columns, stored["offsets"], stored["ids"], stored["counts"])
