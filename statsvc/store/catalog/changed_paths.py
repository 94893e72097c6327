"""The changed paths of jobs that check only these instead of listing the whole source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from statsvc.store.catalog.connection import Connection
    from statsvc.store.catalog.database import Database
    from statsvc.store.catalog.records import Dataset, Job

MAX_NAMED = 100_000
"""Most changed paths of one job; a job with more lists the source instead."""


def paths_of(database: Database, job: Job) -> list[str] | None:
    """Return the changed paths that a job checks, sorted; None if it lists the source."""
    with database.read() as connection:
        return read(connection, job)


def begin(connection: Connection, dataset: Dataset, job_id: str, paths: Collection[str]) -> None:
    """Restrict a new job to some paths, and delete the paths of the dataset's jobs that have ended."""
    _delete_ended(connection, dataset)
    connection.execute(
        """
        UPDATE jobs
        SET named = 0
        WHERE id = :id
        """,
        id=job_id,
    )
    add(connection, job_id, paths)


def add(connection: Connection, job_id: str, paths: Collection[str] | None) -> None:
    """Add changed paths to a restricted job; with None, or too many, it lists the source instead."""
    known = set(
        connection.scalars(
            """
            SELECT path
            FROM changed_paths
            WHERE job_id = :id
            """,
            id=job_id,
        )
    )
    merged = known if paths is None else known.union(paths)
    lists_source = paths is None or len(merged) > MAX_NAMED
    if lists_source:
        connection.execute(
            """
            DELETE FROM changed_paths
            WHERE job_id = :id
            """,
            id=job_id,
        )
    elif merged > known:
        connection.execute_many(
            """
            INSERT INTO changed_paths (job_id, path)
            VALUES (:job_id, :path)
            """,
            [{"job_id": job_id, "path": path} for path in sorted(merged - known)],
        )
    connection.execute(
        """
        UPDATE jobs
        SET named = :named
        WHERE id = :id
        """,
        id=job_id,
        named=None if lists_source else len(merged),
    )


def read(connection: Connection, job: Job) -> list[str] | None:
    """Return the changed paths that a job checks, sorted; None if it lists the source."""
    if job.named is None:
        return None
    return connection.scalars(
        """
        SELECT path
        FROM changed_paths
        WHERE job_id = :id
        ORDER BY path
        """,
        id=job.id,
    )


def _delete_ended(connection: Connection, dataset: Dataset) -> None:
    """Delete the paths of a dataset's jobs that have ended; nothing reads them again."""
    connection.execute(
        """
        DELETE FROM changed_paths
        WHERE job_id IN (
            SELECT id
            FROM jobs
            WHERE dataset_uid = :uid
              AND named IS NOT NULL
              AND state IN ('succeeded', 'failed', 'cancelled')
        )
        """,
        uid=dataset.uid,
    )
