"""Retention, tags, orphans, concurrent readers, verify, rebuild and backup."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.classes.class_maps import builtin
from statsvc.dataset.splits import detect
from statsvc.errors import Conflict, DamagedVersion, InvalidParameter, NotFound, Unanswerable
from statsvc.store import home as homes
from statsvc.store import publication, retention
from statsvc.store.catalog import jobs, tags
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.engine import exclusive
from statsvc.store.rebuilding import rebuild
from statsvc.store.verifying import verify
from statsvc.store.versions.bucket import BucketLocation
from statsvc.store.versions.folder import FolderLocation
from support.commands import statsvc
from support.damage import flipped
from support.publishing import label_maps, publish, take_up
from support.stores import Raw

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.home import Home

SPLITS = detect(label_maps())
QUESTIONS = [
    "method=sqrt_inv_freq",
    "method=median_freq",
    "method=effective_num&beta=0.999&split=train",
    "method=median_freq&split=val",
    "ignore_index=none",
    "class_map=none",
    "split=val&class_map=none&method=median_freq",
]


@pytest.fixture(params=["sqlite, folder", "postgresql, folder", "postgresql, bucket"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    folder = str(tmp_path / "home")
    database = request.getfixturevalue("postgresql") if "postgresql" in request.param else None
    store = str(request.getfixturevalue("bucket").store) if "bucket" in request.param else None
    return homes.resolve(folder, database, store)


@pytest.fixture
def raw(request: pytest.FixtureRequest, home: Home) -> Raw:
    """The store's files or objects, seen by other means."""
    boto = request.getfixturevalue("bucket").boto if isinstance(home.store, BucketLocation) else None
    return Raw(home.store, boto)


def fill(home: Home, versions: int, name: str = "street", **configuration: Any) -> None:
    """Publish versions of a dataset, each from other label maps, one of which cannot be read."""
    for number in range(versions):
        maps: dict[str, np.ndarray[Any, Any] | str] = {**label_maps(number), "train/bad.png": "cut off"}
        maps["val/ids.png"] = np.full((2, 3), 9, np.uint8)
        options: dict[str, Any] = {"num_classes": 4, "splits": SPLITS} | configuration
        publish(home, name, maps, **options)


def rows_of(raw: Raw, catalog: Catalog, name: str = "street") -> list[int]:
    """Return the numbers of the versions whose rows lie in the store."""
    there = {name.partition("/counts/")[0] for name in raw.names() if "/counts/" in name}
    return sorted(v.number for v in catalog.versions(catalog.dataset(name), 100) if v.arrays_uri in there)


def sql(catalog: Catalog, statement: str) -> None:
    with catalog.engine.begin() as connection:
        connection.execute(sa.text(statement))


@pytest.mark.parametrize("class_map", [None, "binary"])
def test_a_pinned_version_answers_the_same_bytes_after_it_has_expired(
    home: Home, raw: Raw, catalog: Catalog, class_map: str | None
) -> None:
    fill(home, 3, num_classes=2 if class_map else 4, class_map=class_map and builtin(class_map))
    catalog.set_keep(catalog.dataset("street"), 1)

    def answers() -> dict[str, Any]:
        with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
            urls = [f"/weights?version=1&{q}" for q in QUESTIONS if not class_map or "class_map" not in q]
            urls += ["/datasets/street/histogram?version=1&split=train"]
            responses = {url: client.get(url) for url in urls}
        assert {r.status_code for r in responses.values()} == {200}
        return {url: (r.content, r.headers["etag"]) for url, r in responses.items()}

    before = answers()
    assert b"val/ids.png" in before[f"/weights?version=1&{QUESTIONS[0]}"][0] or class_map
    done = retention.collect(catalog, home.store, grace=0)
    assert done.expired == [("street", 2), ("street", 1)] or done.expired == [("street", 1), ("street", 2)]
    assert done.removed == [("street", 1), ("street", 2)]
    assert rows_of(raw, catalog) == [3]
    assert answers() == before
    table = publication.open_version(home.store, "street", catalog.version(catalog.dataset("street"), 1))
    table.verify()
    with pytest.raises(Unanswerable, match="removed by retention"):
        next(table.blocks())
    with pytest.raises(NotFound, match="no split 'x'"):
        table.histogram("x")


