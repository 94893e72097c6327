"""An attempt whose samples may have changed: list, compare, recover, count, write and publish a version."""

from __future__ import annotations

import logging
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from statsvc.common.plurals import plural
from statsvc.dataset.splits import check_not_empty
from statsvc.errors import Conflict, DamagedVersion, InvalidParameter, JobFailed
from statsvc.store.catalog import changed_paths, jobs
from statsvc.store.catalog.records import NewVersion
from statsvc.store.publication import open_version, publish
from statsvc.store.versions import checkpoints
from statsvc.store.versions.attributes import group_attributes
from statsvc.store.versions.cell_file import CellFile
from statsvc.store.versions.location import CHECKPOINTS
from statsvc.store.versions.version import Version
from statsvc.weighting.sample_size import PILOT, images_needed, pilot_sums
from statsvc_workers.jobs.configure import complete_configuration, read_class_files
from statsvc_workers.jobs.count import count, failed_row, recover, without_tiles
from statsvc_workers.jobs.job_source import check_source_exists, dataset_source, source_identity
from statsvc_workers.jobs.merge import all_counts, merge_rows
from statsvc_workers.jobs.plan import (
    CurrentVersion,
    Plan,
    guard_against_failures,
    guard_against_removal,
    make_plan,
)
from statsvc_workers.jobs.reader_digest import reader_digest
from statsvc_workers.sources.changed_paths import check_changed_paths
from statsvc_workers.sources.class_files import ClassFiles
from statsvc_workers.sources.list_samples import list_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.location import Location
    from statsvc_workers.jobs.attempt import Attempt
    from statsvc_workers.sources.changed_paths import ChangedPaths
    from statsvc_workers.sources.list_samples import FolderListing
    from statsvc_workers.sources.listing import Listing, Source

log = logging.getLogger(__name__)


def count_changes(attempt: Attempt, dataset: Dataset, folder: FolderListing | None) -> VersionRecord | None:
    """Count what has changed; return the version that was published, or None where nothing has changed.

    folder  the listing of the source, if there is one

    Raises as `statsvc_workers.jobs.recompute.recompute` does.
    """
    source, dataset = dataset_source(attempt.catalog, dataset)
    if dataset.configuration.selection is not None:
        attempt.progress.selection = dataset.configuration.selection.lines()
    counting = dataset.configuration.counting
    current = _current_version(attempt, dataset)
    try:
        changed = _check_reported_paths(attempt, dataset, source, current)
        if changed is not None:
            listing = changed.listing
        else:
            listing = list_samples(source, counting) if folder is None else folder.finish()
        if dataset.current_number is None:
            _check_splits(dataset, listing)
        identity = source_identity(source.root)
        dataset, class_files = read_class_files(attempt, dataset, source, listing)
        plan = make_plan(attempt.job, dataset, identity, listing, current, changed, class_files)
        return _execute(attempt, _planned_sample(attempt, plan))
    except DamagedVersion as damage:
        log.warning("%s. Counting every sample again", damage)
        attempt.progress.restart()
        current = replace(current, base=None)
        listing = list_samples(source, counting)
        identity = source_identity(source.root)
        plan = make_plan(attempt.job, dataset, identity, listing, current, None, ClassFiles())
        return _execute(attempt, _planned_sample(attempt, plan))


def _planned_sample(attempt: Attempt, plan: Plan) -> Plan:
    """Return the plan of the sample that the job asks for, which is `plan` where that is all samples.

    For a relative error, a pilot is counted first; its rows, which are part of the sample, are then recovered
    from its checkpoints. A sample is never smaller than that of the current version. Raises `JobFailed` where
    the current version is exact.
    """
    request, record = attempt.job.estimate, plan.current.record
    if request is None:
        return plan
    try:
        jobs.check_may_estimate(plan.dataset, request)
    except Conflict as error:
        raise JobFailed(str(error)) from None
    guard_against_removal(attempt, plan)
    size = max(request.get("samples", 0), 0 if record is None else (record.samples or 0) + record.failed)
    if "relative_error" not in request:
        return plan.sample(size)
    pilot = plan.sample(PILOT)
    if pilot.sampled_from is None:
        return plan
    attempt.progress.total = len(pilot.listing.path)
    rows = _count_rows(attempt, pilot, None)
    class_id, counts = all_counts(pilot.comparison, rows, pilot.comparison.fresh_rows(pilot.listing, rows))
    sums = pilot_sums(plan.dataset.configuration, class_id, counts)
    attempt.progress.restart()
    needed = images_needed(sums, len(plan.whole.path), request["relative_error"], request["confidence"])
    return plan.sample(max(size, PILOT, needed))


