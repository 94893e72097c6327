"""One attempt of a job: end it where nothing has changed, and count the changes otherwise."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from statsvc_workers.jobs.unchanged import Checked, check_folder
from statsvc_workers.processes.stalls import stalling_after
from statsvc_workers.samples.roots import restricted, source_roots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc_workers.jobs.attempt import Attempt


def check(attempt: Attempt) -> Checked:
    """Begin an attempt: end its job if nothing has changed, and that can be seen without loading what counts.

    Returns what `recompute` continues with. Raises as `recompute` does.
    """
    with _reading(attempt) as dataset:
        attempt.store.create()
        _remove_earlier_attempts(attempt, dataset)
        return check_folder(attempt, dataset)


def recompute(attempt: Attempt, checked: Checked) -> VersionRecord | None:
    """Run one attempt; return the version that it published, or None where nothing changed.

    checked  what `check` has returned

    Raises `SourceError` where the source cannot be listed or is outside the roots, `JobFailed` where a
    version would lose samples that nobody removed on purpose, and `LeaseLost` where another attempt has taken
    over.
    """
    if checked.unchanged:
        return None
    from statsvc_workers.jobs.count_changes import count_changes

    with _reading(attempt) as dataset:
        return count_changes(attempt, dataset, checked.folder)


@contextmanager
def _reading(attempt: Attempt) -> Iterator[Dataset]:
    """Yield the dataset of an attempt, whose source may be read in this context."""
    dataset = attempt.catalog.dataset_by_uid(attempt.job.dataset_uid)
    settings = attempt.settings
    allowed = None
    if dataset.source is not None:
        allowed = source_roots(dataset.source, settings.roots, only=settings.only_roots)
    with restricted(allowed), stalling_after(settings.stall_timeout):
        yield dataset


def _remove_earlier_attempts(attempt: Attempt, dataset: Dataset) -> None:
    """Remove the arrays of earlier attempts, which are incomplete: publishing would have ended the job."""
    for number in range(1, attempt.job.attempt):
        (attempt.store / dataset.uid / f"{attempt.job.id}-{number}").remove()
