"""A copy of the catalog in memory: most requests are served from it, without SQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import xxhash
from msgspec import Struct

from statsvc.classes.class_maps import builtin
from statsvc.errors import Inapplicable, NotFound, StatsvcError, nearest
from statsvc.store.catalog import operations, overview, tags, tokens
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc.store.catalog.ended_jobs import EndedJobs
from statsvc.store.catalog.engine import SCHEMA, is_usable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.operations import Operations
    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.catalog.tokens import Token

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Interval between polls of the catalog."""

PATIENCE_SECONDS = 2.0
"""How long a read of the catalog may take. Beyond it, answers come from memory and say how old they are."""
OPERATIONS_SECONDS = 5.0
"""Interval between checks of the runners and of failing scans."""

MAX_NAMES = 20
"""Dataset names that an error message lists."""


class Published(Struct, frozen=True):
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
        digest = xxhash.xxh3_128()
        # In pieces: other threads wait while a split of many paths is encoded or hashed as a whole.
        for piece in json.JSONEncoder(sort_keys=True).iterencode(content):
            digest.update(piece.encode())
        return cls(dataset, record, digest.hexdigest())

    def digest_under(self, class_map: str | None) -> str:
        """Return the digest of responses under another class map.

        A version without rows gives other responses than before: it no longer knows which images contain
        a class that the map merges from several raw ids, nor, without its grid, whether crops matter.

        class_map  name of a built-in map, "none" for raw ids, None for the configured map
        """
        configured = self.record.configuration.class_map
        is_own = class_map in (None, "none") or builtin(class_map) == configured
        if self.record.expired_at is None or (is_own and "grid_shape" not in self.record.digests):
            return self.digest
        return f"{self.digest} without rows"

    @property
    def key(self) -> tuple[str, int, bool]:
        """Cache key of its table: uid of the dataset, version number, and whether its rows have expired."""
        return self.record.dataset_uid, self.record.number, self.record.expired_at is not None


