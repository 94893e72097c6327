"""Idempotency keys: a request sent twice, for instance after a lost answer, makes one job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa
import xxhash

from statsvc.errors import Conflict
from statsvc.store.catalog import jobs as queue
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.records import Job
from statsvc.store.catalog.schema import idempotency_keys as keys
from statsvc.store.catalog.schema import jobs, now

if TYPE_CHECKING:
    from collections.abc import Collection

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset

KEPT_SECONDS = 7 * 86400.0
"""How long a key is remembered: longer than anybody repeats a request."""


def submit_once(
    catalog: Catalog,
    key: str,
    dataset: Dataset,
    *,
    full: bool,
    max_removed: float,
    paths: Collection[str] | None = None,
) -> tuple[Job, bool]:
    """Queue a recompute as `jobs.submit`, unless the key came before: then return that request's job.

    The key and the job are written in one transaction. Raises `Conflict` where the key came with
    another request.
    """
    asked = [dataset.name, full, max_removed] + ([] if paths is None else [sorted(paths)])
    request = xxhash.xxh3_128_hexdigest(json.dumps(asked).encode())
    while True:
        try:
            with write(catalog.engine) as connection:
                connection.execute(keys.delete().where(keys.c.created_at < now() - KEPT_SECONDS))
                known = connection.execute(sa.select(keys).where(keys.c.key == key)).first()
                if known is not None:
                    if known.request != request:
                        raise Conflict(
                            f"the idempotency key {key!r} came with another request before, which made job "
                            f"{known.job_id}; give every new request a key of its own"
                        )
                    row = connection.execute(sa.select(jobs).where(jobs.c.id == known.job_id)).one()
                    return Job.from_row(row), False
                job, made = queue.submit_in(
                    connection, dataset, full=full, max_removed=max_removed, paths=paths
                )
                connection.execute(
                    keys.insert().values(key=key, request=request, job_id=job.id, created_at=now())
                )
                return job, made
        except sa.exc.IntegrityError:
            # On PostgreSQL the same key may have been written by another replica since: look again.
            with catalog.engine.begin() as connection:
                if connection.scalar(sa.select(keys.c.key).where(keys.c.key == key)) is None:
                    raise
