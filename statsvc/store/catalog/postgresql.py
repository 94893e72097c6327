"""Connections to PostgreSQL that never wait for ever, nor make others wait.

A database that failed over, or a firewall that forgot a connection, can leave it silent: no answer and no
error. The kernel notices only after 15 minutes, and never if a proxy in between still accepts the bytes. So
each connection also has a limit of its own for how long the server may stay silent.
"""

from __future__ import annotations

import functools
import time
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from psycopg.types.string import TextLoader

from statsvc.errors import Conflict
from statsvc.store.catalog.connection import CLOSE_SECONDS, Connection, Engine, taken
from statsvc.store.catalog.database_errors import DatabaseError, IntegrityError
from statsvc.store.catalog.dialects import postgresql_statement

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

CONNECT_SECONDS = 5
"""Time limit for opening a connection."""

STATEMENT_SECONDS = 8.0
"""Time limit of a statement, which the server enforces; the connection stays usable."""

SILENCE_SECONDS = 10.0
"""How long the server may send nothing during a statement; longer than `STATEMENT_SECONDS`, and shorter than
a lease, so that a runner whose connection is dead renews its lease on another one."""

IDLE_SECONDS = 10.0
"""How long a transaction may wait for its next statement before the server ends it. A host that hangs in the
middle of a transaction would lock the rows of a dataset until it is repaired. Shorter than a lease, so that
another runner can take over the job when the lease expires."""

_LOCK_PAUSE_SECONDS = 0.2
"""Interval at which a waiting task tries to take its lock, because statements are limited."""

_POLL_SECONDS = 0.01

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": int(SILENCE_SECONDS * 1000),
}
"""Parameters of libpq; those in the URL take precedence."""


class LimitedConnection(psycopg.Connection[Any]):
    """A connection that closes itself if the server stays silent for too long during an operation.

    The operation then raises `psycopg.OperationalError`, and SQLAlchemy replaces the connections of its pool.
    """

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation of the connection: a statement, BEGIN, COMMIT or ROLLBACK."""
        return super().wait(self._limited(gen), *args, **kwargs)

    def _limited(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Pass the operation's steps on; `ready` is 0 where the wait found nothing to read or write."""
        try:
            wanted = next(gen)
            heard = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"the database did not answer for {SILENCE_SECONDS:g} s; the connection was closed"
                    )
                # A step without news needs no answer: it keeps waiting for the same.
                wanted = gen.send(ready) or wanted
        except StopIteration as end:
            return end.value


class PostgresqlEngine(Engine):
    """A database on a PostgreSQL server."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction."""
        with translated(), self.engine.begin() as connection:
            yield PostgresqlConnection(connection)

    def write(self) -> Any:
        """Open a transaction, which is committed at the end and rolled back on an exception."""
        return self.read()

    @contextmanager
    def exclusive(self, task: str, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock of a task; see `Engine.exclusive`."""
        key = lock_key(task)
        with (
            translated(),
            self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            try:
                while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), key):
                    if not wait:
                        raise Conflict(taken(task))
                    time.sleep(_LOCK_PAUSE_SECONDS)
                try:
                    yield
                finally:
                    # Unlock explicitly: a server takes a while to notice that a connection was closed.
                    with suppress(sa.exc.SQLAlchemyError):
                        connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), key)
            finally:
                connection.invalidate()  # closing the connection releases the lock if unlocking failed

    def changes(self) -> None:
        """Return None: only a query can tell whether something has changed."""

    def close(self) -> None:
        """Close every connection, after waiting a moment for the threads that use one."""
        pool = self.engine.pool
        # A connection that a thread returns after the pool is disposed of would stay open.
        end = time.monotonic() + CLOSE_SECONDS
        while isinstance(pool, sa.QueuePool) and pool.checkedout() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        self.engine.dispose()


class PostgresqlConnection(Connection):
    """A connection to PostgreSQL with an open transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, /, **values: Any) -> int:
        """Execute a statement that returns no rows; return how many rows it changed."""
        with translated():
            return self._connection.execute(_text(statement), values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Execute a statement once for the values of each row."""
        with translated():
            self._connection.execute(_text(statement), list(rows))

    def has_table(self, name: str) -> bool:
        """Whether a table exists."""
        return self.scalar("SELECT to_regclass(:name)", name=name) is not None

    def _fetch(self, statement: str, values: Mapping[str, Any]) -> tuple[Iterable[str], Sequence[Any]]:
        with translated():
            result = self._connection.execute(_text(statement), values)
            return result.keys(), result.all()


@functools.cache
def _text(statement: str) -> sa.TextClause:
    return sa.text(postgresql_statement(statement))


@contextmanager
def translated() -> Iterator[None]:
    """Translate the errors of SQLAlchemy and of the driver into `DatabaseError`."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        kind = IntegrityError if isinstance(error, sa.exc.IntegrityError) else DatabaseError
        raise kind(str(error.orig), error.orig, connection_lost=error.connection_invalidated) from error
    except sa.exc.SQLAlchemyError as error:  # for instance, no connection became free in time
        raise DatabaseError(str(error)) from error


def lock_key(task: str) -> dict[str, int]:
    """Return the key of a task's advisory lock."""
    return {"key": zlib.crc32(f"statsvc {task}".encode())}


def create_engine(url: sa.URL, *, statement_seconds: float | None = STATEMENT_SECONDS) -> sa.Engine:
    """Return the pool of connections to a PostgreSQL server.

    statement_seconds  time limit of each statement; None for none, as migrations need
    """
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
    engine = sa.create_engine(url, pool_pre_ping=True, connect_args=defaults)

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
        kind = psycopg.Connection if statement_seconds is None else LimitedConnection
        connection = kind.connect(*args, **parameters)
        connection.adapters.register_loader("json", TextLoader)
        if statement_seconds is not None:
            # Not as a startup parameter, which connection poolers reject.
            try:
                connection.autocommit = True
                connection.execute(
                    f"SET statement_timeout = {int(statement_seconds * 1000)}; "
                    f"SET idle_in_transaction_session_timeout = {int(IDLE_SECONDS * 1000)}"
                )
                connection.autocommit = False
            except BaseException:
                connection.close()
                raise
        return connection

    return engine
