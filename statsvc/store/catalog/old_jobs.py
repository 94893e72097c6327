"""Deletes jobs that ended long ago."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statsvc.store.catalog.connection import Connection
    from statsvc.store.catalog.database import Database

JOBS_PER_TRANSACTION = 500
"""Jobs that are deleted in one transaction."""

PAUSE_SECONDS = 0.02
"""Pause between such transactions: a process that waits for the lock of an SQLite catalog polls for it."""


def delete(database: Database, keep: int) -> int:
    """Delete the ended jobs of each dataset beyond the newest ones, and return how many.

    This includes deleted datasets. Jobs that a version or an idempotency key refers to are kept.

    keep  how many of the newest jobs of each dataset are kept
    """
    with database.read() as connection:
        uids = connection.scalars("SELECT uid FROM datasets")
    return sum(_delete_of(database, uid, keep) for uid in uids)


def _delete_of(database: Database, uid: str, keep: int) -> int:
    """Delete the old jobs of one dataset; return how many."""
    with database.read() as connection:
        cutoff = connection.scalar(
            """
            SELECT created_at
            FROM jobs
            WHERE dataset_uid = :uid
            ORDER BY created_at DESC
            LIMIT 1 OFFSET :keep
            """,
            uid=uid,
            keep=keep,
        )
    if cutoff is None:
        return 0
    after, deleted = (-math.inf, ""), 0
    while True:
        # In portions, so that nobody waits long for the lock of an SQLite catalog. Each begins after the
        # previous one: jobs that are kept are not read again.
        with database.write() as connection:
            rows = connection.rows(
                """
                SELECT created_at, id
                FROM jobs
                WHERE dataset_uid = :uid
                  AND created_at <= :cutoff
                  AND state IN ('succeeded', 'failed', 'cancelled')
                  AND (created_at, id) > (:after_created_at, :after_id)
                ORDER BY created_at, id
                LIMIT :limit
                """,
                uid=uid,
                cutoff=cutoff,
                after_created_at=after[0],
                after_id=after[1],
                limit=JOBS_PER_TRANSACTION,
            )
            deleted += _delete_unreferenced(connection, [row.id for row in rows])
        if len(rows) < JOBS_PER_TRANSACTION:
            return deleted
        after = rows[-1].created_at, rows[-1].id
        time.sleep(PAUSE_SECONDS)


def _delete_unreferenced(connection: Connection, ids: list[str]) -> int:
    """Delete those of these jobs that no version or idempotency key refers to; return how many."""
    referenced = connection.scalars(
        """
        SELECT job_id
        FROM versions
        WHERE job_id IN :ids
        UNION
        SELECT job_id
        FROM idempotency_keys
        WHERE job_id IN :ids
        """,
        ids=ids,
    )
    unreferenced = sorted(set(ids).difference(referenced))
    connection.execute(
        """
        DELETE FROM changed_paths
        WHERE job_id IN :ids
        """,
        ids=unreferenced,
    )
    return connection.execute(
        """
        DELETE FROM jobs
        WHERE id IN :ids
        """,
        ids=unreferenced,
    )
