"""Retention: expiry, tags, orphans and concurrent readers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.classes.class_maps import builtin
from statsvc.dataset.groups import Grouping
from statsvc.errors import Conflict, DamagedVersion, InvalidParameter, NotFound, Unanswerable
from statsvc.store import home as homes
from statsvc.store import publication, retention
from statsvc.store.catalog import jobs, tags
from support.catalogs import execute_sql
from support.commands import statsvc
from support.publishing import label_maps, publish, refresh_catalog_state
from support.retained_versions import SPLITS, publish_versions, versions_with_rows

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home
    from support.stores import StoredFiles

QUESTIONS = [
    "method=sqrt_inv_freq",
    "method=median_freq",
    "method=effective_num&beta=0.999&split=train",
    "method=median_freq&split=val",
    "ignore_index=none",
    "class_map=none",
    "split=val&class_map=none&method=median_freq",
]


@pytest.fixture
def home(home_of_each_kind: Home) -> Home:
    return home_of_each_kind


@pytest.fixture
def stored_files(stored_files_of_each_kind: StoredFiles) -> StoredFiles:
    return stored_files_of_each_kind


@pytest.mark.parametrize("class_map", [None, "binary"])
def test_a_pinned_version_answers_the_same_bytes_after_it_has_expired(
    home: Home, stored_files: StoredFiles, catalog: Catalog, class_map: str | None
) -> None:
    publish_versions(home, 3, num_classes=2 if class_map else 4, class_map=class_map and builtin(class_map))
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
    assert versions_with_rows(stored_files, catalog) == [3]
    assert answers() == before
    table = publication.open_version(home.store, "street", catalog.version(catalog.dataset("street"), 1))
    table.verify()
    with pytest.raises(Unanswerable, match="removed by retention"):
        next(table.blocks())
    with pytest.raises(NotFound, match="no split 'x'"):
        table.histogram("x")


def test_requests_that_need_removed_rows_are_rejected_with_the_reason(home: Home, catalog: Catalog) -> None:
    publish_versions(home, 2, groups={"top": Grouping(folder=1)})
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
            "/weights?version=1&group=top:train",
            "/datasets/street/groups?version=1&by=top",
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
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 4)
    dataset = catalog.set_keep(catalog.dataset("street"), 2)
    tags.put(catalog, dataset, "paper", 1)
    first = retention.collect(catalog, home.store)
    assert (first.expired, first.removed) == ([("street", 2)], [])
    assert versions_with_rows(stored_files, catalog) == [1, 2, 3, 4]
    tags.put(catalog, dataset, "baseline", 2)
    assert catalog.version(dataset, "baseline").expired_at is None
    assert retention.collect(catalog, home.store, grace=0).removed == []
    tags.remove(catalog, dataset, "baseline")
    assert retention.collect(catalog, home.store, grace=0).removed == [("street", 2)]
    assert versions_with_rows(stored_files, catalog) == [1, 3, 4]
    tags.put(catalog, dataset, "late", 2)
    assert catalog.version(dataset, "late").expired_at is not None
    assert retention.collect(catalog, home.store, grace=0).removed == []


def test_arrays_shared_with_a_kept_version_are_kept(home: Home, catalog: Catalog) -> None:
    publish_versions(home, 1)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        for classes in (5, 6, 7):
            assert client.patch("/datasets/street", json={"num_classes": classes}).status_code == 200
        kept = client.patch("/datasets/street", json={"keep": 1}).json()
        assert (kept["keep"], kept["version"]) == (1, 4)
        done = retention.collect(catalog, home.store, grace=0)
        assert (len(done.expired), done.removed, done.orphans) == (3, [], [])
        assert client.get("/weights?split=train").status_code == 200
        publish_versions(home, 1)
        assert len(retention.collect(catalog, home.store, grace=0).removed) == 4
        for number in (1, 2, 3, 4, 5):
            assert client.get(f"/weights?version={number}&split=train").status_code == 200
        assert client.patch("/datasets/street", json={"keep": None}).json()["keep"] == 20
        assert client.patch("/datasets/street", json={"keep": 0}).status_code == 422


def test_the_base_and_the_new_group_of_a_running_job_are_kept(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 3)
    dataset = catalog.set_keep(catalog.dataset("street"), 1)
    jobs.submit(catalog, dataset)
    job = jobs.lease(catalog, "elsewhere/1/1")
    assert job is not None
    assert job.group_uri is not None
    dead, fresh = f"{dataset.uid}/{job.id}-0", f"{dataset.uid}/configuration-abc"
    part = f"{dataset.uid}/parts/x/1.part"
    for name in (f"{job.group_uri}/zarr.json", f"{dead}/zarr.json", f"{fresh}/zarr.json", part):
        stored_files.put(name, b"{}")
    done = retention.collect(catalog, home.store, grace=60)
    assert done.orphans == [dead]
    assert (
        f"{fresh}/zarr.json" in stored_files.names()
    )  # younger than the grace period: it may be on its way in
    done = retention.collect(catalog, home.store, grace=0)
    assert done.removed == []
    assert versions_with_rows(stored_files, catalog) == [1, 2, 3]
    assert f"{job.group_uri}/zarr.json" in stored_files.names()
    assert f"{fresh}/zarr.json" not in stored_files.names()
    jobs.fail(catalog, job, "no")
    done = retention.collect(catalog, home.store, grace=0)
    assert done.orphans == [job.group_uri]
    assert versions_with_rows(stored_files, catalog) == [3]
    assert part in stored_files.names()


def test_the_group_of_a_job_that_was_cancelled_less_than_a_minute_ago_is_kept(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 1)
    jobs.submit(catalog, catalog.dataset("street"))
    job = jobs.lease(catalog, "elsewhere/1/1")
    assert job is not None
    assert job.group_uri is not None
    stored_files.put(f"{job.group_uri}/zarr.json", b"{}")
    jobs.cancel(catalog, job.id)  # its process learns of it a second later
    assert retention.collect(catalog, home.store).orphans == []
    execute_sql(catalog, "UPDATE jobs SET finished_at = finished_at - 61 WHERE id = :id", id=job.id)
    assert retention.collect(catalog, home.store).orphans == [job.group_uri]


KILLED_IMPORT = """
import os, signal
from statsvc.store import importing
write = importing._write
importing._write = lambda *arguments: (write(*arguments), os.kill(os.getpid(), signal.SIGKILL))
from statsvc.cli import main
main()
"""


def test_the_folder_of_an_import_that_was_killed_is_removed_after_a_day(tmp_path: Path) -> None:
    counts, home = tmp_path / "counts.json", homes.resolve(str(tmp_path / "home"))
    counts.write_text('{"0": 3, "1": 2}')
    arguments = ["import", counts, "--name", "totals", "--home", home.folder]
    killed = subprocess.run([sys.executable, "-c", KILLED_IMPORT, *map(str, arguments)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (folder,) = home.store.folders()
    # The empty catalog was not lost, and the import may still be running.
    assert json.loads(statsvc("datasets", "--json", "--home", home.folder).stdout) == []
    for age, orphans in ((86_000, []), (87_000, [folder.name])):
        for path in (tmp_path / "home" / "versions" / folder.name).rglob("*"):
            os.utime(path, (time.time() - age,) * 2)
        done = json.loads(statsvc("gc", "--grace", "0s", "--json", "--home", home.folder).stdout)
        assert (done["orphans"], done["unknown"]) == (orphans, [])
    assert home.store.folders() == []


def test_a_version_of_another_catalog_next_to_an_import_that_was_killed_is_kept(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 1)
    uid, other = catalog.dataset("street").uid, "0" * 32
    empty = {"attributes": {"statsvc": {}}, "zarr_format": 3, "node_type": "group"}
    stored_files.put(f"{other}/import-1/zarr.json", json.dumps(empty).encode())
    stored_files.put(f"{other}/import-2/zarr.json", b"")  # damaged: it may have been a version
    done = retention.collect(catalog, home.store, grace=0)
    assert (done.orphans, done.unknown) == ([], [other])
    assert versions_with_rows(stored_files, catalog) == [1]
    assert uid not in done.unknown


def test_folders_of_deleted_datasets_are_removed_and_unknown_folders_are_kept(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 1)
    publish_versions(home, 1, "other")
    uid = catalog.dataset("street").uid
    stored_files.put("strange/group/file", b"")
    catalog.delete_dataset("street")
    assert retention.collect(catalog, home.store).orphans == []
    done = retention.collect(catalog, home.store, grace=0)
    assert (done.orphans, done.unknown) == ([uid], ["strange"])
    assert [name for name in stored_files.names() if name.startswith(uid)] == []
    assert "strange/group/file" in stored_files.names()
    assert versions_with_rows(stored_files, catalog, "other") == [1]


PAUSE_SECONDS = 0.01
"""Pause of a reader between two requests, so that readers leave processor time for gc and publications."""


class Reader(threading.Thread):
    """Sends one query to the API again and again, and records every response that is not as expected."""

    def __init__(self, client: TestClient, query: str, expected: bytes | None = None) -> None:
        super().__init__(daemon=True)
        self.failures: list[str] = []
        self._client, self._query, self._expected = client, query, expected
        self._completed = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
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
            assert self._changed.wait_for(lambda: self._completed >= target, timeout=120)

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def test_no_reader_fails_while_gc_runs_continuously(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    """The grace period ends when the server and every reader have seen the expiry, not after some time."""
    publish_versions(home, 2)
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
                refresh_catalog_state(client)
                for reader in readers:
                    reader.wait_for_new_request()
                for _, number in result.expired:
                    execute_sql(catalog, f"UPDATE versions SET expired_at = 1 WHERE number = {number}")

        collector = threading.Thread(target=collect, daemon=True)
        for thread in (*readers, collector):
            thread.start()
        try:
            for number in range(3):
                publish(home, "street", label_maps(100 + number), num_classes=4, splits=SPLITS)
            published.set()
            collector.join()
        finally:
            for reader in readers:
                reader.stop()
    assert [failure for reader in readers for failure in reader.failures] == []
    assert removed  # some rows were removed while they were read
    retention.collect(catalog, home.store, grace=0)
    assert versions_with_rows(stored_files, catalog) == [5]


def test_gc_can_be_paused_and_does_not_run_twice_at_the_same_time(home: Home, catalog: Catalog) -> None:
    publish_versions(home, 1)
    retention.pause(catalog, home.store)
    with pytest.raises(Conflict, match="statsvc gc --resume"):
        retention.collect(catalog, home.store)
    retention.resume(home.store)
    with catalog.engine.exclusive("gc"), pytest.raises(Conflict, match="another gc"):
        retention.collect(catalog, home.store)
    for _ in range(20):  # one after another is not at the same time
        assert retention.collect(catalog, home.store).expired == []


def test_the_next_gc_finishes_the_work_of_a_gc_that_died(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 2)
    catalog.set_keep(catalog.dataset("street"), 1)
    retention.collect(catalog, home.store)
    execute_sql(catalog, "UPDATE versions SET expired_at = 1, rows_removed_at = 2 WHERE number = 1")
    assert versions_with_rows(stored_files, catalog) == [1, 2]  # it died between the catalog and the disk
    retention.collect(catalog, home.store)
    assert versions_with_rows(stored_files, catalog) == [2]


# Tags


def test_a_tag_works_as_a_version_and_its_response_is_not_immutable(home: Home, catalog: Catalog) -> None:
    publish_versions(home, 3)
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
        refresh_catalog_state(client)
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
    home_options = ("--home", home.folder)
    publish_versions(home, 3)
    shown = json.loads(statsvc("versions", "street", "--tag", "2=paper", "--json", *home_options).stdout)
    assert [(v["version"], v["tags"], v["rows"]) for v in shown] == [
        (3, [], "kept"),
        (2, ["paper"], "kept"),
        (1, [], "kept"),
    ]
    tagged = statsvc("weights", "street", "--version", "paper", "--format", "csv", *home_options).stdout
    assert tagged == statsvc("weights", "street", "--version", "2", "--format", "csv", *home_options).stdout
    statsvc("datasets", "street", "--keep", "1", *home_options)
    done = json.loads(statsvc("gc", "--grace", "0s", "--json", *home_options).stdout)
    assert done["removed"] == [{"dataset": "street", "version": 1}]
    shown = json.loads(statsvc("versions", "street", "--untag", "paper", "--json", *home_options).stdout)
    assert [(v["version"], v["rows"]) for v in shown] == [(3, "kept"), (2, "kept"), (1, "removed")]
    assert "is not N=TAG" in statsvc("versions", "street", "--tag", "paper", *home_options, code=2).stderr
    assert "90s, 10m" in statsvc("gc", "--grace", "soon", *home_options, code=2).stderr
    assert "is not a version" in statsvc("weights", "street", "--version", "-1", *home_options, code=2).stderr


def test_keep_is_rejected_out_of_range(catalog: Catalog, home: Home) -> None:
    publish_versions(home, 1)
    for keep in (0, -1, 10**7):
        with pytest.raises(InvalidParameter, match="keep"):
            catalog.set_keep(catalog.dataset("street"), keep)


def test_a_version_too_damaged_to_aggregate_is_reported_and_kept(
    home: Home, stored_files: StoredFiles, catalog: Catalog
) -> None:
    publish_versions(home, 2)
    dataset = catalog.set_keep(catalog.dataset("street"), 1)
    lost = f"{catalog.version(dataset, 1).group_uri}/counts/"
    stored_files.delete(*(name for name in stored_files.names() if name.startswith(lost)))
    done = retention.collect(catalog, home.store, grace=0)
    assert done.expired == []
    assert "'counts'" in done.damaged[0]
    with pytest.raises(DamagedVersion):
        publication.open_version(home.store, "street", catalog.version(dataset, 1)).verify()
