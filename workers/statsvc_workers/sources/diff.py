"""What changed between a listing and the current version."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.version import Version
    from statsvc_workers.sources.sources import Listing, Paths

IDENTITY = ("content", "status", "error")
"""What two rows of one path must share beside the fingerprint to be the same: equal bytes count equally."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A listing of n samples against a base version.

    base      the version compared with; None on a first scan, or where its arrays cannot be read, and
              then `removed` is the least that it can be
    base_row  int64 [n], the sample's row in the base, −1 where it is new
    reused    bool [n], whether that row is taken over as it is
    removed   rows of the base whose sample is gone
    base_samples  rows of the base
    lost      those of `removed` that were counted, not unreadable: what the counts lose
    """

    base: Version | None
    base_row: NDArray[np.int64]
    reused: NDArray[np.bool_]
    removed: int
    base_samples: int
    lost: int

    def keeping(self, kept: NDArray[np.bool_]) -> Comparison:
        """Return the comparison with the rows of `kept` samples, bool [n], taken over whatever they are."""
        return replace(self, reused=self.reused | kept)

    def carried(self) -> NDArray[np.int64]:
        """Return the base's rows that are taken over although their sample could not be read."""
        if self.base is None:
            return np.zeros(0, np.int64)
        rows: NDArray[np.int64] = self.base_row[self.reused]
        failed: NDArray[np.bool_] = self.base.array("status")[rows] != 0
        return rows[failed]

    def place(self, listing: Listing, rows: CountedRows) -> NDArray[np.int64]:
        """Return for each sample its row in `rows`, int64 [n], −1 where the base's is taken over."""
        at = {path: row for row, path in enumerate(rows.columns["path"].tolist())}
        places = np.full(len(self.reused), -1, np.int64)
        fresh = np.flatnonzero(~self.reused)
        places[fresh] = [at[listing.path[sample]] for sample in fresh.tolist()]
        return places

    def newly_failed(self, listing: Listing, rows: CountedRows) -> list[tuple[str, str]]:
        """Return (path, why) of every sample that the base counted and that cannot be read any more."""
        if self.base is None:
            return []
        status = self.base.array("status")
        columns = (rows.columns[name] for name in ("path", "status", "error"))
        failed = {path: str(error) for path, bad, error in zip(*columns, strict=True) if bad}
        known = np.flatnonzero(~self.reused & (self.base_row >= 0))
        counted = known[status[self.base_row[known]] == 0].tolist()
        return [(listing.path[at], failed[listing.path[at]]) for at in counted if listing.path[at] in failed]

    def unchanged(self, listing: Listing, rows: CountedRows, fresh_row: NDArray[np.int64]) -> bool:
        """Whether a version made now would equal the base row by row."""
        if self.base is None or self.removed or len(listing.path) != self.base_samples:
            return False
        fresh = np.flatnonzero(~self.reused)
        base_rows, own_rows = self.base_row[fresh], fresh_row[fresh]
        if (base_rows < 0).any():
            return False
        return all(
            self.base.take(name, base_rows).tolist() == rows.columns[name][own_rows].tolist()
            for name in (*fingerprint(listing), *IDENTITY)
        )


def compare(listing: Listing, base: Version | None, *, reuse: bool) -> Comparison:
    """Match a listing with a version, chunk by chunk, by path and fingerprint. Raises `DamagedVersion`.

    A sample's row is reused where its fingerprint is equal and it was readable; failed samples are always
    tried again. `reuse=False` matches paths only.
    """
    n = len(listing.path)
    if base is None:
        return Comparison(None, np.full(n, -1, np.int64), np.zeros(n, bool), 0, 0, 0)
    base_row, reused = np.full(n, -1, np.int64), np.zeros(n, bool)
    begin = base_samples = removed = lost = 0
    for first, rows in base.chunks(("path", *fingerprint(listing), "status")):
        known, counted = rows["path"], rows["status"] == 0
        end = bisect_right(listing.path, known[-1], begin)
        place = _match(listing.path[begin:end], known)
        samples = begin + np.flatnonzero(place >= 0)
        own = place[place >= 0]
        base_row[samples] = first + own
        found = {name: rows[name][own] for name in fingerprint(listing)}
        reused[samples] = counted[own] & unchanged_files(listing, found, samples)
        base_samples += len(known)
        removed += len(known) - len(own)
        lost += int(np.count_nonzero(counted)) - int(np.count_nonzero(counted[own]))
        begin = end
    if not reuse:
        reused[:] = False
    return Comparison(base, base_row, reused, removed, base_samples, lost)


def fingerprint(listing: Listing) -> tuple[str, ...]:
    """Return the names of the arrays by which a listing's files are compared; files have no ETag to read."""
    return ("size", "mtime_ns", "ctime_ns", *(() if listing.etag is None else ("etag",)))


def unchanged_files(
    listing: Listing,
    rows: Mapping[str, np.ndarray[Any, Any]],
    samples: NDArray[np.int64] | slice = slice(None),
) -> NDArray[np.bool_]:
    """Return whether samples have the fingerprints of these rows: bool [n].

    An equal ETag tells equal contents, whatever the time; without, the times must be equal. `rows` holds the
    arrays of `fingerprint`, each [n], of the listing's `samples`.
    """
    same: NDArray[np.bool_] = rows["size"] == listing.size[samples]
    times = (rows["mtime_ns"] == listing.mtime_ns[samples]) & (rows["ctime_ns"] == listing.ctime_ns[samples])
    if listing.etag is None:
        same &= times
        return same
    listed = listing.etag[samples]
    same &= np.asarray(rows["etag"], listed.dtype) == listed
    same &= times | (listed != np.array("", listed.dtype))
    return same


def _match(wanted: Paths, known: np.ndarray[Any, Any]) -> NDArray[np.int64]:
    """Return the position of each wanted path in `known`, −1 where absent; both strictly ascending."""
    if len(wanted) == len(known) and bool((np.asarray(wanted, known.dtype) == known).all()):
        return np.arange(len(known))
    rows = np.full(len(wanted), -1, np.int64)
    there = known.tolist()
    k = 0
    for i, path in enumerate(wanted):
        while k < len(there) and there[k] < path:
            k += 1
        if k < len(there) and there[k] == path:
            rows[i] = k
    return rows
