"""Open the catalog's database: configure SQLite for durability, migrate it, and check the schema."""

from __future__ import annotations

import fcntl
import os
import re
import time
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.common.private_folder import create_private_folder
from statsvc.errors import CatalogError, Conflict
from statsvc.store.catalog import sqlite
from statsvc.store.catalog.schema import metadata, schema_versions

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "0005"
"""The Alembic revision this release reads and writes."""

COMPATIBLE_FROM = "0004"
"""The oldest revision whose releases can use this schema, because later changes only add."""

UNSAFE_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "beegfs", "gpfs", "afs", "9p", "fuse.sshfs"}
)
"""Network file systems on which SQLite's file locks or shared memory are unreliable."""

_MIGRATION_TRIES, _MIGRATION_PAUSE_SECONDS = 100, 0.1

_LOCK_PAUSE_SECONDS = 0.2
"""Interval at which a waiting task tries to take its lock on PostgreSQL, whose statements are limited."""

_SQLITE_FILE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>.+)", re.DOTALL)


def open_engine(url: str) -> sa.Engine:
    """Connect to the catalog, migrate an SQLite database, and check that the schema matches this release.

    Raises `CatalogError` for a URL that is not SQLite or PostgreSQL, SQLite on a network file system, an
    unreachable server, or a schema of another release.
    """
    parsed = _parse(url)
    with _translated_errors(parsed):
        if parsed.get_backend_name() == "sqlite":
            return _open_sqlite(parsed)
        return _open_postgresql(parsed)


def _parse(url: str) -> sa.URL:
    # SQLAlchemy would take "?" in a path for the start of options.
    if (file := _SQLITE_FILE.fullmatch(url)) is not None:
        return sa.URL.create("sqlite", database=file["path"])
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except sa.exc.ArgumentError:
        raise CatalogError(f"{url!r} is not a database URL; use sqlite:///FILE or postgresql://…") from None
    if backend not in ("sqlite", "postgresql"):
        raise CatalogError(f"the catalog must be SQLite or PostgreSQL, not {backend}")
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for another database."""
    file = _SQLITE_FILE.fullmatch(url)
    return None if file is None else Path(file["path"])


@contextmanager
def _translated_errors(url: sa.URL) -> Iterator[None]:
    """Translate the driver's errors into `CatalogError`, which names the database without its password."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CatalogError(f"{error}; install it: pip install 'statsvc[postgres]'") from error
    except sa.exc.DBAPIError as error:
        advice = ""
        if sqlite.is_disk_full(error.orig) or "disk I/O error" in str(error.orig):
            advice = "; is the disk full? Free some space on it"
        shown = url.render_as_string(hide_password=True)
        if url.database is not None and "unable to open" in str(error.orig):
            advice = (
                f"; SQLite needs write permission for {Path(url.database).parent} even to read, "
                "so grant it to this user"
            )
        raise CatalogError(f"the catalog {shown} cannot be opened: {error.orig}{advice}") from error


def _open_sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise CatalogError("the SQLite catalog must be a file, because the API and the runner share it")
    file = Path(url.database)
    try:
        create_private_folder(file.parent)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        mounts = ""  # not Linux
    except OSError as error:
        raise CatalogError(
            f"the catalog's folder {file.parent} cannot be created: {error.strerror}; choose another --home"
        ) from error
    kind = file_system(file.parent.resolve(), mounts)
    if kind in UNSAFE_FILE_SYSTEMS:
        raise CatalogError(
            f"{file} is on a {kind} file system, where SQLite loses data if two hosts write; "
            "choose a --home on a local disk, or use PostgreSQL with --database postgresql://…"
        )
    # The catalog contains digests of tokens. SQLite gives its other files the same permissions.
    with suppress(OSError):  # SQLite reports a folder that it cannot use
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = sqlite.create_engine(url)
    if not is_usable(engine):
        _migrate_sqlite(engine)
        _check(engine)
    return engine


def _open_postgresql(url: sa.URL) -> sa.Engine:
    from statsvc.store.catalog import postgresql

    engine = postgresql.create_engine(url)
    _check(engine)
    return engine


def is_usable(engine: sa.Engine) -> bool:
    """Whether this release can use the database's schema: it is the same, or a newer one that only adds."""
    revision = schema_of(engine)
    if revision is None or revision == SCHEMA:
        return revision is not None
    with engine.connect() as connection:
        return is_compatible(connection, revision)


