"""Opening the catalog's database: SQLite settings, rejected URLs, network file systems."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from statsvc.dataset.configuration import Configuration
from statsvc.errors import CatalogError, InvalidParameter
from statsvc.store import home as homes
from statsvc.store.catalog import dataset_rows, jobs, sqlite
from statsvc.store.catalog import postgresql as limits
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.database_errors import DatabaseError, IntegrityError
from statsvc.store.catalog.engine import SCHEMA, file_system, open_engine, schema_of, upgrade_url
from support.catalogs import execute_sql
from support.permissions import without_root_privileges
from support.silent_proxy import silent_proxy

if TYPE_CHECKING:
    import sqlite3

    from support.postgres import PostgresServer


def test_sqlite_is_configured_for_durability(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
    with catalog.read() as connection:
        assert {k: connection.scalar(f"PRAGMA {k}") for k in expected} == expected
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        execute_sql(
            catalog,
            """
            INSERT INTO jobs
                (id, dataset_uid, state, "full", max_removed, attempt, released, progress, created_at)
            VALUES
                ('x', 'none', 'queued', FALSE, 0, 0, 0, '{}', 0)
            """,
        )
    catalog.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("catalog", "not a database URL"),
        ("mysql://host/db", "SQLite or PostgreSQL, not mysql"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("postgresql://user:secret@host:port/db", "the URL of the database is malformed"),
    ],
)
def test_other_databases_are_rejected(bad: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        open_engine(bad)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_a_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"hello" * 500)
    with pytest.raises(CatalogError, match="cannot be opened: file is not a database"):
        open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /home rw shared:5 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/ann/fast rw shared:6 master:2 - xfs /dev/sdb1 rw
32 22 0:27 / /mnt/my\\040share rw - cifs //server/share rw
33 22 0:28 / /data rw - lustre mds@tcp:/fs rw
34 22 0:29 / /mnt/over rw - ext4 /dev/sdc1 rw
35 34 0:30 / /mnt/over rw - nfs server:/x rw
36 22 0:31 / /ssh rw - fuse.sshfs me@host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/homer", "ext4"),
        ("/home", "nfs4"),
        ("/home/ann", "nfs4"),
        ("/home/ann/fast/statsvc", "xfs"),
        ("/mnt/my share/x", "cifs"),
        ("/data/a/b", "lustre"),
        ("/mnt/over", "nfs"),
        ("/ssh/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_and_latest_mount(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_the_file_system_of_proc_is_proc() -> None:
    text = Path("/proc/self/mountinfo").read_text()
    assert file_system(Path("/proc"), text) == "proc"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "9p"])
def test_sqlite_on_a_network_file_system_is_rejected_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    real = Path.read_text

    def read_text(self: Path, *args: object, **options: object) -> str:
        if str(self) == "/proc/self/mountinfo":
            return f"22 1 8:1 / / rw - {kind} server:/ rw\n"
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(CatalogError, match=f"is on a {kind} file system.*--home on a local disk"):
        open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["what? 100% #1 & ö", "a?mode=memory", "%41 b"])
def test_a_home_may_have_any_name(tmp_path: Path, folder: str) -> None:
    home = homes.resolve(str(tmp_path / folder))
    catalog = Catalog.open(home.database)
    catalog.create_dataset("street", None, None, Configuration())
    catalog.close()
    assert (tmp_path / folder / "catalog.sqlite").stat().st_size > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [folder]
    again = Catalog.open(home.database)
    assert [dataset.name for dataset in again.datasets()] == ["street"]
    again.close()


def test_a_given_home_needs_no_home_directory_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(_path: str) -> str:
        return "~/nowhere"

    monkeypatch.setattr("os.path.expanduser", no_home)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("STATSVC_HOME")
    assert homes.resolve(str(tmp_path)).folder == tmp_path
    with pytest.raises(InvalidParameter, match="name a folder with --home"):
        homes.resolve()


def test_a_removed_catalog_is_an_error_and_a_replaced_one_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite"
    catalog = Catalog.open(f"sqlite:///{file}")
    catalog.create_dataset("street", None, None, Configuration())
    for name in tmp_path.glob("catalog*"):
        name.rename(tmp_path / f"away-{name.name}")
    with pytest.raises(DatabaseError, match="unable to open"):
        catalog.datasets()
    assert not file.exists()
    other = Catalog.open(f"sqlite:///{file}")
    other.create_dataset("field", None, None, Configuration())
    assert [dataset.name for dataset in catalog.datasets()] == ["field"]
    other.close()
    catalog.close()


def test_a_catalog_that_may_only_be_read_is_rejected_with_advice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    Catalog.open(url).close()
    (tmp_path / "catalog.sqlite").chmod(0o444)
    tmp_path.chmod(0o555)
    with without_root_privileges(), pytest.raises(CatalogError, match="grant it to this user") as caught:
        Catalog.open(url)
    tmp_path.chmod(0o755)
    assert "readonly database; SQLite needs write permission" in str(caught.value)


def test_a_catalog_whose_folder_is_gone_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    catalog = Catalog.open(f"sqlite:///{folder / 'catalog.sqlite'}")
    catalog.create_dataset("street", None, None, Configuration())
    folder.rename(tmp_path / "away")
    folder.write_bytes(b"")  # a file in its place
    with pytest.raises(DatabaseError, match="unable to open"):
        catalog.datasets()
    folder.unlink()
    with pytest.raises(DatabaseError, match="unable to open"):
        catalog.datasets()
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    assert [dataset.name for dataset in catalog.datasets()] == ["street"]
    catalog.close()


def test_a_catalog_that_is_replaced_while_a_connection_opens_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "catalog.sqlite"
    for name, dataset in (("catalog", "old"), ("other", "new")):
        created = Catalog.open(f"sqlite:///{tmp_path / name}.sqlite")
        created.create_dataset(dataset, None, None, Configuration())
        created.close()
    catalog = Catalog.open(f"sqlite:///{file}")
    catalog.close()
    connect = sqlite.connect

    def replaced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        monkeypatch.undo()
        for opened in tmp_path.glob("catalog.sqlite*"):
            opened.unlink()
        (tmp_path / "other.sqlite").rename(file)
        return connection

    monkeypatch.setattr(sqlite, "connect", replaced)
    catalog.datasets()
    assert [dataset.name for dataset in catalog.datasets()] == ["new"]
    catalog.close()


def test_a_silent_connection_is_closed_and_replaced(
    postgresql_server: PostgresServer, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SILENCE_SECONDS", 0.5)
    with silent_proxy(str(postgresql_server.folder / ".s.PGSQL.5432")) as proxy:
        name = make_url(postgresql).database
        catalog = Catalog.open(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}")
        catalog.create_dataset("street", None, None, Configuration())
        proxy.silence()
        began = time.monotonic()
        assert [dataset.name for dataset in catalog.datasets()] == ["street"]  # by a new connection
        assert 0.4 < time.monotonic() - began < 10

        def lose_connection() -> None:
            with catalog.read() as connection:
                proxy.silence()
                connection.scalar("SELECT 1")

        with pytest.raises(DatabaseError, match=r"did not answer for 0\.5 s") as caught:
            lose_connection()
        assert caught.value.connection_lost
        catalog.close()


def test_a_slow_statement_ends_at_its_limit(postgresql: str) -> None:
    engine = limits.PostgresqlEngine(limits.create_engine(make_url(postgresql), statement_seconds=0.2))
    with pytest.raises(DatabaseError, match="statement timeout"), engine.read() as connection:
        connection.scalar("SELECT pg_sleep(30)")
    engine.close()


def test_a_process_that_hangs_in_a_transaction_does_not_lock_a_dataset_for_long(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.5)
    catalog = Catalog.open(postgresql)
    dataset = catalog.create_dataset("street", "/data/street", None, Configuration())
    hanging = Catalog.open(postgresql)

    def hang() -> None:
        with hanging.write() as connection:
            dataset_rows.lock(connection, dataset)
            _, is_new = jobs.submit(catalog, dataset)  # waits for the lock; a statement may take 8 s
            assert is_new
            connection.scalar("SELECT 1")

    with pytest.raises(DatabaseError, match="idle-in-transaction timeout"):
        hang()
    hanging.close()
    assert [job.state for job, _ in jobs.recent(catalog, dataset)] == ["queued"]
    catalog.close()


def test_concurrent_upgrades_of_an_empty_database_take_turns(postgresql_server: PostgresServer) -> None:
    url = postgresql_server.url(postgresql_server.database())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(upgrade_url, [url] * 6))
    engine = open_engine(url)
    assert schema_of(engine) == SCHEMA
    engine.close()


def test_the_marker_of_a_catalog_changes_with_each_commit_of_others_and_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite"
    catalog = Catalog.open(f"sqlite:///{file}")
    changes = catalog.changes()
    assert changes is not None
    first = changes.marker()
    assert first is not None
    assert changes.marker() == first  # reading is no change
    catalog.datasets()
    assert changes.marker() == first
    catalog.create_dataset("a", "/a", None, Configuration())
    second = changes.marker()
    assert second not in (None, first)
    code = "import sys, sqlite3; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM jobs'); "
    code += "c.execute('DELETE FROM datasets'); c.commit()"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    third = changes.marker()
    assert third not in (None, first, second)
    changes.close()  # as after an error
    catalog.create_dataset("b", "/b", None, Configuration())
    fourth = changes.marker()
    assert fourth not in (None, first, second, third)
    catalog.close()
    copy = tmp_path / "copy"
    shutil.copy(file, copy)
    copy.replace(file)
    assert changes.marker() not in (None, fourth)
    file.unlink()
    assert changes.marker() is None
    changes.close()