def _check_splits(dataset: Dataset, listing: Listing) -> None:
    """Raise `JobFailed` where a split of a new dataset contains no sample."""
    try:
        check_not_empty(dataset.configuration.splits, listing.path)
    except InvalidParameter as error:
        raise JobFailed(f"split {error.errors[0][1]}") from None


def _execute(attempt: Attempt, plan: Plan) -> VersionRecord | None:
    """Count what the plan requires, and publish the result. Raises `DamagedVersion` for a damaged base."""
    _report_reused(attempt, plan)
    has_grid = plan.dataset.configuration.counting.grid is not None
    with closing(CellFile(attempt.store)) if has_grid else nullcontext() as cell_file:
        rows = _count_rows(attempt, plan, cell_file)
        if attempt.progress.failed:
            assert plan.dataset.source is not None
            check_source_exists(plan.dataset.source, plan.identity)
        guard_against_failures(attempt, plan, rows)
        attempt.check()
        fresh_row = plan.comparison.fresh_rows(plan.listing, rows)
        record = plan.current.record
        same_source = record is not None and record.configuration.sampled_from == plan.sampled_from
        if plan.reuse and same_source and plan.comparison.unchanged(plan.listing, rows, fresh_row):
            _succeed_unchanged(attempt, plan)
            return None
        _check_any_readable(attempt)
        new, configure = _write_version(attempt, plan, rows, fresh_row, cell_file)
        return _publish(attempt, plan, new, configure)


def _current_version(attempt: Attempt, dataset: Dataset) -> CurrentVersion:
    if dataset.current_number is None:
        return CurrentVersion(None, None)
    record = attempt.catalog.version(dataset)
    return CurrentVersion(record, open_version(attempt.store, dataset.name, record))


def _check_reported_paths(
    attempt: Attempt, dataset: Dataset, source: Source, current: CurrentVersion
) -> ChangedPaths | None:
    """Check the paths that a job reports as changed; return None where the whole source must be listed."""
    job, record, base = attempt.job, current.record, current.base
    paths = changed_paths.paths_of(attempt.catalog, job)
    if paths is None or job.full or record is None or base is None:
        return None
    if record.configuration.sampled_from is not None:
        return None  # the paths would no longer be a random sample
    counting = dataset.configuration.counting
    readers = {reader_digest(counting, source.pattern, gif=gif) for gif in (False, True)}
    if record.reader not in readers or not _has_source(attempt.store, record, source):
        return None
    changed = check_changed_paths(source, counting, base, paths)
    if changed is not None and changed.ignored:
        attempt.progress.ignored = len(changed.ignored)
        log.warning(
            "%s: %d of the changed paths are not samples of the pattern %s, for example %s",
            *(dataset.name, len(changed.ignored), source.pattern, changed.ignored[0]),
        )
    return changed


def _has_source(store: Location, record: VersionRecord, source: Source) -> bool:
    """Whether the rows of a version come from this source."""
    try:
        counted = group_attributes(store / record.arrays_uri)["dataset"]
    except (OSError, ValueError, KeyError):
        return False
    return (counted["source"], counted["pattern"]) == (source.root, source.pattern)


def _report_reused(attempt: Attempt, plan: Plan) -> None:
    """Record in the progress what the comparison found. Raises `JobFailed` where too much is missing."""
    comparison, progress = plan.comparison, attempt.progress
    progress.total, progress.removed = len(plan.listing.path), comparison.removed
    log.info(
        "%s: listed %s in %s with pattern %s and rule %s: %d unchanged, %d removed",
        *(plan.dataset.name, plural(progress.total, "sample"), plan.dataset.source, plan.dataset.pattern),
        *(plan.dataset.configuration.counting, np.count_nonzero(comparison.reused), comparison.removed),
    )
    guard_against_removal(attempt, plan)
    reused_failures = comparison.reused_failures()
    progress.reused = int(np.count_nonzero(comparison.reused)) - len(reused_failures)
    if len(reused_failures):
        assert comparison.base is not None
        paths, errors = (comparison.base.take(name, reused_failures).tolist() for name in ("path", "error"))
        for path, error in zip(paths, errors, strict=True):
            progress.fail(path, error)


