"""Count the samples of a job: recover rows from checkpoints, count the rest, and write new checkpoints."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.distinct import distinct
from statsvc.common.object_urls import is_listable, is_url
from statsvc.common.plurals import plural
from statsvc.dataset.objects import Objects
from statsvc.dataset.table import MAX_IDS
from statsvc.errors import JobFailed
from statsvc.store.versions import checkpoints
from statsvc_workers.cluster.batches import POLL_SECONDS, stream
from statsvc_workers.cluster.in_process import ImmediateCount
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.cluster.tasks import RACY_NS, UNREADABLE, CountOptions
from statsvc_workers.samples.roots import current_roots
from statsvc_workers.sources.diff import fingerprint, unchanged_files
from statsvc_workers.sources.remote_listing import check_not_emptied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.store.catalog.records import Dataset
    from statsvc.store.versions.cell_file import CellFile
    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.tasks import BatchResult
    from statsvc_workers.jobs.attempt import Attempt
    from statsvc_workers.jobs.progress import Progress
    from statsvc_workers.sources.diff import Comparison
    from statsvc_workers.sources.listing import Listing

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 3.0
"""Interval of checkpoints: the most work that is lost when the process is killed."""


def recover(
    folder: Location, reader: str, listing: Listing, comparison: Comparison, cell_file: CellFile | None
) -> tuple[CountedRows, NDArray[np.int64]]:
    """Return the rows in checkpoints whose files have not changed, and the samples that remain to be counted.

    The samples are indices into the listing, int64 [k]. Tiles are moved to `cell_file`.
    """
    rows = checkpoints.read_checkpoints(folder, reader)
    parts = [without_tiles(part, cell_file) for part in rows]
    stored = checkpoints.concatenate(parts or [without_tiles(checkpoints.concatenate([]), cell_file)])
    columns = stored.columns
    row_of = {path: row for row, path in enumerate(columns["path"].tolist()) if columns["status"][row] == 0}
    fresh = np.flatnonzero(~comparison.reused)
    readable = [listing.path[sample] not in listing.unreadable for sample in fresh]
    samples = fresh[np.array(readable, bool)]
    row = np.array([row_of.get(listing.path[sample], -1) for sample in samples], np.int64)
    use = row >= 0
    use[use] = unchanged_files(
        listing, {name: columns[name][row[use]] for name in fingerprint(listing)}, samples[use]
    )
    return stored.take(row[use]), samples[~use]


def count(
    attempt: Attempt,
    dataset: Dataset,
    listing: Listing,
    remaining: NDArray[np.int64],
    folder: Location,
    reader: str,
    cell_file: CellFile | None,
) -> list[CountedRows]:
    """Count samples, and write checkpoints to `folder` on the way.

    remaining  int64 [k], indices of the samples in the listing
    cell_file  to which tiles are moved

    Raises `JobFailed` where the label maps contain too many ids, and `SourceError` where an object store
    becomes unavailable.
    """
    if len(remaining) == 0:
        return []
    assert dataset.source is not None
    settings, counting = attempt.settings, dataset.configuration.counting
    options = CountOptions(
        *(dataset.source, settings.max_pixels, settings.device, counting),
        roots=current_roots(),
        stall_timeout=settings.stall_timeout,
    )
    # A new key for each call: an attempt counts twice if its base turns out to be damaged.
    key = f"{attempt.job.attempt:03d}-{uuid.uuid4().hex}"
    writer = _CheckpointWriter(folder, key, reader)
    collector = _Collector(attempt.progress, dataset.source, writer, cell_file)
    try:
        for result in _results(attempt, options, listing, remaining, key):
            collector.add(result)
    finally:
        # Also after the last sample: the job may still fail, and the next attempt then finds all rows.
        collector.checkpoint_writer.write()
    return collector.rows


class _Collector:
    """Collects results, checks them and updates the progress."""

    def __init__(
        self,
        progress: Progress,
        root: str,
        checkpoint_writer: _CheckpointWriter,
        cell_file: CellFile | None,
    ) -> None:
        self._cell_file = cell_file
        self.rows: list[CountedRows] = []
        self.checkpoint_writer = checkpoint_writer
        self._progress, self._root = progress, root
        self._ids = np.zeros(0, np.int64)
        self._started: float | None = None
        self._next_source_check = 0.0

    def add(self, result: BatchResult | tuple[str, str]) -> None:
        """Add the result of a batch, or a failed sample (path, error)."""
        progress = self._progress
        progress.stage = "counting"
        if isinstance(result, tuple):
            progress.fail(*result)
            self.rows.append(without_tiles(failed_row(*result), self._cell_file))
            return
        rows = as_rows(result)
        for row in np.flatnonzero(rows.columns["status"] == UNREADABLE):
            progress.fail(result.path[row], result.error[row])
        self._check_source()
        self._check_ids(rows.ids)
        progress.counted += int(np.count_nonzero(rows.columns["status"] != UNREADABLE))
        progress.pixels += int(result.pixels.sum())
        if self._started is None:
            self._started = time.monotonic() - result.seconds  # excludes the start of the cluster
        progress.seconds = time.monotonic() - self._started
        self.rows.append(without_tiles(rows, self._cell_file))
        self.checkpoint_writer.add(rows)

    def _check_source(self) -> None:
        """After a failure, check that an object store is available, instead of failing for every object."""
        if self._progress.failed and is_url(self._root) and time.monotonic() >= self._next_source_check:
            check_not_emptied(self._root)
            self._next_source_check = time.monotonic() + CHECKPOINT_SECONDS

    def _check_ids(self, ids: NDArray[np.int64]) -> None:
        self._ids = distinct(self._ids, ids)
        if len(self._ids) > MAX_IDS:
            raise JobFailed(
                f"the label maps contain more than {MAX_IDS} different ids, from {self._ids[0]} to "
                f"{self._ids[-1]}, which may be instance ids. Choose the files that contain class ids with "
                "--pattern"
            )


class _CheckpointWriter:
    """Writes rows to numbered checkpoints, at most every `CHECKPOINT_SECONDS`."""

    def __init__(self, folder: Location, key: str, reader: str) -> None:
        self._folder, self._key, self._reader = folder, key, reader
        self._unwritten: list[CountedRows] = []
        self._written, self._serial = time.monotonic(), 0

    def add(self, rows: CountedRows) -> None:
        """Add rows, and write a checkpoint if the last one is old enough."""
        self._unwritten.append(rows)
        if time.monotonic() - self._written >= CHECKPOINT_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the rows since the last checkpoint, if there are any."""
        if not self._unwritten:
            return
        self._serial += 1
        rows = checkpoints.concatenate(self._unwritten)
        checkpoints.write_checkpoint(self._folder, f"{self._key}-{self._serial:06d}", self._reader, rows)
        self._unwritten, self._written = [], time.monotonic()


