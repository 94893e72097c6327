"""What the catalog holds, kept in memory: requests are answered from here, not from SQL."""

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
"""How often the catalog is asked whether anything changed."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published version. `digest` stands for everything its answers follow from, on every replica."""

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
        """Return what stands for answers under a built-in class map, "none" for raw ids, None for its own.

        Without its rows, a version no longer knows in which images a class of another map occurs.
        """
        own = self.record.configuration.class_map
        if self.record.expired_at is None or class_map in (None, "none") or builtin(class_map) == own:
            return self.digest
        return f"{self.digest} without rows"

    @property
    def key(self) -> tuple[str, int, bool]:
        """The dataset's uid, the number, and whether it has lost its rows: a version as it is read."""
        return self.record.dataset_uid, self.record.number, self.record.expired_at is not None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every dataset with its current version, every token that holds, and the tags, as of one moment.

    Tags are {uid of the dataset: {tag: number}}.
    """

    revisions: list[tuple[str, int]]
    datasets: Mapping[str, tuple[Dataset, Published | None]]
    tokens: tuple[Token, ...]
    tags: Mapping[str, dict[str, int]]

    def dataset(self, name: str | None) -> tuple[Dataset, Published | None]:
        """Return a dataset and its current version; without a name, the only one there is.

        Those without a version do not count, unless there are no others. Raises `NotFound`, or
        `InvalidParameter` where a name must choose between several.
        """
        names = list(self.datasets)
        if name is None:
            names = [one for one, (_, version) in self.datasets.items() if version is not None] or names
        there = ", ".join(names[:20]) or "none yet; add one with POST /datasets or statsvc scan SOURCE"
        if name is None:
            if len(names) > 1:
                raise InvalidParameter(("dataset", f"there are {len(names)} datasets, give one: {there}"))
            if not names:
                raise NotFound(f"there is no dataset to answer from; datasets: {there}")
            name = names[0]
        if name not in self.datasets:
            raise NotFound(f"there is no dataset {name!r}{nearest(name, names)}; datasets: {there}")
        return self.datasets[name]


def load(catalog: Catalog, previous: Snapshot | None = None) -> Snapshot:
    """Read the catalog; return `previous` itself where nothing changed since."""
    # Revisions first: what changes between the two reads is noticed at the next look.
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
    held = tuple(token for token in tokens.all_tokens(catalog) if token.revoked_at is None)
    return Snapshot(revisions, datasets, held, tags.all_tags(catalog))


class CatalogWatcher:
    """The process's snapshot, kept fresh by one task; it stays as it was while the catalog fails."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.snapshot = load(catalog)
        self._read_at = time.monotonic()
        self._failing = False
        self._refreshing = asyncio.Lock()

    @property
    def age(self) -> int | None:
        """Seconds since the catalog last answered, or None while it does."""
        return int(time.monotonic() - self._read_at) if self._failing else None

    async def refresh(self) -> None:
        """Take up what the catalog holds now. A failing catalog is logged, not raised."""
        from sqlalchemy.exc import SQLAlchemyError

        async with self._refreshing:
            try:
                self.snapshot = await anyio.to_thread.run_sync(load, self._catalog, self.snapshot)
            except (SQLAlchemyError, StatsvcError, OSError) as error:
                if not self._failing:
                    log.warning("the catalog does not answer, serving what is in memory: %s", error)
                self._failing = True
                return
            if self._failing:
                log.warning("the catalog answers again")
            self._failing, self._read_at = False, time.monotonic()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:
                # The one task that keeps answers fresh: an error nobody thought of must not end it.
                log.exception("the snapshot could not be refreshed")
            await asyncio.sleep(POLL_SECONDS)
