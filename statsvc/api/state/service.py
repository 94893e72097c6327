"""What the endpoints of one application share: catalog, snapshot, and what is kept in memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, Request

from statsvc.api.state.cached_table import RememberedTable
from statsvc.api.state.job_events import Feed
from statsvc.api.state.lru import Lru
from statsvc.api.state.single_flight import Once
from statsvc.api.state.snapshot import CatalogWatcher, Published
from statsvc.errors import NotFound
from statsvc.store.catalog import tags
from statsvc.store.publication import open_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.versions.location import Location

T = TypeVar("T")

ANSWER_BYTES = 64 * 2**20
"""Finished answers kept in memory, in bytes."""

TABLES = 8
"""Versions whose tables are kept open."""

THREADS = 4
"""Answers computed at the same time; what is in memory needs no thread."""


class Service:
    """The parts of one application; used from its event loop only."""

    def __init__(self, catalog: Catalog, store: Location, roots: Sequence[Path | str]) -> None:
        self.catalog, self.store, self.roots = catalog, store.with_short_timeouts(), tuple(roots)
        self.watch = CatalogWatcher(catalog)
        self.feed = Feed(catalog)
        self._older: Once[tuple[str, int, int], Published] = Once(Lru(1024), THREADS)
        self._tables: Lru[tuple[str, int, bool], RememberedTable] = Lru(TABLES)
        self._answers: Once[str, bytes] = Once(Lru(ANSWER_BYTES, len), THREADS)

    async def published(self, name: str | None, number: int | str | None) -> Published:
        """Return a dataset's version by number or tag, by default the current one.

        An older one is looked up once, until something of its dataset changes. Raises `NotFound`, or
        `InvalidParameter` where the name must be given.
        """
        dataset, current = self.watch.snapshot.dataset(name)
        if current is None:
            raise NotFound(await self.in_thread(self.catalog.why_unversioned, dataset))
        if isinstance(number, str):
            number = tags.number_of(dataset.name, self.watch.snapshot.tags.get(dataset.uid, {}), number)
        if number in (None, current.record.number):
            return current
        assert number is not None
        asked = number

        def look_up() -> Published:
            return Published.of(dataset.name, self.catalog.version(dataset, asked))

        return await self._older.get((dataset.uid, dataset.revision, asked), look_up)

    def table(self, published: Published) -> RememberedTable:
        """Return a version's table; opening it reads nothing."""
        table = self._tables.get(published.key)
        if table is None:
            table = RememberedTable(open_version(self.store, published.dataset, published.record))
            self._tables.put(published.key, table)
        return table

    async def answer(self, tag: str, make: Callable[..., bytes], *published: Published) -> bytes:
        """Return the answer with an ETag, made from the versions' tables once."""
        return await self._answers.get(tag, partial(make, *map(self.table, published)))

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run what waits for the catalog or the disk in a worker thread."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))


# `async`, though it waits for nothing: FastAPI sends a plain function to a thread and back for every request.
async def of(request: Request) -> Service:
    """Return the service of the application that a request came to."""
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(of)]
"""The application's service, as a parameter of an endpoint."""
