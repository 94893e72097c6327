"""The plan of an attempt: what it counts, reuses and removes; and guards against losing samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from statsvc.common.plurals import plural
from statsvc.errors import JobFailed
from statsvc_workers.jobs.reader_digest import has_gif, reader_digest
from statsvc_workers.sources.diff import Comparison, compare
from statsvc_workers.sources.draw import draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.version import Version
    from statsvc_workers.jobs.attempt import Attempt
    from statsvc_workers.jobs.job_source import SourceIdentity
    from statsvc_workers.sources.changed_paths import ChangedPaths
    from statsvc_workers.sources.class_files import ClassFiles
    from statsvc_workers.sources.listing import Listing

LISTED_FAILURES = 3
"""How many unreadable samples a job's error lists."""


class CurrentVersion(Struct, frozen=True):
    """The current version of a dataset.

    record  its record in the catalog; None before the first scan
    base    its arrays; None before the first scan, and where they are damaged
    """

    record: VersionRecord | None
    base: Version | None


class Plan(Struct, frozen=True):
    """What an attempt counts, reuses and removes.

    dataset      the dataset with its source and pattern
    identity     identity of the source's folder when it was listed
    listing      the samples to count: all samples of the source, or a sample of them
    whole        all samples of the source
    current      the current version
    reader       digest of everything that determines how a file is counted
    reuse        whether rows of the base may be reused
    comparison   the listing compared with the base
    partial      whether only paths reported as changed were checked
    class_files  what files of the source say about its classes; empty after the first scan
    """

    dataset: Dataset
    identity: SourceIdentity
    listing: Listing
    whole: Listing
    current: CurrentVersion
    reader: str
    reuse: bool
    comparison: Comparison
    partial: bool
    class_files: ClassFiles

    @property
    def sampled_from(self) -> int | None:
        """Number of samples of the source, where only some of them are counted."""
        return None if self.listing is self.whole else len(self.whole.path)

    def sample(self, size: int) -> Plan:
        """Return the plan that counts `size` samples, drawn without replacement; this plan for all of them.

        Rows of the base that are not drawn are not lost: the base is an estimate, too.
        """
        if size >= len(self.whole.path):
            return self
        listing = self.whole.take(draw(self.whole, size))
        comparison = compare(listing, self.current.base, reuse=self.reuse)
        return replace(self, listing=listing, comparison=replace(comparison, lost=0))


def make_plan(
    job: Job,
    dataset: Dataset,
    identity: SourceIdentity,
    listing: Listing,
    current: CurrentVersion,
    changed: ChangedPaths | None,
    class_files: ClassFiles,
) -> Plan:
    """Compare a listing with the current version. Raises `DamagedVersion`."""
    record = current.record
    if changed is not None and record is not None:
        reader = record.reader  # the other samples keep their rows, and the version its reader
    else:
        counting, pattern = dataset.configuration.counting, dataset.pattern or ""
        reader = reader_digest(counting, pattern, gif=has_gif(listing.path))
    reuse = record is not None and record.reader == reader and not job.full
    comparison = compare(listing, current.base, reuse=reuse)
    if changed is not None:
        comparison = comparison.keep(changed.unchecked)
    if current.base is None and record is not None:
        # Without arrays, the catalog's numbers still give lower bounds.
        base_samples = (record.samples or 0) + record.failed
        removed = max(0, base_samples - len(listing.path))
        lost = max(0, removed - record.failed)
        comparison = replace(comparison, removed=removed, lost=lost, base_samples=base_samples)
    partial = changed is not None
    return Plan(dataset, identity, listing, listing, current, reader, reuse, comparison, partial, class_files)


def guard_against_removal(attempt: Attempt, plan: Plan) -> None:
    """Raise `JobFailed` where too many samples are missing from the listing."""
    _guard(attempt.job, plan.comparison, 0, ())


def guard_against_failures(attempt: Attempt, plan: Plan, rows: CountedRows) -> None:
    """Raise `JobFailed` where too many samples are missing or can no longer be read."""
    progress, record = attempt.progress, plan.current.record
    if plan.current.base is None and record is not None:
        # Without arrays, only the numbers of failures can be compared.
        newly_failed = max(0, progress.failed - record.failed)
        _guard(attempt.job, plan.comparison, newly_failed, progress.failures)
    else:
        failures = plan.comparison.newly_failed(plan.listing, rows)
        _guard(attempt.job, plan.comparison, len(failures), failures)


def _guard(job: Job, comparison: Comparison, newly_failed: int, failures: Sequence[tuple[str, str]]) -> None:
    """Raise `JobFailed` where a version would lose too many samples: an unmounted disk must not empty it.

    newly_failed  number of samples that the current version counted and that can no longer be read
    failures      (path, error) of such samples, of which the message lists a few
    """
    if comparison.lost + newly_failed <= job.max_removed * comparison.base_samples:
        return
    listed = "; ".join(f"{path}: {error}" for path, error in failures[:LISTED_FAILURES])
    more = "; …" if newly_failed > LISTED_FAILURES else ""
    raise JobFailed(
        f"of the {plural(comparison.base_samples, 'sample')} in the current version, {comparison.lost} are "
        f"missing and {newly_failed} can no longer be read{f' ({listed}{more})' if listed else ''}. This is "
        f"more than the limit of {job.max_removed:.0%}, so nothing was published. Is the disk mounted? If "
        "the change is intended, allow it with --max-removed 1, or over HTTP with a job that has "
        "max_removed 1"
    )
