"""Compare a listing with the current version of a dataset."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from statsvc.store.versions.zarr_files import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.version import Version
    from statsvc_workers.sources.listing import Listing, Paths

IDENTITY = ("content", "status", "error")
"""Besides the fingerprint, two equal rows of one path have these in common: equal bytes have equal counts."""


class Comparison(Struct, frozen=True):
    """A listing of n samples compared with a base version.

    base          the base version; None on a first scan, and where its arrays cannot be read, in which case
                  `removed` and `lost` are lower bounds
    base_row      int64 [n], row of each sample in the base; −1 for a new sample
    reused        bool [n], whether the row of the base is copied
    removed       number of rows of the base whose sample no longer exists
    base_samples  number of rows of the base
    lost          number of `removed` rows that were counted, not unreadable
    """

    base: Version | None
    base_row: NDArray[np.int64]
    reused: NDArray[np.bool_]
    removed: int
    base_samples: int
    lost: int

    def keep(self, unchecked: NDArray[np.bool_]) -> Comparison:
        """Return the comparison in which the rows of `unchecked` samples, bool [n], are always reused."""
        return replace(self, reused=self.reused | unchecked)

    def reused_failures(self) -> NDArray[np.int64]:
        """Return the reused rows of the base whose sample could not be read, int64 [k]."""
        if self.base is None:
            return np.zeros(0, np.int64)
        rows: NDArray[np.int64] = self.base_row[self.reused]
        failed: NDArray[np.bool_] = self.base.array("status")[rows] != 0
        return rows[failed]

    def fresh_rows(self, listing: Listing, rows: CountedRows) -> NDArray[np.int64]:
        """Return the row of each sample in `rows`, int64 [n]; −1 where the row of the base is reused."""
        row_of = {path: row for row, path in enumerate(rows.columns["path"].tolist())}
        fresh_row = np.full(len(self.reused), -1, np.int64)
        fresh = np.flatnonzero(~self.reused)
        fresh_row[fresh] = [row_of[listing.path[sample]] for sample in fresh.tolist()]
        return fresh_row

    def newly_failed(self, listing: Listing, rows: CountedRows) -> list[tuple[str, str]]:
        """Return (path, error) of every sample that the base counted and that can no longer be read."""
        if self.base is None:
            return []
        status = self.base.array("status")
        columns = (rows.columns[name] for name in ("path", "status", "error"))
        errors = {path: str(error) for path, failed, error in zip(*columns, strict=True) if failed}
        in_base = np.flatnonzero(~self.reused & (self.base_row >= 0))
        counted = in_base[status[self.base_row[in_base]] == 0].tolist()
        paths = [listing.path[sample] for sample in counted]
        return [(path, errors[path]) for path in paths if path in errors]

    def unchanged(self, listing: Listing, rows: CountedRows, fresh_row: NDArray[np.int64]) -> bool:
        """Whether a new version would equal the base in every row."""
        if self.base is None or self.removed or len(listing.path) != self.base_samples:
            return False
        fresh = np.flatnonzero(~self.reused)
        base_rows, new_rows = self.base_row[fresh], fresh_row[fresh]
        if (base_rows < 0).any():
            return False
        return all(
            self.base.take(name, base_rows).tolist() == rows.columns[name][new_rows].tolist()
            for name in (*fingerprint(listing), *IDENTITY)
        )


def compare(listing: Listing, base: Version | None, *, reuse: bool) -> Comparison:
    """Compare a listing with a version by path and fingerprint, chunk by chunk. Raises `DamagedVersion`.

    The row of a sample is reused if its fingerprint is equal and the sample was readable; unreadable samples
    are always counted again. With `reuse=False`, only paths are compared and no row is reused.
    """
    n = len(listing.path)
    if base is None:
        return Comparison(None, np.full(n, -1, np.int64), np.zeros(n, bool), 0, 0, 0)
    base_row, reused = np.full(n, -1, np.int64), np.zeros(n, bool)
    begin = base_samples = removed = lost = 0
    names = (*fingerprint(listing), "status")
    for first, stored in base.stored_chunks(("path", *names)):
        rows = {name: base.decoded(name, stored[name].data) for name in names}
        counted = rows["status"] == 0
        end, positions = begin + len(counted), np.arange(len(counted))
        # Encoding the listed paths is faster than decoding those of the base, which are usually the same.
        if encoded(listing.path[begin:end]) != stored["path"].data:
            base_paths = base.decoded("path", stored["path"].data)
            end = bisect_right(listing.path, base_paths[-1], begin)
            positions = _match(listing.path[begin:end], base_paths)
        samples = begin + np.flatnonzero(positions >= 0)
        matched = positions[positions >= 0]
        base_row[samples] = first + matched
        base_fingerprints = {name: rows[name][matched] for name in fingerprint(listing)}
        reused[samples] = counted[matched] & unchanged_files(listing, base_fingerprints, samples)
        base_samples += len(counted)
        removed += len(counted) - len(matched)
        lost += int(np.count_nonzero(counted)) - int(np.count_nonzero(counted[matched]))
        begin = end
    if not reuse:
        reused[:] = False
    return Comparison(base, base_row, reused, removed, base_samples, lost)


def fingerprint(listing: Listing) -> tuple[str, ...]:
    """Return the names of the arrays that form the fingerprint: of objects, the ETag too."""
    return ("size", "mtime_ns", "ctime_ns", *(() if listing.etag is None else ("etag",)))


def unchanged_files(
    listing: Listing,
    rows: Mapping[str, np.ndarray[Any, Any]],
    samples: NDArray[np.int64] | slice = slice(None),
) -> NDArray[np.bool_]:
    """Return whether the listing's `samples` have the fingerprints in `rows`, bool [n].

    Equal ETags mean equal contents, even if the times differ; without an ETag, the times must be equal.
    `rows` contains the arrays named by `fingerprint`, each of shape [n].
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


def _match(paths: Paths, base_paths: np.ndarray[Any, Any]) -> NDArray[np.int64]:
    """Return the position of each path in `base_paths`, −1 where absent; both are strictly ascending."""
    positions = np.full(len(paths), -1, np.int64)
    base_list = base_paths.tolist()
    k = 0
    for i, path in enumerate(paths):
        while k < len(base_list) and base_list[k] < path:
            k += 1
        if k < len(base_list) and base_list[k] == path:
            positions[i] = k
    return positions
