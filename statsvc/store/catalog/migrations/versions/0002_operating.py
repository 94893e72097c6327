"""Add idempotency keys, tokens, version tags, and the columns for retention."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables and columns; existing rows keep their values."""
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String, nullable=False),
        sa.Column("request", sa.String, nullable=False, comment="xxh3_128 of the request that used the key"),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_idempotency_keys_job_id"),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False, comment="label shown in the audit log"),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False, comment="SHA-256 of the secret, which is not stored"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.CheckConstraint("scope IN ('read', 'write', 'admin')", name="ck_tokens_scope"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_table(
        "tags",
        sa.Column("dataset_uid", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["dataset_uid"], ["datasets.uid"], name="fk_tags_dataset_uid"),
        sa.ForeignKeyConstraint(
            ["dataset_uid", "number"],
            ["versions.dataset_uid", "versions.number"],
            name="fk_tags_dataset_uid_number",
        ),
        sa.PrimaryKeyConstraint("dataset_uid", "tag", name="pk_tags"),
    )
    op.add_column(
        "datasets",
        sa.Column(
            "keep",
            sa.Integer,
            nullable=False,
            server_default="20",
            comment="number of newest versions that keep their rows",
        ),
    )
    op.add_column(
        "versions",
        sa.Column("expired_at", sa.Double, comment="since when it answers only from its aggregates"),
    )
    op.add_column("versions", sa.Column("rows_removed_at", sa.Double))
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])
