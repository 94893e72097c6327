"""What the routes of one application share: catalog, snapshot and caches."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from starlette.responses import Response

from statsvc.api.http import conditional
from statsvc.api.state.job_events import JobEvents
from statsvc.api.state.single_flight import SingleFlight
from statsvc.api.state.snapshot import CatalogWatcher, Published
from statsvc.common.lru import Lru
from statsvc.errors import Busy, NotFound
from statsvc.store.catalog import tags
from statsvc.store.publication import open_version
from statsvc.store.versions.cached_table import CachedTable, histogram_cache
from statsvc.store.versions.row_access import RowsNeeded, may_read_rows
from statsvc.store.versions.verified_arrays import array_cache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.versions.location import Location

T = TypeVar("T")

RESPONSE_BYTES = 64 * 2**20
"""Size limit of cached response bodies, in bytes."""

TABLES = 8
"""Number of cached tables."""

ARRAY_BYTES = 256 * 2**20
"""Size limit of the cached arrays of all versions, in bytes; versions with the same arrays share them."""

SLOW_THREADS = 8
"""Versions whose rows are read at the same time, for answers that the totals cannot give."""

MOST_WAITING = 64
"""Answers that wait for reading rows; beyond it, requests are rejected with 503."""

OLDER_VERSIONS = 1024
"""Number of cached catalog records of versions that are not current."""

THREADS = 4
"""Responses computed from totals at the same time; cached responses need no thread."""


def _without_rows(render: Callable[[], bytes]) -> bytes:
    """Call `render`; raises `RowsNeeded` where it needs the rows of a version."""
    token = may_read_rows.set(False)
    try:
        return render()
    finally:
        may_read_rows.reset(token)


class Service:
    """State of one application. Only for use in its event loop."""

    def __init__(self, catalog: Catalog, store: Location, roots: Sequence[Path | str]) -> None:
        self.catalog, self.store, self.roots = catalog, store.with_short_timeouts(), tuple(roots)
        self.watcher = CatalogWatcher(catalog)
        self.job_events = JobEvents(catalog)
        self._older: SingleFlight[tuple[str, int, int], Published] = SingleFlight(
            Lru(OLDER_VERSIONS), THREADS
        )
        self._tables: Lru[tuple[str, int, bool], CachedTable] = Lru(TABLES)
        self._arrays, self._histograms = array_cache(ARRAY_BYTES), histogram_cache()
        self._responses: Lru[str, bytes] = Lru(RESPONSE_BYTES, len)
        self._quick: SingleFlight[str, bytes] = SingleFlight(self._responses, THREADS)
        self._slow: dict[str, asyncio.Task[bytes]] = {}
        self._slow_threads = anyio.CapacityLimiter(SLOW_THREADS)
        self._turns: WeakValueDictionary[tuple[str, int, bool], asyncio.Lock] = WeakValueDictionary()

    async def published(self, name: str | None, number: int | str | None) -> Published:
        """Return a version of a dataset by number or tag; by default the current version.

        Unless the request names a number, whose version never changes, the catalog is read after the request
        arrived, so that a client that knows a version gets it from every replica. If the catalog does not
        answer, the response has an `Age`. The catalog record of an older version is cached until its dataset
        changes.

        Raises `NotFound`, and `InvalidParameter` if a name is required.
        """
        if not isinstance(number, int) or not self.watcher.snapshot.has_version(name):
            await self.watcher.fresh()
        dataset, current = self.watcher.snapshot.dataset(name)
        if current is None:
            raise NotFound(await self.in_thread(self.catalog.why_unversioned, dataset))
        if isinstance(number, str):
            number = tags.number_of(dataset.name, self.watcher.snapshot.tags.get(dataset.uid, {}), number)
        if number in (None, current.record.number):
            return current
        assert number is not None
        older = number

        def look_up() -> Published:
            return Published.of(dataset.name, self.catalog.version(dataset, older))

        return await self._older.get((dataset.uid, dataset.revision, older), look_up)

    def table(self, published: Published) -> CachedTable:
        """Return the table of a version; opening it reads nothing."""
        table = self._tables.get(published.key)
        if table is None:
            stored = open_version(self.store, published.dataset, published.record, self._arrays)
            table = CachedTable(stored, self._histograms, published.key)
            self._tables.put(published.key, table)
        return table

    async def respond(
        self,
        request: Request,
        tag: str,
        render: Callable[..., bytes],
        *published: Published,
        pinned: bool,
        media_type: str = "application/json",
        negotiated: bool = False,
    ) -> Response:
        """Return a cacheable response that follows from published versions, or 304.

        tag         its ETag, under which the body is cached
        render      returns the body from the tables of the versions
        pinned      whether the request names version numbers, so that the response never changes
        negotiated  whether the format depends on the Accept header
        """
        headers = conditional.cache_headers(
            tag,
            pinned=pinned,
            age=self.watcher.age,
            negotiated=negotiated,
            warnings=[warning for version in published for warning in self.watcher.warnings(version)],
        )

        def make() -> Awaitable[bytes]:
            return self._render(tag, partial(render, *map(self.table, published)), published)

        return await conditional.respond(request, headers, media_type, make)

    async def _render(self, tag: str, render: Callable[[], bytes], published: Sequence[Published]) -> bytes:
        """Return a body from the totals of its versions, or else from their rows.

        Answers from totals never wait for rows. Rows of one version are read for one answer at a time; other
        answers wait without occupying a thread, so that nobody waits for the rows of another version.

        Raises `Busy` if too many answers wait.
        """
        try:
            return await self._quick.get(tag, partial(_without_rows, render))
        except RowsNeeded:
            pass
        task = self._slow.get(tag)
        if task is None:
            if len(self._slow) >= MOST_WAITING:
                raise Busy(
                    f"{len(self._slow)} requests wait for the counts of single images; try again later"
                )
            task = asyncio.create_task(self._render_from_rows(tag, render, published))
            self._slow[tag] = task
            task.add_done_callback(lambda _: self._slow.pop(tag))
        # Shielded: a client that disconnects must not cancel the work that other clients wait for.
        return await asyncio.shield(task)

    async def _render_from_rows(
        self, tag: str, render: Callable[[], bytes], published: Sequence[Published]
    ) -> bytes:
        async with AsyncExitStack() as turns:
            for key in sorted({version.key for version in published}):
                await turns.enter_async_context(self._turns.setdefault(key, asyncio.Lock()))
            body = await anyio.to_thread.run_sync(render, limiter=self._slow_threads)
        self._responses.put(tag, body)
        return body

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a function that waits for the catalog or the disk in a worker thread."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))


# `async` although it awaits nothing: FastAPI runs plain functions in a thread, for every request.
async def service_of(request: Request) -> Service:
    """Return the service of the application that received a request."""
    service: Service = request.app.state.service
    return service


InjectedService = Annotated[Service, Depends(service_of)]
"""The service of the application, as a parameter of a route."""
