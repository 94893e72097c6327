"""Add schedules and watching of datasets, and jobs that check only named paths."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables and the column; existing rows keep their values."""
    op.add_column(
        "jobs",
        sa.Column(
            "named", sa.Integer, comment="number of changed paths it checks; NULL: it lists the source"
        ),
    )
    op.create_table(
        "changed_paths",
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_changed_paths_job_id"),
        sa.PrimaryKeyConstraint("job_id", "path", name="pk_changed_paths"),
    )
    op.create_table(
        "triggers",
        sa.Column("dataset_uid", sa.String, nullable=False),
        sa.Column("every", sa.Double, comment="seconds between scheduled scans"),
        sa.Column("watch", sa.Boolean, nullable=False, comment="scan when something in the source changes"),
        sa.Column("due_at", sa.Double, comment="when the next scheduled scan is due"),
        sa.ForeignKeyConstraint(["dataset_uid"], ["datasets.uid"], name="fk_triggers_dataset_uid"),
        sa.PrimaryKeyConstraint("dataset_uid", name="pk_triggers"),
    )