class Snapshot(Struct, frozen=True):
    """State of the catalog at one moment.

    schema     the schema of the database
    usable     whether this release can use that schema
    revisions  (uid, revision) of every dataset, to detect changes
    datasets   name → dataset and its current version
    tokens     tokens that have not been revoked
    tags       uid of a dataset → tag → version number
    """

    schema: str
    usable: bool
    revisions: list[tuple[str, int]]
    datasets: Mapping[str, tuple[Dataset, Published | None]]
    tokens: tuple[Token, ...]
    tags: Mapping[str, dict[str, int]]

    def has_version(self, name: str | None) -> bool:
        """Whether a dataset, or without a name some dataset, is known to have a version."""
        if name is not None:
            return self.datasets.get(name, (None, None))[1] is not None
        return any(version is not None for _, version in self.datasets.values())

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
                raise Inapplicable(
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
    schema, revisions = overview.revisions(catalog)
    if previous is not None and (previous.schema, previous.revisions) == (schema, revisions):
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
    return Snapshot(
        schema, is_usable(catalog.engine), revisions, datasets, valid_tokens, tags.all_tags(catalog)
    )


class CatalogWatcher:
    """Keeps the snapshot of the process up to date; while the catalog fails, the last snapshot stays.

    Requests that arrive while the catalog is being read share the read that follows, so that the catalog's
    load does not grow with their number. Only for use in the event loop.

    operations     the state of runners and scans; None until it was read
    operations_at  when it was read, in seconds of the monotonic clock
    on_ended       called with the jobs that have ended since the last call
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._read_at = time.monotonic()
        self._changes = catalog.changes()
        self._marker = self._current_marker()
        self.snapshot = load(catalog)
        self._failing = False
        self._reading: asyncio.Task[None] | None = None
        self._reading_since = 0.0
        self._next: asyncio.Task[None] | None = None
        self._threads = anyio.CapacityLimiter(2)  # of its own: it never waits for threads of requests
        self.operations: Operations | None = None
        self.operations_at = 0.0
        self.on_ended: Callable[[Sequence[Job]], None] = lambda _jobs: None
        self._ended = EndedJobs()

    @property
    def age(self) -> int | None:
        """Seconds since the snapshot was read; None while the catalog answers within `PATIENCE_SECONDS`."""
        clock = time.monotonic()
        overdue = self._reading is not None and clock - self._reading_since > PATIENCE_SECONDS
        return int(clock - self._read_at) if self._failing or overdue else None

    @property
    def problem(self) -> str | None:
        """Why the catalog cannot be used, None if it can."""
        if (age := self.age) is not None:
            return f"the catalog has not answered for {age} s; reads are answered from memory"
        return self.wrong_schema

    @property
    def wrong_schema(self) -> str | None:
        """Why this release cannot use the schema of the catalog, None if it can."""
        if self.snapshot.usable:
            return None
        return (
            f"the catalog has schema {self.snapshot.schema}, but this release of statsvc requires "
            f"{SCHEMA}; run statsvc upgrade, or install the release that matches the catalog"
        )

    async def fresh(self) -> bool:
        """Wait until the snapshot is as new as this call; return False if the catalog does not answer.

        While it does not answer, nobody waits: `age` is the age of the snapshot then.
        """
        if self._failing:
            return False  # `run` goes on trying
        if self._marker is not None and self._current_marker() == self._marker:
            self._read_at = time.monotonic()
            return True
        read = self._next_read()
        while self.age is None and not read.done():
            await asyncio.wait({read}, timeout=PATIENCE_SECONDS / 8)
        return self.age is None

    async def refresh(self) -> None:
        """Replace the snapshot if the catalog has changed. A failing catalog is logged, not raised."""
        # Shielded, and not awaited directly: a request that is cancelled must not cancel the read of others.
        await asyncio.wait({self._next_read()})

    async def run(self) -> None:
        """Refresh until cancelled."""
        next_operations = 0.0
        while True:
            await self.refresh()
            if time.monotonic() >= next_operations and self.age is None:
                next_operations = time.monotonic() + OPERATIONS_SECONDS
                await self.refresh_operations()
                await self._report_ended_jobs()
            await asyncio.sleep(POLL_SECONDS)

    async def refresh_operations(self) -> None:
        """Read whether scans work. A failing catalog is not an error here, because `refresh` reports it."""
        try:
            self.operations = await anyio.to_thread.run_sync(
                operations.read, self._catalog, limiter=self._threads
            )
            self.operations_at = time.monotonic()
        except DatabaseError:
            pass
        except Exception:
            # As in `_read`: it must not end the task that refreshes the snapshot.
            log.exception("the state of runners and scans could not be read")

    async def _report_ended_jobs(self) -> None:
        """Pass on which jobs have ended. Only for `run`: two polls at a time would report a job twice."""
        with contextlib.suppress(DatabaseError):  # the next poll finds them
            self.on_ended(
                await anyio.to_thread.run_sync(self._ended.poll, self._catalog, limiter=self._threads)
            )

    def warnings(self, published: Published) -> list[str]:
        """Return why the counts of a current version may be out of date."""
        if self.operations is None:
            return []
        record = published.record
        reasons = (
            self.operations.stale_counts(record.dataset_uid, record.created_at),
            self.operations.missing_runner(),
        )
        return [f"{published.dataset}: {reason}" for reason in reasons if reason is not None]

    async def close(self) -> None:
        """Wait until no read is in progress, at most as long as a statement may take."""
        pending = {task for task in (self._reading, self._next) if task is not None}
        if pending:
            await asyncio.wait(pending, timeout=PATIENCE_SECONDS)
        if self._changes is not None:
            self._changes.close()

    def _next_read(self) -> asyncio.Task[None]:
        """Return a read of the catalog that starts after this call."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._read_after(self._reading))
        return self._next

    async def _read_after(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait({previous})
        self._reading, self._next = self._next, None
        self._reading_since = time.monotonic()
        try:
            await self._read()
        finally:
            self._reading = None

    async def _read(self) -> None:
        started = time.monotonic()
        marker = self._current_marker()  # before reading, so that a later commit is detected
        try:
            self.snapshot = await anyio.to_thread.run_sync(
                load, self._catalog, self.snapshot, limiter=self._threads
            )
        except (DatabaseError, StatsvcError, OSError) as error:
            if not self._failing:
                log.warning("the catalog is unavailable; serving from memory until it is back: %s", error)
            self._failing = True
        except Exception:
            # An unforeseen error must not end the only task that refreshes the snapshot.
            log.exception("the snapshot could not be refreshed")
            self._failing = True
        else:
            if self._failing:
                log.warning("the catalog is available again")
            self._failing, self._read_at, self._marker = False, started, marker

    def _current_marker(self) -> object | None:
        """Return what changes with every commit to the catalog; None if only reading it can tell."""
        return None if self._changes is None else self._changes.marker()
