"""Opening the catalog's database: SQLite settings, rejected URLs, network file systems."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from statsvc.errors import CatalogError
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.engine import file_system, open_engine
from statsvc.store.catalog.schema import jobs as jobs_table


def test_sqlite_is_configured_for_durability(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
    with catalog.engine.connect() as connection:
        assert {k: connection.exec_driver_sql(f"PRAGMA {k}").scalar() for k in expected} == expected
    with pytest.raises(sa.exc.IntegrityError), catalog.engine.begin() as connection:
        connection.execute(
            jobs_table.insert().values(
                id="x",
                dataset_uid="none",
                state="queued",
                full=False,
                max_removed=0,
                attempt=0,
                released=0,
                progress={},
                created_at=0,
            )
        )
    catalog.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("catalog", "not a database URL"),
        ("mysql://host/db", "SQLite or PostgreSQL, not mysql"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
    ],
)
def test_other_databases_are_rejected(bad: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        open_engine(bad)


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