def test_requests_that_need_removed_rows_are_rejected_with_the_reason(home: Home, catalog: Catalog) -> None:
    fill(home, 2)
    catalog.set_keep(catalog.dataset("street"), 1)
    foreign = ["/weights?version=1&class_map=binary", "/datasets/street/histogram?version=1&class_map=binary"]
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        before = [client.get(url) for url in foreign]
    retention.collect(catalog, home.store, grace=0)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        for url in (
            "/datasets/street/samples?version=1",
            "/datasets/street/sampling?version=1&sampler=rare_class&min_pixels=1",
            "/weights?version=1&class_map=binary&method=median_freq",
            "/weights?version=1&sampler=repeat_factor",
            "/datasets/street/sampling?version=1&sampler=image_weights",
        ):
            refused = client.get(url)
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unanswerable")
            assert "removed by retention; request a newer version" in refused.json()["detail"]
            assert "scan" not in refused.json()["detail"]
        # The images of a merged class are not known any more: another answer, so another tag.
        for then in before:
            now = client.get(str(then.url), headers={"If-None-Match": then.headers["etag"]})
            assert (now.status_code, now.headers["etag"] == then.headers["etag"]) == (200, False)
            assert now.content != then.content
        listed = client.get("/datasets/street/versions").json()["versions"]
        assert [(v["number"], v["rows"]) for v in listed] == [(2, True), (1, False)]


def test_rows_are_removed_after_the_grace_period_unless_the_version_is_tagged_before(
    home: Home, raw: Raw, catalog: Catalog
) -> None:
    fill(home, 4)
    dataset = catalog.set_keep(catalog.dataset("street"), 2)
    tags.put(catalog, dataset, "paper", 1)
    first = retention.collect(catalog, home.store)
    assert (first.expired, first.removed) == ([("street", 2)], [])
    assert rows_of(raw, catalog) == [1, 2, 3, 4]
    tags.put(catalog, dataset, "baseline", 2)
    assert catalog.version(dataset, "baseline").expired_at is None
    assert retention.collect(catalog, home.store, grace=0).removed == []
    tags.remove(catalog, dataset, "baseline")
    assert retention.collect(catalog, home.store, grace=0).removed == [("street", 2)]
    assert rows_of(raw, catalog) == [1, 3, 4]
    tags.put(catalog, dataset, "late", 2)
    assert catalog.version(dataset, "late").expired_at is not None
    assert retention.collect(catalog, home.store, grace=0).removed == []


def test_arrays_shared_with_a_kept_version_are_kept(home: Home, catalog: Catalog) -> None:
    fill(home, 1)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        for classes in (5, 6, 7):
            assert client.patch("/datasets/street", json={"num_classes": classes}).status_code == 200
        kept = client.patch("/datasets/street", json={"keep": 1}).json()
        assert (kept["keep"], kept["version"]) == (1, 4)
        done = retention.collect(catalog, home.store, grace=0)
        assert (len(done.expired), done.removed, done.orphans) == (3, [], [])
        assert client.get("/weights?split=train").status_code == 200
        fill(home, 1)
        assert len(retention.collect(catalog, home.store, grace=0).removed) == 4
        for number in (1, 2, 3, 4, 5):
            assert client.get(f"/weights?version={number}&split=train").status_code == 200
        assert client.patch("/datasets/street", json={"keep": None}).json()["keep"] == 20
        assert client.patch("/datasets/street", json={"keep": 0}).status_code == 422


