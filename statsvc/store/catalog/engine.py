"""Opening the catalog's database: SQLite made safe, PostgreSQL as it is, the schema checked."""

from __future__ import annotations

import fcntl
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.errors import CatalogError, Conflict

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "0003"
"""The Alembic revision this release reads and writes."""

UNSAFE_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "beegfs", "gpfs", "afs", "9p", "fuse.sshfs"}
)
"""Network file systems on which SQLite's locks or shared memory are not dependable."""


def open_engine(url: str) -> sa.Engine:
    """Connect to the catalog, bring an SQLite schema up to date, and check that it is this release's.

    Raises `CatalogError` for a URL that is not SQLite or PostgreSQL, a network file system under
    SQLite, an unreachable server, or another schema.
    """
    parsed = _parsed(url)
    with _reachable(parsed):
        if parsed.get_backend_name() == "sqlite":
            return _open_sqlite(parsed)
        return _open_postgresql(parsed)


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except sa.exc.ArgumentError:
        raise CatalogError(f"{url!r} is not a database URL; write sqlite:///FILE or postgresql://…") from None
    if backend not in ("sqlite", "postgresql"):
        raise CatalogError(f"the catalog is SQLite or PostgreSQL, not {backend}")
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed


@contextmanager
def _reachable(url: sa.URL) -> Iterator[None]:
    """Turn a driver's errors on the way into `CatalogError` naming the database without its password."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CatalogError(f"{error}; install it: pip install 'statsvc[postgres]'") from error
    except sa.exc.DBAPIError as error:
        shown = url.render_as_string(hide_password=True)
        mend = (
            ""
            if url.database is None or "unable to open" not in str(error.orig)
            else (f"; this user must be able to write in {Path(url.database).parent}, also to read")
        )
        raise CatalogError(f"the catalog {shown} cannot be opened: {error.orig}{mend}") from error


def _open_sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise CatalogError("the catalog must be a file, so that the API and the runner share it")
    file = Path(url.database)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        mounts = ""  # not Linux
    except OSError as error:
        raise CatalogError(
            f"the catalog's folder {file.parent} cannot be made: {error.strerror}; choose another --home"
        ) from error
    kind = file_system(file.parent.resolve(), mounts)
    if kind in UNSAFE_FILE_SYSTEMS:
        raise CatalogError(
            f"{file} lies on {kind}, where SQLite loses data when two hosts write; "
            "put --home on a local disk, or give PostgreSQL with --database postgresql://…"
        )
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes the lock at once: a deferred one that upgrades later can fail at COMMIT.
        write = connection.get_execution_options().get("statsvc_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    if schema_of(engine) != SCHEMA:
        _migrate_sqlite(engine)
    _check(engine)
    return engine


def _open_postgresql(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True)
    _check(engine)
    return engine


def _check(engine: sa.Engine) -> None:
    found = schema_of(engine)
    if found is None:
        raise CatalogError("the catalog is empty; create its tables once with: statsvc upgrade")
    if found != SCHEMA:
        raise CatalogError(
            f"the catalog has schema {found}, this statsvc knows {SCHEMA}; "
            "run `statsvc upgrade` with the newest release that uses it"
        )


def schema_of(engine: sa.Engine) -> str | None:
    """Return the Alembic revision of the database, or None where there are no tables yet."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _migrate_sqlite(engine: sa.Engine) -> None:
    """Upgrade under the database's own write lock, so that two processes starting at once take turns."""
    for _ in range(100):
        try:
            with write(engine) as connection:
                upgrade(connection)
        except sa.exc.OperationalError as error:
            if "locked" not in str(error.orig):
                raise
            time.sleep(0.1)
        else:
            return
    raise CatalogError("the catalog stays locked by another process; end it and try again")


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema to this release's, inside the caller's transaction.

    Raises `CatalogError` where the database was made by a newer release.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "statsvc.store.catalog:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, SCHEMA)
    except CommandError as error:
        raise CatalogError(
            f"the catalog's schema is not known to this statsvc ({error}); it was made by a newer release: "
            "install that one"
        ) from error


def upgrade_url(url: str) -> None:
    """Create or update the tables of the catalog at a URL. Raises `CatalogError`."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        open_engine(url).dispose()
        return
    with _reachable(parsed):
        engine = sa.create_engine(parsed)
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()


@contextmanager
def write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a writing transaction, committed at the end and rolled back on an exception."""
    with engine.connect().execution_options(statsvc_write=True) as connection, connection.begin():
        yield connection


@contextmanager
def alone(engine: sa.Engine, what: str, *, wait: bool = False) -> Iterator[None]:
    """Let one process at a time do something with this catalog; a process that dies lets the next one in.

    Raises `Conflict` where another one does it, unless it is to be waited for.
    """
    taken = Conflict(f"another {what} runs with this catalog; wait for it to end")
    if engine.dialect.name == "postgresql":
        key = {"key": zlib.crc32(f"statsvc {what}".encode())}
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            try:
                if wait:
                    connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), key)
                elif not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), key):
                    raise taken
                yield
            finally:
                connection.invalidate()  # the lock goes with the connection, whatever became of either
        return
    with Path(f"{engine.url.database}.{what}-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise taken from None
        yield


def file_system(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds `path`, from the text of /proc/self/mountinfo.

    Format: https://www.kernel.org/doc/html/latest/filesystems/proc.html, section 3.5.
    """
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        mount = Path(fields[4].replace("\\040", " "))
        if (path == mount or mount in path.parents) and len(mount.parts) >= best:
            best, kind = len(mount.parts), after.split(" ")[0]
    return kind
