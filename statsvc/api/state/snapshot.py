"""A copy of the catalog in memory: most requests are served from it, without SQL."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.to_thread
import xxhash

from statsvc.classes.class_maps import builtin
from statsvc.errors import InvalidParameter, NotFound, StatsvcError, nearest
from statsvc.store.catalog import overview, tags, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.catalog.tokens import Token

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Interval between polls of the catalog."""


MAX_NAMES = 20
"""Dataset names that an error message lists."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published version.

    digest  identifies everything that responses follow from: dataset, arrays and configuration. It is the
            same on every replica.
    """

    dataset: str
    record: VersionRecord
    digest: str

    @classmethod
    def of(cls, dataset: str, record: VersionRecord) -> Published:
        """Return the version of a dataset with its digest."""
        content = [
            record.dataset_uid,
            dataset,
            record.number,
            record.reader,
            dict(record.digests),
            record.samples,
            record.failed,
            record.configuration.to_dict(),
        ]
        return cls(dataset, record, xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode()))

    def digest_under(self, class_map: str | None) -> str:
        """Return the digest of responses under another class map.

        A version without rows gives other responses than before: it no longer knows which images contain
        a class that the map merges from several raw ids.

        class_map  name of a built-in map, "none" for raw ids, None for the configured map
        """
        configured = self.record.configuration.class_map
        if self.record.expired_at is None or class_map in (None, "none") or builtin(class_map) == configured:
            return self.digest
        return f"{self.digest} without rows"

    @property
    def key(self) -> tuple[str, int, bool]:
        """Cache key of its table: uid of the dataset, version number, and whether its rows have expired."""
        return self.record.dataset_uid, self.record.number, self.record.expired_at is not None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the catalog at one moment.

    revisions  (uid, revision) of every dataset, to detect changes
    datasets   name → dataset and its current version
    tokens     tokens that have not been revoked
    tags       uid of a dataset → tag → version number
    """

    revisions: list[tuple[str, int]]
    datasets: Mapping[str, tuple[Dataset, Published | None]]
    tokens: tuple[Token, ...]
    tags: Mapping[str, dict[str, int]]

    def dataset(self, name: str | None) -> tuple[Dataset, Published | None]:
        """Return a dataset and its current version; without a name, the only dataset.

        Without a name, datasets without a version are skipped, unless no dataset has a version.

        Raises `NotFound` for an unknown name, `InvalidParameter` if several datasets match.
        """
        names = list(self.datasets)
        if name is None:
            names = [each for each, (_, version) in self.datasets.items() if version is not None] or names
        available = ", ".join(names[:MAX_NAMES]) or "none; add one with POST /datasets or statsvc scan SOURCE"
        if name is None:
            if len(names) > 1:
                raise InvalidParameter(
                    ("dataset", f"required, because there are {len(names)} datasets: {available}")
                )
            if not names:
                raise NotFound(f"there is no dataset; datasets: {available}")
            name = names[0]
        if name not in self.datasets:
            raise NotFound(f"there is no dataset {name!r}{nearest(name, names)}; datasets: {available}")
        return self.datasets[name]


def load(catalog: Catalog, previous: Snapshot | None = None) -> Snapshot:
    """Read the catalog; return `previous` itself if nothing has changed since."""
    # Revisions first: the next poll detects a change between the two reads.
    revisions = overview.revisions(catalog)
    if previous is not None and previous.revisions == revisions:
        return previous
    known = {} if previous is None else previous.datasets
    datasets: dict[str, tuple[Dataset, Published | None]] = {}
    for dataset, record in overview.current(catalog):
        _, published = known.get(dataset.name, (None, None))
        if record is None:
            published = None
        elif published is None or published.record != record:
            published = Published.of(dataset.name, record)
        datasets[dataset.name] = (dataset, published)
    valid_tokens = tuple(token for token in tokens.all_tokens(catalog) if token.revoked_at is None)
    return Snapshot(revisions, datasets, valid_tokens, tags.all_tags(catalog))


class CatalogWatcher:
    """Keeps the snapshot of the process up to date; while the catalog fails, the last snapshot stays."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.snapshot = load(catalog)
        self._read_at = time.monotonic()
        self._failing = False
        self._refreshing = asyncio.Lock()

    @property
    def age(self) -> int | None:
        """Seconds since the last successful poll, or None while polls succeed."""
        return int(time.monotonic() - self._read_at) if self._failing else None

    async def refresh(self) -> None:
        """Replace the snapshot if the catalog has changed. A failing catalog is logged, not raised."""
        from sqlalchemy.exc import SQLAlchemyError

        async with self._refreshing:
            try:
                self.snapshot = await anyio.to_thread.run_sync(load, self._catalog, self.snapshot)
            except (SQLAlchemyError, StatsvcError, OSError) as error:
                if not self._failing:
                    log.warning("the catalog is unavailable; serving from memory until it is back: %s", error)
                self._failing = True
                return
            if self._failing:
                log.warning("the catalog is available again")
            self._failing, self._read_at = False, time.monotonic()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:
                # An unforeseen error must not end the only task that refreshes the snapshot.
                log.exception("the snapshot could not be refreshed")
            await asyncio.sleep(POLL_SECONDS)
