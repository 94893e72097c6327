"""Add to jobs the id of the request that queued it, and how large a sample it counts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add columns that releases with the previous schema leave empty."""
    comment = "X-Request-ID of the request that queued it"
    op.add_column("jobs", sa.Column("request_id", sa.String, comment=comment))
    comment = "size of the sample to count; null: all samples"
    op.add_column("jobs", sa.Column("estimate", sa.JSON(none_as_null=True), comment=comment))
    # `compatible_from` remains 0004: releases with that schema can use this one.
    op.execute("UPDATE schema_versions SET revision = '0005'")
