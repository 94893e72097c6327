"""One job: list, compare with the current version, count what changed, write and publish a version."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.object_urls import is_url
from statsvc.dataset import splits
from statsvc.dataset.num_classes import infer_num_classes, with_source_names
from statsvc.errors import AmbiguousSource, DamagedVersion, JobFailed, SourceError
from statsvc.store.catalog import changed_paths, jobs
from statsvc.store.catalog.catalog import Stale
from statsvc.store.catalog.records import NewVersion
from statsvc.store.publication import group_attributes, open_version, publish
from statsvc.store.versions import checkpoints
from statsvc.store.versions.version import Version
from statsvc_workers.jobs.count import count, failure, recover
from statsvc_workers.jobs.merge import assemble
from statsvc_workers.jobs.reader_digest import reader_digest
from statsvc_workers.sources.changed_paths import look_at
from statsvc_workers.sources.diff import Comparison, compare
from statsvc_workers.sources.remote_listing import still_there
from statsvc_workers.sources.sources import Source, list_samples, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.progress import Progress
    from statsvc_workers.sources.changed_paths import ChangedPaths
    from statsvc_workers.sources.sources import Listing

log = logging.getLogger(__name__)

NAMED_FAILURES = 3
"""How many samples that cannot be read a job's error names."""

MAX_PIXELS = 1 << 28
"""Largest label map that is decoded, by default; 16384 × 16384."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a runner counts, whatever the dataset."""

    device: str = "auto"
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a leased job and what it works with.

    `check` is called often and raises where the attempt should end.
    """

    catalog: Catalog
    store: Location
    job: Job
    cluster: Cluster
    settings: Settings
    progress: Progress
    check: Callable[[], None]


def recompute(attempt: Attempt) -> VersionRecord | None:
    """Run one attempt; return the version it published, None where nothing changed.

    Raises `SourceError` where the source cannot be listed, `JobFailed` where publishing would lose
    samples nobody removed on purpose, `LeaseLost` where another attempt took over.
    """
    catalog, job = attempt.catalog, attempt.job
    dataset = catalog.dataset_by_uid(job.dataset_uid)
    attempt.store.create()
    for earlier in range(1, job.attempt):
        # What an attempt that died had begun to write; one that had published would have ended the job.
        (attempt.store / dataset.uid / f"{job.id}-{earlier}").remove()
    source, dataset = _source(catalog, dataset)
    record = None if dataset.current_number is None else catalog.version(dataset)
    base = None if record is None else open_version(attempt.store, dataset.name, record)
    counting = dataset.configuration.counting
    try:
        changed = _changed(attempt, dataset, source, record, base)
        listing = list_samples(source, counting) if changed is None else changed.listing
        return _against(attempt, dataset, listing, _identity(source.root), record, base, changed)
    except DamagedVersion as damage:
        log.warning("%s; counting every sample again", damage)
        progress = attempt.progress
        progress.reused = progress.counted = progress.failed = progress.recovered = progress.pixels = 0
        progress.ignored = 0
        progress.failures.clear()
        listing = list_samples(source, counting)
        return _against(attempt, dataset, listing, _identity(source.root), record, None)


def _changed(
    attempt: Attempt, dataset: Dataset, source: Source, record: VersionRecord | None, base: Version | None
) -> ChangedPaths | None:
    """Return what a job that names paths looks at; None where it has to list the source after all."""
    job = attempt.job
    named = changed_paths.paths_of(attempt.catalog, job)
    if named is None or job.full or record is None or base is None:
        return None
    counting = dataset.configuration.counting
    if record.reader != reader_digest(counting) or not _same_source(attempt.store, record, source):
        return None
    changed = look_at(source, counting, base, named)
    if changed is not None and changed.ignored:
        attempt.progress.ignored = len(changed.ignored)
        log.warning(
            "%s: %d of the changed paths mean no sample of the pattern %s, such as %s",
            *(dataset.name, len(changed.ignored), source.pattern, changed.ignored[0]),
        )
    return changed


def _same_source(store: Location, record: VersionRecord, source: Source) -> bool:
    """Whether a version's rows are of the source as it is meant now."""
    try:
        counted = group_attributes(store / record.arrays_uri)["dataset"]
    except (OSError, ValueError, KeyError):
        return False
    return (counted["source"], counted["pattern"]) == (source.root, source.pattern)


