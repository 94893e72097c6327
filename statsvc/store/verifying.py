"""`statsvc verify`: read every array of every version and compare it with the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.errors import DamagedVersion
from statsvc.store.publication import array_attributes, open_version
from statsvc.store.versions.aggregates import FILE
from statsvc.store.versions.attributes import group_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.versions.location import Location


def verify(catalog: Catalog, store: Location, dataset: Dataset) -> Iterator[tuple[VersionRecord, str | None]]:
    """Yield every version of a dataset, oldest first, with a description of its damage or None.

    Checks the digests of all arrays, the sums of all rows, the aggregates, and the group's attributes. Arrays
    that several versions share are read once.
    """
    damage_of: dict[str, str | None] = {}
    for record in reversed(catalog.versions(dataset, limit=dataset.next_number)):
        arrays = record.arrays_uri if record.expired_at is None else f"{record.group_uri}/{FILE}"
        if arrays not in damage_of:
            damage_of[arrays] = _damage(store, dataset, record)
        yield record, damage_of[arrays] or _mismatch(store, dataset, record)


def _damage(store: Location, dataset: Dataset, record: VersionRecord) -> str | None:
    try:
        open_version(store, dataset.name, record).verify()
    except DamagedVersion as damage:
        return str(damage)
    return None


def _mismatch(store: Location, dataset: Dataset, record: VersionRecord) -> str | None:
    """Return how the group's attributes differ from the catalog, or None."""
    version = f"{dataset.name} version {record.number}"
    try:
        stored = group_attributes(store / record.group_uri)
    except (OSError, ValueError, KeyError) as error:
        return f"{version}: the attributes of its group cannot be read ({error})"
    for name, value in {"number": record.number, **array_attributes(record)}.items():
        if stored.get(name) != value:
            return f"{version}: the attribute {name!r} of its group differs from the catalog"
    if stored["dataset"]["uid"] != record.dataset_uid:
        return f"{version}: its group belongs to another dataset"
    return None