def _results(
    attempt: Attempt, options: CountOptions, listing: Listing, remaining: NDArray[np.int64], key: str
) -> Iterator[BatchResult | tuple[str, str]]:
    """Yield the results of all remaining samples, first of those that did not change just now.

    Files that changed just now are counted once their time stamps are older than `RACY_NS`, so that their
    rows can be reused later.
    """
    now = time.time_ns()
    newest = _newest_times(listing, remaining, now)
    is_recent = newest > now - RACY_NS
    if listing.etag is not None and is_listable(options.root):
        is_recent &= listing.etag[remaining] == np.array("", listing.etag.dtype)
    attempt.progress.stage = "counting"
    yield from _count_samples(attempt, options, listing, remaining[~is_recent], f"{key}-0")
    if is_recent.any():
        _wait_until(attempt, int(newest[is_recent].max()) + RACY_NS)
        yield from _count_samples(attempt, options, listing, remaining[is_recent], f"{key}-1")


def _newest_times(listing: Listing, samples: NDArray[np.int64], now: int) -> NDArray[np.int64]:
    """Return the later of mtime and ctime of each sample, in nanoseconds.

    Times in the future count as 0: they were set on purpose or by another clock, and waiting does not help.
    """
    times = np.stack([listing.mtime_ns[samples], listing.ctime_ns[samples]])
    newest: NDArray[np.int64] = np.where(times <= now, times, 0).max(axis=0)
    return newest


def _wait_until(attempt: Attempt, time_ns: int) -> None:
    """Wait until a time in nanoseconds since 1970, at most `RACY_NS`: the clock may be set back."""
    end = time.monotonic_ns() + RACY_NS
    stage, attempt.progress.stage = attempt.progress.stage, "waiting for files that changed just now"
    while time.time_ns() <= time_ns and time.monotonic_ns() <= end:
        attempt.check()
        time.sleep(POLL_SECONDS)
    attempt.progress.stage = stage


def _count_samples(
    attempt: Attempt, options: CountOptions, listing: Listing, rows: NDArray[np.int64], key: str
) -> Iterator[BatchResult | tuple[str, str]]:
    """Count these rows of the listing: immediately on this machine, and on the cluster."""
    if not len(rows):
        return
    samples = [listing.sample(listing.path[row]) for row in rows]
    remaining = list(zip(samples, listing.lengths(rows), strict=True))
    cluster = attempt.cluster
    assert cluster is not None
    if (
        isinstance(cluster, LocalCluster)  # a remote cluster may see files that this host does not
        and not cluster.running
        and options.device != "cuda"
        and not is_url(options.root)
    ):
        with closing(ImmediateCount(cluster, options, remaining, attempt.check)) as counting:
            yield from counting.results()
            remaining = counting.remaining
            if remaining:
                # Shown until the first result: a new process also loads, or compiles, the loops.
                attempt.progress.stage = "starting workers"
    if remaining:
        if not cluster.running:
            attempt.progress.stage = "starting workers"
        log.info("counting %s in worker processes", plural(len(remaining), "sample"))
        samples, sizes = [sample for sample, _ in remaining], [size for _, size in remaining]
        yield from stream(cluster, options, samples, sizes, key, attempt.check, attempt.progress.warn)


def as_rows(batch: BatchResult) -> CountedRows:
    """Return the result of a batch in the form of the version store."""
    columns: dict[str, np.ndarray[Any, Any]] = {name: getattr(batch, name) for name in checkpoints.COLUMNS}
    columns |= {name: np.array(getattr(batch, name), object) for name in checkpoints.TEXTS}
    columns["place"] = checkpoints.narrowed(batch.place)
    ids, counts = checkpoints.narrowed(batch.ids), checkpoints.narrowed(batch.counts)
    return checkpoints.CountedRows(
        columns, batch.offsets, ids, counts, batch.tile.astype(np.int16), batch.objects
    )


def without_tiles(rows: CountedRows, cell_file: CellFile | None) -> CountedRows:
    """Return the rows after moving their tiles to a file; None: there is no grid."""
    return rows if cell_file is None else cell_file.move(rows)


def failed_row(path: str, error: str) -> CountedRows:
    """Return the row of a sample that could not be read."""
    columns = checkpoints.blank(1)
    columns["path"][0], columns["error"][0] = path, error
    columns["status"][0] = UNREADABLE
    empty = np.zeros(0, np.int64)
    return checkpoints.CountedRows(
        columns, np.zeros(2, np.int64), empty, empty, empty, Objects(np.zeros(1, np.int64), empty, empty)
    )
