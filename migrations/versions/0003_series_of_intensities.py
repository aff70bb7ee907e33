"""Intensities over time: revisions, when a source was asked, and which pricings can still become better."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Columns that are 0 or NULL in what older trackers write, and a table that they do not know."""
    op.add_column("intensities", sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_intensities_series", "intensities", ["provider", "zone", "start_unix_us"])
    op.add_column("pricings", sa.Column("provider", sa.Text))
    op.add_column("pricings", sa.Column("values_status", sa.Text))
    op.create_table(
        "fetches",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("start_unix_us", sa.BigInteger, nullable=False),
        sa.Column("end_unix_us", sa.BigInteger, nullable=False),
        sa.Column("asked_unix_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("provider", "zone", name="pk_fetches"),
        sqlite_with_rowid=False,
    )
