"""Rows of the catalog as the rest of statsvc sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.dataset.configuration import Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

RUNNING = "running"
ENDED = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Dataset:
    """A registered dataset. `source` is None for imported counts; `revision` rises with every change.

    `keep` newest versions keep their rows; older ones, unless tagged, answer from their aggregates.
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
    def from_row(cls, row: sa.Row[Any]) -> Dataset:
        """Read a row of the datasets table."""
        values = {name: getattr(row, name) for name in cls.__slots__}
        return cls(**values | {"configuration": Configuration.from_dict(row.configuration)})


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A published version: where its arrays lie and what they must hash to.

    From `expired_at` on it answers from its aggregates alone, and its rows may be gone.
    """

    dataset_uid: str
    number: int
    job_id: str | None
    kind: str
    group_uri: str
    arrays_uri: str
    configuration: Configuration
    reader: str
    digests: Mapping[str, str]
    samples: int | None
    failed: int
    pixels: int
    created_at: float
    expired_at: float | None

    @classmethod
    def from_row(cls, row: sa.Row[Any]) -> VersionRecord:
        """Read a row of the versions table."""
        values = {name: getattr(row, name) for name in cls.__slots__}
        return cls(**values | {"configuration": Configuration.from_dict(row.configuration)})


@dataclass(frozen=True, slots=True)
class Job:
    """A recompute: its state, its attempt, and how far it is.

    `named` is how many changed paths it looks at, None where it lists the whole source.
    """

    id: str
    dataset_uid: str
    state: str
    full: bool
    max_removed: float
    named: int | None
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

    @property
    def ended(self) -> bool:
        """Whether the job has reached its last state."""
        return self.state in ENDED

    @classmethod
    def from_row(cls, row: sa.Row[Any]) -> Job:
        """Read a row of the jobs table."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})
