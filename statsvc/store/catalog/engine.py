"""Open the catalog's database: configure SQLite for durability, migrate it, and check the schema."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.common.private_folder import create_private_folder
from statsvc.errors import CatalogError
from statsvc.store.catalog import schema, sqlite
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc.store.catalog.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from statsvc.store.catalog.connection import Connection, Engine

SCHEMA = "0005"
"""The Alembic revision this release reads and writes."""

COMPATIBLE_FROM = "0004"
"""The oldest revision whose releases can use this schema, because later changes only add."""

UNSAFE_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "beegfs", "gpfs", "afs", "9p", "fuse.sshfs"}
)
"""Network file systems on which SQLite's file locks or shared memory are unreliable."""

_MIGRATION_TRIES, _MIGRATION_PAUSE_SECONDS = 100, 0.1

_NO_FILE = "the SQLite catalog must be a file, because the API and the runner share it"

_SQLITE_FILE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>.+)", re.DOTALL)


def open_engine(url: str) -> Engine:
    """Connect to the catalog, migrate an SQLite database, and check that the schema matches this release.

    Raises `CatalogError` for a URL that is not SQLite or PostgreSQL, SQLite on a network file system, an
    unreachable server, or a schema of another release.
    """
    if (file := sqlite_file(url)) is not None:
        with _translated_errors(f"sqlite:///{file}", file):
            return _open_sqlite(file)
    server = _server(url)
    with _translated_errors(_shown(server)):
        from statsvc.store.catalog import postgresql

        engine = postgresql.PostgresqlEngine(postgresql.create_engine(server))
        _check(engine)
        return engine


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for another database."""
    file = _SQLITE_FILE.fullmatch(url)
    return None if file is None else Path(file["path"])


def _server(url: str) -> sa.URL:
    """Return the URL of a PostgreSQL database."""
    scheme, separator, _ = url.partition("://")
    backend = scheme.partition("+")[0]
    if not separator:
        raise CatalogError(f"{url!r} is not a database URL; use sqlite:///FILE or postgresql://…")
    if backend == "sqlite":
        raise CatalogError(_NO_FILE)
    if backend != "postgresql":
        raise CatalogError(f"the catalog must be SQLite or PostgreSQL, not {backend}")
    with _missing_package("postgres"):
        import sqlalchemy as sa
    try:
        return sa.make_url(url).set(drivername="postgresql+psycopg")
    except (sa.exc.ArgumentError, ValueError):  # not with the URL, which may contain a password
        raise CatalogError(
            "the URL of the database is malformed; use postgresql://USER@HOST:PORT/NAME"
        ) from None


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)


@contextmanager
def _missing_package(extra: str) -> Iterator[None]:
    """Translate the error of a package that an extra installs."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise CatalogError(f"{package} is not installed. Run: pip install 'statsvc[{extra}]'") from error


@contextmanager
def _translated_errors(shown: str, file: Path | None = None) -> Iterator[None]:
    """Translate errors of the database and a missing package into `CatalogError`.

    shown  the database's URL without its password
    file   the file of an SQLite database
    """
    try:
        with _missing_package("postgres" if file is None else "store"):
            yield
    except DatabaseError as error:
        advice = ""
        if sqlite.is_disk_full(error.orig) or "disk I/O error" in str(error):
            advice = "; is the disk full? Free some space on it"
        if file is not None and ("unable to open" in str(error) or "readonly" in str(error)):
            advice = (
                f"; SQLite needs write permission for {file.parent} even to read, so grant it to this user"
            )
        raise CatalogError(f"the catalog {shown} cannot be opened: {error}{advice}") from error


