"""Keeping a job's lease while it runs, and ending it whatever happens."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import LeaseLost, StatsvcError, StoreUnavailable
from statsvc.store.catalog import jobs
from statsvc.store.versions import durable
from statsvc_workers.cluster.remote_cluster import ClusterAway
from statsvc_workers.jobs.recompute import Attempt, recompute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job, VersionRecord
    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.progress import Progress
    from statsvc_workers.jobs.recompute import Settings

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended: with a version, without a change (both None), or with an error."""

    progress: Progress
    version: VersionRecord | None = None
    error: str | None = None


class Stopped(Exception):
    """The runner was asked to stop."""


class Heartbeat:
    """Prolongs a job's lease from a thread of its own, and carries its progress to the catalog."""

    def __init__(self, catalog: Catalog, job: Job, progress: Progress, stop: Callable[[], bool]) -> None:
        self._catalog, self._job, self._progress, self._stop = catalog, job, progress, stop
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
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                jobs.heartbeat(self._catalog, self._job, self._progress.to_dict())
            except LeaseLost as lost:
                self._lost = None if self._ended.is_set() else lost
                return
            except sa.exc.SQLAlchemyError as error:
                # The catalog may be away for a moment; the lease says how long a moment may be.
                log.warning("the catalog did not take a heartbeat: %s", _text(error))

    def check(self) -> None:
        """Raise `LeaseLost` or `Stopped` where the attempt should end."""
        if self._lost is not None:
            raise self._lost
        if self._stop():
            raise Stopped


def execute(
    catalog: Catalog,
    store: Location,
    job: Job,
    cluster: Cluster,
    settings: Settings,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    *,
    retry: bool = True,
) -> Outcome:
    """Run one attempt of a leased job to its end and record that end in the catalog.

    What a person must mend fails the job; anything unexpected puts it back in the queue, or fails it too
    without `retry`, where a person waits for it.
    """
    with Heartbeat(catalog, job, progress, stop) as heartbeat:
        try:
            version = recompute(Attempt(catalog, store, job, cluster, settings, progress, heartbeat.check))
        except LeaseLost as lost:
            return Outcome(progress, error=str(lost))
        except Stopped:
            with _recording(job):
                jobs.requeue(catalog, job, "its runner was stopped", orderly=True)
            return Outcome(progress, error="stopped; the next runner goes on with it")
        except (StoreUnavailable, ClusterAway) as error:
            log.warning("attempt %d of job %s: %s", job.attempt, job.id, error)
            with _recording(job):
                _end(catalog, job, str(error), progress, again=retry)
            return Outcome(progress, error=str(error))
        except StatsvcError as error:
            with _recording(job):
                jobs.fail(catalog, job, str(error), progress.to_dict())
            return Outcome(progress, error=str(error))
        except KeyboardInterrupt:
            with _recording(job):
                jobs.cancel_own(catalog, job)
            raise
        except Exception as error:
            log.info("attempt %d of job %s ended unexpectedly", job.attempt, job.id, exc_info=True)
            mendable = durable.advice(error, str(store))
            cause = mendable or _text(error)
            with _recording(job):
                _end(catalog, job, cause, progress, again=retry and not mendable)
            return Outcome(progress, error=cause)
    return Outcome(progress, version)


def _end(catalog: Catalog, job: Job, cause: str, progress: Progress, *, again: bool) -> None:
    """Put a job back into the queue, or fail it."""
    if again:
        jobs.requeue(catalog, job, cause)
    else:
        jobs.fail(catalog, job, cause, progress.to_dict())


@contextlib.contextmanager
def _recording(job: Job) -> Iterator[None]:
    """Let a catalog that cannot be written, as on a full disk, not hide why the attempt ended."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        log.warning(
            "the catalog did not take the end of job %s (%s); its lease will lapse", job.id, _text(error)
        )


def _text(error: Exception) -> str:
    """Return an error in one line: the database's own words, without the statement."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return f"the catalog: {error.orig}"
    return f"{type(error).__name__}: {error}"
