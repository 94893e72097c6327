"""Jobs as they go on: one look at the catalog a moment, however many clients listen."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from statsvc.api.http.descriptions import job_description
from statsvc.store.catalog import jobs
from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from statsvc.store.catalog.catalog import Catalog

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
"""How often a comment goes to a client that nothing happens for: proxies end silent connections."""

LAST = "end"
"""The id of the event that a job's stream ends with."""


class Feed:
    """The jobs that clients of this process listen to; used from its event loop only."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._listeners: dict[str, set[asyncio.Queue[bytes | None]]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._closed = False

    async def events(self, job_id: str, now: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield server-sent events of a job: `now`, its description, then every change, until it ends.

        Ends, too, when the feed is closed; the client that connects again goes on with another server.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._listeners.setdefault(job_id, set()).add(queue)
        try:
            last = _event(now)
            yield b"retry: 2000\n\n" + last
            if self._polling is None or self._polling.done():
                self._polling = asyncio.create_task(self._poll())
            while not last.startswith(_ENDED) and not self._closed:
                try:
                    event = await asyncio.wait_for(queue.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield b": still there\n\n"
                    continue
                if event is None:
                    return
                if event != last:
                    last = event
                    yield event
        finally:
            self._listeners[job_id].discard(queue)
            if not self._listeners[job_id]:
                del self._listeners[job_id]

    async def close(self) -> None:
        """End every stream, so that the server can stop."""
        self._closed = True
        for queues in self._listeners.values():
            for queue in queues:
                queue.put_nowait(None)
        if self._polling is not None:
            self._polling.cancel()

    async def _poll(self) -> None:
        """Look at the jobs listened to, as long as there are any."""
        while self._listeners:
            try:
                found = await anyio.to_thread.run_sync(jobs.by_ids, self._catalog, list(self._listeners))
            except Exception as error:  # noqa: BLE001 - streams go on when the catalog comes back
                log.warning("jobs cannot be looked at, trying again: %s", error)
                found = []
            for job, dataset in found:
                event = _event(job_description(job, dataset))
                for queue in self._listeners.get(job.id, ()):
                    queue.put_nowait(event)
            await asyncio.sleep(POLL_SECONDS)


_ENDED = f"id: {LAST}\n".encode()


def _event(described: dict[str, Any]) -> bytes:
    ended = described["finished_at"] is not None
    identity = _ENDED if ended else f"id: {described['attempt']}\n".encode()
    # JSON holds no line break, so one `data:` line is enough.
    return identity + b"event: job\ndata: " + json_bytes(described).rstrip(b"\n") + b"\n\n"
