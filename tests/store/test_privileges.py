"""An API server whose database role and version store let it read versions but not publish them."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from msgspec.structs import replace

from statsvc.api.app import build_app
from statsvc.errors import CatalogError
from statsvc.store import home as homes
from statsvc.store.catalog import privileges
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.database_errors import DatabaseError
from statsvc.store.catalog.engine import upgrade_url
from support.commands import statsvc
from support.contract import ApiClient
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.home import Home
    from support.postgres import PostgresServer

ROLE = "statsvc_api"


@pytest.fixture
def restricted(
    postgresql_server: PostgresServer, migrated_database: str, tmp_path: Path
) -> tuple[Home, Home]:
    """The home of the catalog's owner, and that of an API server with the restricted role."""
    database = postgresql_server.database(template=migrated_database)
    with psycopg.connect(postgresql_server.conninfo(database), autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN")
    owner = homes.resolve(str(tmp_path / "home"), database=postgresql_server.url(database))
    upgrade_url(owner.database, ROLE)
    return owner, replace(owner, database=owner.database.replace("postgres@", f"{ROLE}@"))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder read-only on itself."""
    subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_every_table_has_an_entry(postgresql_server: PostgresServer, migrated_database: str) -> None:
    with psycopg.connect(postgresql_server.conninfo(migrated_database)) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert set(privileges.PRIVILEGES) == {name for (name,) in tables}


def test_an_api_server_needs_no_more_than_its_role(restricted: tuple[Home, Home], tmp_path: Path) -> None:
    owner, home = restricted
    publish(owner, "street", label_maps(), num_classes=4)
    source = tmp_path / "labels"
    source.mkdir()
    with ApiClient(build_app(home, roots=[tmp_path])) as client:

        def succeeds(method: str, path: str, body: Any = None, **headers: str) -> Any:
            answer = client.request(method, path, json=body, headers=headers)
            assert answer.status_code < 300, (method, path, answer.text)
            return answer.json() if answer.content else None

        assert succeeds("GET", "/weights")["version"] == 1
        succeeds("PUT", "/datasets/street/tags/best", {"version": 1})
        succeeds("DELETE", "/datasets/street/tags/best")
        succeeds("POST", "/datasets", {"name": "city", "source": str(source)})
        succeeds("PATCH", "/datasets/city", {"every": "1h", "keep": 5})
        job = succeeds("POST", "/jobs", {"dataset": "city"}, **{"Idempotency-Key": "1"})
        assert succeeds("POST", "/jobs", {"dataset": "city"}, **{"Idempotency-Key": "1"})["id"] == job["id"]
        succeeds("POST", "/datasets/city/changed", {"paths": ["a.png"]})
        succeeds("POST", f"/jobs/{job['id']}/cancel")
        succeeds("DELETE", "/datasets/city")
        assert client.get("/readyz").status_code == 200


FORBIDDEN = (
    "INSERT INTO versions (dataset_uid, number) VALUES ('x', 9)",
    "UPDATE versions SET arrays_uri = 'other'",
    "DELETE FROM versions",
    "INSERT INTO tokens (name) VALUES ('mine')",
    "DELETE FROM tokens",
    "UPDATE schema_versions SET revision = '0'",
    "CREATE TABLE mine (id int)",
    "DROP TABLE jobs",
)


def test_its_role_can_neither_publish_nor_make_tokens(restricted: tuple[Home, Home]) -> None:
    catalog = Catalog.open(restricted[1].database)
    for statement in FORBIDDEN:
        with pytest.raises(DatabaseError) as caught, catalog.write() as connection:
            connection.execute(statement)
        assert isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege)
    catalog.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_server_with_a_read_only_store_says_where_counts_can_be_imported(home: Home) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    assert home.store.path is not None  # type: ignore[attr-defined]
    with read_only(home.store.path), ApiClient(build_app(home)) as client:  # type: ignore[attr-defined]
        assert client.get("/weights").status_code == 200
        for method, path, body in (
            ("POST", "/datasets/other/versions/import", {"counts": {"0": 5}, "images": {"0": 1}}),
            ("PATCH", "/datasets/street", {"ignore_index": [0]}),
        ):
            answer = client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/read-only-store"), (
                answer.text
            )
            assert "Read-only file system" in answer.json()["detail"]
        assert [row["name"] for row in client.get("/datasets").json()["datasets"]] == ["street"]


def test_an_unknown_role_is_named(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    database = postgresql_server.url(postgresql_server.database())
    refused = statsvc("upgrade", "--database", database, "--api-role", "nobody_here", code=1)
    assert "no role 'nobody_here'" in refused.stderr
    with pytest.raises(CatalogError, match="SQLite has no roles"):
        upgrade_url(f"sqlite:///{tmp_path}/catalog.sqlite", ROLE)
