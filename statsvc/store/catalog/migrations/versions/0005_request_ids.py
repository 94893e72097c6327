"""Add the id of the request that queued a job."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a column that releases with the previous schema leave empty."""
    op.add_column(
        "jobs",
        sa.Column("request_id", sa.String, comment="X-Request-ID of the request that queued it"),
    )
    # `compatible_from` remains 0004: releases with that schema can use this one.
    op.execute("UPDATE schema_versions SET revision = '0005'")
