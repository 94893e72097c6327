"""Recognize an unchanged folder by the digests of its listing.

The catalog has a digest of each column of the current version. If those of the columns of paths, sizes and
times equal the digests of the listing, every sample is as it was counted. NumPy, the decoders and what starts
processes are not loaded for that, because it takes longer than listing a few thousand files.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import xxhash
from msgspec import Struct

from statsvc.common.object_urls import is_url
from statsvc.common.plurals import plural
from statsvc.errors import DamagedVersion
from statsvc.store.catalog import jobs
from statsvc.store.versions.intact import is_intact
from statsvc.store.versions.location import CHECKPOINTS
from statsvc.store.versions.stored_bytes import encoded_strings
from statsvc_workers.jobs.job_source import source_identity
from statsvc_workers.jobs.reader_digest import has_gif, reader_digest
from statsvc_workers.sources.list_samples import FolderListing, MustBeOpened, list_folder
from statsvc_workers.sources.listing import Source

if TYPE_CHECKING:
    from array import array

    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc_workers.jobs.attempt import Attempt

log = logging.getLogger(__name__)

PATHS_PER_STEP = 1 << 16
"""Paths that are encoded together."""


class Checked(Struct, frozen=True):
    """What `check_folder` found.

    unchanged  whether the job has ended because nothing has changed
    folder     the listing of a folder that may have changed; None if it was not listed
    """

    unchanged: bool = False
    folder: FolderListing | None = None


def check_folder(attempt: Attempt, dataset: Dataset) -> Checked:
    """End the job if the folder of its dataset is certainly as its current version counted it.

    Raises `SourceError` where the folder cannot be listed.
    """
    job, configuration = attempt.job, dataset.configuration
    if dataset.source is None or dataset.pattern is None or is_url(dataset.source):
        return Checked()
    if job.full or job.estimate is not None or job.named is not None or configuration.counting.masks:
        return Checked()
    if dataset.current_number is None:
        return Checked()
    record = attempt.catalog.version(dataset)
    # Samples that could not be read are tried again, and those that were not drawn are counted.
    if record.failed or record.configuration.sampled_from is not None or record.expired_at is not None:
        return Checked()
    source = Source(dataset.source, dataset.pattern)
    try:
        # A child process is started by a thread, with which this process must not fork those that count.
        folder = list_folder(source, configuration.counting, opens=attempt.cluster is not None)
    except MustBeOpened:
        return Checked()
    if not is_same(folder, dataset, record):
        return Checked(folder=folder)
    source_identity(dataset.source)
    if not _is_intact(attempt, dataset, record):
        return Checked(folder=folder)
    attempt.check()
    progress = attempt.progress
    if configuration.selection is not None:
        progress.selection = configuration.selection.lines()
    progress.total = progress.reused = len(folder.columns.paths)
    jobs.succeed_unchanged(attempt.catalog, job, progress.to_dict())
    log.info(
        "%s: listed %s in %s with pattern %s: nothing has changed since version %d",
        *(dataset.name, plural(progress.total, "sample"), dataset.source, dataset.pattern, record.number),
    )
    (attempt.store / dataset.uid / CHECKPOINTS).remove()
    return Checked(unchanged=True)


def is_same(folder: FolderListing, dataset: Dataset, record: VersionRecord) -> bool:
    """Whether a listing has the samples of a version, all counted as they would be now."""
    columns = folder.columns.in_order()
    if folder.unreadable or columns is None or len(columns.path) != record.samples:
        return False
    numbers = {"size": columns.size, "mtime_ns": columns.mtime_ns, "ctime_ns": columns.ctime_ns}
    if any(_digest(values) != record.digests.get(name) for name, values in numbers.items()):
        return False
    if xxhash.xxh3_128_hexdigest(bytes(len(columns.path))) != record.digests.get("status"):
        return False
    paths = xxhash.xxh3_128()
    for start in range(0, len(columns.path), PATHS_PER_STEP):
        paths.update(encoded_strings(columns.path[start : start + PATHS_PER_STEP]))
    if paths.hexdigest() != record.digests.get("path"):
        return False
    counting, pattern = dataset.configuration.counting, dataset.pattern or ""
    return record.reader == reader_digest(counting, pattern, gif=has_gif(columns.path))


def _digest(values: array[int]) -> str:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return xxhash.xxh3_128_hexdigest(values)


def _is_intact(attempt: Attempt, dataset: Dataset, record: VersionRecord) -> bool:
    """Whether the arrays of a version are as they were written. Raises `StoreError`."""
    # NumPy is faster than that, but only where it is loaded already, as in the process of a runner.
    if "numpy" not in sys.modules and is_intact(attempt.store / record.arrays_uri, record.digests):
        return True
    from statsvc.store.publication import open_version

    try:
        open_version(attempt.store, dataset.name, record).verify()
    except DamagedVersion:
        return False  # `count_changes` finds that, too, and counts everything again
    return True
