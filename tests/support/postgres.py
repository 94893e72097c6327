"""A PostgreSQL server with its data and unix socket in a temporary folder, and empty catalogs on it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from statsvc.store.catalog.engine import upgrade_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

FAST_SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "autovacuum=off",
)
"""Settings that trade durability for speed."""

CRASH_SAFE_SETTINGS = tuple(setting for setting in FAST_SETTINGS if setting != "synchronous_commit=off")
"""Settings under which committed data survives SIGKILL of the server, though not a crash of the machine."""

START_TIMEOUT = 120

_serial = itertools.count()


@dataclass
class PostgresServer:
    """A PostgreSQL server.

    folder       contains its data, socket and log
    binaries     folder of the programs `postgres` and `initdb`
    environment  environment variables of the server, in addition to those of this process
    """

    folder: Path
    binaries: Path
    settings: tuple[str, ...] = FAST_SETTINGS
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = [option for setting in self.settings for option in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(self.binaries / "postgres"),
                    *("-D", str(self.folder / "data"), "-k", str(self.folder)),
                    *("-c", "listen_addresses=", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
                **_ordinary_user(),
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stop immediately, as `pg_ctl stop -m immediate` does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(60)

    def kill(self) -> None:
        """Kill the main process with SIGKILL, as a crash does. Its child processes notice and exit."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def conninfo(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def database(self, template: str = "template0") -> str:
        """Create a database with a unique name, and return the name."""
        name = f"test{next(_serial)}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


def _ordinary_user() -> dict[str, Any]:
    """Return the options of `Popen` that drop root privileges: PostgreSQL refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def postgres_server(
    settings: tuple[str, ...] = FAST_SETTINGS,
    prepare: Callable[[Path], AbstractContextManager[Mapping[str, str]]] = lambda _: contextlib.nullcontext(
        {}
    ),
) -> Iterator[PostgresServer]:
    """Run a server without databases; remove its folder afterwards.

    prepare  prepares the server's empty folder; its value are environment variables of the server
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert versions, "PostgreSQL is not installed. Run: apt-get install postgresql"
    # Not in pytest's temporary folder: the path of a unix socket is limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="statsvc-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with prepare(folder) as environment:
        yield from _running(PostgresServer(folder, versions[-1], settings, environment))
    shutil.rmtree(folder)


def _running(postgres: PostgresServer) -> Iterator[PostgresServer]:
    try:
        subprocess.run(
            [
                str(postgres.binaries / "initdb"),
                *(
                    "-D",
                    str(postgres.folder / "data"),
                    "-U",
                    "postgres",
                    "--auth=trust",
                    "--no-sync",
                    "-E",
                    "UTF8",
                ),
            ],
            check=True,
            capture_output=True,
            **_ordinary_user(),
        )
        postgres.start()
        yield postgres
    finally:
        postgres.stop()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """One server for all tests, started by the first test that uses it."""
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="session")
def migrated_database(postgresql_server: PostgresServer) -> str:
    """Return the name of a database with the catalog's tables, the template of `postgresql`."""
    name = postgresql_server.database()
    upgrade_url(postgresql_server.url(name))
    return name


@pytest.fixture
def postgresql(postgresql_server: PostgresServer, migrated_database: str) -> str:
    """Return the URL of an empty catalog on PostgreSQL."""
    return postgresql_server.url(postgresql_server.database(template=migrated_database))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty catalog, on SQLite and then on PostgreSQL."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgresql")
        return url
    return f"sqlite:///{tmp_path / 'catalog.sqlite'}"
