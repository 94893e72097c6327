"""Server-sent events of jobs: one poll of the catalog serves any number of clients."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from statsvc.api.http.descriptions import job_description
from statsvc.store.catalog import jobs
from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from statsvc.store.catalog.catalog import Catalog

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
"""Interval of comments on an idle stream: proxies close connections without traffic."""

MAX_STREAMS = 512
MAX_CLIENT_STREAMS = 64
"""Most open streams, in total and of one address."""

STREAMS_PER_STEP = 16
"""Streams that get an event before the event loop answers other requests."""

LAST = "end"
"""Id of the last event of a stream."""


class JobEvents:
    """Event streams of this process. Only for use in its event loop."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._listeners: dict[str, set[asyncio.Queue[bytes | None]]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._closed = False
        self._clients: Counter[str] = Counter()

    def has_place(self, client: str) -> bool:
        """Whether a client, an address, may open another stream."""
        return self._clients.total() < MAX_STREAMS and self._clients[client] < MAX_CLIENT_STREAMS

    async def stream(
        self, job_id: str, description: dict[str, Any], client: str, is_allowed: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Yield server-sent events of a job until it ends: its current description, then every change.

        `close` ends the stream, too; a client that reconnects continues with another server. So does
        `is_allowed` once it returns False, because the client's token was revoked.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._listeners.setdefault(job_id, set()).add(queue)
        self._clients[client] += 1
        try:
            last = _event(description)
            yield b"retry: 2000\n\n" + last
            if self._polling is None or self._polling.done():
                self._polling = asyncio.create_task(self._poll())
            while not last.startswith(_ENDED) and not self._closed:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):  # unlike `wait_for`, without a task
                        event = await queue.get()
                except TimeoutError:
                    if not is_allowed():
                        return
                    yield b": keep-alive\n\n"
                    continue
                if event is None or not is_allowed():
                    return
                if event != last:
                    last = event
                    yield event
        finally:
            self._clients -= Counter({client: 1})
            self._listeners[job_id].discard(queue)
            if not self._listeners[job_id]:
                del self._listeners[job_id]

    async def close(self) -> None:
        """End every stream, because open streams would keep the server from stopping."""
        self._closed = True
        for queues in self._listeners.values():
            for queue in queues:
                queue.put_nowait(None)
        if self._polling is not None:
            self._polling.cancel()

    async def _poll(self) -> None:
        """Poll the catalog for the jobs of all streams, until no stream is left."""
        failing = False
        while self._listeners:
            try:
                polled = await anyio.to_thread.run_sync(jobs.by_ids, self._catalog, list(self._listeners))
            except Exception as error:  # noqa: BLE001 - streams continue when the catalog is available again
                if not failing:
                    log.warning("cannot read jobs from the catalog; retrying: %s", error)
                polled, failing = [], True
            else:
                failing = False
            for job, dataset in polled:
                event = _event(job_description(job, dataset))
                for number, queue in enumerate(list(self._listeners.get(job.id, ())), 1):
                    queue.put_nowait(event)
                    if number % STREAMS_PER_STEP == 0:
                        await asyncio.sleep(0)
            await asyncio.sleep(POLL_SECONDS)


_ENDED = f"id: {LAST}\n".encode()


def _event(description: dict[str, Any]) -> bytes:
    ended = description["finished_at"] is not None
    identity = _ENDED if ended else f"id: {description['attempt']}\n".encode()
    # Compact JSON contains no line break, so one `data:` line is enough.
    return identity + b"event: job\ndata: " + json_bytes(description).rstrip(b"\n") + b"\n\n"
