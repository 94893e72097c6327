"""Idempotency keys: a request that is repeated, for example after a lost response, creates only one job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import xxhash

from statsvc.errors import Conflict
from statsvc.store.catalog import jobs as queue
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.records import Job
from statsvc.store.catalog.schema import idempotency_keys as keys
from statsvc.store.catalog.schema import jobs, now

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from statsvc.store.catalog.database import Database
    from statsvc.store.catalog.records import Dataset

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
    prefix = _stored_key(user, "")
    parameters: list[Any] = [dataset.name, full, max_removed] + ([] if paths is None else [sorted(paths)])
    if estimate is not None:
        parameters.append(dict(estimate))
    request = xxhash.xxh3_128_hexdigest(json.dumps(parameters).encode())
    while True:
        try:
            with write(database.engine) as connection:
                connection.execute(keys.delete().where(keys.c.created_at < now() - RETENTION_SECONDS))
                known = connection.execute(sa.select(keys).where(keys.c.key == key)).first()
                if known is not None:
                    if known.request != request:
                        raise Conflict(
                            f"the idempotency key {shown!r} was already used for a different request; "
                            "use a new key for every new request"
                        )
                    row = connection.execute(sa.select(jobs).where(jobs.c.id == known.job_id)).one()
                    return Job.from_row(row), False
                used = connection.scalar(
                    sa.select(sa.func.count()).select_from(keys).where(keys.c.key.startswith(prefix))
                )
                if (used or 0) >= MAX_KEYS:
                    raise Conflict(
                        f"{MAX_KEYS} idempotency keys were used within {RETENTION_SECONDS / 86400:.0f} days, "
                        "the limit of one token; send the request without a key"
                    )
                job, is_new = queue.submit_in(
                    connection, dataset, full=full, max_removed=max_removed, paths=paths, estimate=estimate
                )
                connection.execute(
                    keys.insert().values(key=key, request=request, job_id=job.id, created_at=now())
                )
                return job, is_new
        except sa.exc.IntegrityError:
            # On PostgreSQL another replica may have inserted the key meanwhile: read it in the next loop.
            with database.engine.begin() as connection:
                if connection.scalar(sa.select(keys.c.key).where(keys.c.key == key)) is None:
                    raise
