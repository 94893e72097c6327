"""Create the tables of datasets, jobs and versions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "datasets",
        sa.Column("uid", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("source", sa.String, comment="folder of the label maps; NULL for imported counts"),
        sa.Column("pattern", sa.String),
        sa.Column("configuration", sa.JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False, comment="increases with every change of this row"),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.Column("current_number", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("deleted_at", sa.Double),
        sa.PrimaryKeyConstraint("uid", name="pk_datasets"),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index(
        "uq_datasets_live_name",
        "datasets",
        ["name"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("dataset_uid", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("full", sa.Boolean, nullable=False, comment="count every sample again"),
        sa.Column("max_removed", sa.Double, nullable=False, comment="share of samples it may remove"),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column(
            "released",
            sa.Integer,
            nullable=False,
            comment="attempts ended by an orderly stop",
        ),
        sa.Column("owner", sa.String),
        sa.Column("lease_until", sa.Double),
        sa.Column("group_uri", sa.String, comment="reserved before the first byte is written"),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("error", sa.String),
        sa.Column("version_number", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="ck_jobs_state"
        ),
        sa.ForeignKeyConstraint(["dataset_uid"], ["datasets.uid"], name="fk_jobs_dataset_uid"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_dataset_uid", "jobs", ["dataset_uid"])
    for state in ("queued", "running"):
        where = sa.text(f"state = '{state}'")
        op.create_index(
            f"uq_jobs_one_{state}",
            "jobs",
            ["dataset_uid"],
            unique=True,
            sqlite_where=where,
            postgresql_where=where,
        )
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("dataset_uid", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("job_id", sa.String),
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
        sa.ForeignKeyConstraint(["dataset_uid"], ["datasets.uid"], name="fk_versions_dataset_uid"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_versions_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("dataset_uid", "number", name="uq_versions_dataset_uid_number"),
        sa.UniqueConstraint("job_id", name="uq_versions_job_id"),
    )
