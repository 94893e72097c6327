"""The runner: leases jobs from the catalog, and supervises the processes that execute them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.common.logs import log_context
from statsvc.errors import LeaseLost, NotFound
from statsvc.store.catalog import jobs
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc.store.catalog.records import RUNNING
from statsvc_workers.jobs.executor import Executor, ExecutorOptions
from statsvc_workers.jobs.triggers import Triggers
from statsvc_workers.sources.watching import QUIET_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job
    from statsvc.store.home import Home
    from statsvc_workers.jobs.attempt import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Interval at which the runner checks the catalog for jobs, and the state of those that run."""

HEARTBEAT_SECONDS = 1.0
"""Interval at which the lease of a job is renewed whose process is starting."""

KILL_SECONDS = 1.25
"""How long a job that was cancelled or taken over may continue before its process is killed."""

ENDING_SECONDS = 60.0
"""How long the process of a job that has ended may tidy up, for instance remove its checkpoints."""

STOP_SECONDS = 5.0
"""How long jobs may take to stop with the runner before their processes are killed."""

SLOW_SECONDS = 30.0
"""A job whose progress has not changed for this long does not keep the runner from starting another one."""

MAX_JOBS = 4
"""Most jobs at a time: one that makes progress, and the others slow."""

STUCK_SECONDS = 300.0
"""If `MAX_JOBS` jobs are slow, the one without progress for this long is requeued if another job waits."""


