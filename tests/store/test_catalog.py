"""Datasets and versions in the catalog: names, numbers and revisions."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.errors import Conflict, InvalidParameter, NotFound
from statsvc.store.catalog import jobs, overview
from statsvc.store.catalog.catalog import Catalog, Stale
from statsvc.store.catalog.database_errors import IntegrityError
from statsvc.store.catalog.records import NewVersion
from support.catalogs import LEASING_PROGRAM, REMOTE_OWNER, add_dataset, execute_sql


def new_version(group: str = "g") -> NewVersion:
    return NewVersion("scan", group, group, Configuration(num_classes=2), "reader", {"a": "0"}, 3, 0, 12)


@pytest.mark.parametrize("name", ["a", "camvid-train_2.0", "9", "A" * 100])
def test_a_valid_name_is_accepted(catalog: Catalog, name: str) -> None:
    assert add_dataset(catalog, name).name == name
    assert catalog.dataset(name).current_number is None


@pytest.mark.parametrize("name", ["", ".", "-a", "a/b", "a b", "a:b", "a,b", "ä", "A" * 101, "a\n", "a%20"])
def test_an_invalid_name_is_rejected(catalog: Catalog, name: str) -> None:
    with pytest.raises(InvalidParameter, match="letters, digits"):
        add_dataset(catalog, name)
    assert catalog.datasets() == []


def test_a_second_dataset_of_the_same_name_is_rejected(catalog: Catalog) -> None:
    add_dataset(catalog)
    with pytest.raises(Conflict, match="the dataset 'streets' already exists"):
        add_dataset(catalog)


def test_the_unique_index_rejects_a_name_that_two_processes_insert_concurrently(catalog: Catalog) -> None:
    add_dataset(catalog)
    with pytest.raises(IntegrityError):
        execute_sql(
            catalog,
            "INSERT INTO datasets (uid, name, configuration, revision, next_number, created_at) "
            "VALUES ('u', 'streets', '{}', 1, 1, 0)",
        )


def test_the_error_for_an_unknown_name_lists_the_nearest_and_all_names(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="none yet; add one with: statsvc scan"):
        catalog.dataset("streets")
    add_dataset(catalog)
    add_dataset(catalog, "city")
    with pytest.raises(NotFound, match=r"'street' \(did you mean 'streets'\?\); datasets: city, streets"):
        catalog.dataset("street")


def test_version_numbers_continue_after_a_deleted_dataset_of_the_same_name(catalog: Catalog) -> None:
    first = add_dataset(catalog)
    assert catalog.publish(first, new_version("a")).number == 1
    assert catalog.publish(catalog.dataset("streets"), new_version("b")).number == 2
    catalog.delete_dataset("streets")
    with pytest.raises(NotFound):
        catalog.dataset("streets")
    second = add_dataset(catalog)
    assert second.uid != first.uid
    with pytest.raises(NotFound, match="has no version yet"):
        catalog.version(second)
    assert catalog.publish(second, new_version("c")).number == 3
    catalog.delete_dataset("streets")
    assert add_dataset(catalog).next_number == 4
    assert add_dataset(catalog, "another").next_number == 1


def test_a_dataset_with_a_running_job_cannot_be_deleted(catalog: Catalog) -> None:
    jobs.submit(catalog, add_dataset(catalog))
    leased = jobs.lease(catalog, "me//")
    assert leased is not None
    with pytest.raises(Conflict, match="is running"):
        catalog.delete_dataset("streets")
    jobs.fail(catalog, leased, "no")
    catalog.delete_dataset("streets")
    assert catalog.dataset_by_uid(leased.dataset_uid).name == "streets"


def test_deleting_a_dataset_cancels_its_queued_job(catalog: Catalog) -> None:
    job, _ = jobs.submit(catalog, add_dataset(catalog))
    catalog.delete_dataset("streets")
    ended = jobs.get(catalog, job.id)
    assert (ended.state, ended.error) == ("cancelled", "its dataset was deleted")
    assert jobs.lease(catalog, REMOTE_OWNER) is None


def test_a_running_job_of_a_dead_process_does_not_prevent_deletion(catalog: Catalog, database: str) -> None:
    submitted, _ = jobs.submit(catalog, add_dataset(catalog))
    subprocess.run([sys.executable, "-c", LEASING_PROGRAM, database], stdin=subprocess.DEVNULL, check=True)
    assert jobs.get(catalog, submitted.id).state == "running"
    catalog.delete_dataset("streets")
    ended = jobs.get(catalog, submitted.id)
    assert (ended.state, ended.error) == ("cancelled", "its dataset was deleted")


def test_a_change_based_on_an_old_revision_is_rejected(catalog: Catalog) -> None:
    old = add_dataset(catalog)
    new = catalog.set_source(old, "/labels/other", "*_id.png")
    with pytest.raises(Stale) as stale:
        catalog.configure_unversioned(old, Configuration(num_classes=9))
    assert stale.value.dataset == new
    with pytest.raises(Stale):
        catalog.publish(old, new_version())
    assert catalog.versions(new) == []
    assert catalog.configure_unversioned(new, Configuration(num_classes=9)).configuration.num_classes == 9


def test_versions_are_listed_newest_first(catalog: Catalog) -> None:
    add_dataset(catalog)
    for group in "abcd":
        catalog.publish(catalog.dataset("streets"), new_version(group))
    dataset = catalog.dataset("streets")
    assert [v.number for v in catalog.versions(dataset)] == [4, 3, 2, 1]
    assert [v.number for v in catalog.versions(dataset, limit=2, before=4)] == [3, 2]
    assert catalog.version(dataset, 2).group_uri == "b"
    with pytest.raises(NotFound, match="no version 5; its newest version is 4"):
        catalog.version(dataset, 5)
    add_dataset(catalog, "city")
    assert [(d.name, v and v.number) for d, v in overview.current(catalog)] == [
        ("city", None),
        ("streets", 4),
    ]


def test_every_change_increases_a_revision(catalog: Catalog) -> None:
    seen = [overview.revisions(catalog)]
    add_dataset(catalog)
    seen.append(overview.revisions(catalog))
    catalog.set_source(catalog.dataset("streets"), "/x", "*.png")
    seen.append(overview.revisions(catalog))
    catalog.configure_unversioned(catalog.dataset("streets"), Configuration(num_classes=3))
    seen.append(overview.revisions(catalog))
    catalog.publish(catalog.dataset("streets"), new_version())
    seen.append(overview.revisions(catalog))
    catalog.delete_dataset("streets")
    seen.append(overview.revisions(catalog))
    assert all(before != after for before, after in itertools.pairwise(seen))