def _count_rows(attempt: Attempt, plan: Plan, cell_file: CellFile | None) -> CountedRows:
    """Return the rows of all samples that are not reused: from checkpoints, failed, and counted now.

    Their histograms on a grid are moved to `cell_file`.
    """
    listing, progress = plan.listing, attempt.progress
    folder = _checkpoints(attempt, plan) / attempt.job.id
    recovery_folder = folder if attempt.job.full else _checkpoints(attempt, plan)
    recovered, remaining = recover(recovery_folder, plan.reader, listing, plan.comparison, cell_file)
    progress.counted = progress.recovered = len(recovered)
    unreadable = []
    for path, error in listing.unreadable.items():
        progress.fail(path, error)
        unreadable.append(without_tiles(failed_row(path, error), cell_file))
    attempt.check()
    counted = count(attempt, plan.dataset, listing, remaining, folder, plan.reader, cell_file)
    return checkpoints.concatenate([recovered, *unreadable, *counted])


def _checkpoints(attempt: Attempt, plan: Plan) -> Location:
    """Return the folder of the dataset's checkpoints, with a folder for each job."""
    return attempt.store / plan.dataset.uid / CHECKPOINTS


def _remove_used_checkpoints(attempt: Attempt, plan: Plan) -> None:
    """Remove the checkpoints that this job has made obsolete.

    A job that checked only reported paths leaves the checkpoints of other jobs, because the next scan may
    need them for other samples.
    """
    folder = _checkpoints(attempt, plan)
    (folder / attempt.job.id if plan.partial else folder).remove()


def _succeed_unchanged(attempt: Attempt, plan: Plan) -> None:
    """End the job without a new version. Raises `DamagedVersion` where the current version is damaged."""
    assert plan.comparison.base is not None
    plan.comparison.base.verify()
    jobs.succeed_unchanged(attempt.catalog, attempt.job, attempt.progress.to_dict())
    log.info("%s: nothing has changed since version %s", plan.dataset.name, plan.dataset.current_number)
    _remove_used_checkpoints(attempt, plan)


def _check_any_readable(attempt: Attempt) -> None:
    progress = attempt.progress
    if progress.failed == progress.total:
        path, error = progress.failures[0]
        if progress.total == 1:
            raise JobFailed(f"the label map could not be read. {path}: {error}")
        raise JobFailed(
            f"none of the {progress.total} label maps could be read. The first one, {path}: {error}"
        )


def _write_version(
    attempt: Attempt,
    plan: Plan,
    rows: CountedRows,
    fresh_row: NDArray[np.int64],
    cell_file: CellFile | None,
) -> tuple[NewVersion, Callable[[Dataset], Configuration]]:
    """Write and verify the arrays of a new version; remove them again where that fails.

    Returns the version, and the function that returns its configuration for the dataset as it is now.
    """
    job, progress = attempt.job, attempt.progress
    progress.stage = "writing"
    assert job.group_uri is not None
    folder = attempt.store / job.group_uri
    try:
        counting, listing = plan.dataset.configuration.counting, plan.listing
        written = merge_rows(
            folder, listing, plan.comparison, rows, fresh_row, attempt.check, counting, cell_file
        )
        configure = partial(complete_configuration, plan, written.totals.class_id)
        new = NewVersion(
            kind="scan",
            group_uri=job.group_uri,
            arrays_uri=job.group_uri,
            configuration=configure(plan.dataset),
            reader=plan.reader,
            digests=written.digests,
            samples=written.totals.samples,
            failed=written.failed,
            pixels=int(written.totals.pixels.sum()),
        )
        progress.stage = "checking"
        _verify(folder, plan.dataset, new)
        progress.stage = "publishing"
        attempt.check()
    except BaseException:
        folder.remove()
        raise
    return new, configure


def _verify(folder: Location, dataset: Dataset, new: NewVersion) -> None:
    """Read the arrays back and check them. Raises `DamagedVersion`."""
    Version(
        folder,
        dataset=dataset.name,
        number=dataset.next_number,
        configuration=new.configuration,
        digests=new.digests,
        failed=new.failed,
    ).verify()


def _publish(
    attempt: Attempt, plan: Plan, new: NewVersion, configure: Callable[[Dataset], Configuration]
) -> VersionRecord:
    progress = attempt.progress.to_dict()
    version = publish(
        attempt.catalog,
        attempt.store,
        plan.dataset,
        new,
        job=attempt.job,
        progress=progress,
        reconfigure=configure,
    )
    log.info(
        "%s: version %d was written to %s", plan.dataset.name, version.number, attempt.store / new.group_uri
    )
    _remove_used_checkpoints(attempt, plan)
    return version