def run(
    home: Home,
    settings: Settings,
    *,
    workers: int | None = None,
    quiet: float = QUIET_SECONDS,
    dask: str | None = None,
    allow_insecure_dask: bool = False,
    parent: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Lease and run jobs until `stop` returns True or the process `parent` ends.

    Ends within `STOP_SECONDS`, and leaves no process.

    workers              worker processes on this machine; default: as many as `LocalCluster` starts
    quiet                quiet period of watched sources, in seconds
    dask                 address of a Dask scheduler, whose workers are used instead of local processes
    allow_insecure_dask  whether `tcp://` is accepted beyond loopback
    parent               process id
    """
    options = ExecutorOptions(
        *(str(home.folder), home.database, str(home.store), settings, workers, dask, allow_insecure_dask)
    )
    catalog = home.open_catalog()
    triggers = Triggers(catalog, settings, quiet)
    supervisor = _Supervisor(catalog, options)
    unavailable = False
    try:
        triggers.start()
        while not stop() and (parent is None or os.getppid() == parent):
            try:
                supervisor.step()
            except DatabaseError as error:
                if not unavailable:  # once, not four times a second
                    log.warning("The catalog is unavailable (%s). Retrying", error)
                unavailable = True
            else:
                if unavailable:
                    log.warning("The catalog is available again")
                unavailable = False
            time.sleep(POLL_SECONDS)
    finally:
        supervisor.stop()
        triggers.stop()
        catalog.close()


class _Running(Struct):
    """An executor and what the supervisor knows about its job.

    progress      the job's progress in the catalog
    changed_at    when the progress changed last, in seconds of the monotonic clock
    lost_at       when the job was found cancelled, taken over or ended
    patience      seconds after which its process is killed then
    started       whether the executor has got the job
    beat_at       when the runner renewed the lease last
    """

    executor: Executor
    job: Job
    progress: dict[str, Any] = field(default_factory=dict)
    changed_at: float = field(default_factory=time.monotonic)
    lost_at: float | None = None
    patience: float = 0.0
    started: bool = False
    beat_at: float = field(default_factory=time.monotonic)

    @property
    def quiet_seconds(self) -> float:
        return time.monotonic() - self.changed_at

    @property
    def lost_seconds(self) -> float:
        return 0.0 if self.lost_at is None else time.monotonic() - self.lost_at

    @property
    def busy(self) -> bool:
        """Whether to wait for the job, or for its process to be free, before another job is started."""
        return self.quiet_seconds < SLOW_SECONDS and self.lost_seconds <= KILL_SECONDS

    def lose(self, patience: float) -> None:
        """Record that the job's process must end with the job, or be killed after these seconds."""
        self.lost_at, self.patience = time.monotonic(), patience


class _Supervisor:
    """Starts jobs, and ends the processes of those that must not continue."""

    def __init__(self, catalog: Catalog, options: ExecutorOptions) -> None:
        self._catalog, self._options = catalog, options
        self._owner = jobs.process_identity()
        self._running: list[_Running] = []
        # Started now, so that the first job need not wait for it.
        self._idle: Executor | None = Executor(options)

    def step(self) -> None:
        """Check the running jobs, and start a job if one may run."""
        for running in list(self._running):
            with log_context(job=running.job.id, request_id=running.job.request_id):
                self._check(running)
        if any(running.busy for running in self._running):
            return
        full = len(self._running) >= MAX_JOBS
        stuck = max(self._running, key=lambda running: running.quiet_seconds, default=None)
        if full and (stuck is None or stuck.quiet_seconds < STUCK_SECONDS):
            return
        job = jobs.lease(self._catalog, self._owner)
        if job is None:
            return
        if full and stuck is not None:
            self._end(stuck, f"it made no progress for {stuck.quiet_seconds:.0f} s while other jobs waited")
        executor, self._idle = self._idle, None
        if executor is not None and not executor.alive():
            executor.kill()
            executor = None
        self._running.append(_Running(executor or Executor(self._options), job))
        self._check(self._running[-1])

    def _check(self, running: _Running) -> None:
        """Start the job when its process is ready; handle the end of either, and the loss of the lease."""
        try:
            if not running.started:
                self._start_when_ready(running)
            elif running.executor.ended():
                self._running.remove(running)
                self._keep(running.executor)
                return
        except (EOFError, OSError):
            self._end(running, f"the process that ran it {running.executor.exit_text()}")
            return
        if running.lost_at is None:
            self._poll(running)
        elif not running.started:
            self._running.remove(running)
            self._keep(running.executor)
        elif running.lost_seconds > running.patience:
            log.info("Ending the process of job %s, which does not stop", running.job.id)
            self._end(running, None)

    def _start_when_ready(self, running: _Running) -> None:
        """Start the job, or renew its lease: on a busy machine, a new process needs longer than it lasts."""
        if running.lost_at is not None:
            return
        if running.executor.ready():
            running.executor.start(running.job)
            running.started = True
        elif time.monotonic() - running.beat_at > HEARTBEAT_SECONDS:
            running.beat_at = time.monotonic()
            with contextlib.suppress(LeaseLost):  # `_poll` finds out
                progress = {"progressed_at": running.job.started_at, **running.job.progress}
                jobs.heartbeat(self._catalog, running.job, progress)

    def _poll(self, running: _Running) -> None:
        """Read the job's row: whether this attempt may continue, and its progress."""
        try:
            current = jobs.get(self._catalog, running.job.id)
        except NotFound:  # removed by gc after it ended
            running.lose(KILL_SECONDS)
            return
        if current.state == "cancelled" or current.attempt != running.job.attempt:
            running.lose(KILL_SECONDS)
        elif current.state != RUNNING:
            running.lose(ENDING_SECONDS)  # the process has recorded the end itself
        elif dict(current.progress) != running.progress:
            running.progress, running.changed_at = dict(current.progress), time.monotonic()

    def _keep(self, executor: Executor) -> None:
        """Keep an executor for the next job, with its worker processes; one is enough."""
        if self._idle is None:
            self._idle = executor
        else:
            executor.kill()

    def _end(self, running: _Running, cause: str | None) -> None:
        """Kill the process of a job; with a cause, requeue the job."""
        running.executor.kill()
        self._running.remove(running)
        if cause is not None:
            log.warning("Attempt %d of job %s ended: %s", running.job.attempt, running.job.id, cause)
            jobs.requeue(self._catalog, running.job, cause)
        if self._idle is None:
            self._idle = Executor(self._options)

    def stop(self) -> None:
        """Stop all jobs and requeue them; kill the processes that do not end in time."""
        deadline = time.monotonic() + STOP_SECONDS
        executors = [running.executor for running in self._running]
        executors += [] if self._idle is None else [self._idle]
        for executor in executors:
            executor.stop()
        for executor in executors:
            executor.join(deadline - time.monotonic())
            executor.kill()
        for running in self._running:
            # Does nothing if the process has requeued the job itself.
            with contextlib.suppress(DatabaseError):
                jobs.requeue(self._catalog, running.job, "its runner was stopped", orderly=True)
        self._running, self._idle = [], None