def _against(
    attempt: Attempt,
    dataset: Dataset,
    listing: Listing,
    root: tuple[int, int],
    record: VersionRecord | None,
    base: Version | None,
    changed: ChangedPaths | None = None,
) -> VersionRecord | None:
    """Recompute against a base version, or counting everything where there is none that can be read."""
    job, progress, check = attempt.job, attempt.progress, attempt.check
    reader = reader_digest(dataset.configuration.counting)
    reuse = record is not None and record.reader == reader and not job.full
    found = compare(listing, base, reuse=reuse)
    if changed is not None:
        found = found.keeping(changed.kept)
    if base is None and record is not None:
        before = (record.samples or 0) + record.failed
        removed = max(0, before - len(listing.path))
        found = replace(found, removed=removed, lost=max(0, removed - record.failed), base_samples=before)
    progress.total, progress.removed = len(listing.path), found.removed
    _guard(job, found, 0)
    carried = found.carried()
    progress.reused = int(np.count_nonzero(found.reused)) - len(carried)
    if len(carried):
        assert found.base is not None
        names, reasons = (found.base.take(name, carried).tolist() for name in ("path", "error"))
        for path, reason in zip(names, reasons, strict=True):
            progress.fail(path, reason)

    kept = attempt.store / dataset.uid / "parts"
    # What a cancelled scan counted of paths that this job does not look at is the next scan's.
    spent = kept if changed is None else kept / job.id
    recovered, left = recover(kept / job.id if job.full else kept, reader, listing, found)
    progress.counted = progress.recovered = len(recovered)
    unopened = []
    for path, reason in listing.unreadable.items():
        progress.fail(path, reason)
        unopened.append(failure(path, reason))
    check()
    counted = count(attempt, dataset, listing, left, kept / job.id, reader)
    rows = checkpoints.concatenate([recovered, *unopened, *counted])
    _source_is_still_there(dataset, root, progress)
    if base is None and record is not None:
        _guard(job, found, max(0, progress.failed - record.failed), progress.failures)
    else:
        newly_failed = found.newly_failed(listing, rows)
        _guard(job, found, len(newly_failed), newly_failed)
    check()

    fresh_row = found.place(listing, rows)
    if reuse and found.base is not None and found.unchanged(listing, rows, fresh_row):
        found.base.verify()  # a damaged version must not pass for a good one because no file changed
        jobs.succeed_unchanged(attempt.catalog, job, progress.to_dict())
        spent.remove()
        return None
    if progress.failed == progress.total:
        path, reason = progress.failures[0]
        raise JobFailed(f"none of the {progress.total} label maps could be read; the first, {path}: {reason}")

    progress.stage = "writing"
    assert job.group_uri is not None
    folder = attempt.store / job.group_uri
    try:
        written = assemble(folder, listing, found, rows, fresh_row, check)
        settle = _settler(dataset, listing, written.totals.class_id)
        new = NewVersion(
            kind="scan",
            group_uri=job.group_uri,
            arrays_uri=job.group_uri,
            configuration=settle(dataset),
            reader=reader,
            digests=written.digests,
            samples=written.totals.samples,
            failed=written.failed,
            pixels=int(written.totals.pixels.sum()),
        )
        progress.stage = "checking"
        Version(
            folder,
            dataset=dataset.name,
            number=dataset.next_number,
            configuration=new.configuration,
            digests=new.digests,
            failed=new.failed,
        ).verify()
        progress.stage = "publishing"
        check()
    except BaseException:
        folder.remove()
        raise
    version = publish(
        attempt.catalog,
        attempt.store,
        dataset,
        new,
        job=job,
        progress=progress.to_dict(),
        reconfigure=settle,
    )
    spent.remove()
    return version