def _open_sqlite(file: Path) -> SqliteEngine:
    if str(file) == ":memory:":
        raise CatalogError(_NO_FILE)
    try:
        create_private_folder(file.parent)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        mounts = ""  # not Linux
    except OSError as error:
        raise CatalogError(
            f"the catalog's folder {file.parent} cannot be created: {error.strerror}; choose another --home"
        ) from error
    if not file.parent.is_dir():
        raise CatalogError(f"the catalog's folder {file.parent} is a file; choose another --home")
    kind = file_system(file.parent.resolve(), mounts)
    if kind in UNSAFE_FILE_SYSTEMS:
        raise CatalogError(
            f"{file} is on a {kind} file system, where SQLite loses data if two hosts write; "
            "choose a --home on a local disk, or use PostgreSQL with --database postgresql://…"
        )
    # The catalog contains digests of tokens. SQLite gives its other files the same permissions.
    with suppress(OSError):  # SQLite reports a folder that it cannot use
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = SqliteEngine(file)
    if not is_usable(engine):
        _migrate_sqlite(engine)
        _check(engine)
    return engine


def is_usable(engine: Engine) -> bool:
    """Whether this release can use the database's schema: it is the same, or a newer one that only adds."""
    with engine.read() as connection:
        revision = _schema_of(connection)
        if revision is None or revision == SCHEMA:
            return revision is not None
        return _is_compatible(connection, revision)


def _is_compatible(connection: Connection, revision: str) -> bool:
    """Whether a schema can be used by this release, although a newer release created it."""
    if not connection.has_table("schema_versions"):
        return False
    oldest = connection.scalar(
        "SELECT compatible_from FROM schema_versions WHERE revision = :revision", revision=revision
    )
    return oldest is not None and oldest <= SCHEMA <= revision


def _check(engine: Engine) -> None:
    revision = schema_of(engine)
    if revision is None:
        raise CatalogError("the catalog has no tables yet; create them with: statsvc upgrade")
    if not is_usable(engine):
        raise CatalogError(
            f"the catalog has schema {revision}, but this release of statsvc needs schema {SCHEMA}; "
            "run `statsvc upgrade` with the newest release that uses this catalog"
        )


def schema_of(engine: Engine) -> str | None:
    """Return the Alembic revision of the database, or None if it has no tables yet."""
    with engine.read() as connection:
        return _schema_of(connection)


def _schema_of(connection: Connection) -> str | None:
    if not connection.has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar("SELECT version_num FROM alembic_version")
    return revision


def _migrate_sqlite(engine: SqliteEngine) -> None:
    """Upgrade under the database's write lock, so that processes that start together do it one by one."""
    for _ in range(_MIGRATION_TRIES):
        try:
            with engine.write() as connection:
                is_new = not connection.has_table("alembic_version")
                if is_new:
                    _create(connection)
            if not is_new:
                from statsvc.store.catalog.migrating import migrate_sqlite

                migrate_sqlite(engine.file, SCHEMA)
        except DatabaseError as error:
            if "locked" not in str(error):
                raise
            time.sleep(_MIGRATION_PAUSE_SECONDS)
        else:
            return
    raise CatalogError("the catalog is locked by another process; stop that process and try again")


def _create(connection: Connection) -> None:
    """Create the tables of this release in an empty database, as the migrations would.

    This takes a tenth of the time of the migrations, which first have to load Alembic.
    """
    for statement in schema.STATEMENTS:
        connection.execute(statement)
    connection.execute("INSERT INTO alembic_version (version_num) VALUES (:revision)", revision=SCHEMA)
    connection.execute(
        """
        INSERT INTO schema_versions (revision, compatible_from)
        VALUES (:revision, :compatible_from)
        """,
        revision=SCHEMA,
        compatible_from=COMPATIBLE_FROM,
    )


def upgrade_url(url: str, api_role: str | None = None) -> None:
    """Create or update the tables of the catalog at a URL. Raises `CatalogError`.

    api_role  PostgreSQL role of API servers, which gets the privileges that they need
    """
    if sqlite_file(url) is not None:
        if api_role is not None:
            raise CatalogError("SQLite has no roles; leave out --api-role, or use PostgreSQL")
        open_engine(url).close()
        return
    server = _server(url)
    with _translated_errors(_shown(server)):
        from statsvc.store.catalog.migrating import upgrade_postgresql

        upgrade_postgresql(server, SCHEMA, api_role)


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