def test_the_base_and_the_new_group_of_a_running_job_are_kept(home: Home, raw: Raw, catalog: Catalog) -> None:
    fill(home, 3)
    dataset = catalog.set_keep(catalog.dataset("street"), 1)
    jobs.submit(catalog, dataset)
    job = jobs.lease(catalog, "elsewhere/1/1")
    assert job is not None
    assert job.group_uri is not None
    dead, fresh = f"{dataset.uid}/{job.id}-0", f"{dataset.uid}/configuration-abc"
    part = f"{dataset.uid}/parts/x/1.part"
    for name in (f"{job.group_uri}/zarr.json", f"{dead}/zarr.json", f"{fresh}/zarr.json", part):
        raw.put(name, b"{}")
    done = retention.collect(catalog, home.store, grace=60)
    assert done.orphans == [dead]
    assert f"{fresh}/zarr.json" in raw.names()  # younger than the grace period: it may be on its way in
    done = retention.collect(catalog, home.store, grace=0)
    assert done.removed == []
    assert rows_of(raw, catalog) == [1, 2, 3]
    assert f"{job.group_uri}/zarr.json" in raw.names()
    assert f"{fresh}/zarr.json" not in raw.names()
    jobs.fail(catalog, job, "no")
    done = retention.collect(catalog, home.store, grace=0)
    assert done.orphans == [job.group_uri]
    assert rows_of(raw, catalog) == [3]
    assert part in raw.names()


def test_folders_of_deleted_datasets_are_removed_and_unknown_folders_are_kept(
    home: Home, raw: Raw, catalog: Catalog
) -> None:
    fill(home, 1)
    fill(home, 1, "other")
    uid = catalog.dataset("street").uid
    raw.put("strange/group/file", b"")
    catalog.delete_dataset("street")
    assert retention.collect(catalog, home.store).orphans == []
    done = retention.collect(catalog, home.store, grace=0)
    assert (done.orphans, done.unknown) == ([uid], ["strange"])
    assert [name for name in raw.names() if name.startswith(uid)] == []
    assert "strange/group/file" in raw.names()
    assert rows_of(raw, catalog, "other") == [1]


class Reader(threading.Thread):
    """Sends one query to the API again and again, and records every response that is not as expected."""

    def __init__(self, client: TestClient, query: str, expected: bytes | None = None) -> None:
        super().__init__()
        self.failures: list[str] = []
        self._client, self._query, self._expected = client, query, expected
        self._completed = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()

    def run(self) -> None:
        while not self._stop.is_set():
            response = self._client.get(f"/weights?{self._query}")
            if response.status_code != 200:
                self.failures.append(f"{self._query}: {response.text}")
            elif self._expected not in (None, response.content):
                self.failures.append(f"{self._query}: a different answer")
            with self._changed:
                self._completed += 1
                self._changed.notify_all()

    def wait_for_new_request(self) -> None:
        """Wait until a request that started after this call has completed."""
        with self._changed:
            target = self._completed + 2
            self._changed.wait_for(lambda: self._completed >= target)

    def stop(self) -> None:
        self._stop.set()
        self.join()


def test_no_reader_fails_while_gc_runs_continuously(home: Home, raw: Raw, catalog: Catalog) -> None:
    """The grace period ends when the server and every reader have seen the expiry, not after some time."""
    fill(home, 2)
    catalog.set_keep(catalog.dataset("street"), 1)
    removed: list[tuple[str, int]] = []
    published = threading.Event()

    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        first = client.get("/weights?version=1&split=train")
        readers = [
            Reader(client, "split=val"),
            Reader(client, "version=1&split=train", first.content),
            Reader(client, "version=2&method=median_freq&split=val"),
        ]

        def collect() -> None:
            while not (published.is_set() and removed):
                result = retention.collect(catalog, home.store)
                removed.extend(result.removed)
                take_up(client)
                for reader in readers:
                    reader.wait_for_new_request()
                for _, number in result.expired:
                    sql(catalog, f"UPDATE versions SET expired_at = 1 WHERE number = {number}")

        collector = threading.Thread(target=collect)
        for thread in (*readers, collector):
            thread.start()
        try:
            for number in range(6):
                publish(home, "street", label_maps(100 + number), num_classes=4, splits=SPLITS)
            published.set()
            collector.join()
        finally:
            for reader in readers:
                reader.stop()
    assert [failure for reader in readers for failure in reader.failures] == []
    assert removed  # some rows were removed while they were read
    retention.collect(catalog, home.store, grace=0)
    assert rows_of(raw, catalog) == [8]


