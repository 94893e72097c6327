"""A PostgreSQL server of the tests' own: a real cluster in a temporary folder, reached by a unix socket."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from statsvc.store.catalog.engine import upgrade_url

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
"""What tests that end no machine can do without."""

KILLED = tuple(setting for setting in FAST if setting != "synchronous_commit=off")
"""What may be left out where the server is killed: a commit is then in the system's hands, not in its own."""

_serial = itertools.count()


@dataclass
class Server:
    """A running server; `folder` holds its data and its socket."""

    folder: Path
    binaries: Path
    settings: tuple[str, ...] = FAST
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
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
                start_new_session=True,
                **_ordinary_user(),
            )
        end = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it at once, as `pg_ctl stop -m immediate` does."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT
            self.process.wait(30)

    def kill(self) -> None:
        """End it as a crash does, SIGKILL; its other processes notice and end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def conninfo(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def database(self, template: str = "template0") -> str:
        """Make a database; return its name."""
        name = f"test{next(_serial)}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[arg-type]
        return name


def _ordinary_user() -> dict[str, Any]:
    """Return how to start a process that must not be root's."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def server(settings: tuple[str, ...] = FAST) -> Iterator[Server]:
    """Run a server over an empty cluster in a folder that goes with it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert found, "this needs PostgreSQL: apt-get install postgresql"
    # Not below pytest's folder: the name of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="statsvc-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    made = Server(folder, found[-1], settings)
    try:
        subprocess.run(
            [
                str(made.binaries / "initdb"),
                *("-D", str(folder / "data"), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"),
            ],
            check=True,
            capture_output=True,
            **_ordinary_user(),
        )
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """Start a server when the first test asks for one; end it after the last."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def migrated(postgresql_server: Server) -> str:
    """Return the name of a database with the catalog's tables, to copy from."""
    name = postgresql_server.database()
    upgrade_url(postgresql_server.url(name))
    return name


@pytest.fixture
def postgresql(postgresql_server: Server, migrated: str) -> str:
    """Return the URL of an empty catalog on PostgreSQL."""
    return postgresql_server.url(postgresql_server.database(template=migrated))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty catalog, on SQLite and then on PostgreSQL."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgresql")
        return url
    return f"sqlite:///{tmp_path / 'catalog.sqlite'}"
