"""`statsvc verify`: every version read through and compared with what the catalog says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.errors import DamagedVersion
from statsvc.store.publication import group_attributes, open_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.versions.location import Location


def verify(catalog: Catalog, store: Location, dataset: Dataset) -> Iterator[tuple[VersionRecord, str | None]]:
    """Yield every version of a dataset, oldest first, with what is wrong with it or None.

    Digests of all arrays, sums of all rows, aggregates, and what the group says of itself. Arrays that
    several versions share are read once.
    """
    seen: dict[str, str | None] = {}
    for record in reversed(catalog.versions(dataset, limit=dataset.next_number)):
        arrays = record.arrays_uri if record.expired_at is None else f"{record.group_uri}/aggregates"
        if arrays not in seen:
            seen[arrays] = _damage(store, dataset, record)
        yield record, seen[arrays] or _strange(store, dataset, record)


def _damage(store: Location, dataset: Dataset, record: VersionRecord) -> str | None:
    try:
        open_version(store, dataset.name, record).verify()
    except DamagedVersion as damage:
        return str(damage)
    return None


def _strange(store: Location, dataset: Dataset, record: VersionRecord) -> str | None:
    """Return what the group's attributes say otherwise than the catalog."""
    try:
        said = group_attributes(store / record.group_uri)
    except (OSError, ValueError, KeyError) as error:
        return f"{dataset.name} version {record.number}: its group does not describe itself ({error})"
    expected = {
        "number": record.number,
        "arrays": record.arrays_uri,
        "configuration": record.configuration.to_dict(),
        "reader": record.reader,
        "digests": dict(record.digests),
        "samples": record.samples,
        "failed": record.failed,
        "pixels": record.pixels,
    }
    for name, value in expected.items():
        if said.get(name) != value:
            return f"{dataset.name} version {record.number}: its group says otherwise of {name!r}"
    if said["dataset"]["uid"] != record.dataset_uid:
        return f"{dataset.name} version {record.number}: its group says that it is another dataset's"
    return None
