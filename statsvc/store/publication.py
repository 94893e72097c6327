"""Publish a version: make its group durable first, then make it current in one transaction."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from statsvc.errors import StatsvcError
from statsvc.store.catalog.catalog import Stale
from statsvc.store.catalog.records import NewVersion
from statsvc.store.versions.aggregates import ExpiredVersion
from statsvc.store.versions.arrays import ATTRIBUTES
from statsvc.store.versions.stored_bytes import METADATA
from statsvc.store.versions.version import Version
from statsvc.store.versions.zarr_files import create_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.verified_arrays import ArrayCache

IMPORTED = "import"
"""The reader digest of imported counts."""


def open_version(
    store: Location, dataset: str, record: VersionRecord, cache: ArrayCache | None = None
) -> Version:
    """Return the table of a published version; nothing is read yet.

    cache  see `Version`
    """
    if record.expired_at is not None:
        return ExpiredVersion(
            store / record.arrays_uri,
            store / record.group_uri,
            dataset=dataset,
            number=record.number,
            configuration=record.configuration,
            digests=record.digests,
            failed=record.failed,
            cache=cache,
        )
    return Version(
        store / record.arrays_uri,
        dataset=dataset,
        number=record.number,
        configuration=record.configuration,
        digests=record.digests,
        failed=record.failed,
        cache=cache,
    )


def attributes(dataset: Dataset, new: NewVersion, job: Job | None = None) -> dict[str, Any]:
    """Return the description that a group stores, from which the catalog can be rebuilt."""
    return {
        "schema": 1,
        "dataset": {
            "uid": dataset.uid,
            "name": dataset.name,
            "source": dataset.source,
            "pattern": dataset.pattern,
        },
        "number": dataset.next_number,
        "kind": new.kind,
        **array_attributes(new),
        "job": None if job is None else {"id": job.id, "attempt": job.attempt},
    }


def array_attributes(version: NewVersion) -> dict[str, Any]:
    """Return the attributes that describe a version's arrays, which never change once it is published."""
    return {
        "arrays": version.arrays_uri,
        "configuration": version.configuration.to_dict(),
        "reader": version.reader,
        "digests": dict(version.digests),
        "samples": version.samples,
        "failed": version.failed,
        "pixels": version.pixels,
    }


def publish(
    catalog: Catalog,
    store: Location,
    dataset: Dataset,
    new: NewVersion,
    *,
    job: Job | None = None,
    progress: Mapping[str, Any] | None = None,
    reconfigure: Callable[[Dataset], Configuration] | None = None,
) -> VersionRecord:
    """Write the group's attributes, make the group durable, and publish it as the next version.

    If the dataset has changed meanwhile, `reconfigure` returns the configuration for its new state, and the
    group is described and made durable again before the next attempt. If publication is rejected, the group
    is removed; after a database error it is kept, because the transaction may have been committed.
    """
    group = store / new.group_uri
    try:
        while True:
            _make_durable(group, store, attributes(dataset, new, job))
            try:
                return catalog.publish(dataset, new, job, progress)
            except Stale as stale:
                dataset = stale.dataset
                if reconfigure is not None:
                    new = replace(new, configuration=reconfigure(dataset))
    except (StatsvcError, OSError):
        group.remove()
        raise


def _make_durable(group: Location, store: Location, values: dict[str, Any], *, create: bool = False) -> None:
    """Write a group's attributes, after creating the group with `create`, and flush the group.

    The database does not know the group yet, so it is removed after any exception.
    """
    try:
        if create:
            create_group(group, {ATTRIBUTES: {}})
        write_attributes(group, values)
        group.make_durable(store)
    except BaseException:
        group.remove()
        raise


def write_attributes(group: Location, values: dict[str, Any]) -> None:
    """Write a group's attributes; its arrays stay unchanged."""
    metadata = json.loads((group / METADATA).read())
    metadata["attributes"] = {ATTRIBUTES: values}
    (group / METADATA).write(json.dumps(metadata, indent=2, ensure_ascii=False).encode())


def configure(
    catalog: Catalog, store: Location, dataset: Dataset, change: Callable[[Configuration], Configuration]
) -> tuple[Dataset, VersionRecord | None]:
    """Change a dataset's configuration: publish a new version over the same arrays, unless nothing changes.

    Returns the dataset and its version after the change, if it has one.
    """
    while True:
        record = None if dataset.current_number is None else catalog.version(dataset)
        configuration = change(dataset.configuration)
        if configuration == dataset.configuration:
            return dataset, record
        if record is None:
            try:
                return catalog.configure_unversioned(dataset, configuration), None
            except Stale as stale:
                dataset = stale.dataset
                continue
        uri = f"{dataset.uid}/configuration-{uuid.uuid4().hex}"
        new = NewVersion(
            kind="configuration",
            group_uri=uri,
            arrays_uri=record.arrays_uri,
            configuration=configuration,
            reader=record.reader,
            digests=record.digests,
            samples=record.samples,
            failed=record.failed,
            pixels=record.pixels,
        )
        _make_durable(store / uri, store, attributes(dataset, new), create=True)
        try:
            published = catalog.publish(dataset, new)
        except Stale as stale:
            # The current version may have other arrays now: start again from them.
            (store / uri).remove()
            dataset = stale.dataset
            continue
        return catalog.dataset_by_uid(dataset.uid), published