def is_compatible(connection: sa.Connection, revision: str) -> bool:
    """Whether a schema can be used by this release, although a newer release created it."""
    if not sa.inspect(connection).has_table(schema_versions.name):
        return False
    oldest = connection.scalar(
        sa.select(schema_versions.c.compatible_from).where(schema_versions.c.revision == revision)
    )
    return oldest is not None and oldest <= SCHEMA <= revision


def _check(engine: sa.Engine) -> None:
    revision = schema_of(engine)
    if revision is None:
        raise CatalogError("the catalog has no tables yet; create them with: statsvc upgrade")
    if not is_usable(engine):
        raise CatalogError(
            f"the catalog has schema {revision}, but this release of statsvc needs schema {SCHEMA}; "
            "run `statsvc upgrade` with the newest release that uses this catalog"
        )


def schema_of(engine: sa.Engine) -> str | None:
    """Return the Alembic revision of the database, or None if it has no tables yet."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _migrate_sqlite(engine: sa.Engine) -> None:
    """Upgrade under the database's write lock, so that processes that start together do it one by one."""
    for _ in range(_MIGRATION_TRIES):
        try:
            with write(engine) as connection:
                if sa.inspect(connection).has_table("alembic_version"):
                    upgrade(connection)
                else:
                    _create(connection)
        except sa.exc.OperationalError as error:
            if "locked" not in str(error.orig):
                raise
            time.sleep(_MIGRATION_PAUSE_SECONDS)
        else:
            return
    raise CatalogError("the catalog is locked by another process; stop that process and try again")


def _create(connection: sa.Connection) -> None:
    """Create the tables of this release in an empty database, as the migrations would.

    This takes a tenth of the time of the migrations, which first have to load Alembic.
    """
    metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (SCHEMA,))
    connection.execute(schema_versions.insert().values(revision=SCHEMA, compatible_from=COMPATIBLE_FROM))


def upgrade(connection: sa.Connection) -> None:
    """Migrate the schema to that of this release, in the caller's transaction.

    Raises `CatalogError` if the database was created by a newer release.
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
            f"this release of statsvc cannot migrate the catalog ({error}); "
            "the catalog was created by a newer release, so install that release"
        ) from error


def upgrade_url(url: str, api_role: str | None = None) -> None:
    """Create or update the tables of the catalog at a URL. Raises `CatalogError`.

    api_role  PostgreSQL role of API servers, which gets the privileges that they need
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        if api_role is not None:
            raise CatalogError("SQLite has no roles; leave out --api-role, or use PostgreSQL")
        open_engine(url).dispose()
        return
    with _translated_errors(parsed):
        from statsvc.store.catalog import postgresql, privileges

        engine = postgresql.create_engine(parsed, statement_seconds=None)
        try:
            with engine.begin() as connection:
                # Held until the transaction ends: processes that upgrade at the same time do it one by one.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), _lock_key("upgrade"))
                upgrade(connection)
                if api_role is not None:
                    privileges.grant(connection, api_role)
        finally:
            engine.dispose()


@contextmanager
def write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a writing transaction, which is committed at the end and rolled back on an exception."""
    with engine.connect().execution_options(statsvc_write=True) as connection, connection.begin():
        yield connection


@contextmanager
def exclusive(engine: sa.Engine, task: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the catalog's lock for a task, which one process at a time may run; it ends with the process.

    If another process holds the lock, wait for it with `wait`, else raise `Conflict`.
    """
    taken = Conflict(f"another {task} is running on this catalog; wait until it ends")
    if engine.dialect.name == "postgresql":
        key = _lock_key(task)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            try:
                while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), key):
                    if not wait:
                        raise taken
                    time.sleep(_LOCK_PAUSE_SECONDS)
                try:
                    yield
                finally:
                    # Unlock explicitly: a server takes a while to notice that a connection was closed.
                    with suppress(sa.exc.SQLAlchemyError):
                        connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), key)
            finally:
                connection.invalidate()  # closing the connection releases the lock if unlocking failed
        return
    # The lock is on the folder, so that it needs no new file on a disk without free inodes. Locking the
    # database's file itself would release SQLite's own locks.
    folder = os.open(Path(str(engine.url.database)).absolute().parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise taken from None
        yield
    finally:
        os.close(folder)


def _lock_key(task: str) -> dict[str, int]:
    """Return the key of a task's advisory lock on PostgreSQL."""
    return {"key": zlib.crc32(f"statsvc {task}".encode())}


def file_system(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that contains `path`, from the text of /proc/self/mountinfo.

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
