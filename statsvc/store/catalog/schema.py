"""The catalog's tables. Times are seconds since 1970 by the database's clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("uid", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("source", sa.String, comment="folder of the label maps; NULL for imported counts"),
    sa.Column("pattern", sa.String),
    sa.Column("configuration", sa.JSON, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, comment="increases with every change of this row"),
    sa.Column("next_number", sa.Integer, nullable=False),
    sa.Column("current_number", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("deleted_at", sa.Double),
    sa.Column(
        "keep",
        sa.Integer,
        nullable=False,
        server_default="20",
        comment="number of newest versions that keep their rows",
    ),
)
# A deleted dataset keeps its row, so that its version numbers are never reused. Options of PostgreSQL are not
# repeated here: SQLAlchemy would load its dialects, and only the migrations create tables there.
sa.Index(
    "uq_datasets_live_name",
    datasets.c.name,
    unique=True,
    sqlite_where=datasets.c.deleted_at.is_(None),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("dataset_uid", sa.ForeignKey("datasets.uid"), nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("full", sa.Boolean, nullable=False, comment="count every sample again"),
    sa.Column("max_removed", sa.Double, nullable=False, comment="share of samples it may remove"),
    sa.Column("named", sa.Integer, comment="number of changed paths it checks; NULL: it lists the source"),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("released", sa.Integer, nullable=False, comment="attempts ended by an orderly stop"),
    sa.Column("owner", sa.String),
    sa.Column("lease_until", sa.Double),
    sa.Column("group_uri", sa.String, comment="reserved before the first byte is written"),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column(
        "estimate", sa.JSON(none_as_null=True), comment="size of the sample to count; null: all samples"
    ),
    sa.Column("error", sa.String),
    sa.Column("version_number", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("request_id", sa.String, comment="X-Request-ID of the request that queued it"),
    sa.CheckConstraint(
        "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="ck_jobs_state"
    ),
)
sa.Index("ix_jobs_created_at", jobs.c.created_at)
sa.Index("ix_jobs_dataset_uid_created_at", jobs.c.dataset_uid, jobs.c.created_at)
sa.Index("ix_jobs_state_created_at", jobs.c.state, jobs.c.created_at)
for _state in ("queued", "running"):
    sa.Index(
        f"uq_jobs_one_{_state}",
        jobs.c.dataset_uid,
        unique=True,
        sqlite_where=jobs.c.state == _state,
    )

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset_uid", sa.ForeignKey("datasets.uid"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("job_id", sa.ForeignKey("jobs.id"), unique=True),
    sa.Column("kind", sa.String, nullable=False, comment="scan, configuration or import"),
    sa.Column("group_uri", sa.String, nullable=False, comment="the version's own group"),
    sa.Column("arrays_uri", sa.String, nullable=False, comment="the group that contains its arrays"),
    sa.Column("configuration", sa.JSON, nullable=False),
    sa.Column("reader", sa.String, nullable=False),
    sa.Column("digests", sa.JSON, nullable=False, comment="array name -> xxh3_128 of its values"),
    sa.Column("samples", sa.Integer),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("pixels", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expired_at", sa.Double, comment="since when it answers only from its aggregates"),
    sa.Column("rows_removed_at", sa.Double),
    sa.UniqueConstraint("dataset_uid", "number"),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("dataset_uid", sa.ForeignKey("datasets.uid"), primary_key=True),
    sa.Column("tag", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["dataset_uid", "number"],
        ["versions.dataset_uid", "versions.number"],
        name="fk_tags_dataset_uid_number",
    ),
)

changed_paths = sa.Table(
    "changed_paths",
    metadata,
    sa.Column("job_id", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("path", sa.String, primary_key=True),
)

triggers = sa.Table(
    "triggers",
    metadata,
    sa.Column("dataset_uid", sa.ForeignKey("datasets.uid"), primary_key=True),
    sa.Column("every", sa.Double, comment="seconds between scheduled scans"),
    sa.Column("watch", sa.Boolean, nullable=False, comment="scan when something in the source changes"),
    sa.Column("due_at", sa.Double, comment="when the next scheduled scan is due"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("request", sa.String, nullable=False, comment="xxh3_128 of the request that used the key"),
    sa.Column("job_id", sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False, index=True),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, comment="label shown in the audit log"),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False, comment="SHA-256 of the secret, which is not stored"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
    sa.CheckConstraint("scope IN ('read', 'write', 'admin')", name="ck_tokens_scope"),
)

runners = sa.Table(
    "runners",
    metadata,
    sa.Column("owner", sa.String, primary_key=True, comment="identity of the process"),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False, comment="when it last reported that it runs"),
)

schema_versions = sa.Table(
    "schema_versions",
    metadata,
    sa.Column("revision", sa.String, primary_key=True),
    sa.Column(
        "compatible_from",
        sa.String,
        nullable=False,
        comment="the oldest schema whose releases can use this one, because later changes only add",
    ),
)

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)


class now(sa.sql.functions.FunctionElement[float]):  # noqa: N801 - named as the SQL function
    """The database's time in seconds since 1970, so that all hosts that share the catalog use one clock."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_kw: Any) -> str:
    # julianday keeps milliseconds on every SQLite; unixepoch('subsec') needs 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
