"""The runner: leases jobs from the catalog one after the other, and counts on Dask workers."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.store.catalog import jobs
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.cluster.remote_cluster import RemoteCluster
from statsvc_workers.jobs.lease import execute
from statsvc_workers.jobs.progress import Progress
from statsvc_workers.jobs.triggers import Triggers
from statsvc_workers.sources.watching import QUIET_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.store.home import Home
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.attempt import Settings
    from statsvc_workers.jobs.lease import Outcome

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Interval at which an idle runner checks the catalog for jobs."""

PAUSE_SECONDS = 2.0
"""Pause after the catalog became unavailable during a job."""

IDLE_SECONDS = 60.0
"""How long the cluster's processes stay alive after the last job."""


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

    workers  worker processes on this machine; default: as many as `LocalCluster` starts
    quiet    quiet period of watched sources, in seconds
    dask     address of a Dask scheduler, whose workers are used instead of local processes
    allow_insecure_dask  whether `tcp://` is accepted beyond loopback
    parent   process id
    """
    cluster: Cluster = (
        LocalCluster(workers) if dask is None else RemoteCluster(dask, allow_insecure=allow_insecure_dask)
    )
    catalog = home.open_catalog()
    owner = jobs.process_identity()

    def should_stop() -> bool:
        return stop() or (parent is not None and os.getppid() != parent)

    last_job, unavailable = time.monotonic(), False
    triggers = Triggers(catalog, quiet)
    try:
        triggers.start()
        while not should_stop():
            try:
                job = jobs.lease(catalog, owner)
            except sa.exc.SQLAlchemyError as error:
                if not unavailable:  # once, not four times a second
                    log.warning("The catalog is unavailable (%s). Retrying", error)
                job, unavailable = None, True
            else:
                if unavailable:
                    log.warning("The catalog is available again")
                unavailable = False
            if job is None:
                if cluster.running and time.monotonic() - last_job > IDLE_SECONDS:
                    cluster.close()
                time.sleep(POLL_SECONDS)
                continue
            try:
                name = catalog.dataset_by_uid(job.dataset_uid).name
                log.info("%s: job %s, attempt %d", name, job.id, job.attempt)
                _report(name, execute(catalog, home.store, job, cluster, settings, Progress(), should_stop))
            except sa.exc.SQLAlchemyError as error:
                log.warning(
                    "The catalog became unavailable during job %s (%s). Its lease will expire", job.id, error
                )
                time.sleep(PAUSE_SECONDS)
            last_job = time.monotonic()
    finally:
        triggers.stop()
        cluster.close()
        catalog.close()


def _report(name: str, outcome: Outcome) -> None:
    progress = outcome.progress
    if outcome.error is not None:
        log.log(logging.INFO if outcome.stopped else logging.ERROR, "%s: %s", name, outcome.error)
    elif outcome.version is None:
        log.info("%s: nothing changed in %d samples", name, progress.total)
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
