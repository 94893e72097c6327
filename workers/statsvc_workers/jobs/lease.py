"""Execute a leased job: renew its lease while it runs, and record how it ends."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.errors import LeaseLost, StatsvcError, StoreUnavailable
from statsvc.store.catalog import jobs
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc.store.versions import durable
from statsvc_workers.cluster.away import ClusterAway
from statsvc_workers.jobs.attempt import Attempt
from statsvc_workers.jobs.recompute import check, recompute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job, VersionRecord
    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.attempt import Settings
    from statsvc_workers.jobs.progress import Progress
    from statsvc_workers.jobs.unchanged import Checked

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""Interval at which a lease is renewed."""


class Outcome(Struct, frozen=True):
    """How an attempt ended: with a version, with an error, or without a change (both None).

    stopped    whether the error is an orderly stop of the runner
    remaining  if it has not ended, because something may have to be counted and there was no cluster: what it
               found
    """

    progress: Progress
    version: VersionRecord | None = None
    error: str | None = None
    stopped: bool = False
    remaining: Checked | None = None


class Stopped(Exception):
    """The runner is stopping."""


class Heartbeat:
    """A thread that renews a job's lease and writes its progress to the catalog."""

    def __init__(self, catalog: Catalog, job: Job, progress: Progress, stop: Callable[[], bool]) -> None:
        self._catalog, self._job, self._progress, self._stop = catalog, job, progress, stop
        self._written: dict[str, Any] = {}
        self._ended = threading.Event()
        self._lost: LeaseLost | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        failing = False
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self._renew()
            except LeaseLost as lost:
                self._lost = None if self._ended.is_set() else lost
                return
            except DatabaseError as error:
                # A short outage does no harm: the lease expires only after its duration.
                if not failing:
                    log.warning("The catalog did not accept a heartbeat: %s", _text(error))
                failing = True
            else:
                failing = False

    def _renew(self) -> None:
        """Renew the lease, and record the progress and when it changed last."""
        progress = self._progress.to_dict()
        if progress != self._written:
            progress["progressed_at"] = None
        progressed_at = jobs.heartbeat(self._catalog, self._job, progress)
        self._progress.progressed_at = progressed_at
        self._written = progress | {"progressed_at": progressed_at}

    def check(self) -> None:
        """Raise `LeaseLost` or `Stopped` where the attempt must end."""
        if self._lost is not None:
            raise self._lost
        if self._stop():
            raise Stopped


def execute(
    catalog: Catalog,
    store: Location,
    job: Job,
    cluster: Cluster | None,
    settings: Settings,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    *,
    retry: bool = True,
    checked: Checked | None = None,
) -> Outcome:
    """Run one attempt of a leased job, and record in the catalog how it ends.

    With `cluster=None`, only a job ends for which nothing has to be counted, and what counts is not loaded.
    Otherwise, a second call continues the attempt, with `checked` as the `remaining` of the first outcome.

    An error that a person must fix fails the job. Any other error requeues the job; without `retry`, because
    a person is waiting for the result, it fails the job as well.
    """
    with Heartbeat(catalog, job, progress, stop) as heartbeat:
        try:
            attempt = Attempt(catalog, store, job, cluster, settings, progress, heartbeat.check)
            checked = check(attempt) if checked is None else checked
            if cluster is None and not checked.unchanged:
                return Outcome(progress, remaining=checked)
            version = recompute(attempt, checked)
        except LeaseLost as lost:
            return Outcome(progress, error=str(lost))
        except Stopped:
            with _log_catalog_errors(job):
                jobs.requeue(catalog, job, "its runner was stopped", orderly=True)
            return Outcome(progress, error="stopped; another runner will continue the job", stopped=True)
        except (StoreUnavailable, ClusterAway) as error:
            if retry:  # otherwise the caller reports the outcome
                log.warning("Attempt %d of job %s failed: %s", job.attempt, job.id, error)
            with _log_catalog_errors(job):
                _requeue_or_fail(catalog, job, str(error), progress, requeue=retry)
            return Outcome(progress, error=str(error))
        except StatsvcError as error:
            with _log_catalog_errors(job):
                jobs.fail(catalog, job, str(error), progress.to_dict())
            return Outcome(progress, error=str(error))
        except KeyboardInterrupt:
            with _log_catalog_errors(job):
                jobs.cancel_own(catalog, job)
            raise
        except Exception as error:
            log.info("Attempt %d of job %s ended unexpectedly", job.attempt, job.id, exc_info=True)
            advice = durable.advice(error, str(store))
            cause = advice or _text(error)
            with _log_catalog_errors(job):
                _requeue_or_fail(catalog, job, cause, progress, requeue=retry and not advice)
            return Outcome(progress, error=cause)
    return Outcome(progress, version)


def _requeue_or_fail(catalog: Catalog, job: Job, cause: str, progress: Progress, *, requeue: bool) -> None:
    if requeue:
        jobs.requeue(catalog, job, cause)
    else:
        jobs.fail(catalog, job, cause, progress.to_dict())


@contextlib.contextmanager
def _log_catalog_errors(job: Job) -> Iterator[None]:
    """Log an error of the catalog, such as a full disk, so that it does not hide why the attempt ended."""
    try:
        yield
    except DatabaseError as error:
        log.warning(
            "The catalog could not record the end of job %s (%s). Its lease will expire",
            *(job.id, _text(error)),
        )


def _text(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, DatabaseError):
        return f"the catalog: {error}"
    return f"{type(error).__name__}: {error}"
