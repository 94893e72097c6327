"""Triggers: queue scheduled scans, and scans of watched sources after a quiet period."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_url
from statsvc.errors import NotFound
from statsvc.store.catalog import operations, triggers
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc.store.catalog.owners import process_identity
from statsvc_workers.sources.watching import QUIET_SECONDS, SourceWatcher

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc_workers.jobs.attempt import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Interval at which watched sources are checked for changes."""

CATALOG_SECONDS = 1.0
"""Interval at which the catalog is checked for due schedules and watched datasets."""


STOP_SECONDS = 1.0
"""How long stopping waits for the thread."""


class Triggers:
    """A thread of a runner that queues jobs and reports that it runs; any number of runners may have one.

    Schedules are stored in the catalog. Watching has no stored state: when it starts, it queues a scan, which
    finds all changes that nothing has watched.
    """

    def __init__(self, catalog: Catalog, settings: Settings, quiet: float = QUIET_SECONDS) -> None:
        self._catalog, self._settings, self._quiet = catalog, settings, quiet
        self._owner, self._next_report = process_identity(), 0.0
        self._watchers: dict[str, tuple[Dataset, SourceWatcher]] = {}
        self._next_catalog_check = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="triggers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. Changes without a job yet are found when watching starts again."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)  # it may be reading a source that does not respond

    def _run(self) -> None:
        unavailable = False
        while not self._ended.wait(POLL_SECONDS):
            try:
                self._step()
            except DatabaseError as error:
                if not unavailable:
                    log.warning("The catalog is unavailable (%s). Triggers are paused", error)
                unavailable = True
            except Exception:
                # Keep the schedules and watchers of all other datasets running.
                log.exception("Checking schedules and watched sources failed. Retrying")
            else:
                unavailable = False
        for _, watcher in self._watchers.values():
            watcher.close()
        with contextlib.suppress(DatabaseError):
            operations.remove_runner(self._catalog, self._owner)

    def _step(self) -> None:
        if time.monotonic() >= self._next_catalog_check:
            self._next_catalog_check = time.monotonic() + CATALOG_SECONDS
            if time.monotonic() >= self._next_report:
                operations.report_runner(self._catalog, self._owner)
                self._next_report = time.monotonic() + operations.REPORT_SECONDS
            for dataset, scheduled in triggers.queue_due(self._catalog):
                log.info("%s: queued job %s by its schedule", dataset.name, scheduled.id)
            self._update_watchers(triggers.watched(self._catalog))
        for dataset, watcher in self._watchers.values():
            watcher.poll()
            if not watcher.ready():
                continue
            assert watcher.since is not None
            with contextlib.suppress(NotFound):  # deleted; the next catalog check removes its watcher
                job = triggers.queue_unless_since(self._catalog, dataset, time.monotonic() - watcher.since)
                if job is not None:
                    log.info("%s: queued job %s because its source may have changed", dataset.name, job.id)
            watcher.since = None

    def _update_watchers(self, watched: list[tuple[Dataset, triggers.Trigger]]) -> None:
        """Start and stop watchers, so that exactly the datasets in `watched` have one."""
        datasets = {
            dataset.uid: dataset
            for dataset, trigger in watched
            # Watching an object store means listing it, which a schedule already does.
            if dataset.source is not None and not (is_url(dataset.source) and trigger.every is not None)
        }
        for uid, (_, watcher) in list(self._watchers.items()):
            dataset = datasets.get(uid)
            if dataset is None or (dataset.source, dataset.pattern) != watcher.source:
                watcher.close()
                del self._watchers[uid]
        for uid, dataset in datasets.items():
            if uid not in self._watchers:
                assert dataset.source is not None
                watcher = SourceWatcher(
                    dataset.name,
                    (dataset.source, dataset.pattern),
                    self._quiet,
                    self._settings.roots,
                    only_roots=self._settings.only_roots,
                )
                self._watchers[uid] = (dataset, watcher)
                log.info("%s: watching its source", dataset.name)
