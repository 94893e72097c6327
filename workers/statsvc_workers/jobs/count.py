"""What a job counts: rows that earlier attempts left are taken over, the rest is kept in parts on the way."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.object_urls import is_listable, is_url
from statsvc.dataset.table import MAX_IDS
from statsvc.errors import JobFailed
from statsvc.store.versions import checkpoints
from statsvc_workers.cluster.batches import POLL_SECONDS, stream
from statsvc_workers.cluster.cluster import LocalCluster
from statsvc_workers.cluster.in_process import count_here, few
from statsvc_workers.cluster.tasks import RACY_NS, UNREADABLE, CountOptions
from statsvc_workers.sources.diff import fingerprint, unchanged_files
from statsvc_workers.sources.remote_listing import still_there

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.store.catalog.records import Dataset
    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.tasks import BatchResult as Batch
    from statsvc_workers.jobs.recompute import Attempt
    from statsvc_workers.sources.diff import Comparison
    from statsvc_workers.sources.sources import Listing

PART_SECONDS = 3.0
"""How often finished rows are written to a part: the most that a kill can cost."""


def recover(
    folder: Location, reader: str, listing: Listing, found: Comparison
) -> tuple[CountedRows, NDArray[np.int64]]:
    """Return rows that earlier attempts counted of files as they are now, and the samples left to count."""
    stored = checkpoints.read_checkpoints(folder, reader)
    columns = stored.columns
    by_path = {path: row for row, path in enumerate(columns["path"].tolist()) if columns["status"][row] == 0}
    fresh = np.flatnonzero(~found.reused)
    readable = [listing.path[sample] not in listing.unreadable for sample in fresh]
    wanted = fresh[np.array(readable, bool)]
    row = np.array([by_path.get(listing.path[sample], -1) for sample in wanted], np.int64)
    use = row >= 0
    samples = wanted[use]
    use[use] = unchanged_files(
        listing, {name: columns[name][row[use]] for name in fingerprint(listing)}, samples
    )
    return stored.take(row[use]), wanted[~use]


def count(
    attempt: Attempt,
    dataset: Dataset,
    listing: Listing,
    left: NDArray[np.int64],
    folder: Location,
    reader: str,
) -> list[CountedRows]:
    """Count the samples that are left on the cluster, keeping finished rows in parts on the way."""
    if len(left) == 0:
        return []
    assert dataset.source is not None
    job, progress = attempt.job, attempt.progress
    counting = dataset.configuration.counting
    reading = CountOptions(dataset.source, attempt.settings.max_pixels, attempt.settings.device, counting)
    done: list[CountedRows] = []
    unwritten: list[CountedRows] = []
    written, serial = time.monotonic(), 0
    # New for each pass, also for the second one of an attempt whose base turned out to be damaged.
    key = f"{job.attempt:03d}-{uuid.uuid4().hex}"
    began: float | None = None
    look_again = 0.0
    ids = np.zeros(0, np.int64)
    try:
        for result in _in_turn(attempt, reading, listing, left, key):
            progress.stage = "counting"
            if isinstance(result, tuple):
                progress.fail(*result)
                done.append(failure(*result))
                continue
            rows = as_rows(result)
            for at in np.flatnonzero(rows.columns["status"] == UNREADABLE):
                progress.fail(result.path[at], result.error[at])
            if progress.failed and is_url(dataset.source) and time.monotonic() >= look_again:
                # Not a wait for every object of a store that went away, or whose credentials expired.
                still_there(dataset.source)
                look_again = time.monotonic() + PART_SECONDS
            ids = np.union1d(ids, rows.ids)
            if len(ids) > MAX_IDS:
                raise JobFailed(
                    f"the label maps hold more than {MAX_IDS} different ids, from {ids[0]} to {ids[-1]}: "
                    "are they instance ids? Choose the files that hold class ids with --pattern"
                )
            progress.counted += int(np.count_nonzero(rows.columns["status"] != UNREADABLE))
            progress.pixels += int(result.pixels.sum())
            if began is None:
                began = time.monotonic() - result.seconds  # without the time that the cluster took to start
            progress.seconds = time.monotonic() - began
            done.append(rows)
            unwritten.append(rows)
            if time.monotonic() - written >= PART_SECONDS:
                serial += 1
                checkpoints.write_checkpoint(
                    folder, f"{key}-{serial:06d}", reader, checkpoints.concatenate(unwritten)
                )
                unwritten, written = [], time.monotonic()
    finally:
        # Also when all are counted: the job may still fail, and the next scan then finds them here.
        if unwritten:
            checkpoints.write_checkpoint(
                folder, f"{key}-{serial + 1:06d}", reader, checkpoints.concatenate(unwritten)
            )
    return done


def _in_turn(
    attempt: Attempt, reading: CountOptions, listing: Listing, left: NDArray[np.int64], key: str
) -> Iterator[Batch | tuple[str, str]]:
    """Yield what `stream` gives for the samples that are left, those that changed just now last.

    They are read once no time stamp of theirs is `RACY_NS` old or less, so that their rows can be reused.
    """
    progress, check = attempt.progress, attempt.check
    now = time.time_ns()
    times = np.stack([listing.mtime_ns[left], listing.ctime_ns[left]])
    # A time ahead of the clock, set on purpose or by another machine, would not pass by waiting.
    newest = np.where(times <= now, times, 0).max(axis=0)
    fresh = newest > now - RACY_NS
    if listing.etag is not None and is_listable(reading.root):
        fresh &= listing.etag[left] == np.array("", listing.etag.dtype)
    progress.stage = "counting"
    in_process = (
        isinstance(attempt.cluster, LocalCluster)  # another's workers may see what this machine does not
        and not attempt.cluster.running
        and reading.device != "cuda"
        and not is_url(reading.root)
        and few(listing.lengths(left))
    )
    for turn, rows in enumerate((left[~fresh], left[fresh])):
        if not len(rows):
            continue
        if turn == 1:
            stage, progress.stage = progress.stage, "waiting for files that changed just now"
            while time.time_ns() <= int(newest[fresh].max()) + RACY_NS:
                check()
                time.sleep(POLL_SECONDS)
            progress.stage = stage
        samples, sizes = [listing.sample(listing.path[row]) for row in rows], listing.lengths(rows)
        if in_process:
            counted, samples = count_here(reading, samples, check)
            if counted is not None:
                yield counted
            sizes = [0] * len(samples)  # no need to cut so few
        if samples:
            if not attempt.cluster.running:
                # Until the first rows are there: a new process also loads, or compiles, what it counts with.
                progress.stage = "starting workers"
            yield from stream(attempt.cluster, reading, samples, sizes, f"{key}-{turn}", check)


def as_rows(batch: Batch) -> CountedRows:
    """Return what a worker counted as the store keeps it."""
    columns: dict[str, np.ndarray[Any, Any]] = {name: getattr(batch, name) for name in checkpoints.COLUMNS}
    columns |= {name: np.array(getattr(batch, name), object) for name in checkpoints.TEXTS}
    return checkpoints.CountedRows(columns, batch.offsets, batch.ids, batch.counts)


def failure(path: str, reason: str) -> CountedRows:
    """Return the row of a sample that could not be read."""
    columns = checkpoints.blank(1)
    columns["path"][0], columns["error"][0] = path, reason
    columns["status"][0] = UNREADABLE
    empty = np.zeros(0, np.int64)
    return checkpoints.CountedRows(columns, np.zeros(2, np.int64), empty, empty)
