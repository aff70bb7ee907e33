"""How each process left a run, so that a run of several ends as the worst of them; and notes on runs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A column that is NULL in what older trackers write, and a table that they do not know."""
    op.add_column("segments", sa.Column("status", sa.Text))
    op.create_table(
        "notes",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("unix_us", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_notes"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_notes_run_id"),
        sqlite_with_rowid=False,
    )
