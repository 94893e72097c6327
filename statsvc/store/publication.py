"""Making a version durable and current: arrays first, then one transaction."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from statsvc.errors import StatsvcError
from statsvc.store.catalog.catalog import NewVersion, Stale
from statsvc.store.versions.aggregates import Expired
from statsvc.store.versions.arrays import ATTRIBUTES, create_group
from statsvc.store.versions.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.versions.location import Location

IMPORTED = "import"
"""The reader of counts that were not counted here."""


def open_version(store: Location, dataset: str, record: VersionRecord) -> Version:
    """Return a published version's table; nothing is read yet."""
    if record.expired_at is not None:
        return Expired(
            store / record.arrays_uri,
            store / record.group_uri,
            dataset=dataset,
            number=record.number,
            configuration=record.configuration,
            digests=record.digests,
            failed=record.failed,
        )
    return Version(
        store / record.arrays_uri,
        dataset=dataset,
        number=record.number,
        configuration=record.configuration,
        digests=record.digests,
        failed=record.failed,
    )


def attributes(dataset: Dataset, new: NewVersion, job: Job | None = None) -> dict[str, Any]:
    """Return what a group says of itself: enough to rebuild the catalog from the groups alone."""
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
        "arrays": new.arrays_uri,
        "configuration": new.configuration.to_dict(),
        "reader": new.reader,
        "digests": dict(new.digests),
        "samples": new.samples,
        "failed": new.failed,
        "pixels": new.pixels,
        "job": None if job is None else {"id": job.id, "attempt": job.attempt},
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
    """Describe the group, make it durable, and publish it.

    Where the dataset changed in the meantime, `reconfigure` says how its new state is to be read,
    and the group is described and made durable again before the next try. A group that is refused
    is removed; after an error of the database it is kept, for the transaction may have taken effect.
    """
    folder = store / new.group_uri
    try:
        while True:
            _make_durable(folder, store, attributes(dataset, new, job))
            try:
                return catalog.publish(dataset, new, job, progress)
            except Stale as stale:
                dataset = stale.dataset
                if reconfigure is not None:
                    new = replace(new, configuration=reconfigure(dataset))
    except (StatsvcError, OSError):
        folder.remove()
        raise


def _make_durable(folder: Location, store: Location, values: dict[str, Any], *, fresh: bool = False) -> None:
    """Describe a group, after making it where it is `fresh`, and flush it.

    It was not yet offered to the database, and goes with any exception.
    """
    try:
        if fresh:
            create_group(folder, {})
        describe(folder, values)
        folder.settle(store)
    except BaseException:
        folder.remove()
        raise


def describe(folder: Location, values: dict[str, Any]) -> None:
    """Write a group's attributes, leaving its arrays as they are."""
    metadata = json.loads((folder / "zarr.json").read())
    metadata["attributes"] = {ATTRIBUTES: values}
    (folder / "zarr.json").write(json.dumps(metadata, indent=2, ensure_ascii=False).encode())


def group_attributes(folder: Location) -> dict[str, Any]:
    """Return what a group says of itself. Raises `OSError`, `ValueError`, `KeyError` or `StoreError`."""
    metadata = json.loads((folder / "zarr.json").read())
    said: dict[str, Any] = metadata["attributes"][ATTRIBUTES]
    return said


def configure(
    catalog: Catalog, store: Location, dataset: Dataset, change: Callable[[Configuration], Configuration]
) -> tuple[Dataset, VersionRecord | None]:
    """Change how a dataset is read: a new version over the same arrays, or nothing where nothing changes.

    Returns the dataset and the version it has then, if any.
    """
    while True:
        record = None if dataset.current_number is None else catalog.version(dataset)
        wanted = change(dataset.configuration)
        if wanted == dataset.configuration:
            return dataset, record
        if record is None:
            try:
                return catalog.configure_unversioned(dataset, wanted), None
            except Stale as stale:
                dataset = stale.dataset
                continue
        uri = f"{dataset.uid}/configuration-{uuid.uuid4().hex}"
        new = NewVersion(
            kind="configuration",
            group_uri=uri,
            arrays_uri=record.arrays_uri,
            configuration=wanted,
            reader=record.reader,
            digests=record.digests,
            samples=record.samples,
            failed=record.failed,
            pixels=record.pixels,
        )
        _make_durable(store / uri, store, attributes(dataset, new), fresh=True)
        try:
            published = catalog.publish(dataset, new)
        except Stale as stale:
            # Other arrays may be current now: start over from them.
            (store / uri).remove()
            dataset = stale.dataset
            continue
        return catalog.dataset_by_uid(dataset.uid), published
