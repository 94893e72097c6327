"""The job of `statsvc scan`, which runs in this process."""

from __future__ import annotations

import gc
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import missing_extra
from statsvc.cli._progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job
    from statsvc.store.home import Home
    from statsvc_workers.cluster.local_cluster import LocalCluster
    from statsvc_workers.jobs.attempt import Settings
    from statsvc_workers.jobs.lease import Outcome
    from statsvc_workers.processes.forked import Template

POLL_SECONDS = 0.5
"""Time between two reads of a job that another process runs."""


@contextmanager
def importing() -> Iterator[None]:
    """Import what lives as long as the process, without collecting garbage.

    Raises `StatsvcError` for a missing extra.
    """
    gc.disable()
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra("workers", error) from error
    finally:
        gc.freeze()
        gc.enable()


class Counters:
    """What counts in a scan. It is loaded when it is needed first, which takes longer than an unchanged scan.

    workers  number of worker processes, None for one per core
    """

    def __init__(self, workers: int | None) -> None:
        self._workers = workers
        self._template: Template | None = None
        self._cluster: LocalCluster | None = None

    def prepare(self) -> None:
        """Load what counts, and fork the template of the processes that count.

        This process must not have another thread then. The template closes its copies of the files and
        connections of this process, and does not use them.
        """
        if self._template is not None:
            return
        with importing():
            import statsvc_workers.jobs.count_changes  # noqa: F401  (imports all that a scan needs)
            from statsvc_workers.processes.forked import Template
        self._template = Template()

    def load_machine_code(self) -> None:
        """Load the loops that are compiled in the template, while this process does something else."""
        self.prepare()
        from statsvc_workers.cluster.in_process import load_stored_loops

        assert self._template is not None
        self._template.prepare(load_stored_loops)

    def cluster(self) -> LocalCluster:
        """Return the cluster, which starts processes when it counts."""
        self.prepare()
        from statsvc_workers.cluster.local_cluster import LocalCluster

        if self._cluster is None:
            self._cluster = LocalCluster(self._workers, template=self._template)
        return self._cluster

    def stop(self) -> None:
        """Stop the worker processes, and end the template, which may end later."""
        if self._cluster is not None:
            self._cluster.close()
        if self._template is not None:
            self._template.end()

    def close(self) -> None:
        """Wait for the end of the template."""
        if self._template is not None:
            self._template.close()


def run_job(
    home: Home,
    catalog: Catalog,
    dataset: Dataset,
    settings: Settings,
    counters: Counters,
    max_removed: float | None,
    full: bool,
    samples: int | None,
) -> Outcome:
    """Run a job of this dataset in this process, after any job that another process is running."""
    from statsvc.store.catalog import jobs

    owner = jobs.process_identity()
    allowed = jobs.MAX_REMOVED if max_removed is None else max_removed
    estimate = None if samples is None else {"samples": samples}
    while (
        job := jobs.submit_leased(catalog, dataset, owner, full=full, max_removed=allowed, estimate=estimate)
    ) is None:
        _follow_running_job(catalog, dataset)
        dataset = catalog.dataset_by_uid(dataset.uid)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _execute(home, catalog, job, settings, counters)
    except KeyboardInterrupt:
        # Only the workers remain to be stopped, so a second Ctrl-C must not interrupt that. A second SIGTERM
        # ends this process immediately, and the kernel ends the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        echo(
            "statsvc: stopped. The counts so far are saved, and the next scan continues from there.",
            err=True,
        )
        raise click.exceptions.Exit(1) from None
    finally:
        counters.stop()


def _execute(home: Home, catalog: Catalog, job: Job, settings: Settings, counters: Counters) -> Outcome:
    """Execute a leased job: without what counts, if nothing has changed."""
    from statsvc.store.catalog import jobs
    from statsvc_workers.jobs.lease import execute
    from statsvc_workers.jobs.progress import Progress

    progress = Progress()
    try:
        with show_progress(progress.to_dict):
            outcome = execute(catalog, home.store, job, None, settings, progress, retry=False)
        if outcome.remaining is None:
            return outcome
        cluster = counters.cluster()
    except KeyboardInterrupt:
        jobs.cancel_own(catalog, job)
        raise
    except Exception as error:
        jobs.fail(catalog, job, str(error))
        raise
    with show_progress(progress.to_dict):
        return execute(
            *(catalog, home.store, job, cluster, settings, progress), retry=False, checked=outcome.remaining
        )


def _follow_running_job(catalog: Catalog, dataset: Dataset) -> None:
    """Show the progress of the job that another process runs, until it ends or its lease expires."""
    from statsvc.store.catalog import jobs
    from statsvc.store.catalog.records import RUNNING

    running = [job for job, _ in jobs.recent(catalog, dataset) if job.state == RUNNING]
    if not running:
        return
    job = running[0]
    echo(
        f"statsvc: another process is running job {job.id} of {dataset.name}; waiting until it ends", err=True
    )
    with show_progress(lambda: dict(jobs.get(catalog, job.id).progress)):
        while jobs.get(catalog, job.id).state == RUNNING and not jobs.lease_expired(catalog, job.id):
            time.sleep(POLL_SECONDS)
