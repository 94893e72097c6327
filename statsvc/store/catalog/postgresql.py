"""Connections to PostgreSQL that never wait for ever, nor make others wait.

A database that failed over, or a firewall that forgot a connection, can leave it silent: no answer and no
error. The kernel notices only after 15 minutes, and never if a proxy in between still accepts the bytes. So
each connection also has a limit of its own for how long the server may stay silent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Generator

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


def create_engine(url: sa.URL, *, statement_seconds: float | None = STATEMENT_SECONDS) -> sa.Engine:
    """Return the engine for a PostgreSQL URL.

    statement_seconds  time limit of each statement; None for none, as migrations need
    """
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
    engine = sa.create_engine(url, pool_pre_ping=True, connect_args=defaults)

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
        kind = psycopg.Connection if statement_seconds is None else LimitedConnection
        connection = kind.connect(*args, **parameters)
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
