"""Idempotency keys: a request that is repeated, for example after a lost response, creates only one job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import xxhash

from statsvc.errors import Conflict
from statsvc.store.catalog import job_rows
from statsvc.store.catalog import jobs as queue
from statsvc.store.catalog.database_errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from statsvc.store.catalog.connection import Connection
    from statsvc.store.catalog.database import Database
    from statsvc.store.catalog.records import Dataset, Job

RETENTION_SECONDS = 7 * 86400.0
"""How long a key is remembered: longer than any client repeats a request."""


MAX_KEYS = 10_000
"""Most keys of one user within that time."""


def _stored_key(user: str, key: str) -> str:
    # The key of a token may be anything, so only the first part, a digest, separates users.
    return f"{xxhash.xxh3_64_hexdigest(user.encode())}:{key}"


def submit_once(
    database: Database,
    user: str,
    key: str,
    dataset: Dataset,
    *,
    full: bool,
    max_removed: float,
    paths: Collection[str] | None = None,
    estimate: Mapping[str, Any] | None = None,
) -> tuple[Job, bool]:
    """Queue a recompute as `jobs.submit` does; if the key was used before, return that request's job.

    The key and the job are written in one transaction. A key belongs to one user, the id of a token: others
    can neither see nor block it.

    Raises `Conflict` if the key was used for a different request, or if the user has too many keys.
    """
    shown, key = key, _stored_key(user, key)
    parameters: list[Any] = [dataset.name, full, max_removed] + ([] if paths is None else [sorted(paths)])
    if estimate is not None:
        parameters.append(dict(estimate))
    request = xxhash.xxh3_128_hexdigest(json.dumps(parameters).encode())
    while True:
        try:
            with database.write() as connection:
                delete_old(connection)
                known = connection.first(
                    """
                    SELECT request, job_id
                    FROM idempotency_keys
                    WHERE "key" = :key
                    """,
                    key=key,
                )
                if known is not None:
                    if known.request != request:
                        raise Conflict(
                            f"the idempotency key {shown!r} was already used for a different request; "
                            "use a new key for every new request"
                        )
                    return job_rows.read(connection, known.job_id), False
                used = connection.scalar(
                    """
                    SELECT count(*)
                    FROM idempotency_keys
                    WHERE "key" LIKE :pattern
                    """,
                    pattern=f"{_stored_key(user, '')}%",  # a digest: no character has a meaning in a pattern
                )
                if used >= MAX_KEYS:
                    raise Conflict(
                        f"{MAX_KEYS} idempotency keys were used within {RETENTION_SECONDS / 86400:.0f} days, "
                        "the limit of one token; send the request without a key"
                    )
                job, is_new = queue.submit_in(
                    connection, dataset, full=full, max_removed=max_removed, paths=paths, estimate=estimate
                )
                connection.execute(
                    """
                    INSERT INTO idempotency_keys ("key", request, job_id, created_at)
                    VALUES (:key, :request, :job_id, clock())
                    """,
                    key=key,
                    request=request,
                    job_id=job.id,
                )
                return job, is_new
        except IntegrityError:
            # On PostgreSQL another replica may have inserted the key meanwhile: read it in the next loop.
            with database.read() as connection:
                inserted = connection.scalar(
                    """
                    SELECT "key"
                    FROM idempotency_keys
                    WHERE "key" = :key
                    """,
                    key=key,
                )
            if inserted is None:
                raise


def delete_old(connection: Connection) -> None:
    """Delete the keys that no client repeats any more, in the caller's transaction."""
    connection.execute(
        """
        DELETE FROM idempotency_keys
        WHERE created_at < clock() - :seconds
        """,
        seconds=RETENTION_SECONDS,
    )
