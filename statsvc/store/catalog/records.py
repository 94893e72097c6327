"""The rows of the catalog as objects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.dataset.configuration import Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.catalog.connection import Row

RUNNING = "running"
ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Dataset(Struct, frozen=True):
    """A registered dataset.

    source          folder, file or URL of the label maps; None for imported counts
    revision        increases with every change of the row
    next_number     number of the next version
    current_number  number of the current version, None before the first
    keep            how many of the newest versions keep their rows; tagged versions keep them as well
    """

    uid: str
    name: str
    source: str | None
    pattern: str | None
    configuration: Configuration
    revision: int
    next_number: int
    current_number: int | None
    created_at: float
    keep: int

    @classmethod
    def from_row(cls, row: Row) -> Dataset:
        """Read a row of the datasets table."""
        return cls(**_values(cls, row) | {"configuration": _configuration(row)})


class NewVersion(Struct, frozen=True):
    """The content of a version's group, before it is published.

    kind        "scan", "configuration" or "import"
    group_uri   the version's own group, relative to the version store
    arrays_uri  the group that contains its arrays: its own, or that of an earlier version
    reader      reader digest under which the samples were counted
    digests     xxh3_128 of every array except `counts`, by name
    samples     number of samples, None if unknown (imported totals)
    failed      number of samples that could not be read
    pixels      number of counted pixels
    """

    kind: str
    group_uri: str
    arrays_uri: str
    configuration: Configuration
    reader: str
    digests: Mapping[str, str]
    samples: int | None
    failed: int
    pixels: int

    def to_row(self) -> dict[str, Any]:
        """Return the columns of the versions table that describe the content."""
        values = {name: getattr(self, name) for name in NewVersion.__struct_fields__}
        return values | {
            "configuration": json.dumps(self.configuration.to_dict()),
            "digests": json.dumps(dict(self.digests)),
        }


class VersionRecord(NewVersion, frozen=True):
    """A published version.

    expired_at  since when it answers only from its aggregates (its rows may be removed); None if it has rows
    """

    dataset_uid: str
    number: int
    job_id: str | None
    created_at: float
    expired_at: float | None

    @classmethod
    def from_row(cls, row: Row) -> VersionRecord:
        """Read a row of the versions table."""
        read = {"configuration": _configuration(row), "digests": json.loads(row.digests)}
        return cls(**_values(cls, row) | read)


class Job(Struct, frozen=True):
    """A recompute of a dataset.

    full         count every sample again
    max_removed  share of the current version's samples that the job may remove, 0 to 1
    named        number of changed paths that the job checks; None if it lists the whole source
    estimate     how many samples the job draws and counts: `samples`, or `relative_error` and `confidence` of
                 the shares, or both for the larger sample; None if it counts all samples
    attempt      number of the current attempt, 0 before the first
    released     number of attempts that ended by an orderly stop of the runner
    owner        the process that holds the lease
    group_uri    the group that the current attempt writes
    request_id   id of the HTTP request that queued it
    """

    id: str
    dataset_uid: str
    state: str
    full: bool
    max_removed: float
    named: int | None
    estimate: Mapping[str, Any] | None
    attempt: int
    released: int
    owner: str | None
    lease_until: float | None
    group_uri: str | None
    progress: Mapping[str, Any]
    error: str | None
    version_number: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    request_id: str | None

    @property
    def ended(self) -> bool:
        """Whether the job has reached its final state."""
        return self.state in ENDED

    @classmethod
    def from_row(cls, row: Row) -> Job:
        """Read a row of the jobs table."""
        read = {
            "full": bool(row.full),
            "estimate": None if row.estimate is None else json.loads(row.estimate),
            "progress": json.loads(row.progress),
        }
        return cls(**_values(cls, row) | read)


def _values(cls: type[Dataset | VersionRecord | Job], row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in cls.__struct_fields__}


def _configuration(row: Row) -> Configuration:
    return Configuration.from_dict(json.loads(row.configuration))
