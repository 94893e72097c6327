"""Publication: durable before it is visible, by one transaction, by the current attempt only."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from statsvc.dataset.configuration import Configuration
from statsvc.errors import LeaseLost, StatsvcError
from statsvc.store import publication
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.database_errors import IntegrityError
from statsvc.store.catalog.records import NewVersion
from statsvc.store.versions.zarr_files import create_group
from statsvc_workers.jobs.progress import Progress
from support.catalogs import trace_sql
from support.label_maps import random_labels, write_folder, write_png
from support.scans import Workspace, assert_matches_folder

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "labels", files=4)


def attributes(workspace: Workspace, uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace.files / uri / "zarr.json").read_text())["attributes"][
        "statsvc"
    ]
    return found


def once_at(progress: Progress, stage: str, act: Callable[[], object]) -> Callable[[], bool]:
    """Return a `stop` callback that calls `act` once in a stage of the scan, and never stops it."""
    acted: list[object] = []

    def stop() -> bool:
        if progress.stage == stage and not acted:
            acted.append(None)
            act()
        return False

    return stop


# Durability


def record_events(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Record every fsync with the file's state, every rename, and every SQL statement."""
    events: list[tuple[str, Any]] = []
    fsync, renamed = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        before = os.fstat(descriptor)
        fsync(descriptor)
        events.append(("fsync", (str(path), before.st_ino, before.st_mtime_ns, before.st_size)))

    def recorded_replace(source: Any, target: Any, **options: Any) -> None:
        renamed(source, target, **options)
        events.append(("replace", str(target)))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    trace_sql(
        catalog,
        monkeypatch,
        lambda connection, sql: events.append(("sql", (connection, " ".join(sql.split())))),
    )
    return events


def transactions(events: list[tuple[str, Any]]) -> list[tuple[int, list[str]]]:
    """Return (position of COMMIT, statements) of every committed transaction."""
    found, open_ = [], {}
    for at, (kind, value) in enumerate(events):
        if kind != "sql":
            continue
        connection, sql = value
        if sql.startswith("BEGIN"):
            open_[connection] = [sql]
        elif sql == "COMMIT":
            found.append((at, open_.pop(connection)))
        elif sql == "ROLLBACK":
            open_.pop(connection, None)
        elif connection in open_:
            open_[connection].append(sql)
    return found


