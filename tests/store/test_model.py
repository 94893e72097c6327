"""Store and catalog against a model of dictionaries, under random sequences of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from statsvc.dataset.configuration import Configuration
from statsvc.errors import Conflict, LeaseLost, NotFound
from statsvc.store import publication, retention
from statsvc.store.catalog import jobs, tags
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.records import NewVersion
from statsvc.store.verifying import verify
from statsvc.store.versions.open_location import open_location
from statsvc.store.versions.writer import VersionWriter, strings
from support.stores import StoredFiles

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.catalog.records import Dataset, Job
    from statsvc.store.versions.location import Location

OWNER = "another-host/boot/pid:[1]/17/12345"
NAMES = st.sampled_from(["a", "b"])
TAGS = st.sampled_from(["paper", "best"])
COUNTS = st.lists(st.integers(1, 9), min_size=2, max_size=2)


def write_version(store: Location, uri: str, counts: list[int], configuration: Configuration) -> NewVersion:
    """Write the arrays of a version of one sample with these pixels of classes 0 and 1."""
    row = np.array([counts], np.int64)
    writer = VersionWriter(store / uri, np.arange(2), 1, {})
    numbers = {name: np.ones(1, np.int64) for name in ("size", "mtime_ns", "ctime_ns", "height", "width")}
    columns: dict[str, np.ndarray[Any, Any]] = {
        **numbers,
        "path": strings(["one.png"]),
        "etag": strings([""]),
        "error": strings([""]),
        "content": np.zeros(1, np.uint64),
        "pixels": row.sum(axis=1),
        "mode": np.zeros(1, np.uint8),
        "status": np.zeros(1, np.uint8),
    }
    writer.append(columns, row)
    totals, digests = writer.finish()
    return NewVersion("scan", uri, uri, configuration, "test", digests, 1, 0, int(totals.pixels.sum()))


class Model(RuleBasedStateMachine):
    """The model: `live` are the datasets by name, `attempts` all that runners believe they run."""

    def __init__(self, catalog: Catalog, stored_files: StoredFiles) -> None:
        super().__init__()
        self.catalog, self.store, self.raw = catalog, stored_files.store, stored_files
        with catalog.write() as connection:
            for table in (
                "tags",
                "versions",
                "idempotency_keys",
                "changed_paths",
                "jobs",
                "triggers",
                "datasets",
            ):
                connection.execute(f"DELETE FROM {table}")
        stored_files.clear()
        self.live: dict[str, dict[str, Any]] = {}
        self.next_number: dict[str, int] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.attempts: list[Job] = []

    # Datasets

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        if name in self.live:
            with pytest.raises(Conflict):
                self.catalog.create_dataset(name, "/labels", "*", Configuration())
            return
        made = self.catalog.create_dataset(name, "/labels", "*", Configuration(num_classes=2))
        number = self.next_number.setdefault(name, 1)
        assert made.next_number == number
        self.live[name] = {"uid": made.uid, "versions": {}, "tags": {}, "keep": 20, "classes": 2}

    @precondition(lambda self: self.live)
    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name not in self.live:
            with pytest.raises(NotFound):
                self.catalog.delete_dataset(name)
            return
        unended = [job for job in self.jobs.values() if job["name"] == name and job["state"] in OPEN]
        if any(job["state"] == "running" and not job["expired"] for job in unended):
            with pytest.raises(Conflict):
                self.catalog.delete_dataset(name)
            return
        self.catalog.delete_dataset(name)
        for job in unended:
            job["state"] = "cancelled"
        for job in self.jobs.values():
            job["name"] = None if job["name"] == name else job["name"]
        del self.live[name]

    # Jobs

    @precondition(lambda self: self.live)
    @rule(data=st.data(), full=st.booleans())
    def submit(self, data: st.DataObject, full: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        job, made = jobs.submit(self.catalog, self.dataset(name), full=full)
        queued = [key for key, one in self.jobs.items() if one["name"] == name and one["state"] == "queued"]
        assert made == (not queued)
        if made:
            # Jobs created in one tick of the clock run in any order, so examples would not be reproducible.
            self.sql("UPDATE jobs SET created_at = :at WHERE id = :id", at=len(self.jobs), id=job.id)
            self.jobs[job.id] = {
                "name": name,
                "state": "queued",
                "attempt": 0,
                "released": 0,
                "full": full,
                "expired": False,
            }
        else:
            assert queued == [job.id]
            self.jobs[job.id]["full"] |= full

    @rule()
    def lease(self) -> None:
        busy = {job["name"] for job in self.jobs.values() if job["state"] == "running"}
        able = {
            key
            for key, job in self.jobs.items()
            if (job["state"] == "queued" and job["name"] not in busy)
            or (job["state"] == "running" and job["expired"])
        }
        spent = {
            key for key in able if self.jobs[key]["attempt"] - self.jobs[key]["released"] >= jobs.MAX_ATTEMPTS
        }
        job = jobs.lease(self.catalog, OWNER)
        for key in spent:
            # It fails when a runner reaches it; a runner that leases an earlier job does not.
            if jobs.get(self.catalog, key).state == "failed":
                self.jobs[key]["state"] = "failed"
        if job is None:
            assert able == spent
            return
        assert job.id in able - spent
        model = self.jobs[job.id]
        model |= {"state": "running", "attempt": model["attempt"] + 1, "expired": False}
        assert (job.attempt, job.full) == (model["attempt"], model["full"])
        self.attempts.append(job)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def let_lease_expire(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.attempts))
        if self.current(job):
            self.sql("UPDATE jobs SET lease_until = 1 WHERE id = :id", id=job.id)
            self.jobs[job.id]["expired"] = True

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.attempts))
        if not self.current(job):
            with pytest.raises(LeaseLost):
                jobs.heartbeat(self.catalog, job, {})
            return
        jobs.heartbeat(self.catalog, job, {})
        self.jobs[job.id]["expired"] = False

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), how=st.sampled_from(["fail", "requeue", "stop", "unchanged"]))
    def end(self, data: st.DataObject, how: str) -> None:
        job = data.draw(st.sampled_from(self.attempts))
        model, current = self.jobs[job.id], self.current(job)
        if how == "unchanged":
            if not current:
                with pytest.raises(LeaseLost):
                    jobs.succeed_unchanged(self.catalog, job, {})
                return
            jobs.succeed_unchanged(self.catalog, job, {})
            model["state"] = "succeeded"
        elif how == "fail":
            jobs.fail(self.catalog, job, "no")
            if current:
                model["state"] = "failed"
        else:
            jobs.requeue(self.catalog, job, "no", orderly=how == "stop")
            # Skip the pause before the next attempt.
            self.sql("UPDATE jobs SET lease_until = NULL WHERE id = :id AND state = 'queued'", id=job.id)
            if not current:
                return
            queued = [
                one for one in self.jobs.values() if (one["name"], one["state"]) == (model["name"], "queued")
            ]
            if how != "stop" and model["attempt"] - model["released"] >= jobs.MAX_ATTEMPTS:
                model["state"] = "failed"
            elif queued:
                model["state"] = "cancelled"
                queued[0]["full"] |= job.full
            else:
                model["state"] = "queued"
                model["released"] += how == "stop"

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.jobs)))
        model = self.jobs[key]
        if model["state"] in ("succeeded", "failed"):
            with pytest.raises(Conflict):
                jobs.cancel(self.catalog, key)
            return
        jobs.cancel(self.catalog, key)
        model["state"] = "cancelled"

    # Versions

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), counts=COUNTS)
    def publish(self, data: st.DataObject, counts: list[int]) -> None:
        job = data.draw(st.sampled_from(self.attempts))
        assert job.group_uri is not None
        dataset = self.catalog.dataset_by_uid(job.dataset_uid)
        if (self.store / job.group_uri / "zarr.json").exists():
            return  # this attempt has already published
        new = write_version(self.store, job.group_uri, counts, dataset.configuration)
        if not self.current(job):
            with pytest.raises((LeaseLost, NotFound)):
                publication.publish(self.catalog, self.store, dataset, new, job=job)
            return
        record = publication.publish(self.catalog, self.store, dataset, new, job=job)
        self.jobs[job.id]["state"] = "succeeded"
        self.published(dataset.name, record.number, counts, record.arrays_uri)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), classes=st.integers(2, 4))
    def configure(self, data: st.DataObject, classes: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        model = self.live[name]
        publication.configure(
            self.catalog, self.store, self.dataset(name), lambda _: Configuration(num_classes=classes)
        )
        if model["versions"] and classes != model["classes"]:
            last = model["versions"][max(model["versions"])]
            self.published(name, self.next_number[name], last["counts"], last["arrays"])
        model["classes"] = classes

    # Retention

    @precondition(lambda self: self.live)
    @rule(data=st.data(), keep=st.integers(1, 3))
    def set_keep(self, data: st.DataObject, keep: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        self.catalog.set_keep(self.dataset(name), keep)
        self.live[name]["keep"] = keep

    @precondition(lambda self: any(model["versions"] for model in self.live.values()))
    @rule(data=st.data(), tag=TAGS)
    def tag(self, data: st.DataObject, tag: str) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, model in self.live.items() if model["versions"])))
        number = data.draw(st.sampled_from(sorted(self.live[name]["versions"])))
        tags.put(self.catalog, self.dataset(name), tag, number)
        self.live[name]["tags"][tag] = number

    @precondition(lambda self: self.live)
    @rule(data=st.data(), tag=TAGS)
    def untag(self, data: st.DataObject, tag: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        if self.live[name]["tags"].pop(tag, None) is None:
            with pytest.raises(NotFound):
                tags.remove(self.catalog, self.dataset(name), tag)
        else:
            tags.remove(self.catalog, self.dataset(name), tag)

    @rule()
    def collect(self) -> None:
        done = retention.collect(self.catalog, self.store, grace=0)
        assert done.damaged == []
        for model in self.live.values():
            newest = sorted(model["versions"])[-model["keep"] :]
            for number, version in model["versions"].items():
                if number not in newest and number not in model["tags"].values():
                    version["rows"] = False

    # Invariants

    @invariant()
    def datasets_are_equal(self) -> None:
        assert {dataset.name: dataset.uid for dataset in self.catalog.datasets()} == {
            name: model["uid"] for name, model in self.live.items()
        }
        for name, model in self.live.items():
            dataset = self.dataset(name)
            assert dataset.current_number == max(model["versions"], default=None)
            assert dataset.next_number == self.next_number[name]
            assert dataset.configuration.num_classes == model["classes"]
            assert tags.of(self.catalog, dataset) == model["tags"]
            records = {record.number: record for record in self.catalog.versions(dataset)}
            assert sorted(records) == sorted(model["versions"])
            for number, version in model["versions"].items():
                table = publication.open_version(self.store, name, records[number])
                assert table.totals().pixels.tolist() == version["counts"]
                assert table.has_rows == version["rows"]
                if version["rows"]:
                    assert [row.tolist() for block in table.blocks() for row in block.counts] == [
                        version["counts"]
                    ]

    @invariant()
    def jobs_are_equal(self) -> None:
        found = {job.id: job for job, _ in jobs.recent(self.catalog, limit=1000)}
        assert {key: (job.state, job.attempt, job.full) for key, job in found.items()} == {
            key: (job["state"], job["attempt"], job["full"]) for key, job in self.jobs.items()
        }

    def teardown(self) -> None:
        """At the end every version passes verification, and the catalog knows every group."""
        for job in self.attempts:
            if self.current(job):
                jobs.fail(self.catalog, job, "the end")
        retention.collect(self.catalog, self.store, grace=0)
        for name in self.live:
            dataset = self.dataset(name)
            assert all(damage is None for _, damage in verify(self.catalog, self.store, dataset))
            groups = {"/".join(f.split("/")[:2]) for f in self.raw.names() if f.startswith(f"{dataset.uid}/")}
            records = self.catalog.versions(dataset)
            assert groups == {r.group_uri for r in records} | {r.arrays_uri for r in records}

    # Helpers

    def dataset(self, name: str) -> Dataset:
        return self.catalog.dataset(name)

    def sql(self, statement: str, **values: object) -> None:
        with self.catalog.write() as connection:
            connection.execute(statement, **values)

    def current(self, job: Job) -> bool:
        model = self.jobs[job.id]
        return bool(model["state"] == "running" and model["attempt"] == job.attempt)

    def published(self, name: str, number: int, counts: list[int], arrays: str) -> None:
        assert number == self.next_number[name]
        self.next_number[name] = number + 1
        self.live[name]["versions"][number] = {"counts": counts, "rows": True, "arrays": arrays}


OPEN = ("queued", "running")


def test_store_and_catalog_behave_like_a_dictionary_model(database: str, tmp_path: Path) -> None:
    catalog = Catalog.open(database)
    raw = StoredFiles(open_location(str(tmp_path / "versions")))
    run_state_machine_as_test(
        lambda: Model(catalog, raw),  # type: ignore[arg-type]
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            database=None,
            # A failing example is printed as it was found: shrinking it may take longer than a test may.
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
    catalog.close()