def _source(catalog: Catalog, dataset: Dataset) -> tuple[Source, Dataset]:
    if dataset.source is None:
        raise JobFailed(f"{dataset.name} holds imported counts; there are no label maps to count")
    if dataset.pattern is not None:
        return Source(dataset.source, dataset.pattern), dataset
    try:
        source = open_source(dataset.source, None)
    except AmbiguousSource as several:
        patterns = ", ".join(several.patterns)
        raise JobFailed(
            f"{dataset.source} holds several kinds of label map; choose one of the patterns {patterns}: "
            f"PATCH /datasets/{dataset.name} with pattern, or statsvc scan --name {dataset.name} --pattern …"
        ) from several
    try:
        return source, catalog.set_source(dataset, source.root, source.pattern)
    except Stale as stale:
        return _source(catalog, stale.dataset)


def _identity(root: str) -> tuple[int, int]:
    """Return what tells a folder from another of its name; a URL has no such thing."""
    if is_url(root):
        return 0, 0
    try:
        found = Path(root).stat()
    except OSError as error:
        raise SourceError(f"the folder {root} went away ({error.strerror}); is the disk mounted?") from error
    return found.st_dev, found.st_ino


def _is_empty(root: str) -> bool:
    try:
        return not any(Path(root).iterdir())
    except OSError:
        return True


def _source_is_still_there(dataset: Dataset, root: tuple[int, int], progress: Progress) -> None:
    """Tell an unmounted disk from files that are really bad: an empty mount point is another folder."""
    if not progress.failed or dataset.source is None:
        return
    if is_url(dataset.source):
        still_there(dataset.source)
    elif _identity(dataset.source) != root or _is_empty(dataset.source):
        raise SourceError(
            f"the folder {dataset.source} was unmounted, replaced or emptied during the scan; mount it and "
            "scan again: what was counted so far is kept"
        )


def _guard(job: Job, found: Comparison, newly_failed: int, failures: Sequence[tuple[str, str]] = ()) -> None:
    """Refuse to lose many samples at once: an unmounted disk must not empty a dataset.

    `failures` are samples that cannot be read, with the reason; the first ones are named.
    """
    if found.lost + newly_failed > job.max_removed * found.base_samples:
        named = "; ".join(f"{path}: {reason}" for path, reason in failures[:NAMED_FAILURES])
        more = " …" if newly_failed > NAMED_FAILURES else ""
        raise JobFailed(
            f"of the {found.base_samples} samples in the current version {found.lost} are gone and "
            f"{newly_failed} can no longer be read{f' ({named}{more})' if named else ''}, more than "
            f"{job.max_removed:.0%}; nothing was published. Is the disk mounted? If this is meant, allow it: "
            "--max-removed 1, or over HTTP a job with max_removed 1"
        )


def _settler(
    counted: Dataset, listing: Listing, class_id: NDArray[np.int64]
) -> Callable[[Dataset], Configuration]:
    """Return how a dataset's counts are read: as configured, the rest settled by its first scan and kept.

    Raises `JobFailed` where the dataset means other files by now than those that were counted.
    """

    def settle(dataset: Dataset) -> Configuration:
        if (dataset.source, dataset.pattern) != (counted.source, counted.pattern):
            raise JobFailed(
                f"{dataset.name} was changed to {dataset.pattern or 'the label maps'} in {dataset.source} "
                f"while {counted.pattern} in {counted.source} was counted; nothing was published, scan again"
            )
        configuration = dataset.configuration
        if dataset.current_number is None and not configuration.splits:
            configuration = replace(configuration, splits=splits.detect(listing.path))
        if dataset.current_number is None:
            configuration = with_source_names(configuration, listing.class_names)
        if configuration.num_classes == 0:
            count = infer_num_classes(class_id, configuration)
            configuration = replace(configuration, num_classes=count)
        return configuration

    return settle
