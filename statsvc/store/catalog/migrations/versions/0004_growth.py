"""Add runners, settings and schema versions, and indexes that keep queries on many jobs fast."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables and the indexes; existing rows keep their values.

    An index over dataset and time replaces the one over the dataset alone.
    """
    op.create_table(
        "runners",
        sa.Column("owner", sa.String, nullable=False, comment="identity of the process"),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False, comment="when it last reported that it runs"),
        sa.PrimaryKeyConstraint("owner", name="pk_runners"),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
    schema_versions = op.create_table(
        "schema_versions",
        sa.Column("revision", sa.String, nullable=False),
        sa.Column(
            "compatible_from",
            sa.String,
            nullable=False,
            comment="the oldest schema whose releases can use this one, because later changes only add",
        ),
        sa.PrimaryKeyConstraint("revision", name="pk_schema_versions"),
    )
    op.bulk_insert(schema_versions, [{"revision": revision, "compatible_from": revision}])
    op.create_index("ix_jobs_dataset_uid_created_at", "jobs", ["dataset_uid", "created_at"])
    op.create_index("ix_jobs_state_created_at", "jobs", ["state", "created_at"])
    op.drop_index("ix_jobs_dataset_uid", "jobs")
