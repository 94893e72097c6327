"""Add to jobs how large a sample they count."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; jobs without a value count every sample, as before."""
    comment = "size of the sample to count; null: all samples"
    op.add_column("jobs", sa.Column("estimate", sa.JSON(none_as_null=True), comment=comment))
    op.execute("UPDATE schema_versions SET revision = '0005', compatible_from = '0004'")