def test_gc_can_be_paused_and_does_not_run_twice_at_the_same_time(home: Home, catalog: Catalog) -> None:
    fill(home, 1)
    retention.pause(catalog, home.store)
    with pytest.raises(Conflict, match="statsvc gc --resume"):
        retention.collect(catalog, home.store)
    retention.resume(home.store)
    with exclusive(catalog.engine, "gc"), pytest.raises(Conflict, match="another gc"):
        retention.collect(catalog, home.store)
    assert retention.collect(catalog, home.store).expired == []


def test_the_next_gc_finishes_the_work_of_a_gc_that_died(home: Home, raw: Raw, catalog: Catalog) -> None:
    fill(home, 2)
    catalog.set_keep(catalog.dataset("street"), 1)
    retention.collect(catalog, home.store)
    sql(catalog, "UPDATE versions SET expired_at = 1, rows_removed_at = 2 WHERE number = 1")
    assert rows_of(raw, catalog) == [1, 2]  # it died between the catalog and the disk
    retention.collect(catalog, home.store)
    assert rows_of(raw, catalog) == [2]


# Tags


def test_a_tag_works_as_a_version_and_its_response_is_not_immutable(home: Home, catalog: Catalog) -> None:
    fill(home, 3)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        put = client.put("/datasets/street/tags/paper", json={"version": 2})
        assert (put.status_code, put.json()) == (200, {"dataset": "street", "tag": "paper", "version": 2})
        tagged = client.get("/weights?version=paper&split=train")
        pinned = client.get("/weights?version=2&split=train")
        assert tagged.content == pinned.content
        assert tagged.headers["etag"] == pinned.headers["etag"]
        assert tagged.headers["cache-control"] == "no-cache"
        assert "immutable" in pinned.headers["cache-control"]
        client.put("/datasets/street/tags/paper", json={"version": 3})
        assert client.get("/weights?version=paper").json()["version"] == 3
        tags.put(catalog, catalog.dataset("street"), "paper", 1)
        take_up(client)
        assert client.get("/datasets/street/histogram?version=paper").json()["version"] == 1
        listed = client.get("/datasets/street/versions").json()["versions"]
        assert [v["tags"] for v in listed] == [[], [], ["paper"]]
        unknown = client.get("/weights?version=papr")
        assert unknown.status_code == 404
        assert "did you mean 'paper'" in unknown.json()["detail"]
        assert client.put("/datasets/street/tags/paper", json={"version": 9}).status_code == 404
        for bad in ("7", "1a", "-x", "a b", "x" * 101):
            assert client.put(f"/datasets/street/tags/{bad}", json={"version": 1}).status_code == 422
        assert client.delete("/datasets/street/tags/paper").status_code == 204
        assert client.delete("/datasets/street/tags/paper").status_code == 404
        assert client.get("/weights?version=paper").status_code == 404


