"""What the routes of one application share: catalog, snapshot and caches."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, Request
from starlette.responses import Response

from statsvc.api.http import conditional
from statsvc.api.state.job_events import JobEvents
from statsvc.api.state.single_flight import SingleFlight
from statsvc.api.state.snapshot import CatalogWatcher, Published
from statsvc.common.lru import Lru
from statsvc.errors import NotFound
from statsvc.store.catalog import tags
from statsvc.store.publication import open_version
from statsvc.store.versions.cached_table import CachedTable

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

OLDER_VERSIONS = 1024
"""Number of cached catalog records of versions that are not current."""

THREADS = 4
"""Responses computed at the same time; cached responses need no thread."""


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
        self._responses: SingleFlight[str, bytes] = SingleFlight(Lru(RESPONSE_BYTES, len), THREADS)

    async def published(self, name: str | None, number: int | str | None) -> Published:
        """Return a version of a dataset by number or tag; by default the current version.

        Unless the request names a number, whose version never changes, the catalog is read after the request
        arrived, so that whoever was told of a version gets it from every replica. If the catalog does not
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
            table = CachedTable(open_version(self.store, published.dataset, published.record))
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
            return self._responses.get(tag, partial(render, *map(self.table, published)))

        return await conditional.respond(request, headers, media_type, make)

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