@pytest.mark.parametrize("kind", ["first", "incremental"])
def test_everything_is_flushed_after_its_last_write_and_before_the_transaction(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    workspace.add(folder)
    if kind == "incremental":
        workspace.scan()
        write_png(folder / "train/00.png", random_labels(5))
    events = record_events(workspace.catalog, monkeypatch)
    outcome, job = workspace.scan()
    monkeypatch.undo()
    assert outcome.version is not None

    publishing = [
        (at, sql)
        for at, sql in transactions(events)
        if any(statement.startswith("INSERT INTO versions") for statement in sql)
        or any("state = 'succeeded'" in statement for statement in sql)
    ]
    assert len(publishing) == 1
    commit, statements = publishing[0]
    assert statements[0] == "BEGIN IMMEDIATE"
    (update,) = [sql for sql in statements if sql.startswith("UPDATE jobs")]
    assert "state = 'succeeded'" in update
    assert f"WHERE id = '{job.id}' AND attempt = 1 AND state = 'running'" in update
    assert [sql.split()[2] for sql in statements if sql.startswith("INSERT")] == ["versions"]

    flushed = {value[0]: (at, value) for at, (kind, value) in enumerate(events[:commit]) if kind == "fsync"}
    group = workspace.files / outcome.version.group_uri
    everything = [group, *group.rglob("*")]
    assert len([path for path in everything if path.is_file()]) == 1 + 2 * 17
    for path in everything:
        assert str(path) in flushed, path
        _, (_, inode, mtime, size) = flushed[str(path)]
        now = path.stat()
        assert (inode, mtime, size) == (now.st_ino, now.st_mtime_ns, now.st_size), path
    renames = [at for at, (kind, target) in enumerate(events) if kind == "replace" and str(group) in target]
    assert max(renames, default=-1) < flushed[str(group)][0]
    # A folder is flushed after its content, up to the root of the store.
    for path in [*everything, group.parent]:
        assert flushed[str(path)][0] < flushed[str(path.parent)][0], path
    assert flushed[str(workspace.files)][0] < commit


def test_an_unchanged_scan_flushes_nothing_and_inserts_no_version(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.waiting import wait_until_stable

    wait_until_stable(folder)
    workspace.add(folder)
    workspace.scan()
    events = record_events(workspace.catalog, monkeypatch)
    workspace.scan()
    monkeypatch.undo()
    assert [value for kind, value in events if kind == "fsync"] == []
    assert not [sql for _, statements in transactions(events) for sql in statements if "INTO versions" in sql]


@pytest.mark.parametrize("made_by", ["scan", "configuration"])
def test_an_interrupt_before_the_transaction_leaves_no_group(
    workspace: Workspace, folder: Path, made_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = workspace.add(folder)
    if made_by == "configuration":
        workspace.scan()
    before, flush = workspace.groups(), os.fsync
    interrupted: list[int] = []

    def interrupt(descriptor: int) -> None:
        flush(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "zarr.json" and not interrupted:
            interrupted.append(descriptor)
            raise KeyboardInterrupt

    def configure() -> None:
        now = workspace.catalog.dataset_by_uid(dataset.uid)
        publication.configure(
            workspace.catalog, workspace.store, now, lambda old: replace(old, class_names=("road",))
        )

    make = workspace.scan if made_by == "scan" else configure
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make()
    assert interrupted
    assert workspace.groups() == before


# The fence


@pytest.mark.parametrize("stage", ["counting", "writing", "publishing"])
def test_an_attempt_whose_job_was_taken_over_publishes_nothing_and_leaves_no_group(
    workspace: Workspace, folder: Path, stage: str
) -> None:
    workspace.add(folder)
    progress = Progress()

    def take_over() -> None:
        with workspace.catalog.write() as connection:
            connection.execute("UPDATE jobs SET attempt = attempt + 1")

    outcome, job = workspace.scan(stop=once_at(progress, stage, take_over), progress=progress)
    assert outcome.version is None
    assert outcome.error is not None
    assert job.id in outcome.error
    assert (job.state, job.attempt, job.error) == ("running", 2, None)
    assert workspace.catalog.versions(workspace.catalog.dataset("streets")) == []
    assert workspace.groups() == set()


def test_the_next_attempt_publishes_after_a_takeover(workspace: Workspace, folder: Path) -> None:
    workspace.add(folder)
    progress = Progress()

    def take_over() -> None:
        with workspace.catalog.write() as connection:
            connection.execute("UPDATE jobs SET attempt = attempt + 1, lease_until = 1")

    _, job = workspace.scan(stop=once_at(progress, "publishing", take_over), progress=progress)
    outcome, again = workspace.scan()
    assert (again.id, again.attempt, again.state) == (job.id, 3, "succeeded")
    assert outcome.version is not None
    assert workspace.groups() == {f"{job.dataset_uid}/{job.id}-3"}
    assert_matches_folder(workspace.version(), folder)


def test_a_scan_of_the_old_source_is_not_published_after_the_dataset_has_moved(
    workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    dataset = workspace.add(folder)
    progress = Progress()
    other = write_folder(tmp_path / "other", seed=9)

    def move() -> None:
        workspace.catalog.set_source(dataset, str(other), "*.png")

    _, job = workspace.scan(stop=once_at(progress, "publishing", move), progress=progress)
    assert job.state == "failed"
    assert f"{folder} was being counted. Nothing was published; scan again" in str(job.error)
    assert workspace.groups() == set()
    _, job = workspace.scan()
    assert job.state == "succeeded"
    assert_matches_folder(workspace.version(), other)


def test_a_dataset_deleted_during_a_scan_gets_no_version(workspace: Workspace, folder: Path) -> None:
    dataset = workspace.add(folder)
    progress = Progress()

    def delete() -> None:
        with workspace.catalog.write() as connection:
            connection.execute("UPDATE datasets SET deleted_at = 1, revision = revision + 1")

    outcome, job = workspace.scan(stop=once_at(progress, "publishing", delete), progress=progress)
    assert job.state == "failed"
    assert "was deleted meanwhile" in str(outcome.error)
    assert workspace.catalog.versions(dataset) == []
    assert workspace.groups() == set()


def bare_version(workspace: Workspace, uri: str) -> NewVersion:
    create_group(workspace.store / uri, {})
    return NewVersion("scan", uri, uri, Configuration(num_classes=2), "r", {}, 0, 0, 0)


def publish_concurrently(workspace: Workspace, tasks: list[Callable[[Catalog], Any]]) -> list[Any]:
    """Run each task in a thread with its own connection; return results and errors."""
    barrier = threading.Barrier(len(tasks))
    results: list[Any] = [None] * len(tasks)

    def run(k: int) -> None:
        catalog = Catalog.open(f"sqlite:///{workspace.home / 'catalog.sqlite'}")
        barrier.wait()
        try:
            results[k] = tasks[k](catalog)
        except StatsvcError as error:
            results[k] = error
        finally:
            catalog.close()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_exactly_one_of_many_concurrent_publications_of_one_job_succeeds(
    workspace: Workspace, folder: Path
) -> None:
    dataset = workspace.add(folder)
    job = workspace.lease()
    news = [bare_version(workspace, f"{dataset.uid}/{k}") for k in range(6)]

    def task(new: NewVersion) -> Callable[[Catalog], Any]:
        return lambda own: publication.publish(own, workspace.store, dataset, new, job=job)

    results = publish_concurrently(workspace, [task(new) for new in news])
    won = [result for result in results if not isinstance(result, Exception)]
    assert len(won) == 1
    assert all(isinstance(result, LeaseLost) for result in results if result is not won[0])
    assert [v.group_uri for v in workspace.catalog.versions(dataset)] == [won[0].group_uri]
    assert workspace.groups() == {won[0].group_uri}
    assert jobs.get(workspace.catalog, job.id).version_number == 1


def test_concurrent_publications_without_a_job_get_consecutive_numbers(
    workspace: Workspace, folder: Path
) -> None:
    dataset = workspace.add(folder)
    news = [bare_version(workspace, f"{dataset.uid}/{k}") for k in range(6)]

    def task(new: NewVersion) -> Callable[[Catalog], Any]:
        return lambda own: publication.publish(own, workspace.store, dataset, new)

    results = publish_concurrently(workspace, [task(new) for new in news])
    assert sorted(record.number for record in results) == [1, 2, 3, 4, 5, 6]
    for record in results:
        assert attributes(workspace, record.group_uri)["number"] == record.number


@pytest.mark.parametrize("columns", ["job_id", "dataset_uid, number"])
def test_the_database_rejects_a_second_version_of_a_job_or_number(
    workspace: Workspace, folder: Path, columns: str
) -> None:
    workspace.add(folder)
    _, _job = workspace.scan()
    copied = {
        "dataset_uid": "dataset_uid",
        "number": "number + 1" if columns == "job_id" else "number",
        "job_id": "job_id" if columns == "job_id" else "NULL",
    }
    rest = "kind, group_uri, arrays_uri, configuration, reader, digests, failed, pixels, created_at"
    statement = (
        f"INSERT INTO versions ({', '.join(copied)}, {rest}) "
        f"SELECT {', '.join(copied.values())}, {rest} FROM versions"
    )
    with pytest.raises(IntegrityError, match="UNIQUE"), workspace.catalog.write() as connection:
        connection.execute(statement)


# A configuration changed while a scan is under way


def test_a_scan_publishes_a_configuration_that_was_changed_while_it_ran(
    workspace: Workspace, folder: Path
) -> None:
    workspace.add(folder)
    workspace.scan()
    write_png(folder / "train/00.png", random_labels(9))
    progress = Progress()

    def change() -> None:
        dataset = workspace.catalog.dataset("streets")
        publication.configure(
            workspace.catalog,
            workspace.store,
            dataset,
            lambda c: replace(c, num_classes=30, class_names=("road", "car"), ignore_index=(7,)),
        )

    outcome, job = workspace.scan(stop=once_at(progress, "publishing", change), progress=progress)
    assert outcome.error is None
    versions = workspace.catalog.versions(workspace.catalog.dataset("streets"))
    assert [(v.number, v.kind) for v in versions] == [(3, "scan"), (2, "configuration"), (1, "scan")]
    assert versions[1].arrays_uri == versions[2].group_uri
    assert versions[0].configuration == versions[1].configuration
    assert versions[0].configuration.class_names == ("road", "car")
    assert job.version_number == 3
    assert_matches_folder(workspace.version(), folder)
    for record in versions:
        described = attributes(workspace, record.group_uri)
        assert described["number"] == record.number
        assert Configuration.from_dict(described["configuration"]) == record.configuration
    assert workspace.catalog.dataset("streets").configuration == versions[0].configuration


def test_a_configuration_changed_during_the_first_scan_is_kept(workspace: Workspace, folder: Path) -> None:
    workspace.add(folder)
    progress = Progress()

    def change() -> None:
        publication.configure(
            workspace.catalog,
            workspace.store,
            workspace.catalog.dataset("streets"),
            lambda c: replace(c, class_names=("road",), ignore_index=(0,)),
        )

    workspace.scan(stop=once_at(progress, "publishing", change), progress=progress)
    record = workspace.record()
    assert (record.number, record.configuration.class_names) == (1, ("road",))
    assert record.configuration.ignore_index == (0,)
    # The scan still infers what the configuration leaves open.
    assert set(record.configuration.splits) == {"train", "val"}
    assert record.configuration.num_classes > 0
    assert attributes(workspace, record.group_uri)["configuration"] == record.configuration.to_dict()


def test_an_unchanged_configuration_creates_no_version(workspace: Workspace, folder: Path) -> None:
    workspace.add(folder)
    workspace.scan()
    dataset, record = publication.configure(
        workspace.catalog, workspace.store, workspace.catalog.dataset("streets"), replace
    )
    assert (dataset.current_number, record and record.number) == (1, 1)


def test_group_attributes_contain_everything_that_the_catalog_knows_of_a_version(
    workspace: Workspace, folder: Path
) -> None:
    workspace.add(folder)
    workspace.scan()
    publication.configure(
        workspace.catalog,
        workspace.store,
        workspace.catalog.dataset("streets"),
        lambda c: replace(c, class_names=("road",)),
    )
    write_png(folder / "train/00.png", random_labels(9))
    workspace.scan()
    dataset = workspace.catalog.dataset("streets")
    rows = workspace.catalog.versions(dataset)
    assert {row.group_uri for row in rows} == workspace.groups()
    for row in rows:
        described = attributes(workspace, row.group_uri)
        job = None if row.job_id is None else jobs.get(workspace.catalog, row.job_id)
        assert described == {
            "schema": 1,
            "dataset": {"uid": dataset.uid, "name": "streets", "source": str(folder), "pattern": "*.png"},
            "number": row.number,
            "kind": row.kind,
            "arrays": row.arrays_uri,
            "configuration": row.configuration.to_dict(),
            "reader": row.reader,
            "digests": dict(row.digests),
            "samples": row.samples,
            "failed": row.failed,
            "pixels": row.pixels,
            "job": None if job is None else {"id": job.id, "attempt": job.attempt},
        }