def test_the_command_line_sets_tags_and_keep(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    place = ("--home", home.folder)
    fill(home, 3)
    shown = json.loads(statsvc("versions", "street", "--tag", "2=paper", "--json", *place).stdout)
    assert [(v["version"], v["tags"], v["rows"]) for v in shown] == [
        (3, None, "kept"),
        (2, "paper", "kept"),
        (1, None, "kept"),
    ]
    tagged = statsvc("weights", "street", "--version", "paper", "--format", "csv", *place).stdout
    assert tagged == statsvc("weights", "street", "--version", "2", "--format", "csv", *place).stdout
    statsvc("datasets", "street", "--keep", "1", *place)
    done = json.loads(statsvc("gc", "--grace", "0s", "--json", *place).stdout)
    assert done["removed"] == [{"dataset": "street", "version": 1}]
    shown = json.loads(statsvc("versions", "street", "--untag", "paper", "--json", *place).stdout)
    assert [(v["version"], v["rows"]) for v in shown] == [(3, "kept"), (2, "kept"), (1, "removed")]
    assert "write N=TAG" in statsvc("versions", "street", "--tag", "paper", *place, code=2).stderr
    assert "90s, 10m" in statsvc("gc", "--grace", "soon", *place, code=2).stderr
    assert "neither" in statsvc("weights", "street", "--version", "-1", *place, code=2).stderr


# Verify, rebuild, backup


def test_verify_names_the_damaged_versions(raw: Raw, home: Home) -> None:
    place = ("--home", str(home.folder), "--database", home.database, "--store", str(home.store))
    fill(home, 5)
    fill(home, 1, "other")
    statsvc("datasets", "street", "--keep", "4", *place)
    statsvc("gc", "--grace", "0s", *place)
    assert "6 versions read, 0 damaged" in statsvc("verify", *place).stderr
    catalog = Catalog.open(home.database)
    groups = {v.number: v.group_uri for v in catalog.versions(catalog.dataset("street"))}
    chunk = next(name for name in raw.names() if name.startswith(f"{groups[2]}/counts/c/"))
    raw.put(chunk, flipped(raw.get(chunk)))
    raw.delete(*(name for name in raw.names() if name.startswith(f"{groups[3]}/class_pixels/")))
    described = json.loads(raw.get(f"{groups[4]}/zarr.json"))
    described["attributes"]["statsvc"]["pixels"] += 1
    raw.put(f"{groups[4]}/zarr.json", json.dumps(described).encode())
    raw.put(f"{groups[1]}/aggregates", raw.get(f"{groups[1]}/aggregates")[:-5])
    catalog.close()
    found = json.loads(statsvc("verify", "--json", *place, code=1).stdout)
    assert found["checked"] == 6
    damage = {(one["dataset"], one["version"]): one["damage"] for one in found["damaged"]}
    assert sorted(damage) == [("street", number) for number in (1, 2, 3, 4)]
    assert "aggregates cannot be read" in damage["street", 1]
    assert "'counts'" in damage["street", 2]
    assert "'class_pixels'" in damage["street", 3]
    assert "'pixels'" in damage["street", 4]
    assert "1 versions read, 0 damaged" in statsvc("verify", "other", *place).stderr


def test_a_lost_catalog_is_rebuilt_from_the_groups(
    home: Home, raw: Raw, catalog: Catalog, tmp_path: Path
) -> None:
    fill(home, 2)
    # A group that was described but never published has the number that a later one got.
    dataset = catalog.dataset("street")
    early = catalog.version(dataset, 2).group_uri
    for name in raw.names():
        if name.startswith(f"{early}/"):
            said = raw.get(name).replace(b'"number": 2', b'"number": 3')
            raw.put(f"{dataset.uid}/stray-1/{name.removeprefix(f'{early}/')}", said)
    raw.put(f"{dataset.uid}/half-2/counts/c/0/0", b"")
    time.sleep(1.0)  # object stores report times in whole seconds
    fill(home, 1)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        client.patch("/datasets/street", json={"num_classes": 6})
    fill(home, 1, "gone")
    catalog.delete_dataset("gone")
    fill(home, 2, "gone")
    catalog.set_keep(catalog.dataset("street"), 3)
    dataset = catalog.dataset("street")
    retention.collect(catalog, home.store, grace=3600)
    sql(catalog, "UPDATE versions SET expired_at = 1 WHERE expired_at IS NOT NULL")
    retention.collect(catalog, home.store, grace=3600)
    assert rows_of(raw, catalog) == [2, 3, 4]
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
    """The commands of docs/operations.md: gc paused, the catalog first, the arrays second."""
    home = homes.resolve(str(tmp_path / "home"))
    fill(home, 2)
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


def test_keep_is_rejected_out_of_range(catalog: Catalog, home: Home) -> None:
    fill(home, 1)
    for keep in (0, -1, 10**7):
        with pytest.raises(InvalidParameter, match="keep"):
            catalog.set_keep(catalog.dataset("street"), keep)


def test_a_version_too_damaged_to_aggregate_is_reported_and_kept(
    home: Home, raw: Raw, catalog: Catalog
) -> None:
    fill(home, 2)
    dataset = catalog.set_keep(catalog.dataset("street"), 1)
    lost = f"{catalog.version(dataset, 1).group_uri}/counts/"
    raw.delete(*(name for name in raw.names() if name.startswith(lost)))
    done = retention.collect(catalog, home.store, grace=0)
    assert done.expired == []
    assert "'counts'" in done.damaged[0]
    with pytest.raises(DamagedVersion):
        publication.open_version(home.store, "street", catalog.version(dataset, 1)).verify()
