"""`statsvc rebuild`: create a new catalog from the attributes of the version groups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.dataset.configuration import Configuration
from statsvc.errors import Conflict, DamagedVersion
from statsvc.store.catalog.records import VersionRecord
from statsvc.store.publication import open_version
from statsvc.store.versions.aggregates import FILE
from statsvc.store.versions.attributes import group_attributes
from statsvc.store.versions.location import CHECKPOINTS

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.connection import Connection
    from statsvc.store.versions.location import Location


class Rebuilt(Struct):
    """The result of a rebuild.

    datasets  number of restored versions, by dataset name
    left_out  groups that were not restored, each with the reason
    """

    datasets: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


class _Group(Struct, frozen=True):
    """A version's group.

    modified_at  when its attributes were written, in seconds since 1970
    attributes   what `publication.attributes` returned
    expired      whether it has aggregates but no rows
    """

    uri: str
    modified_at: float
    attributes: dict[str, Any]
    expired: bool

    @property
    def number(self) -> int:
        number: int = self.attributes["number"]
        return number

    @property
    def dataset(self) -> dict[str, Any]:
        dataset: dict[str, Any] = self.attributes["dataset"]
        return dataset


_Groups = dict[int, _Group]
"""The groups of one dataset by version number."""


def rebuild(catalog: Catalog, store: Location) -> Rebuilt:
    """Fill an empty catalog from the groups of a version store, after verifying each of them.

    If two groups have the same number, the later one is used: the other was never published. If two datasets
    have the same name, the one with the highest version number is restored, and the other counts as deleted.
    Jobs, tokens, tags, `keep`, and which datasets were deleted are not stored in the groups and are lost.

    Raises `Conflict` if the catalog contains a dataset.
    """
    with catalog.read() as connection:
        if connection.scalar("SELECT count(*) FROM datasets"):
            raise Conflict("the catalog is not empty; choose an empty one with --database or --home")
    result = Rebuilt()
    by_uid = _by_dataset(_groups(store, result), result)
    for uid, groups in by_uid.items():
        _remove_damaged(store, uid, groups, result)
    newest = {uid: groups[max(groups)] for uid, groups in by_uid.items() if groups}
    with catalog.write() as connection:
        for uid, group in sorted(newest.items(), key=lambda item: item[1].number):
            name = group.dataset["name"]
            highest = max(other.number for other in newest.values() if other.dataset["name"] == name)
            live = group.number == highest
            _insert(connection, uid, by_uid[uid], live=live, next_number=highest + 1)
            if live:
                result.datasets[name] = len(by_uid[uid])
    return result


def _groups(store: Location, result: Rebuilt) -> list[_Group]:
    """Return every group with complete attributes."""
    groups = []
    folders = [f"{dataset.name}/{group.name}" for dataset in store.folders() for group in dataset.folders()]
    for uri in folders:
        if uri.endswith(f"/{CHECKPOINTS}"):
            continue
        folder = store / uri
        try:
            attributes = group_attributes(folder)
            arrays = store / attributes["arrays"]
            expired = (folder / FILE).exists() and not (arrays / "counts/zarr.json").exists()
            group = _Group(uri, (folder / "zarr.json").modified_at() or 0.0, attributes, expired)
            _record(attributes["dataset"]["uid"], group)
        except (OSError, ValueError, KeyError, TypeError) as error:
            result.left_out.append(f"{uri}: not a complete version ({type(error).__name__}: {error})")
            continue
        groups.append(group)
    return groups


def _by_dataset(groups: list[_Group], result: Rebuilt) -> dict[str, _Groups]:
    """Return the groups by dataset uid, the latest for each number."""
    by_uid: dict[str, _Groups] = {}
    for group in sorted(groups, key=lambda group: group.modified_at):
        of_dataset = by_uid.setdefault(group.dataset["uid"], {})
        if (earlier := of_dataset.get(group.number)) is not None:
            result.left_out.append(f"{earlier.uri}: {group.uri} has the same number and is later")
        of_dataset[group.number] = group
    return by_uid


def _remove_damaged(store: Location, uid: str, groups: _Groups, result: Rebuilt) -> None:
    """Verify every group of a dataset, and remove the damaged ones from `groups`."""
    for number, group in list(groups.items()):
        try:
            open_version(store, group.dataset["name"], _record(uid, group)).verify()
        except DamagedVersion as damage:
            result.left_out.append(f"{group.uri}: {damage}")
            del groups[number]


def _record(uid: str, group: _Group) -> VersionRecord:
    attributes = group.attributes
    return VersionRecord(
        dataset_uid=uid,
        number=attributes["number"],
        job_id=None,
        kind=attributes["kind"],
        group_uri=group.uri,
        arrays_uri=attributes["arrays"],
        configuration=Configuration.from_dict(attributes["configuration"]),
        reader=attributes["reader"],
        digests=attributes["digests"],
        samples=attributes["samples"],
        failed=attributes["failed"],
        pixels=attributes["pixels"],
        created_at=group.modified_at,
        expired_at=group.modified_at if group.expired else None,
    )


def _insert(connection: Connection, uid: str, groups: _Groups, *, live: bool, next_number: int) -> None:
    """Insert a dataset with its versions; a dataset that is not `live` is inserted as deleted."""
    current = groups[max(groups)]
    connection.execute(
        """
        INSERT INTO datasets
            (uid, name, source, pattern, configuration, revision, next_number, current_number, created_at,
             deleted_at)
        VALUES
            (:uid, :name, :source, :pattern, :configuration, 1, :next_number, :current_number, :created_at,
             :deleted_at)
        """,
        uid=uid,
        name=current.dataset["name"],
        source=current.dataset["source"],
        pattern=current.dataset["pattern"],
        configuration=json.dumps(current.attributes["configuration"]),
        next_number=next_number,
        current_number=current.number,
        created_at=min(group.modified_at for group in groups.values()),
        deleted_at=None if live else connection.clock(),
    )
    for group in groups.values():
        record = _record(uid, group)
        connection.execute(
            """
            INSERT INTO versions
                (dataset_uid, number, kind, group_uri, arrays_uri, configuration, reader, digests, samples,
                 failed, pixels, created_at, expired_at, rows_removed_at)
            VALUES
                (:uid, :number, :kind, :group_uri, :arrays_uri, :configuration, :reader, :digests, :samples,
                 :failed, :pixels, :created_at, :expired_at, :expired_at)
            """,
            **record.to_row(),
            uid=uid,
            number=record.number,
            created_at=record.created_at,
            expired_at=record.expired_at,
        )
