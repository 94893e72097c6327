"""Metrics of the catalog's state and of jobs, from what the server has already read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from statsvc._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from statsvc.api.state.service import Service
    from statsvc.store.catalog.records import Job

MAX_DATASETS = 200
"""Datasets with series of their own: those whose scans fail, then those with the oldest versions."""

STATES = ("succeeded", "failed", "cancelled")
OUTCOMES = ("counted", "reused", "removed", "failed")

JOB_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0)
"""Upper bounds of the histogram of the durations of jobs, in seconds."""


class JobMetrics:
    """Counters of jobs, on any runner, that have ended since the server started."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "statsvc_job_duration_seconds",
            "Time from the start of a job's first attempt to its end; jobs of all runners.",
            ("state",),
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self._jobs = Counter(
            "statsvc_jobs", "Jobs that ended; of all runners.", ("state",), registry=registry
        )
        self._samples = Counter(
            "statsvc_samples",
            "Samples of jobs that ended, by what happened to them.",
            ("outcome",),
            registry=registry,
        )
        self._pixels = Counter("statsvc_pixels", "Pixels that jobs have counted.", registry=registry)
        for state in STATES:
            self._jobs.labels(state)
            self._seconds.labels(state)
        for outcome in OUTCOMES:
            self._samples.labels(outcome)

    def add(self, ended: Sequence[Job]) -> None:
        """Count jobs that have ended."""
        for job in ended:
            self._jobs.labels(job.state).inc()
            if job.started_at is not None and job.finished_at is not None:
                # A clock that was set back gives a negative time.
                self._seconds.labels(job.state).observe(max(0.0, job.finished_at - job.started_at))
            for outcome in OUTCOMES:
                self._samples.labels(outcome).inc(job.progress.get(outcome, 0))
            self._pixels.inc(job.progress.get("pixels", 0))


class StateCollector(Collector):
    """Gauges from the snapshot of the catalog and the state of runners and scans; reads nothing."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not read the state."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the present values."""
        watcher = self._service.watcher
        info = GaugeMetricFamily("statsvc_build_info", "The release, always 1.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield _gauge(
            "statsvc_catalog_up",
            "1 while the catalog answers and this release can use its schema.",
            watcher.problem is None,
        )
        yield _gauge(
            "statsvc_catalog_age_seconds",
            "Time since the catalog was read, while it does not answer; otherwise 0.",
            watcher.age or 0,
        )
        yield _gauge(
            "statsvc_version_store_up",
            "0 while the version store did not respond to the last request.",
            self._service.store.last_error is None,
        )
        yield from self._operations()
        yield from self._datasets()

    def _operations(self) -> Iterator[Metric]:
        state = self._service.watcher.operations
        if state is None:
            return
        # Values that grow with time go on growing while the catalog does not answer.
        passed = time.monotonic() - self._service.watcher.operations_at
        yield _gauge("statsvc_runners", "Runners that reported within the last minute.", state.runners)
        yield _gauge(
            "statsvc_runner_missing",
            "1 if no runner has reported although there is work for one.",
            state.missing_runner() is not None,
        )
        if state.seen_at is not None:
            yield _gauge(
                "statsvc_runner_heartbeat_age_seconds",
                "Time since a runner last reported.",
                max(0.0, state.clock - state.seen_at) + passed,
            )
        yield _gauge("statsvc_jobs_queued", "Jobs that wait for a runner.", state.queued)
        yield _gauge(
            "statsvc_jobs_queued_oldest_seconds",
            "How long the oldest waiting job has waited; 0 without one.",
            state.waiting + passed if state.queued else 0,
        )
        yield _gauge("statsvc_jobs_running", "Jobs that run.", state.running)
        yield _gauge(
            "statsvc_jobs_without_progress_seconds",
            "For how long a running job has made no progress, the longest time; 0 if none runs.",
            state.stalled + passed if state.running else 0,
        )
        yield _gauge(
            "statsvc_schedule_overdue_seconds",
            "How long the most overdue schedule has waited for its scan; 0 if none is overdue.",
            state.overdue + passed if state.overdue > 0 else 0,
        )
        yield _gauge("statsvc_datasets_failing", "Datasets whose newest scan has failed.", len(state.failing))

    def _datasets(self) -> Iterator[Metric]:
        watcher = self._service.watcher
        failing = {} if watcher.operations is None else watcher.operations.failing
        clock = time.time()
        if watcher.operations is not None:  # the database's clock, as that of the versions
            clock = watcher.operations.clock + time.monotonic() - watcher.operations_at
        rows = sorted(
            (dataset.uid not in failing, current.record.created_at, name, dataset.uid)
            for name, (dataset, current) in watcher.snapshot.datasets.items()
            if current is not None
        )
        yield _gauge("statsvc_datasets", "Datasets that have a version.", len(rows))
        age = GaugeMetricFamily(
            "statsvc_dataset_version_age_seconds",
            f"Age of the current version of a dataset; of {MAX_DATASETS} datasets at most.",
            labels=("dataset",),
        )
        scans = GaugeMetricFamily(
            "statsvc_dataset_failed_scans",
            f"Failed scans of a dataset since its last successful one; of {MAX_DATASETS} datasets at most.",
            labels=("dataset",),
        )
        for _, created_at, name, uid in rows[:MAX_DATASETS]:
            age.add_metric((name,), max(0.0, clock - created_at))
            scans.add_metric((name,), failing[uid].count if uid in failing else 0)
        yield age
        yield scans


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=float(value))
