"""Run leased jobs in a separate process, which can be killed whatever it is doing.

Listing, matching and decoding call libraries that cannot be interrupted and may hold Python's lock. So the
runner's own process only leases jobs and supervises. The kernel kills the process of an executor when the
runner dies, and the worker processes when that process dies.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc.common.logs import configure_logging, log_context
from statsvc.common.plurals import plural
from statsvc.errors import NotFound
from statsvc.store import home as homes
from statsvc.store.catalog import jobs
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc_workers.processes.parent_death import end_with_parent

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.attempt import Settings
    from statsvc_workers.jobs.lease import Outcome

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Interval at which an idle process checks whether it must stop."""

PAUSE_SECONDS = 2.0
"""Pause after the catalog became unavailable during a job."""

IDLE_SECONDS = 60.0
"""How long worker processes stay alive after the last job."""

KILLED_SECONDS = 5.0
"""How long a killed process may take to end before the runner goes on."""

READY = b"ready"
"""What the process sends once it can run a job."""

ENDED = b"ended"
"""What the process sends when its job has ended; the catalog says how."""


class ExecutorOptions(Struct, frozen=True):
    """What the process of an executor needs.

    home, database, store  the arguments of `statsvc.store.home.resolve`
    settings               settings that apply to every dataset
    workers                worker processes on this machine; None: as many as `LocalCluster` starts
    dask                   address of a Dask scheduler, whose workers are used instead
    allow_insecure_dask    whether `tcp://` is accepted beyond loopback
    """

    home: str
    database: str
    store: str
    settings: Settings
    workers: int | None
    dask: str | None
    allow_insecure_dask: bool


class Executor:
    """A process that runs one job at a time.

    job  the job that it runs, or None
    """

    def __init__(self, options: ExecutorOptions) -> None:
        self.job: Job | None = None
        self._ready = False
        context = multiprocessing.get_context("spawn")
        self._connection, connection = context.Pipe()
        self._process = context.Process(
            target=_main, args=(options, connection, os.getpid(), logging.getLogger().level), name="executor"
        )
        self._process.start()
        connection.close()

    def ready(self) -> bool:
        """Whether the process has started and can run a job.

        Raises `EOFError` or `OSError` where the process died.
        """
        self._ready = self._ready or (self._connection.poll() and self._connection.recv_bytes() == READY)
        return self._ready

    def start(self, job: Job) -> None:
        """Run a leased job; `ended` says when it is over."""
        self.job = job
        self._connection.send_bytes(json.dumps({"id": job.id, "attempt": job.attempt}).encode())

    def ended(self) -> bool:
        """Whether the job is over. Raises `EOFError` or `OSError` where the process died."""
        return self._connection.poll() and self._connection.recv_bytes() == ENDED

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def exit_text(self) -> str:
        """Return how the process ended, for a message."""
        self._process.join(POLL_SECONDS)
        code = self._process.exitcode
        return (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"
        )

    def stop(self) -> None:
        """Ask the process to requeue its job and to end."""
        if self._process.is_alive():
            self._process.terminate()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the process; return whether it has ended."""
        self._process.join(max(0.0, seconds))
        return not self._process.is_alive()

    def kill(self) -> None:
        """End the process immediately, and with it its worker processes."""
        self._process.kill()
        # A process that waits for a disk ends when the disk answers; the runner does not wait for that.
        self._process.join(KILLED_SECONDS)
        self._connection.close()


def _main(options: ExecutorOptions, connection: Connection, parent: int, level: int) -> None:
    """Run jobs until SIGTERM, or until the runner closes the connection."""
    end_with_parent(signal.SIGKILL, parent)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    # The terminal sends Ctrl-C to the whole process group; the runner decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(level)
    # Imported here, because the runner imports this module and counts nothing.
    import statsvc_workers.jobs.count_changes  # noqa: F401  (imports all that a job needs)
    from statsvc_workers.cluster.local_cluster import LocalCluster
    from statsvc_workers.cluster.remote_cluster import RemoteCluster
    from statsvc_workers.processes.forked import Template

    cluster: Cluster
    template: Template | None = None
    if options.dask is None:
        template = Template()
        cluster = LocalCluster(
            options.workers, template=template, stall_timeout=options.settings.stall_timeout
        )
    else:
        cluster = RemoteCluster(
            options.dask,
            allow_insecure=options.allow_insecure_dask,
            stall_timeout=options.settings.stall_timeout,
        )
    home = homes.resolve(options.home, options.database, options.store)
    catalog = home.open_catalog()  # never creates an empty catalog where one was lost
    last_job = time.monotonic()
    try:
        connection.send_bytes(READY)
        while not stopping.is_set():
            if not connection.poll(POLL_SECONDS):
                if cluster.running and time.monotonic() - last_job > IDLE_SECONDS:
                    cluster.close()
                continue
            message = json.loads(connection.recv_bytes())
            _run_job(catalog, home, cluster, options.settings, message["id"], message["attempt"], stopping)
            connection.send_bytes(ENDED)
            last_job = time.monotonic()
    except (EOFError, BrokenPipeError):
        pass  # the runner no longer needs this process
    finally:
        cluster.abandon(())
        if template is not None:
            template.close()
        catalog.close()


def _run_job(
    catalog: Catalog,
    home: homes.Home,
    cluster: Cluster,
    settings: Settings,
    job_id: str,
    attempt: int,
    stopping: threading.Event,
) -> None:
    from statsvc_workers.jobs.lease import execute
    from statsvc_workers.jobs.progress import Progress

    try:
        job = jobs.get(catalog, job_id)
        if job.attempt != attempt:
            return
        name = catalog.dataset_by_uid(job.dataset_uid).name
        with log_context(whole_process=True, job=job.id, request_id=job.request_id):
            log.info("%s: job %s, attempt %d", name, job.id, job.attempt)
            _report(name, execute(catalog, home.store, job, cluster, settings, Progress(), stopping.is_set))
    except NotFound as error:
        log.info("Job %s was cancelled before it began, and its dataset deleted: %s", job_id, error)
    except DatabaseError as error:
        log.warning("The catalog became unavailable during job %s (%s). Its lease will expire", job_id, error)
        time.sleep(PAUSE_SECONDS)


def _report(name: str, outcome: Outcome) -> None:
    progress = outcome.progress
    if outcome.error is not None:
        log.log(logging.INFO if outcome.stopped else logging.ERROR, "%s: %s", name, outcome.error)
    elif outcome.version is None:
        log.info("%s: nothing changed in %s", name, plural(progress.total, "sample"))
    else:
        log.info(
            "%s: version %d published; %d counted, %d reused, %d removed, %d failed",
            name,
            outcome.version.number,
            progress.counted,
            progress.reused,
            progress.removed,
            progress.failed,
        )
