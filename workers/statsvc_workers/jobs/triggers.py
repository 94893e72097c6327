"""Jobs that nobody asks for: scheduled scans, and scans of watched sources once they are quiet."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.common.object_urls import is_url
from statsvc.errors import NotFound
from statsvc.store.catalog import triggers
from statsvc_workers.sources.watching import QUIET_SECONDS, SourceWatcher

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often changes are taken up."""

CATALOG_SECONDS = 1.0
"""How often the catalog is asked what is due and what is watched."""


class Triggers:
    """A thread beside a runner that queues jobs; any number of runners may have one.

    Schedules are in the catalog. Watching is not: whatever changed while nothing watched, the scan that is
    queued when watching begins finds.
    """

    def __init__(self, catalog: Catalog, quiet: float = QUIET_SECONDS) -> None:
        self._catalog, self._quiet = catalog, quiet
        self._watches: dict[str, tuple[Dataset, SourceWatcher]] = {}
        self._ask_at = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="triggers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was seen and has made no job yet is found when watching begins again."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        away = False
        while not self._ended.wait(POLL_SECONDS):
            try:
                self._step()
            except sa.exc.SQLAlchemyError as error:
                if not away:
                    log.warning("the catalog cannot be reached (%s); triggers wait", error)
                away = True
            except Exception:
                # Whatever it is, the schedules and watches of the other datasets go on.
                log.exception("triggers: a look at schedules and watched sources failed; it is tried again")
            else:
                away = False
        for _, watch in self._watches.values():
            watch.close()

    def _step(self) -> None:
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + CATALOG_SECONDS
            for dataset, scheduled in triggers.queue_due(self._catalog):
                log.info("%s: job %s, as scheduled", dataset.name, scheduled.id)
            self._take_up(triggers.watched(self._catalog))
        for dataset, watch in self._watches.values():
            watch.poll()
            if not watch.ready():
                continue
            assert watch.since is not None
            with contextlib.suppress(NotFound):  # deleted meanwhile: it is not watched from the next look on
                job = triggers.queue_unless_since(self._catalog, dataset, time.monotonic() - watch.since)
                if job is not None:
                    log.info("%s: job %s, for its source may have changed", dataset.name, job.id)
            watch.since = None

    def _take_up(self, wanted: list[tuple[Dataset, triggers.Trigger]]) -> None:
        """Watch what is to be watched now, and nothing else."""
        now = {
            dataset.uid: dataset
            for dataset, trigger in wanted
            # An object store is listed, which its schedule does already.
            if dataset.source is not None and not (is_url(dataset.source) and trigger.every is not None)
        }
        for uid, (_, watch) in list(self._watches.items()):
            dataset = now.get(uid)
            if dataset is None or (dataset.source, dataset.pattern) != watch.source:
                watch.close()
                del self._watches[uid]
        for uid, dataset in now.items():
            if uid not in self._watches:
                assert dataset.source is not None
                watch = SourceWatcher(dataset.name, (dataset.source, dataset.pattern), self._quiet)
                self._watches[uid] = (dataset, watch)
