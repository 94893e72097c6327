"""Verify, rebuild, backup, and migration of the first schema."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.errors import Conflict
from statsvc.store import home as homes
from statsvc.store import retention
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.rebuilding import rebuild
from statsvc.store.verifying import verify
from statsvc.store.versions.folder import FolderLocation
from support.catalogs import execute_sql
from support.commands import statsvc
from support.damage import flipped
from support.publishing import label_maps, publish
from support.retained_versions import SPLITS, publish_versions, versions_with_rows

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.home import Home
    from support.stores import StoredFiles


@pytest.fixture
def home(home_of_each_kind: Home) -> Home:
    return home_of_each_kind


@pytest.fixture
def stored_files(stored_files_of_each_kind: StoredFiles) -> StoredFiles:
    return stored_files_of_each_kind


def test_verify_names_the_damaged_versions(stored_files: StoredFiles, home: Home) -> None:
    home_options = ("--home", str(home.folder), "--database", home.database, "--store", str(home.store))
    publish_versions(home, 5)
    publish_versions(home, 1, "other")
    statsvc("datasets", "street", "--keep", "4", *home_options)
    statsvc("gc", "--grace", "0s", *home_options)
    assert "6 versions checked, 0 damaged" in statsvc("verify", *home_options).stderr
    catalog = Catalog.open(home.database)
    groups = {v.number: v.group_uri for v in catalog.versions(catalog.dataset("street"))}
    chunk = next(name for name in stored_files.names() if name.startswith(f"{groups[2]}/counts/c/"))
    stored_files.put(chunk, flipped(stored_files.get(chunk)))
    stored_files.delete(
        *(name for name in stored_files.names() if name.startswith(f"{groups[3]}/class_pixels/"))
    )
    described = json.loads(stored_files.get(f"{groups[4]}/zarr.json"))
    described["attributes"]["statsvc"]["pixels"] += 1
    stored_files.put(f"{groups[4]}/zarr.json", json.dumps(described).encode())
    stored_files.put(f"{groups[1]}/aggregates", stored_files.get(f"{groups[1]}/aggregates")[:-5])
    catalog.close()
    found = json.loads(statsvc("verify", "--json", *home_options, code=1).stdout)
    assert found["checked"] == 6
    damage = {(one["dataset"], one["version"]): one["damage"] for one in found["damaged"]}
    assert sorted(damage) == [("street", number) for number in (1, 2, 3, 4)]
    assert "aggregates cannot be read" in damage["street", 1]
    assert "'counts'" in damage["street", 2]
    assert "'class_pixels'" in damage["street", 3]
    assert "'pixels'" in damage["street", 4]
    assert "1 version checked, 0 damaged" in statsvc("verify", "other", *home_options).stderr


def test_a_lost_catalog_is_rebuilt_from_the_groups(
    home: Home, stored_files: StoredFiles, catalog: Catalog, tmp_path: Path
) -> None:
    publish_versions(home, 2)
    # A group that was described but never published has the number that a later one got.
    dataset = catalog.dataset("street")
    early = catalog.version(dataset, 2).group_uri
    for name in stored_files.names():
        if name.startswith(f"{early}/"):
            said = stored_files.get(name).replace(b'"number": 2', b'"number": 3')
            stored_files.put(f"{dataset.uid}/stray-1/{name.removeprefix(f'{early}/')}", said)
    stored_files.put(f"{dataset.uid}/half-2/counts/c/0/0", b"")
    time.sleep(1.0)  # object stores report times in whole seconds
    publish_versions(home, 1)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        client.patch("/datasets/street", json={"num_classes": 6})
    publish_versions(home, 1, "gone")
    catalog.delete_dataset("gone")
    publish_versions(home, 2, "gone")
    catalog.set_keep(catalog.dataset("street"), 3)
    dataset = catalog.dataset("street")
    retention.collect(catalog, home.store, grace=3600)
    execute_sql(catalog, "UPDATE versions SET expired_at = 1 WHERE expired_at IS NOT NULL")
    retention.collect(catalog, home.store, grace=3600)
    assert versions_with_rows(stored_files, catalog) == [2, 3, 4]
    with pytest.raises(Conflict, match="not empty"):
        rebuild(catalog, home.store)
    questions = ["dataset=street", "dataset=gone", *(f"dataset=street&version={n}" for n in (1, 2, 3, 4))]
    questions += ["dataset=street&version=1&split=val&method=median_freq"]

    def answers(where: Home) -> list[tuple[bytes, str]]:
        with TestClient(build_app(where), base_url="http://127.0.0.1") as client:
            responses = [client.get(f"/weights?{question}") for question in questions]
        assert {response.status_code for response in responses} == {200}
        return [(response.content, response.headers["etag"]) for response in responses]

    before = answers(home)
    new = homes.resolve(str(tmp_path / "new"), f"sqlite:///{tmp_path / 'new.sqlite'}", store=str(home.store))
    fresh = Catalog.open(new.database)
    done = rebuild(fresh, home.store)
    assert done.datasets == {"street": 4, "gone": 2}
    assert [line.partition(":")[0] for line in sorted(done.left_out)] == sorted(
        [f"{dataset.uid}/half-2", f"{dataset.uid}/stray-1"]
    )
    assert answers(new) == before
    rebuilt = fresh.dataset("street")
    assert (rebuilt.uid, rebuilt.next_number, rebuilt.source) == (dataset.uid, 5, dataset.source)
    assert fresh.dataset("gone").next_number == 4
    assert all(damage is None for _, damage in verify(fresh, home.store, rebuilt))
    fresh.close()


def test_a_backup_taken_while_versions_are_published_is_complete(tmp_path: Path) -> None:
    """The commands of docs/how-to/operate.md: gc paused, the catalog first, the arrays second."""
    home = homes.resolve(str(tmp_path / "home"))
    publish_versions(home, 2)
    publishing = threading.Event()

    def go_on() -> None:
        number = 50
        while not publishing.is_set():
            publish(home, "street", label_maps(number), num_classes=4, splits=SPLITS)
            number += 1

    writer = threading.Thread(target=go_on)
    writer.start()
    backup = tmp_path / "backup"
    backup.mkdir()
    try:
        statsvc("gc", "--pause", "--home", home.folder)
        copy = f"import sqlite3; sqlite3.connect({str(home.folder / 'catalog.sqlite')!r}).execute(" + (
            f"'VACUUM INTO ?', ({str(backup / 'catalog.sqlite')!r},))"
        )
        subprocess.run(["python3", "-c", copy], check=True)
        subprocess.run(["cp", "-a", str(home.store), str(backup / "versions")], check=True)
        statsvc("gc", "--resume", "--home", home.folder)
    finally:
        publishing.set()
        writer.join()
    restored = homes.resolve(str(backup))
    assert isinstance(restored.store, FolderLocation)
    (restored.store.path / retention.PAUSED).unlink()
    assert "0 damaged" in statsvc("verify", "--home", restored.folder).stderr
    statsvc("gc", "--grace", "0s", "--home", restored.folder)
    catalog = Catalog.open(restored.database)
    dataset = catalog.dataset("street")
    assert dataset.current_number is not None
    assert dataset.current_number >= 2
    # Groups younger than the catalog's copy went as orphans; the next version takes the next number.
    assert len(list((restored.store.path / dataset.uid).iterdir())) == dataset.current_number
    assert publish(restored, "street", label_maps()).number == dataset.current_number + 1
    catalog.close()


def test_a_catalog_of_the_first_schema_is_migrated_with_its_content(
    tmp_path: Path, postgresql_server: Any
) -> None:
    from alembic import command
    from alembic.config import Config

    from statsvc.store.catalog.engine import upgrade_url

    urls = [f"sqlite:///{tmp_path / 'old.sqlite'}", postgresql_server.url(postgresql_server.database())]
    for url in urls:
        engine = sa.create_engine(url)
        config = Config()
        config.set_main_option("script_location", "statsvc.store.catalog:migrations")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.execute(
                sa.text(
                    "INSERT INTO datasets (uid, name, configuration, revision, next_number, created_at) "
                    """VALUES ('u', 'old', '{"num_classes": 2, "class_names": [], "ignore_index": null, """
                    """"class_map": null, "splits": {}}', 1, 7, 0)"""
                )
            )
        engine.dispose()
        upgrade_url(url)
        catalog = Catalog.open(url)
        assert (catalog.dataset("old").keep, catalog.dataset("old").next_number) == (20, 7)
        catalog.close()
