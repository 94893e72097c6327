"""`statsvc rebuild`: a new catalog from what the groups of versions say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.dataset.configuration import Configuration
from statsvc.errors import Conflict, DamagedVersion
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.records import VersionRecord
from statsvc.store.catalog.schema import datasets, now, versions
from statsvc.store.publication import group_attributes, open_version
from statsvc.store.versions.aggregates import FILE

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.versions.location import Location


@dataclass(slots=True)
class Rebuilt:
    """How many versions each dataset got back, and what was left out, with why."""

    datasets: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Group:
    uri: str
    changed: float
    said: dict[str, Any]
    expired: bool


def rebuild(catalog: Catalog, store: Location) -> Rebuilt:
    """Fill an empty catalog from the groups in a store, after reading each through.

    Of two groups with one number the later one is taken: the other was never published. Of two datasets
    with one name the one with the highest number is there, the other counts as deleted. Not in the
    groups, and therefore lost: jobs, tokens, tags, `keep`, and which datasets had been deleted.

    Raises `Conflict` where the catalog holds a dataset.
    """
    with catalog.engine.begin() as connection:
        if connection.scalar(sa.select(sa.func.count()).select_from(datasets)):
            raise Conflict("the catalog is not empty; give an empty one with --database, or --home")
    done = Rebuilt()
    by_uid: dict[str, dict[int, _Group]] = {}
    for group in sorted(_groups(store, done), key=lambda group: group.changed):
        numbers = by_uid.setdefault(group.said["dataset"]["uid"], {})
        earlier = numbers.get(group.said["number"])
        if earlier is not None:
            done.left_out.append(f"{earlier.uri}: {group.uri} has the same number and is later")
        numbers[group.said["number"]] = group
    for uid, numbers in by_uid.items():
        for number, group in list(numbers.items()):
            try:
                open_version(store, group.said["dataset"]["name"], _record(uid, group)).verify()
            except DamagedVersion as damage:
                done.left_out.append(f"{group.uri}: {damage}")
                del numbers[number]
    newest = {uid: max(numbers) for uid, numbers in by_uid.items() if numbers}
    names = {uid: by_uid[uid][number].said["dataset"]["name"] for uid, number in newest.items()}
    with write(catalog.engine) as connection:
        for uid, number in sorted(newest.items(), key=lambda item: item[1]):
            same = [newest[other] for other, name in names.items() if name == names[uid]]
            live = number == max(same)
            _insert(connection, uid, by_uid[uid], live=live, next_number=max(same) + 1)
            if live:
                done.datasets[names[uid]] = len(by_uid[uid])
    return done


def _groups(store: Location, done: Rebuilt) -> list[_Group]:
    found = []
    for dataset, folder in [(one.name, folder) for one in store.folders() for folder in one.folders()]:
        if folder.name == "parts":
            continue
        uri = f"{dataset}/{folder.name}"
        try:
            said = group_attributes(folder)
            arrays = store / said["arrays"]
            expired = (folder / FILE).exists() and not (arrays / "counts/zarr.json").exists()
            group = _Group(uri, (folder / "zarr.json").changed() or 0.0, said, expired)
            _record(said["dataset"]["uid"], group)
        except (OSError, ValueError, KeyError, TypeError) as error:
            done.left_out.append(f"{uri}: no complete version ({type(error).__name__}: {error})")
            continue
        found.append(group)
    return found


def _record(uid: str, group: _Group) -> VersionRecord:
    said = group.said
    return VersionRecord(
        dataset_uid=uid,
        number=said["number"],
        job_id=None,
        kind=said["kind"],
        group_uri=group.uri,
        arrays_uri=said["arrays"],
        configuration=Configuration.from_dict(said["configuration"]),
        reader=said["reader"],
        digests=said["digests"],
        samples=said["samples"],
        failed=said["failed"],
        pixels=said["pixels"],
        created_at=group.changed,
        expired_at=group.changed if group.expired else None,
    )


def _insert(
    connection: sa.Connection, uid: str, numbers: dict[int, _Group], *, live: bool, next_number: int
) -> None:
    current = numbers[max(numbers)]
    described = current.said["dataset"]
    connection.execute(
        datasets.insert().values(
            uid=uid,
            name=described["name"],
            source=described["source"],
            pattern=described["pattern"],
            configuration=current.said["configuration"],
            revision=1,
            next_number=next_number,
            current_number=max(numbers),
            created_at=min(group.changed for group in numbers.values()),
            deleted_at=None if live else now(),
        )
    )
    for group in numbers.values():
        record = _record(uid, group)
        values = {name: getattr(record, name) for name in VersionRecord.__slots__}
        values |= {"configuration": record.configuration.to_dict(), "digests": dict(record.digests)}
        connection.execute(versions.insert().values(values | {"rows_removed_at": record.expired_at}))
